"""The rules of the scheduler one by one: pauses, recurrence, routing and money."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_bus.messages import TaskStatus
from orchestrator_service.ledger.schema import migrate
from orchestrator_service.orders import RetryPolicy
from orchestrator_service.records import Route
from orchestrator_service.scheduling.book import Book
from orchestrator_service.scheduling.recurrence import check_cron, next_after
from orchestrator_service.scheduling.retries import HOPELESS_KINDS, is_worth_a_retry, pause_s
from orchestrator_service.scheduling.routing import FleetView, Member, lane_of, route_of
from orchestrator_service.settings import BudgetSettings

BERLIN = ZoneInfo("Europe/Berlin")

# -- retries

policies = st.builds(
    RetryPolicy,
    max_retries=st.integers(0, 100),
    initial_seconds=st.floats(0.001, 86_400),
    factor=st.floats(1, 10),
    longest_seconds=st.floats(0.001, 7 * 86_400),
    jitter=st.floats(0, 1),
)


@given(policies, st.integers(1, 100))
def test_a_pause_is_never_longer_than_said_and_loses_its_jitter_at_most(policy: RetryPolicy, retry: int) -> None:
    whole = min(policy.longest_seconds, policy.initial_seconds * policy.factor ** min(retry - 1, 60))
    assert whole * (1 - policy.jitter) <= pause_s(policy, retry) <= whole


def test_pauses_grow_and_what_failed_together_does_not_return_together() -> None:
    steady = RetryPolicy(max_retries=9, jitter=0)
    assert [pause_s(steady, retry) for retry in range(1, 9)] == [5, 10, 20, 40, 80, 160, 300, 300]
    assert len({pause_s(RetryPolicy(jitter=0.25), 1) for _ in range(50)}) > 10


def test_only_what_may_end_better_is_tried_again() -> None:
    assert is_worth_a_retry(TaskStatus.FAILED, "agent_failed")
    assert is_worth_a_retry(TaskStatus.TIMED_OUT, None)
    assert not is_worth_a_retry(TaskStatus.CANCELLED, None)
    assert not is_worth_a_retry(TaskStatus.COMPLETED, None)
    assert not any(is_worth_a_retry(TaskStatus.FAILED, kind) for kind in HOPELESS_KINDS)


# -- recurrence


def at(text: str, zone: ZoneInfo = BERLIN) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


def following(cron: str, start: str, times: int, zone: ZoneInfo = BERLIN) -> list[str]:
    """Return the next times, as UTC."""
    found, moment = [], at(start, zone)
    for _ in range(times):
        due = next_after(cron, zone, moment)
        assert due is not None
        assert due > moment
        moment = due
        found.append(datetime.fromtimestamp(due, UTC).strftime("%m-%d %H:%M"))
    return found


def test_a_time_that_spring_leaves_out_comes_right_after_it() -> None:
    # On 29 March 2026 the clocks go from 02:00 to 03:00.
    assert following("30 2 * * *", "2026-03-28 00:00", 3) == ["03-28 01:30", "03-29 01:00", "03-30 00:30"]


def test_a_time_that_autumn_has_twice_comes_once() -> None:
    # On 25 October 2026 there are two 02:30.
    assert following("30 2 * * *", "2026-10-24 12:00", 2) == ["10-25 00:30", "10-26 01:30"]


def test_what_recurs_each_hour_does_so_on_days_of_25_and_23_hours() -> None:
    hours = following("0 * * * *", "2026-10-25 00:30", 5)
    assert hours == ["10-24 23:00", "10-25 00:00", "10-25 01:00", "10-25 02:00", "10-25 03:00"]
    assert following("0 * * * *", "2026-03-29 00:30", 3) == ["03-29 00:00", "03-29 01:00", "03-29 02:00"]


def test_the_29th_of_february_is_due_in_leap_years() -> None:
    due = next_after("0 0 29 2 *", ZoneInfo("UTC"), at("2026-01-01 00:00", ZoneInfo("UTC")))
    assert due == at("2028-02-29 00:00", ZoneInfo("UTC"))


def test_a_time_is_behind_the_moment_that_is_asked_for() -> None:
    noon = at("2026-05-05 12:00")
    assert next_after("0 12 * * *", BERLIN, noon - 0.5) == noon
    assert next_after("0 12 * * *", BERLIN, noon) == noon + 86_400
    assert next_after("0 12 * * *", BERLIN, noon + 0.5) == noon + 86_400


@pytest.mark.parametrize(
    "cron", ["", "* * * *", "* * * * * *", "60 * * * *", "0 0 30 2 *", "a b c d e", "@daily", "*/0 * * * *"]
)
def test_what_is_no_expression_or_never_due_is_refused(cron: str) -> None:
    with pytest.raises(ValueError, match="allowed are five fields"):
        check_cron(cron)


# -- routing


def test_roles_and_skills_are_compared_without_case_and_blanks() -> None:
    assert lane_of(None, " Coder ", ["SQL", "python", "sql "]) == lane_of(None, "CODER", ["Python", "Sql"])
    assert route_of(lane_of(None, "Coder", ["SQL"])) == Route(role="coder", skills=["sql"])
    assert lane_of("marie", None, ()) != lane_of(None, None, ())


def test_who_a_lane_is_for() -> None:
    members = {
        "marie": Member(name="marie", role="coder", skills=frozenset(("python", "sql"))),
        "anga": Member(name="anga", role="coder", skills=frozenset(("python",))),
        "fabien": Member(name="fabien"),
    }
    view = FleetView(members=members)

    def names(worker: str | None = None, role: str | None = None, *skills: str) -> list[str]:
        return [member.name for member in view.candidates(lane_of(worker, role, skills))]

    assert names() == ["anga", "fabien", "marie"]
    assert names("fabien") == ["fabien"]
    assert names(None, "coder") == ["anga", "marie"]
    assert names(None, "coder", "sql") == ["marie"]
    assert names(None, None, "python") == ["anga", "marie"]
    assert names("nobody") == []


@pytest.mark.parametrize(
    ("fields", "takes"),
    [
        ({}, True),
        ({"up": False}, False),
        ({"paused": True}, False),
        ({"transport": None}, False),
        ({"unreachable": "no room"}, False),
    ],
)
def test_who_may_be_sent_something(fields: dict[str, object], takes: bool) -> None:
    assert Member(**{"name": "marie", "up": True, "transport": "file", **fields}).takes is takes  # type: ignore[arg-type]


# -- money


def book(**limits: float) -> Book:
    return Book(BudgetSettings(timezone=BERLIN, **limits))  # type: ignore[arg-type]


def test_a_day_is_that_of_the_budgets_time_zone() -> None:
    kept = book()
    assert kept.day_of(at("2026-05-05 23:59")) == "2026-05-05"
    assert kept.day_of(at("2026-05-06 00:00")) == "2026-05-06"
    assert kept.day_ends(at("2026-05-05 12:00")) == at("2026-05-06 00:00")
    # Days of 23 and of 25 hours.
    assert kept.day_ends(at("2026-03-29 00:00")) - at("2026-03-29 00:00") == 23 * 3600
    assert kept.day_ends(at("2026-10-25 00:00")) - at("2026-10-25 00:00") == 25 * 3600


def test_what_is_lacking_is_told_and_nothing_else_is() -> None:
    kept = book(worker_day_usd=2.0, day_usd=3.0)
    kept.day = "2026-05-05"
    kept.spent["marie"], kept.reserved["marie"] = 0.5, 0.5
    assert kept.lacks("marie", 1.0) is None
    assert kept.lacks("marie", 1.1) == "marie has $1.00 of $2.00 left for 2026-05-05, and it needs $1.10"
    kept.spent["anga"] = 1.9
    assert kept.lacks("fabien", 0.1) is None
    assert kept.lacks("fabien", 0.2) == "the team has $0.10 of $3.00 left for 2026-05-05, and it needs $0.20"
    assert book().lacks("marie", 1e6) is None


def test_ten_tenths_are_a_dollar() -> None:
    kept = book(worker_day_usd=1.0)
    for _ in range(9):
        kept.spent["marie"] += 0.1
    assert kept.lacks("marie", 0.1) is None


def test_what_was_taken_back_is_read_anew() -> None:
    connection = sqlite3.connect(":memory:")
    migrate(connection)
    kept = book()
    kept.refresh(connection, at("2026-05-05 12:00"))
    assert not kept.stale
    kept.undone(whole=False)
    assert not kept.stale
    kept.moved(None, "ready")
    kept.undone(whole=False)
    assert kept.stale
    kept.refresh(connection, at("2026-05-05 12:00"))
    assert kept.states.total() == 0
    kept.undone(whole=True)
    assert kept.stale
    connection.close()
