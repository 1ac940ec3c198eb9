"""The orchestrator from its start to its end: the service, its HTTP side, and the signals that stop it."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Final

import anyio

from agent_bus.messages import WorkerStatus
from orchestrator_service.api.app import ApiServer, make_app
from orchestrator_service.errors import LedgerUnavailable
from orchestrator_service.goals.service import Goals, open_goals
from orchestrator_service.metrics import OrchestratorMetrics
from orchestrator_service.observation import Observation
from orchestrator_service.service import Service, open_service
from orchestrator_service.settings import OrchestratorSettings
from orchestrator_service.team_tools.mcp_mount import make_mcp_app
from service_kit.http_server import listen, serve

log = logging.getLogger(__name__)

_LAST_ANSWERS_S: Final = 5.0


async def run_orchestrator(settings: OrchestratorSettings) -> None:
    """Run the orchestrator until SIGTERM or SIGINT.

    Raises:
        service_kit.http_server.AddressUnavailable: the HTTP address cannot be listened on.
        orchestrator_service.ledger.database.LedgerInUse: another orchestrator has the ledger.
    """
    listener = listen(settings.api.host, settings.api.port)
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with AsyncExitStack() as stack:
            service = await stack.enter_async_context(open_service(settings))
            service.http_port = listener.getsockname()[1]
            metrics = OrchestratorMetrics()
            observation = Observation(metrics, service)
            goals = await stack.enter_async_context(
                open_goals(
                    service.desk,
                    service.database,
                    settings.goals,
                    settings.environ,
                    service.core.tell,
                    task_budget_usd=settings.budget.task_usd,
                    day_of=service.book.day_of,
                )
            )
            service.desk.goal_desk = goals
            mcp, serving_mcp = make_mcp_app(service.desk)
            await stack.enter_async_context(serving_mcp)
            app = make_app(
                service.desk,
                settings=settings.api,
                metrics=metrics,
                liveness=service.liveness,
                readiness=service.readiness,
                refresh=observation.refresh,
                mcp=mcp,
                sessions_file=settings.ledger.parent / "sessions.json",
            )
            server = ApiServer(app)
            tasks = await stack.enter_async_context(anyio.create_task_group())
            tasks.start_soon(service.beat, name="heartbeat")
            served = anyio.Event()
            tasks.start_soon(_serve, server, listener, served, name="http")
            tasks.start_soon(_take_up, goals, service, name="goals")
            log.info(
                "ready: http://%s:%d, ledger %s",
                settings.api.host,
                service.http_port,
                settings.ledger,
                extra={"action": "ready", "http_port": service.http_port},
            )
            await _until_asked(signals)
            log.info("stopping", extra={"action": "stopping"})
            service.stopping = True
            service.write_beat(WorkerStatus.DRAINING)
            server.stop()
            with anyio.move_on_after(_LAST_ANSWERS_S):
                await served.wait()
            tasks.cancel_scope.cancel()
        service.write_beat(WorkerStatus.STOPPED)
    log.info("stopped", extra={"action": "stopped"})


async def _serve(server: ApiServer, listener: socket.socket, served: anyio.Event) -> None:
    await serve(server, listener)
    served.set()


async def _take_up(goals: Goals, service: Service) -> None:
    """Go on with the goals that were running, once it is known what became of their tasks."""
    await service.place_found.wait()
    with suppress(LedgerUnavailable):
        await goals.take_up()


async def _until_asked(signals: AsyncIterator[signal.Signals]) -> None:
    with suppress(StopAsyncIteration):
        await anext(signals)
