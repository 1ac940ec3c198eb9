"""Every metric of the orchestrator, in one place, with its unit. The registry belongs to the service."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from agent_bus.questions import QuestionState
from orchestrator_service.records import FINAL_STATES, Budget, Invariant, TaskState, WorkerRecord

_DISPATCH_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 30, 60, 300, 1800, 7200, 86_400)
_RESULT_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 30, 60, 300)
_HTTP_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)

_WORKER_STATES = ("up", "down", "paused", "unknown")


class OrchestratorMetrics:
    """The series of the orchestrator: counts and sizes, worker states and routes, and nothing of what tasks say."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

        self.tasks = self._gauge("tasks", "Tasks in the ledger, by state.", "state")
        self.submissions = self._counter("submissions", "Tasks that were accepted, by how they came.", "origin")
        self.tasks_ended = self._counter("tasks_ended", "Tasks that ended, by how.", "status")
        for state in FINAL_STATES:
            # The increase of a series that appears with its first event is 0.
            self.tasks_ended.labels(state.value)
        self.dispatch = self._histogram(
            "dispatch_seconds", "From the acceptance of a task until it lies with a worker.", _DISPATCH_BUCKETS
        )
        self.result = self._histogram(
            "result_seconds", "From the end that a result tells until the ledger has it.", _RESULT_BUCKETS
        )
        self.retries = self._counter("retries", "Further tries of tasks.")
        self.goals = self._counter("goals", "Goals that ended, by how.", "status")

        self.questions_open = self._gauge("questions_open", "Questions of agents that wait for a person.")
        self.question_age = self._gauge(
            "question_age_seconds", "For how long the oldest open question has waited for a person; 0 where none does."
        )
        self.questions = self._counter(
            "questions", "Questions that were asked (`open`), and those that came to their end, by how.", "state"
        )
        for question_state in QuestionState:
            self.questions.labels(question_state.value)

        self.http_requests = self._counter(
            "http_requests", "Requests that were answered; `route` is the template of the path.", *_REQUEST_LABELS
        )
        self.http_request_duration = self._histogram(
            "http_request_seconds", "From a request to the end of its answer, without streams.", _HTTP_BUCKETS, "route"
        )
        self.sse_clients = self._gauge("sse_clients", "Clients that follow a stream of events.")

        self.workers = self._gauge("workers", "Workers, by state.", "state")
        self.worker_heartbeat = self._gauge(
            "worker_heartbeat_timestamp_seconds",
            "When each worker last gave a sign of life, as it is heard here.",
            "worker",
        )
        self.worker_budget = self._gauge(
            "worker_budget_usd", "Today's budget of each worker in US dollars; no limit shows none.", "worker", "kind"
        )
        self.budget = self._gauge(
            "budget_usd", "Today's budget of the team in US dollars; no limit shows none.", "kind"
        )
        self.ledger_writable = self._gauge("ledger_writable", "Whether the ledger can be written: 1 or 0.")
        self.invariant_violations = self._gauge(
            "invariant_violations", "What breaks each rule that files, streams and ledger must keep.", "invariant"
        )
        self.invariants_checked = self._gauge(
            "invariants_checked_timestamp_seconds", "When the rules were last compared with what is there."
        )
        self.heartbeat = self._gauge("heartbeat_timestamp_seconds", "When the last heartbeat was written.")

    def show_counts(self, counts: Mapping[str, int]) -> None:
        """Take over how many tasks there are in each state; a state that is left out has none."""
        for state in TaskState:
            self.tasks.labels(state).set(counts.get(state, 0))

    def show_workers(self, workers: Iterable[WorkerRecord]) -> None:
        """Take over the workers: how many there are in each state, when each was heard, what each may spend."""
        workers = list(workers)
        states = [worker.state for worker in workers]
        for state in _WORKER_STATES:
            self.workers.labels(state).set(states.count(state))  # type: ignore[arg-type]
        # Series of a worker that is no longer known would be told for ever.
        self.worker_heartbeat.clear()
        self.worker_budget.clear()
        for worker in workers:
            if worker.heartbeat_age_seconds is not None:
                self.worker_heartbeat.labels(worker.name).set(time.time() - worker.heartbeat_age_seconds)
            if worker.budget_usd is not None:
                self.worker_budget.labels(worker.name, "limit").set(worker.budget_usd)
            self.worker_budget.labels(worker.name, "spent").set(worker.spent_today_usd)
            self.worker_budget.labels(worker.name, "reserved").set(worker.reserved_usd)

    def show_budget(self, budget: Budget) -> None:
        """Take over today's budget."""
        if budget.limit_usd is not None:
            self.budget.labels("limit").set(budget.limit_usd)
        self.budget.labels("spent").set(budget.spent_usd)
        self.budget.labels("reserved").set(budget.reserved_usd)

    def show_invariants(self, invariants: Iterable[Invariant]) -> None:
        """Take over what the last check of the rules found."""
        for invariant in invariants:
            self.invariant_violations.labels(invariant.name).set(invariant.violations)
            if invariant.checked_at is not None:
                self.invariants_checked.set(invariant.checked_at.timestamp())

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{_PREFIX}{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"{_PREFIX}{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"{_PREFIX}{name}", text, labels, registry=self.registry, buckets=buckets)


_PREFIX = "codehornets_orchestrator_"
_REQUEST_LABELS = ("method", "route", "status")
