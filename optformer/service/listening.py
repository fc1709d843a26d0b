"""The gRPC server: one event loop for all servers of a process, and health checks."""

import asyncio
import contextlib
import dataclasses
import functools
import logging
import threading
from collections.abc import Coroutine
from typing import TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from optformer.errors import ConfigError
from optformer.service.guard import SERVICE, Guard
from optformer.service.limits import Limits
from optformer.service.servicer import StudyService
from optformer.service.tls import Certificates

PROBE_SECONDS = 2.0
"""How often the service finds out whether its database can be written."""

Answer = TypeVar("Answer")


@dataclasses.dataclass(kw_only=True)
class Listener:
    """A gRPC server on the event loop."""

    server: grpc.aio.Server
    guard: Guard
    port: int
    health: "asyncio.Task[None]"

    def stop(self, grace: float) -> None:
        """Accepts no new requests, and gives those in flight `grace` seconds."""
        _on_loop(self._stop(grace))

    async def _stop(self, grace: float) -> None:
        self.health.cancel()
        # Early enough for these answers to arrive.
        last = asyncio.get_running_loop().call_later(0.9 * grace, self.guard.give_up)
        await self.server.stop(grace)
        last.cancel()


def start(
    service: StudyService,
    guard: Guard,
    address: str,
    limits: Limits,
    tls: Certificates | None,
) -> Listener:
    """Starts a gRPC server with this service and health checks.

    Raises:
      ConfigError: it cannot listen on the address.
    """
    return _on_loop(_listen(service, guard, address, limits, tls))


async def _listen(
    service: StudyService,
    guard: Guard,
    address: str,
    limits: Limits,
    tls: Certificates | None,
) -> Listener:
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", limits.message),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", 2 * limits.waiting),
            # A client that does not read its answers makes the server keep them. Its connection
            # ends at this age; other clients connect again unnoticed.
            ("grpc.max_connection_age_ms", 300_000),
            ("grpc.max_connection_age_grace_ms", 60_000),
            # A client whose machine is gone does not say so.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            # Otherwise gRPC shares a taken port silently, and a client may reach the other server.
            ("grpc.so_reuseport", 0),
        ]
    )
    server.add_generic_rpc_handlers((guard,))
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    try:
        if tls is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, tls.of_server())
    except RuntimeError as error:
        raise ConfigError(
            f"cannot listen on {address}: is the port taken, or the host another machine's? "
            "Choose another --port or --host."
        ) from error
    await _set_health(checks, True)
    await server.start()
    task = asyncio.get_running_loop().create_task(_keep_health(service, checks))
    return Listener(guard=guard, server=server, port=port, health=task)


async def _keep_health(service: StudyService, checks: health.aio.HealthServicer) -> None:
    """Sets the health status: whether the database can be written."""
    log = logging.getLogger("optformer.server")
    healthy = True
    while True:
        await asyncio.sleep(PROBE_SECONDS)
        # On a thread of its own: a database that hangs must hold up nothing.
        probe = asyncio.get_running_loop().create_future()
        threading.Thread(target=_probe, args=(service, probe), daemon=True).start()
        try:
            problem = await asyncio.wait_for(probe, timeout=5 * PROBE_SECONDS)
        except TimeoutError:
            problem = "it does not answer"
        if healthy != (problem is None):
            healthy = problem is None
            log.warning(
                "the database can be written again"
                if healthy
                else "not healthy: the database cannot be written: %s",
                *([] if healthy else [problem]),
            )
            await _set_health(checks, healthy)


def _probe(service: StudyService, found: "asyncio.Future[str | None]") -> None:
    problem = None
    try:
        service.probe()
    except Exception as error:  # any reason is one
        problem = str(error).splitlines()[0]
    with contextlib.suppress(RuntimeError):  # the loop is closed
        found.get_loop().call_soon_threadsafe(
            lambda: None if found.done() else found.set_result(problem)
        )


async def _set_health(checks: health.aio.HealthServicer, healthy: bool) -> None:
    answer = health_pb2.HealthCheckResponse
    for name in ("", SERVICE):
        await checks.set(name, answer.SERVING if healthy else answer.NOT_SERVING)


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of all services of this process, on a thread of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="service", daemon=True).start()
    return loop


def _on_loop(coroutine: "Coroutine[object, object, Answer]") -> Answer:
    return asyncio.run_coroutine_threadsafe(coroutine, _loop()).result()
