"""From what happens to what is counted: the metrics are fed by the events of the ledger, and by a look when asked."""

from __future__ import annotations

import time
from typing import Final

from agent_bus.questions import QuestionState
from orchestrator_service.metrics import OrchestratorMetrics
from orchestrator_service.scheduling.step import Happening
from orchestrator_service.service import Service
from orchestrator_service.transports.base import HeardResult

_MOST_TIMED: Final = 10_000
_STATES: Final = {"allow": QuestionState.ALLOWED.value, "deny": QuestionState.DENIED.value}


class Observation:
    """Feeds the metrics of a service."""

    def __init__(self, metrics: OrchestratorMetrics, service: Service) -> None:
        self._metrics = metrics
        self._service = service
        self._submitted: dict[str, float] = {}
        service.core.on_happening.append(self._observe)
        service.clerk.on_stored = self._stored

    def _observe(self, happening: Happening) -> None:
        metrics, task_id = self._metrics, happening.task_id or ""
        match happening.event:
            case "task_submitted":
                metrics.submissions.labels(str(happening.data.get("origin", "api"))).inc()
                if len(self._submitted) < _MOST_TIMED:
                    self._submitted[task_id] = time.monotonic()
            case "task_sent" if task_id in self._submitted:
                metrics.dispatch.observe(time.monotonic() - self._submitted.pop(task_id))
            case "task_retrying":
                metrics.retries.inc()
            case "task_ended":
                self._submitted.pop(task_id, None)
                metrics.tasks_ended.labels(str(happening.data.get("state", "unknown"))).inc()
            case "permission_asked":
                metrics.questions.labels(QuestionState.OPEN.value).inc()
            case "permission_answered":
                metrics.questions.labels(_STATES.get(str(happening.data.get("decision")), "denied")).inc()
            case "permission_withdrawn":
                metrics.questions.labels(QuestionState.WITHDRAWN.value).inc()
            case "goal_ended":
                metrics.goals.labels(str(happening.data.get("state", "unknown"))).inc()

    def _stored(self, heard: HeardResult) -> None:
        self._metrics.result.observe(max(0.0, time.time() - heard.result.completed_at.timestamp()))

    async def refresh(self) -> None:
        """Bring the gauges up to date."""
        service, metrics = self._service, self._metrics
        metrics.show_counts(await service.desk.counts())
        metrics.show_workers(await service.desk.workers())
        metrics.show_budget(await service.desk.budget())
        metrics.questions_open.set(service.inbox.open)
        metrics.question_age.set(service.inbox.oldest_age_s)
        metrics.show_invariants(service.reconciler.invariants)
        metrics.ledger_writable.set(service.database.trouble is None)
        metrics.heartbeat.set(service.beaten_at)
