"""Observability: a log as text or JSON lines, and metrics for Prometheus."""

import json
import logging
import time
from typing import Literal

import prometheus_client

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Metrics:
    """The metrics of one service."""

    def __init__(self) -> None:
        # Not the global registry: a process may run several services.
        self.registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self.registry)
        self.requests = prometheus_client.Counter(
            "optformer_requests",
            "Requests answered, by method and gRPC code.",
            ("method", "code"),
            registry=self.registry,
        )
        self.seconds = prometheus_client.Histogram(
            "optformer_request_seconds",
            "Time to answer a request, by method.",
            ("method",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.in_flight = prometheus_client.Gauge(
            "optformer_requests_in_flight", "Requests being answered.", registry=self.registry
        )
        self.suggestions = prometheus_client.Counter(
            "optformer_suggestions", "Suggestions handed out.", registry=self.registry
        )


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, and the record's extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        milliseconds = int(record.msecs)
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{milliseconds:03d}Z",
            "level": record.levelname,
            "logger": record.name,
        }
        extra = {key: value for key, value in vars(record).items() if key not in _PLAIN}
        # A request's message only repeats its fields.
        line |= extra if extra.get("event") else {"message": record.getMessage()} | extra
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def start_log(format: LogFormat, level: LogLevel = "info") -> None:
    """Writes the process's log to standard error in this format.

    At "debug" it has a line for every request; at "info" for those that failed, and for what the
    service itself does.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonLines()
        if format == "json"
        else logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in ("absl", "asyncio", "grpc", "jax", "sqlalchemy"):  # of no use to an operator
        logging.getLogger(name).setLevel(logging.CRITICAL)
