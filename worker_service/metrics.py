"""Every metric of a worker, in one place, with its unit. The registry belongs to the worker, not to the module."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from agent_bus.errors import DeadLetterReason
from agent_bus.messages import TaskStatus
from agent_bus.pipes import DROP_REASONS
from agent_bus.questions import QuestionState
from service_kit.findings import Finding

_QUEUE_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30, 60, 300, 1800, 7200)
_TASK_BUCKETS = (0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1200, 2400, 3600, 7200)

_QUESTION_BUCKETS = (0.1, 1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 14_400, 86_400)


class Metrics:
    """The series of one worker; every one carries the label `worker`."""

    def __init__(self, worker: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._worker = worker

        self.tasks = self._counter("tasks", "Tasks that ended, by how.", "status")
        self.task_duration = self._histogram(
            "task_duration_seconds", "From the claim of a task to its stored result.", _TASK_BUCKETS
        )
        self.task_queue = self._histogram(
            "task_queue_seconds", "From the arrival of a task to the moment the agent has the prompt.", _QUEUE_BUCKETS
        )
        self.queue_depth = self._gauge("queue_depth", "Tasks that wait, as far as this worker has seen.")
        self.tasks_in_flight = self._gauge("tasks_in_flight", "Tasks that are running.")
        self.wakeups = self._counter("wakeups", "How often each source rang the bell.", "source")
        self.heartbeat = self._gauge("heartbeat_timestamp_seconds", "When the last heartbeat was written.")
        self.probe_age = self._gauge("probe_age_seconds", "Since a probe last went through the watcher; -1 before one.")
        self.ready = self._gauge("ready", "Whether a task would be taken now, as /readyz says: 1 or 0.")
        self._parts = self._gauge("part_well", "Each part of what /readyz says: 1 where it is well, else 0.", "part")
        self.parked = self._gauge(
            "parked_seconds", "For how long a limit still holds all tasks back; 0 when none does."
        )
        self.cpus = self._gauge("cpus", "CPUs that the worker and its agents may use together.")
        self.agent_cpu = self._counter(
            "agent_cpu_seconds", "CPU time of the agents' processes and of all that they start."
        )
        self.agent_processes = self._gauge("agent_processes", "Processes of agents, by state.", "state")
        self.agent_tokens = self._counter("agent_tokens", "Tokens that tasks used, by type.", "type")
        self.agent_cost = self._counter("agent_cost_usd", "What the agents reported as cost, in US dollars.")
        self.agent_notional_cost = self._counter(
            "agent_notional_cost_usd", "The part of the cost that a subscription covers: nobody is billed for it."
        )
        self.trigger_events = self._counter("trigger_events", "Triggers that were events, not tasks.")
        self.dead_letters = self._counter("dead_letters", "Files that were set aside, by reason.", "reason")
        self.tasks_stuck = self._counter(
            "tasks_stuck", "Tasks that were stuck, by how far the answer to it went.", "stage"
        )
        self.stuck_signals = self._counter("stuck_signals", "What tasks were found stuck by, by signal.", "signal")
        self.stuck_tasks = self._gauge("stuck_tasks", "Running tasks that are stuck now.")
        self.tasks_parked = self._counter("tasks_parked", "Tasks given back because of a limit, by kind.", "kind")
        self.questions = self._counter("questions", "Questions that agents asked of people.")
        self.question_ends = self._counter(
            "question_ends", "Questions that came to their end, by what came of them.", "state"
        )
        self.questions_open = self._gauge("questions_open", "Questions that wait for a person.")
        self.question_age = self._gauge(
            "question_age_seconds", "For how long the oldest open question has waited for a person; 0 where none does."
        )
        self.question_time_used = self._gauge(
            "question_time_used_ratio",
            "How much of its time the open question that is nearest to its policy's decision has used: 0 to 1.",
        )
        self.question_wait = self._histogram(
            "question_wait_seconds", "From a question to its answer or other end.", _QUESTION_BUCKETS
        )
        self.fallbacks = self._counter("fallbacks", "Changes of the wake-up source.", "from", "to")
        self.hook_events = self._counter("hook_events", "Events of Claude Code's hooks, by hook.", "event")
        self.hook_events_filled_in = self._counter(
            "hook_events_filled_in", "Hook events that no hook told, but the session's stream or process.", "event"
        )
        self.hook_events_dropped = self._counter(
            "hook_events_dropped", "Hook events that no rule and no log saw, since too many were waiting."
        )
        self.hook_rule_failures = self._counter("hook_rule_failures", "Hook rules that could not be done.", "rule")
        self.hook_requests_refused = self._counter(
            "hook_requests_refused", "Requests to /hooks that were refused, by why.", "reason"
        )
        self.pipe_drops = self._counter(
            "pipe_drops", "Lines for the status pipe that nobody took, by reason.", "reason"
        )
        self.control_commands = self._counter(
            "control_commands", "Commands carried out, by command and by where they came from.", "command", "source"
        )
        self.control_errors = self._counter("control_errors", "Lines that were no command, by source.", "source")
        self._redis_connected = Gauge(
            "codehornets_redis_connected",
            "Whether Redis answers: 1 or 0; a worker without a Redis tells neither.",
            ("worker",),
            registry=self.registry,
        )
        self.redis_losses = self._counter("redis_losses", "How often Redis went away.")
        self.redis_drops = self._counter("redis_drops", "Messages to Redis channels that were dropped.")
        self.results_refused = self._counter("results_refused", "Results not stored since another one was there first.")
        self.result_retries = self._counter("result_retries", "Failed attempts to store a result.")
        self._begin_at_zero()

    def show_readiness(self, findings: Sequence[Finding]) -> None:
        """Take over what `/readyz` says, part by part."""
        self.ready.set(all(finding.well for finding in findings))
        # Some parts are named only while there is something to say of them.
        self._parts.clear()
        for finding in findings:
            self._parts.labels(self._worker, finding.part).set(finding.well)

    def show_redis(self, connected: bool) -> None:
        """Take over whether Redis answers."""
        self._redis_connected.labels(self._worker).set(connected)

    def _begin_at_zero(self) -> None:
        # The increase of a series that appears with its first event is 0: an alert would never hear of that event.
        for status in TaskStatus:
            self.tasks.labels(self._worker, status.value)
        for state in QuestionState:
            if state is not QuestionState.OPEN:
                self.question_ends.labels(self._worker, state.value)
        for reason in DeadLetterReason:
            self.dead_letters.labels(self._worker, reason.value)
        for stage in ("noticed", "interrupted", "killed"):
            self.tasks_stuck.labels(self._worker, stage)
        for drop in DROP_REASONS:
            self.pipe_drops.labels(self._worker, drop)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        metric = Counter(f"codehornets_{name}", text, ("worker", *labels), registry=self.registry)
        return metric if labels else metric.labels(self._worker)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        metric = Gauge(f"codehornets_{name}", text, ("worker", *labels), registry=self.registry)
        return metric if labels else metric.labels(self._worker)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        metric = Histogram(f"codehornets_{name}", text, ("worker",), registry=self.registry, buckets=buckets)
        return metric.labels(self._worker)
