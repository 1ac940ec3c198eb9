"""The bucket of requests, on a clock of the test's own."""

from __future__ import annotations

import pytest

from orchestrator_service.api.limits import RateLimit
from orchestrator_service.api.problems import RequestRefused


def test_the_bucket_fills_with_time_and_never_over_its_brim() -> None:
    now = [100.0]
    limit = RateLimit(rate=2.0, burst=3, clock=lambda: now[0])
    for _ in range(3):
        limit.take("ann")
    with pytest.raises(RequestRefused) as refusal:
        limit.take("ann")
    assert refusal.value.headers == {"Retry-After": "1"}
    limit.take("ben")
    now[0] += 0.5
    limit.take("ann")
    with pytest.raises(RequestRefused):
        limit.take("ann")
    now[0] += 1000
    for _ in range(3):
        limit.take("ann")
    with pytest.raises(RequestRefused):
        limit.take("ann")


def test_what_is_told_to_wait_is_enough() -> None:
    now = [0.0]
    limit = RateLimit(rate=0.3, burst=1, clock=lambda: now[0])
    limit.take("ann")
    with pytest.raises(RequestRefused) as refusal:
        limit.take("ann")
    now[0] += float(refusal.value.headers["Retry-After"])
    limit.take("ann")


def test_rate_0_sets_no_limit() -> None:
    limit = RateLimit(rate=0.0, burst=1)
    for _ in range(1000):
        limit.take("ann")
