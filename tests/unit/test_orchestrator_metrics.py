"""What the orchestrator shows of its workers follows who is there."""

from __future__ import annotations

import time

from orchestrator_service.metrics import OrchestratorMetrics
from orchestrator_service.records import FINAL_STATES
from tests.team_desk import worker_record


def _value(metrics: OrchestratorMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"codehornets_orchestrator_{name}", labels)


def test_a_worker_that_is_no_longer_known_has_no_series() -> None:
    metrics = OrchestratorMetrics()
    marie = worker_record("marie", "choreographer").model_copy(
        update={"heartbeat_age_seconds": 20.0, "spent_today_usd": 1.5, "reserved_usd": 0.5, "budget_usd": 3.0}
    )
    anga = worker_record("anga", "coder").model_copy(update={"heartbeat_age_seconds": None, "budget_usd": None})
    metrics.show_workers([marie, anga])
    heard = _value(metrics, "worker_heartbeat_timestamp_seconds", worker="marie")
    assert heard is not None
    assert 19 < time.time() - heard < 30
    budget = {kind: _value(metrics, "worker_budget_usd", worker="marie", kind=kind) for kind in ("limit", "spent")}
    assert budget == {"limit": 3.0, "spent": 1.5}
    assert _value(metrics, "worker_heartbeat_timestamp_seconds", worker="anga") is None, "never heard"
    assert _value(metrics, "worker_budget_usd", worker="anga", kind="limit") is None, "no limit"
    metrics.show_workers([anga])
    assert _value(metrics, "worker_heartbeat_timestamp_seconds", worker="marie") is None
    assert _value(metrics, "worker_budget_usd", worker="marie", kind="spent") is None


def test_endings_that_have_not_happened_yet_are_counted_as_zero() -> None:
    metrics = OrchestratorMetrics()
    assert {_value(metrics, "tasks_ended_total", status=state) for state in FINAL_STATES} == {0}
