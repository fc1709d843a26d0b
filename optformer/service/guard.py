"""What stands between the network and the service.

Each request is held to the limits, counted, and written to the log as one line. An error goes to
the client that caused it, in words that tell it what is wrong; what the fault of the service is
stands in the log, under a number that the client gets.
"""

import contextlib
import itertools
import logging
import time
from collections.abc import Callable

import grpc
import sqlalchemy
from google.protobuf.message import Message
from vizier._src.service import custom_errors, grpc_util

from optformer.errors import OptFormerError
from optformer.service.limits import FullError, Limits
from optformer.service.observe import Metrics
from optformer.service.servicer import StudyService

SERVICE = "vizier.VizierService"

_LOG = logging.getLogger("optformer.requests")
_MOST_DETAILS = 1000  # characters; gRPC sends them in a header, whose size is limited
_Code = grpc.StatusCode
_CODES: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (FullError, _Code.RESOURCE_EXHAUSTED),
    (OptFormerError, _Code.INVALID_ARGUMENT),
    (custom_errors.NotFoundError, _Code.NOT_FOUND),
    (custom_errors.AlreadyExistsError, _Code.ALREADY_EXISTS),
    (custom_errors.ImmutableStudyError, _Code.FAILED_PRECONDITION),
    (custom_errors.ImmutableTrialError, _Code.FAILED_PRECONDITION),
)


class Guard(grpc.ServerInterceptor):
    """Answers Vizier's requests through the service, within the limits."""

    def __init__(self, service: StudyService, limits: Limits, metrics: Metrics) -> None:
        self._service = service
        self._limits = limits
        self._metrics = metrics
        self._numbers = itertools.count(1)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """The handler of a method, guarded if it is one of Vizier's."""
        handler = continuation(handler_call_details)
        service, _, method = handler_call_details.method.lstrip("/").rpartition("/")
        if handler is None or service != SERVICE:
            return handler
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._answer(method, handler.unary_unary, request, context),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _answer(
        self,
        method: str,
        answer: Callable[[Message, None], Message],
        request: Message,
        context: grpc.ServicerContext,
    ) -> Message | None:
        number = next(self._numbers)
        start = time.perf_counter()
        code, details = _Code.OK, ""
        response: Message | None = None
        with self._metrics.in_flight.track_inprogress():
            try:
                self._limits.check(request)
                if method in ("SuggestTrials", "CreateTrial"):
                    more = request.suggestion_count if method == "SuggestTrials" else 1
                    self._limits.check_room(self._service.trials(request.parent), more)
                # Given a context, Vizier notes an error in it and goes on; without one, it raises.
                response = answer(request, None)
            except Exception as error:  # the edge: whatever it is, only this request fails
                code, details, ours = failure(error, number)
                if ours:
                    with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):
                        self._service.recover()
                    _LOG.exception("request %d failed", number, extra={"request": number})
        seconds = time.perf_counter() - start
        self._metrics.requests.labels(method, code.name).inc()
        self._metrics.seconds.labels(method).observe(seconds)
        if method == "SuggestTrials" and response is not None:
            self._metrics.suggestions.inc(request.suggestion_count)
        _log(number, method, request, context, code, details, seconds)
        if response is None:
            context.abort(code, details)
        return response


def failure(error: Exception, number: int) -> tuple[grpc.StatusCode, str, bool]:
    """The code and words for the client of a request, and whether the fault is the service's."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None and isinstance(cause, Exception):
        chain.append(cause)
    # What a policy says comes wrapped in a RuntimeError of Vizier's.
    for each in reversed(chain):
        for kind, code in _CODES:
            if isinstance(each, kind):
                return code, _words(each), False
        if isinstance(each, grpc_util.LocalRpcError):
            return _told(each), _shortened(str(each.details())), False
        if isinstance(each, sqlalchemy.exc.SQLAlchemyError):
            break
    # Vizier raises ValueError for what cannot be parsed: names, search spaces, algorithms.
    if isinstance(error, ValueError) and len(chain) == 1:
        return _Code.INVALID_ARGUMENT, _words(error), False
    return _Code.INTERNAL, f"the service failed; its log has more about request {number}.", True


def _told(error: grpc_util.LocalRpcError) -> grpc.StatusCode:
    # Vizier's code for any ValueError is UNKNOWN.
    return _Code.INVALID_ARGUMENT if error.code() == _Code.UNKNOWN else error.code()


def _words(error: Exception) -> str:
    # A KeyError would quote its message.
    return _shortened(" ".join(map(str, error.args)) or type(error).__name__)


def _shortened(words: str) -> str:
    return words if len(words) <= _MOST_DETAILS else words[: _MOST_DETAILS - 1] + "…"


def _log(
    number: int,
    method: str,
    request: Message,
    context: grpc.ServicerContext,
    code: grpc.StatusCode,
    details: str,
    seconds: float,
) -> None:
    fields = request.DESCRIPTOR.fields_by_name
    about = next((field for field in ("parent", "name", "trial_name") if field in fields), None)
    what = {
        "request": number,
        "method": method,
        "about": getattr(request, about)[:256] if about else "",
        "peer": context.peer(),
        "code": code.name,
        "ms": round(1e3 * seconds, 1),
    }
    if details:
        what["details"] = details
    level = logging.INFO if code == _Code.OK else logging.WARNING
    words = " ".join(f"{key}={value!r}" for key, value in what.items())
    _LOG.log(level, "%s", words, extra=what | {"event": "request"})
