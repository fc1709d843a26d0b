"""Request handling: limits, access, queues, metrics, the request log, and error codes.

A client gets an error message that says what is wrong with its request. For a fault of the service,
the client gets a number, and the log has the details under it.

Requests are handled in one event loop, which computes nothing itself. They run on the threads of
two queues: one for suggestions, and one for requests that take milliseconds. So a client that sends
or reads slowly, or is gone, holds no thread.
"""

import asyncio
import contextlib
import functools
import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

import grpc
import sqlalchemy
from google.protobuf import message_factory
from google.protobuf.message import DecodeError, Message
from vizier._src.service import custom_errors, vizier_service_pb2

from optformer.errors import OptFormerError
from optformer.service.access import Access, ForbiddenError, UnknownClientError
from optformer.service.fair import ClosedError, FairQueue
from optformer.service.limits import FullError, Limits, RefusedError
from optformer.service.observe import Metrics
from optformer.service.servicer import StudyService
from optformer.service.store import BusyError

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

Answer = TypeVar("Answer")

SERVICE = "vizier.VizierService"

UNREAD_OF_ONE = 64 << 20
"""How many bytes of answers an owner's clients may leave unread before they get no more."""

UNREAD_OF_ALL = 256 << 20
"""And all together, before owners that have any unread get no more."""

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
    (UnknownClientError, _Code.UNAUTHENTICATED),
    (ForbiddenError, _Code.PERMISSION_DENIED),
    (ClosedError, _Code.UNAVAILABLE),
)
# The database is unreachable, full, read-only or locked. This may be over in a moment.
_AWAY = (
    BusyError,
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.InterfaceError,
    sqlalchemy.exc.InternalError,
    sqlalchemy.exc.TimeoutError,
)
_REQUESTS = {
    method.name: message_factory.GetMessageClass(method.input_type)
    for method in vizier_service_pb2.DESCRIPTOR.services_by_name["VizierService"].methods
}


class Guard(grpc.GenericRpcHandler):
    """Answers Vizier's requests through the service, within the limits.

    Args:
      cores: how many suggestions of one owner are computed at the same time.
      access: which clients may use which owners' studies; None if all may use all.
    """

    def __init__(
        self,
        service: StudyService,
        limits: Limits,
        metrics: Metrics,
        *,
        cores: int,
        access: Access | None = None,
    ) -> None:
        self._service, self._limits, self._metrics = service, limits, metrics
        self._access = access
        self._numbers = itertools.count(1)
        self._unread = _Unread()
        self._waiting: set[asyncio.Future] = set()
        self._gave_up = False
        # With one thread more than an owner may use, another owner's suggestion starts at once.
        self._suggestions = FairQueue(
            "suggest",
            threads=cores + 1,
            per_owner=cores,
            waiting=limits.waiting,
            one_per_study=True,
        )
        self._quick = FairQueue(
            "quick", threads=8, per_owner=6, waiting=limits.waiting, one_per_study=False
        )

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        """The handler of a method of Vizier's service."""
        service, _, method = handler_call_details.method.lstrip("/").rpartition("/")
        if service != SERVICE or method not in _REQUESTS:
            return None

        async def answer(message: bytes, context: "ServicerContext") -> bytes | None:
            return await self._answer(method, message, context)

        return grpc.unary_unary_rpc_method_handler(answer)

    def give_up(self) -> None:
        """Tells all requests that are not answered yet to try again; for the event loop."""
        self._gave_up = True
        for waiting in list(self._waiting):
            waiting.cancel()

    def close(self, wait: float) -> bool:
        """Drops waiting jobs and waits for running ones, `wait` seconds at most.

        Returns:
          Whether all have ended.
        """
        until = time.monotonic() + wait
        ended = [
            queue.close(max(0.0, until - time.monotonic()))
            for queue in (self._quick, self._suggestions)
        ]
        return all(ended)

    async def _answer(
        self, method: str, message: bytes, context: "ServicerContext"
    ) -> bytes | None:
        number = next(self._numbers)
        start = time.perf_counter()
        code, details = _Code.OK, ""
        request: Message = _REQUESTS[method]()
        response: bytes | None = None
        with self._metrics.in_flight.track_inprogress():
            try:
                _parse(request, message)
                response = await self._respond(method, request, context)
            except asyncio.CancelledError:
                code, details = _Code.CANCELLED, "the client is gone, or its deadline has passed"
                raise
            except Exception as error:  # any error fails this request only
                response = None
                code, details, ours = failure(error, number)
                if ours:
                    _LOG.error(
                        "request %d failed", number, exc_info=error, extra={"request": number}
                    )
            finally:
                seconds = time.perf_counter() - start
                self._metrics.requests.labels(method, code.name).inc()
                self._metrics.seconds.labels(method).observe(seconds)
                _log(number, method, request, context, code, details, seconds)
        if response is None:
            await context.abort(code, details)
        elif method == "SuggestTrials":
            self._metrics.suggestions.inc(request.suggestion_count)
        return response

    async def _respond(self, method: str, request: Message, context: "ServicerContext") -> bytes:
        self._limits.check(request)
        owner, study = _about(request)
        if self._access is not None:
            self._access.check(owner, _token(context), _certificate_names(context))
        self._unread.check(owner)
        if method == "SuggestTrials":
            answer = await self._suggest(owner, study, request)
        else:
            job = functools.partial(self._call, method, request)
            answer = await self._result(self._quick.submit(owner, study, job))
        self._unread.check(owner)
        self._unread.add(owner, answer)
        return answer

    def _call(self, method: str, request: Message) -> bytes:
        response = getattr(self._service, method)(request)
        return response if isinstance(response, bytes) else response.SerializeToString()

    async def _suggest(self, owner: str, study: str, request: Message) -> bytes:
        gone = threading.Event()

        def step() -> bytes | None:
            operation = self._service.suggest(request, wanted=lambda: not gone.is_set())
            return operation and operation.SerializeToString()

        try:
            # Each step waits its turn, so that a request for many does not hold up others.
            while True:
                done = await self._result(self._suggestions.submit(owner, study, step))
                if done is not None:
                    return done
        finally:
            gone.set()

    async def _result(self, job: Future[Answer]) -> Answer:
        waiting = asyncio.wrap_future(job)
        self._waiting.add(waiting)
        try:
            return await waiting
        except asyncio.CancelledError:
            if self._gave_up:
                raise ClosedError("the service stops.") from None
            raise
        finally:
            self._waiting.discard(waiting)


class _Unread:
    """The bytes of answers that clients have not read yet; used by the event loop only."""

    def __init__(self) -> None:
        self._of: Counter[str] = Counter()

    def check(self, owner: str) -> None:
        """Refuses requests of an owner whose clients do not read.

        Raises:
          FullError: too many answers are unread, of this owner or of all.
        """
        unread = self._of[owner]
        if unread > UNREAD_OF_ONE:
            raise FullError(
                f"there are {unread:,} bytes of answers that clients of owner {owner!r} have not "
                "read yet."
            )
        if unread and self._of.total() > UNREAD_OF_ALL:
            raise FullError("the service has too many answers that its clients have not read yet.")

    def add(self, owner: str, response: bytes) -> None:
        """Counts an answer until it is read, or its connection ends."""
        task, size = asyncio.current_task(), len(response)
        assert task is not None
        self._of[owner] += size

        def read(_: object) -> None:
            self._of[owner] -= size
            if not self._of[owner]:
                del self._of[owner]

        task.add_done_callback(read)


def failure(error: Exception, number: int) -> tuple[grpc.StatusCode, str, bool]:
    """The code and message for the client, and whether the fault is the service's."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code, _words(error), False
    more = f"its log has more about request {number}."
    if isinstance(error, _AWAY):
        return _Code.UNAVAILABLE, f"the database cannot be used just now; {more}", True
    return _Code.INTERNAL, f"the service failed; {more}", True


def _parse(request: Message, message: bytes) -> None:
    try:
        request.ParseFromString(message)
    except DecodeError as error:
        kind = request.DESCRIPTOR.name
        raise RefusedError(f"the message is no {kind}, or nested too deep.") from error


def _about(request: Message) -> tuple[str, str]:
    """The owner and the study that a request is about; of CreateStudy and ListStudies, none."""
    parts = _resource(request).split("/")
    return (parts[1] if len(parts) > 1 else ""), (parts[3] if len(parts) > 3 else "")


def _resource(request: Message) -> str:
    fields = request.DESCRIPTOR.fields_by_name
    about = next((field for field in ("parent", "name", "trial_name") if field in fields), None)
    return getattr(request, about) if about else ""


def _token(context: "ServicerContext") -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization" and isinstance(value, str):
            kind, _, token = value.partition(" ")
            return token.strip() if kind.lower() == "bearer" else None
    return None


def _certificate_names(context: "ServicerContext") -> Iterator[str]:
    said = context.auth_context()
    for key in ("x509_common_name", "x509_subject_alternative_name"):
        for name in said.get(key, ()):
            with contextlib.suppress(UnicodeDecodeError):
                yield name.decode()


def _words(error: Exception) -> str:
    # A KeyError would quote its message.
    words = " ".join(map(str, error.args)) or type(error).__name__
    return words if len(words) <= _MOST_DETAILS else words[: _MOST_DETAILS - 1] + "…"


def _log(
    number: int,
    method: str,
    request: Message,
    context: "ServicerContext",
    code: grpc.StatusCode,
    details: str,
    seconds: float,
) -> None:
    what = {
        "request": number,
        "method": method,
        "about": _resource(request)[:256],
        "peer": context.peer(),
        "code": code.name,
        "ms": round(1e3 * seconds, 1),
    }
    if details:
        what["details"] = details
    level = logging.DEBUG if code == _Code.OK else logging.WARNING
    words = " ".join(f"{key}={value!r}" for key, value in what.items())
    _LOG.log(level, "%s", words, extra=what | {"event": "request"})
