from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from agent_bus.messages import Heartbeat, OnInterrupt, Result, Task, TaskStatus, is_task_id, utc_now


def test_a_task_needs_only_an_id_and_a_prompt() -> None:
    task = Task.model_validate({"task_id": "7", "description": "dance"})
    assert (task.priority, task.timeout, task.on_interrupt, task.dependencies) == (50, None, OnInterrupt.RESUME, [])


def test_unknown_fields_are_kept_and_handed_through() -> None:
    task = Task.model_validate_json('{"task_id": "7", "description": "x", "colour": {"deep": [1]}}')
    assert task.model_dump()["colour"] == {"deep": [1]}


@pytest.mark.parametrize(
    ("given", "rank"), [("low", 25), ("normal", 50), ("high", 75), ("urgent", 100), (0, 0), (-3, -3), (7, 7)]
)
def test_priorities_are_words_or_integers(given: object, rank: int) -> None:
    assert Task.model_validate({"task_id": "7", "description": "x", "priority": given}).priority == rank


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("description", ""),
        ("description", 5),
        ("description", ["x"]),
        ("priority", "soon"),
        ("priority", 2**31),
        ("priority", 1.5),
        ("priority", True),
        ("timeout", 0),
        ("timeout", -1),
        ("timeout", "10"),
        ("timeout", 31 * 86_400),
        ("timeout", float("inf")),
        ("timeout", float("nan")),
        ("dependencies", "a"),
        ("dependencies", {"a": 1}),
        ("dependencies", [1]),
        ("dependencies", ["../a"]),
        ("session", ""),
        ("session", "s" * 201),
        ("model", "-p"),
        ("model", "a b"),
        ("allowed_tools", "Bash"),
        ("max_turns", 0),
        ("max_budget_usd", 0),
        ("max_attempts", 0),
        ("max_attempts", 1001),
        ("on_interrupt", "explode"),
        ("metadata", []),
        ("output_schema", "x"),
        ("task_id", 7),
        ("task_id", "../x"),
        ("task_id", "a/b"),
        ("task_id", ".."),
        ("task_id", ""),
        ("task_id", "a\n"),
        ("task_id", "a\0"),
        ("task_id", "x" * 129),
        ("task_id", "x" * 5000),
    ],
)
def test_a_field_with_a_wrong_value_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        Task.model_validate({"task_id": "7", "description": "x", field: value})
    assert caught.value.errors()[0]["loc"][0] == field


@pytest.mark.parametrize("text", ["1", "a.b", "A-1_2", "x" * 128, "a@b+c:d"])
def test_ids_that_are_good_file_names(text: str) -> None:
    assert is_task_id(text)


@pytest.mark.parametrize("text", ["", ".", "..", "../a", "/a", "a/b", "a b", "a\n", "-a", "ä", "x" * 129, "a\0b"])
def test_ids_that_are_not(text: str) -> None:
    assert not is_task_id(text)


def test_a_result_survives_the_wire() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
    result = Result(
        task_id="7",
        worker="marie",
        instance="i",
        status=TaskStatus.TIMED_OUT,
        output="zażółć\u2028",
        structured_output={"a": [None, 1.5]},
        completed_at=now,
        timestamp=now,
    )
    assert Result.model_validate_json(result.model_dump_json()) == result


def test_a_heartbeat_of_a_newer_worker_can_be_read() -> None:
    line = {
        "worker": "marie",
        "instance": "i",
        "timestamp": utc_now().isoformat(),
        "status": "busy",
        "mode": "polling",
        "pid": 1,
        "version": "9",
        "moon": "full",
    }
    assert Heartbeat.model_validate(line).model_dump()["moon"] == "full"


def test_moments_on_the_wire_know_their_zone() -> None:
    assert utc_now().tzinfo is UTC
