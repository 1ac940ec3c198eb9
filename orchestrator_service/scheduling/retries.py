"""When a task that did not complete is tried again, and which failures no further try would mend."""

from __future__ import annotations

import random
from typing import Final

from agent_bus.messages import TaskStatus
from orchestrator_service.orders import RetryPolicy

HOPELESS_KINDS: Final = frozenset(
    (
        "invalid_task",
        "malformed",
        "too_large",
        "wrong_worker",
        "bad_name",
        "duplicate",
        "max_budget",
        "authentication_failed",
        "prompt_too_large",
        "dependency_failed",
        "deadline",
    )
)
"""The same task would fail in the same way; what the words mean is in docs/tasks.md and docs/orchestrator.md."""


def is_worth_a_retry(status: TaskStatus, kind: str | None) -> bool:
    """Tell whether another try may end better."""
    return status in (TaskStatus.FAILED, TaskStatus.TIMED_OUT) and kind not in HOPELESS_KINDS


def pause_s(policy: RetryPolicy, retry: int) -> float:
    """Return the seconds before the given retry (1 for the first), with its share of chance."""
    # The exponent is bounded before the power is taken: 10 ** 100 is no number of seconds.
    whole = min(policy.longest_seconds, policy.initial_seconds * policy.factor ** min(retry - 1, 60))
    return whole * (1 - policy.jitter * random.random())  # no secret hangs on it
