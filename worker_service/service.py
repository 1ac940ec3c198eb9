"""Wires the parts of a worker and owns their lifetime: starting → ready → draining → stopped."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio

from agent_bus.claude_credentials import find_credential
from agent_bus.dead_letters import DeadLetter
from agent_bus.errors import BusError
from agent_bus.gates import Gate
from agent_bus.joined_queue import JoinedQueue
from agent_bus.messages import Heartbeat, WorkerStatus
from agent_bus.queue import Queue, TriggerEvent
from service_kit.claude_transcripts import tokens_of_conversation
from service_kit.findings import Finding
from service_kit.http_server import QuietServer, listen, serve
from service_kit.modes import Activation
from worker_service.agents.base import Agent, Run
from worker_service.agents.choice import make_agent
from worker_service.agents.claude import ClaudeAgent
from worker_service.bell import Bell
from worker_service.broadcast import Broadcast
from worker_service.control import ControlDesk
from worker_service.cpu_use import AgentCpu, count_cpus
from worker_service.dispatcher import Dispatcher
from worker_service.health import Health
from worker_service.hooks.bridge import HookBridge, HookSettings
from worker_service.metrics import Metrics
from worker_service.pipe_pair import PipePair
from worker_service.pulse import Pulse
from worker_service.questions.asking import Asking, AskingSettings
from worker_service.questions.places import FileQuestions, RedisPlace
from worker_service.settings import AgentKind, WorkerSettings
from worker_service.sidecar import make_app
from worker_service.supervision.supervisor import Supervisor
from worker_service.task_runner import DispatchSettings, TaskRunner
from worker_service.transports.base import Transport
from worker_service.transports.files import FileTransport
from worker_service.transports.redis import RedisTransport
from worker_service.workspaces.desk import Workspaces
from worker_service.workspaces.keeper import Keeper

log = logging.getLogger(__name__)

_LONGEST_LOGGED_BODY: Final = 2000


class Worker:
    """A running worker. Made by `open_worker`."""

    def __init__(self, settings: WorkerSettings, agent: Agent, listener: socket.socket) -> None:
        """Wire the parts; nothing runs yet.

        Raises:
            agent_bus.hooks.rules.RuleError: the file of hook rules is wrong.
            agent_bus.errors.QueueUnavailable: a directory cannot be used.
        """
        self.settings = settings
        self.agent = agent
        self.http_port: int = listener.getsockname()[1]
        self.metrics = Metrics(settings.worker)
        self.bell = Bell()
        self.broadcast = Broadcast(settings.worker)
        self.hooks = self._bridge_hooks(agent)
        self.stop_asked = anyio.Event()
        """Set when it was told to end."""
        self.stops_patiently = False
        """Whether the running tasks may then take their own time."""
        self._rings_told: Counter[str] = Counter()
        self._drops_told: Counter[str] = Counter()
        self._agent_cpu = AgentCpu()
        self._agent_cpu_told_s = 0.0
        self.metrics.cpus.set(count_cpus())
        layout = settings.layout
        self.desk = ControlDesk(self, self.broadcast, self.metrics, name=settings.worker)
        self.files: FileTransport | None = None
        if settings.serves_files:
            self.files = FileTransport(settings, bell=self.bell, metrics=self.metrics, observer=self)
        self.redis = self._open_redis()
        self.transports: list[Transport] = [each for each in (self.files, self.redis) if each is not None]
        self.queue = self._join_queues()
        credential = find_credential(settings.agent_environment) if settings.agent is AgentKind.CLAUDE else None
        self.cost_is_notional = None if credential is None else credential.is_subscription
        """Whether a subscription covers what its agents cost; None where there is no telling."""
        gate = None if credential is None else self._share_gate(credential.fingerprint)
        self.asking = self._open_inbox(agent)
        dispatching = DispatchSettings(
            worker=settings.worker,
            instance=settings.instance,
            slots=settings.slots,
            task_timeout_s=settings.task_timeout_s,
            max_attempts=settings.max_attempts,
            park_on_limit=settings.claude.park_on_limit,
            cost_is_notional=self.cost_is_notional,
        )
        workspaces = Workspaces(settings)
        self.supervisor = Supervisor(settings.supervision, self.metrics, worker=settings.worker)
        self.runner = TaskRunner(
            dispatching,
            queue=self.queue,
            agent=agent,
            metrics=self.metrics,
            layout=layout,
            gate=gate,
            bell=self.bell,
            broadcast=self.broadcast,
            keep_journals=self.files is not None,
            notices=None if self.files is None else self.files.queue.notices,
            asking=self.asking,
            on_failure=self._tell_failure,
            workspaces=workspaces,
            supervisor=self.supervisor,
            tokens_since=partial(tokens_of_conversation, settings.agent_environment),
        )
        self.keeper = Keeper(workspaces, keep_s=settings.worktree_keep_s)
        self.dispatcher = Dispatcher(dispatching, queue=self.queue, bell=self.bell, runner=self.runner)
        if self.files is not None:
            self.files.prove(self.dispatcher, self._announce_probe())
        self.pulse = Pulse(
            settings,
            http_port=self.http_port,
            queue=self.queue,
            dispatcher=self.dispatcher,
            agent=agent,
            metrics=self.metrics,
            bells=lambda: self.bells,
            probe_age_s=self.probe_age_s,
            stuck_tasks=lambda: self.supervisor.stuck_tasks,
            cost_is_notional=self.cost_is_notional,
            open_questions=lambda: 0 if self.asking is None else self.asking.open,
        )
        if self.asking is not None:
            self.asking.on_change = self._questions_changed
        self.pulse.on_beat.append(self.look_after)
        self.supervisor.on_change = self.pulse.beat
        self.runner.on_parked = self.pulse.beat
        if self.redis is not None:
            self.pulse.on_beat.append(self.redis.carry)
        self.pipes: PipePair | None = None
        if settings.wake_ups.pipes:
            self.pipes = PipePair(layout, settings.worker, desk=self.desk, broadcast=self.broadcast)
        self.health = Health(
            mode=settings.mode.value,
            dispatcher=self.dispatcher,
            agent=agent,
            transports=self.transports,
            bells=lambda: self.bells,
        )
        self.health.others.append(workspaces.finding)
        if isinstance(agent, ClaudeAgent):
            fence = Finding("isolation", True, agent.isolation.text)
            self.health.others.append(lambda: fence)

    def _bridge_hooks(self, agent: Agent) -> HookBridge | None:
        settings = self.settings
        if not settings.wake_ups.bridges_hooks:
            return None
        told = HookSettings(
            worker=settings.worker,
            layout=settings.layout,
            rules=settings.hooks_config,
            timeout_s=settings.hook_timeout_s,
        )
        bridge = HookBridge(told, self.metrics, self.broadcast.publish)
        bridge.reload()
        if isinstance(agent, ClaudeAgent):
            agent.bridge = bridge
        return bridge

    def _open_redis(self) -> RedisTransport | None:
        if self.settings.redis_url is None:
            return None
        redis = RedisTransport(
            self.settings,
            bell=self.bell,
            metrics=self.metrics,
            observer=self,
            files=self.files,
            on_control=lambda line: self.desk.take(line, "redis"),
            on_bad_message=lambda reason: self.desk.refuse(reason, "redis"),
            on_returned=lambda: self.runner.settlement.retry_now(),
        )
        if redis.link is not None:
            self.broadcast.add(redis)
        return redis

    def _join_queues(self) -> Queue:
        if self.files is not None and self.redis is not None:
            return JoinedQueue(self.files.queue, self.redis.queue)
        transport = self.files or self.redis
        assert transport is not None
        return transport.queue

    def _share_gate(self, fingerprint: str) -> Gate:
        if self.redis is not None:
            return self.redis.share_gate(fingerprint)
        return Gate(self.settings.layout.gates, fingerprint)

    def _open_inbox(self, agent: Agent) -> Asking | None:
        settings = self.settings
        if not settings.questions.on or agent.name != AgentKind.CLAUDE:
            return None
        asking = AskingSettings(
            worker=settings.worker,
            instance=settings.instance,
            policy=settings.questions.policy,
            timeout_s=settings.questions.timeout_s,
        )
        if self.files is not None or self.redis is None:
            files = FileQuestions(settings.layout, instance=settings.instance, owners=settings.trigger_owners)
            return Asking(asking, files, self.metrics)
        link = self.redis.link
        place = RedisPlace(
            self.redis.queue.caller,
            worker=settings.worker,
            instance=settings.instance,
            hears=lambda: link is not None and link.connected,
        )
        return Asking(asking, place, self.metrics)

    def _questions_changed(self) -> None:
        assert self.asking is not None
        self.metrics.questions_open.set(self.asking.open)
        # Who looks at heartbeats shall not learn of a question ten seconds late.
        self.pulse.beat()

    def _announce_probe(self) -> Callable[[Path], None] | None:
        redis = self.redis
        if redis is None or redis.link is None or self.settings.wake_ups.activation is not Activation.REDIS:
            return None
        link, bell = redis.link, redis.queue.keys.bell
        return lambda path: link.publish(bell, os.fsencode(path))

    def _tell_failure(self, run: Run) -> None:
        error = run.outcome.error
        if self.hooks is not None and error is not None:
            task_id, session_id = run.task.task_id, run.outcome.session_id
            self.hooks.tell_failure(error.kind, error.message, task_id=task_id, session_id=session_id, emit=run.emit)

    # -- what the queue tells (agent_bus.file_queue.QueueObserver)

    def ready(self) -> None:
        """Ring for something that can be claimed."""
        self.bell.ring("queue")

    def trigger_event(self, event: TriggerEvent) -> None:
        """Publish a trigger that is no task."""
        self.metrics.trigger_events.inc()
        self.broadcast.publish("trigger", {"name": event.name, "body": event.body})
        log.info("event %s", event.name, extra={"action": "trigger_event", "body": event.body[:_LONGEST_LOGGED_BODY]})

    def buried(self, letter: DeadLetter) -> None:
        """Tell of a file that was set aside."""
        told = {"name": letter.original_name, "reason": letter.reason, "message": letter.message}
        self.broadcast.publish("dead_letter", told, letter.task_id)
        self.metrics.dead_letters.labels(self.settings.worker, letter.reason).inc()
        log.warning(
            "%s was set aside: %s",
            letter.original_name,
            letter.message,
            extra={"action": "buried", "reason": letter.reason, "task_id": letter.task_id},
        )

    def cancel_requested(self, task_id: str) -> None:
        """End the task."""
        self.dispatcher.cancel(task_id)

    # -- what it is told (worker_service.control.Controlled)

    def describe(self) -> dict[str, Any]:
        """Say how it is: its heartbeat, and why it would take no task now."""
        return {**self.pulse.heartbeat().model_dump(mode="json"), "trouble": self.dispatcher.trouble()}

    def pause(self) -> None:
        """Take no new tasks until told to resume."""
        self.dispatcher.pause()
        self.pulse.beat()

    def resume(self) -> None:
        """Take tasks again."""
        self.dispatcher.resume()
        self.pulse.beat()

    def reload(self) -> dict[str, Any]:
        """Read the configuration anew.

        Raises:
            agent_bus.hooks.rules.RuleError: the file of hook rules is wrong; the old rules stay.
        """
        if self.hooks is None:
            return {}
        self.hooks.reload()
        return {"hook_rules": self.hooks.rules.names}

    def wake(self) -> None:
        """Look at all queues now."""
        for transport in self.transports:
            transport.wake()
        if self.asking is not None:
            self.asking.look()
        self.bell.ring("control")

    def ask_to_stop(self, *, patiently: bool) -> None:
        """Have `run_worker` end it; impatience wins over patience."""
        self.stops_patiently = patiently and (self.stops_patiently or not self.stop_asked.is_set())
        self.stop_asked.set()

    async def cancel(self, task_id: str) -> str:
        """End a task, running or waiting.

        Raises:
            BusError: it does neither here.
        """
        if self.dispatcher.cancel(task_id):
            return "running"
        if await self.queue.request_cancel(task_id):
            self.bell.ring("control")
            return "waiting"
        raise BusError(f"no task {task_id} runs or waits here")

    # -- how it is

    @property
    def bells(self) -> list[str]:
        """The wake-up sources in force."""
        pipe = ["pipe"] if self.pipes is not None and self.pipes.trouble is None else []
        return [bell for transport in self.transports for bell in transport.bells] + pipe

    def probe_age_s(self) -> float | None:
        """Return the seconds since the oldest of the latest proofs that what comes is heard; None before the first."""
        ages = [transport.probe_age_s for transport in self.transports]
        return max((age for age in ages if age is not None), default=None)

    def refresh_metrics(self) -> None:
        """Bring the gauges up to date."""
        worker = self.settings.worker
        self.metrics.queue_depth.set(self.queue.depth())
        if self.asking is not None:
            self.metrics.question_age.set(self.asking.oldest_age_s)
            self.metrics.question_time_used.set(self.asking.time_used)
        self.metrics.tasks_in_flight.set(len(self.dispatcher.current_tasks))
        age = self.probe_age_s()
        self.metrics.probe_age.set(-1 if age is None else age)
        notice = self.dispatcher.parked()
        self.metrics.parked.set(0 if notice is None else max(0.0, notice.until.timestamp() - time.time()))
        self.metrics.show_readiness(self.health.readiness())
        agent_cpu_s = self._agent_cpu.seconds()
        self.metrics.agent_cpu.inc(agent_cpu_s - self._agent_cpu_told_s)
        self._agent_cpu_told_s = agent_cpu_s
        for state, number in self.agent.processes().items():
            self.metrics.agent_processes.labels(worker, state).set(number)
        for source, rings in self.bell.rings.items():
            self.metrics.wakeups.labels(worker, source).inc(rings - self._rings_told[source])
            self._rings_told[source] = rings
        if self.redis is not None:
            self.metrics.show_redis(self.redis.connected)
            self.metrics.redis_drops.inc(self.redis.dropped - self._drops_told["redis"])
            self._drops_told["redis"] = self.redis.dropped
        if self.pipes is not None:
            for reason, drops in self.pipes.drops.items():
                self.metrics.pipe_drops.labels(worker, reason).inc(drops - self._drops_told[reason])
                self._drops_told[reason] = drops

    # -- its life

    def start(self) -> None:
        """Take over what dead owners left, and begin to be visible.

        Raises:
            agent_bus.pipes.PipeUnavailable: a pipe cannot be made.
        """
        if self.pipes is not None:
            self.pipes.open()
        reclaimed = sum(transport.start() for transport in self.transports)
        if reclaimed:
            log.info("%d interrupted task(s) taken over", reclaimed, extra={"action": "reclaimed", "count": reclaimed})
        self._enter(WorkerStatus.IDLE)

    def _enter(self, phase: WorkerStatus) -> None:
        self.pulse.phase = phase
        self.runner.flush_log()
        self.pulse.beat()
        self.broadcast.publish("worker", {"status": self.pulse.status.value, "mode": self.settings.mode.value})

    async def drain(self, grace_s: float) -> None:
        """Stop taking tasks and end the running ones."""
        if self.pulse.phase is not WorkerStatus.DRAINING:
            self._enter(WorkerStatus.DRAINING)
        await self.dispatcher.drain(grace_s)

    def stopped(self) -> None:
        """Leave a last heartbeat."""
        self._enter(WorkerStatus.STOPPED)
        if self.pipes is not None:
            self.pipes.close()

    def look_after(self, heartbeat: Heartbeat) -> None:
        """Do at each heartbeat what must be done from time to time."""
        self.runner.flush_log()
        if self.pipes is not None:
            self.pipes.check()


@asynccontextmanager
async def open_worker(settings: WorkerSettings, agent: Agent | None = None) -> AsyncIterator[Worker]:
    """Run a worker for the length of the block; leaving it drains with the settings' grace period.

    Args:
        settings: What it goes by.
        agent: Who does the work; None makes the one that the settings name.

    Raises:
        agent_bus.errors.QueueUnavailable: a directory cannot be used.
        agent_bus.pipes.PipeUnavailable: a pipe cannot be made.
        service_kit.http_server.AddressUnavailable: the HTTP address cannot be listened on.
        worker_service.agents.choice.AgentUnavailable: the agent cannot be used.
    """
    agent = agent if agent is not None else make_agent(settings)
    with listen(settings.http_host, settings.http_port) as listener:
        worker = Worker(settings, agent, listener)
        sidecar = QuietServer(
            make_app(
                worker.health,
                worker.metrics,
                worker.refresh_metrics,
                hooks=worker.hooks,
                hook_token=settings.hook_token,
            )
        )
        try:
            async with anyio.create_task_group() as parts, anyio.create_task_group() as workings:
                await parts.start(serve, sidecar, listener)
                for transport in worker.transports:
                    workings.start_soon(transport.run_forever, name="transport")
                workings.start_soon(worker.dispatcher.run_forever, name="dispatcher")
                workings.start_soon(worker.pulse.run_forever, name="heartbeat")
                workings.start_soon(worker.keeper.run_forever, name="worktrees")
                workings.start_soon(worker.desk.run_forever, name="control")
                workings.start_soon(agent.serve_forever, name="agent")
                if worker.asking is not None:
                    workings.start_soon(worker.asking.forsaken.tidy_forever, name="questions")
                    workings.start_soon(worker.asking.write_ends_forever, name="ends of questions")
                worker.start()
                try:
                    yield worker
                finally:
                    with anyio.CancelScope(shield=True):
                        await worker.drain(settings.shutdown_grace_s)
                    workings.cancel_scope.cancel()
                    sidecar.stop()
        finally:
            with anyio.CancelScope(shield=True):
                await agent.aclose()
                for transport in worker.transports:
                    await transport.aclose()
                if worker.hooks is not None:
                    worker.hooks.close()
            worker.stopped()
