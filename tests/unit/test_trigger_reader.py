from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent_bus.errors import DeadLetterReason, TriggerRejected
from agent_bus.messages import Task, is_task_id
from agent_bus.trigger_reader import EventBody, TaskBody, TaskPointer, make_task, read_body, task_id_in_name

file_names = st.one_of(
    st.just("task-1.trigger"),
    st.just("1.json"),
    st.just("x.trigger"),
    st.text(max_size=40).map(lambda text: f"task-{text}.trigger"),
    st.text(max_size=40).map(lambda text: f"{text}.trigger"),
    st.binary(max_size=20).map(lambda raw: raw.decode("utf-8", "surrogateescape") + ".trigger"),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
task_fields = st.sampled_from(sorted(Task.model_fields))
bodies = st.one_of(
    st.binary(max_size=200),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(task_fields, json_values, max_size=6).map(lambda value: json.dumps(value).encode()),
    st.dictionaries(task_fields, json_values, max_size=6).map(
        lambda value: json.dumps({"description": "x", **value}).encode()
    ),
)


def understand(body: bytes, name: str, mtime_ns: int = 1) -> Task | TaskPointer | EventBody:
    """Do with the bytes what the queue does."""
    meaning = read_body(body, name)
    if isinstance(meaning, TaskBody):
        assert isinstance(meaning.rank, int)
        assert isinstance(meaning.session, str)
        return make_task(meaning, name, mtime_ns=mtime_ns, worker="marie")
    return meaning


@given(bodies, file_names, st.integers(0, 2**63))
@example(b'{"description":"x","priority":' + b"9" * 4200 + b"}", "x.trigger", 1)
@example(b'{"description":"x","priority":' + b"9" * 5000 + b"}", "x.trigger", 1)
@example(b'{"description":"x","timeout":1e999}', "x.trigger", 1)
@example(b'{"a":' * 3000 + b"1" + b"}" * 3000, "x.trigger", 1)
@example(b'{"description":"\\ud800"}', "task-1.trigger", 1)
@example(b'{"description":"x","session":"\\ud800"}', "task-1.trigger", 1)
@example(b"\xff\xfe{\x00}\x00", "task-1.trigger", 1)
@example(b"\xef\xbb\xbf{}", "task-1.trigger", 1)
def test_no_bytes_whatever_raise_anything_but_a_rejection(body: bytes, name: str, mtime_ns: int) -> None:
    try:
        meaning = understand(body, name, mtime_ns)
    except TriggerRejected as refusal:
        assert refusal.message
        assert "\n" not in refusal.message
        assert refusal.task_id is None or is_task_id(refusal.task_id)
        return
    if isinstance(meaning, Task):
        assert is_task_id(meaning.task_id)
        assert meaning.model_dump_json()


@given(file_names, st.integers(0, 2**63))
def test_a_made_up_id_is_valid_and_the_same_for_the_same_file(name: str, mtime_ns: int) -> None:
    first, second = (understand(b'{"description": "x"}', name, mtime_ns) for _ in range(2))
    assert isinstance(first, Task)
    assert isinstance(second, Task)
    assert first.task_id == second.task_id
    assert is_task_id(first.task_id)


def test_a_made_up_id_tells_files_of_one_name_apart_by_their_time() -> None:
    first = understand(b'{"description": "x"}', "x.trigger", 1)
    second = understand(b'{"description": "x"}', "x.trigger", 2)
    assert isinstance(first, Task)
    assert isinstance(second, Task)
    assert first.task_id != second.task_id


@pytest.mark.parametrize(
    ("name", "task_id"),
    [
        ("task-7.trigger", "7"),
        ("7.json", "7"),
        ("task-a.b.trigger", "a.b"),
        ("x.trigger", None),
        ("task-.trigger", None),
        ("task-...trigger", None),
        ("task-..trigger", None),
        ("...json", None),
        (f"task-{'x' * 129}.trigger", None),
    ],
)
def test_the_id_in_a_file_name(name: str, task_id: str | None) -> None:
    assert task_id_in_name(name) == task_id


def test_the_body_wins_over_the_file_name() -> None:
    task = understand(b'{"task_id": "8", "description": "x"}', "task-7.trigger")
    assert isinstance(task, Task)
    assert task.task_id == "8"


def test_an_empty_trigger_points_to_its_task_file() -> None:
    assert understand(b" \n", "task-7.trigger") == TaskPointer("7")


@pytest.mark.parametrize("name", ["7.json", "task-.trigger", "task- .trigger"])
def test_an_empty_file_that_cannot_point_anywhere_is_refused(name: str) -> None:
    with pytest.raises(TriggerRejected) as caught:
        understand(b"", name)
    assert caught.value.reason is DeadLetterReason.MALFORMED


@pytest.mark.parametrize("body", [b"deploy done", b'{"kind": "deploy"}', b"", b"[1, 2]"])
def test_anything_else_is_an_event(body: bytes) -> None:
    assert understand(body, "deploy.trigger") == EventBody(body.decode())


def test_a_body_with_a_description_is_a_task_under_any_name() -> None:
    assert isinstance(understand(b'{"description": "x"}', "deploy.trigger"), Task)


@pytest.mark.parametrize(
    ("body", "reason", "words"),
    [
        (b'{"description": "x"', DeadLetterReason.MALFORMED, "not valid JSON"),
        (b'{"description": "x"} more', DeadLetterReason.MALFORMED, "not valid JSON"),
        (b"[]", DeadLetterReason.MALFORMED, "an array"),
        (b'"x"', DeadLetterReason.MALFORMED, "a string"),
        (b"null", DeadLetterReason.MALFORMED, "null"),
        (b"a\0b", DeadLetterReason.MALFORMED, "NUL"),
        (b"\x89PNG\r\n", DeadLetterReason.MALFORMED, "not valid JSON"),
        (b"{}", DeadLetterReason.INVALID_TASK, "field description is missing"),
        (b'{"description": "x", "timeout": -1}', DeadLetterReason.INVALID_TASK, "field timeout is -1"),
        (b'{"description": "x", "dependencies": {"a": 1}}', DeadLetterReason.INVALID_TASK, "field dependencies"),
        (b'{"description": "x", "task_id": "../../etc"}', DeadLetterReason.INVALID_TASK, "field task_id"),
        (b'{"description": "x", "worker": "anga"}', DeadLetterReason.WRONG_WORKER, "'anga'"),
    ],
)
def test_what_is_wrong_is_said(body: bytes, reason: DeadLetterReason, words: str) -> None:
    with pytest.raises(TriggerRejected) as caught:
        understand(body, "task-7.trigger")
    assert caught.value.reason is reason
    assert words in caught.value.message


def test_a_refused_task_keeps_the_id_that_is_known() -> None:
    for body in (b"{", b'{"description": 5}', b'{"description": "x", "worker": "anga"}'):
        with pytest.raises(TriggerRejected) as caught:
            understand(body, "task-7.trigger")
        assert caught.value.task_id == "7"
    with pytest.raises(TriggerRejected) as caught:
        understand(b'{"description": "x", "task_id": "a/b"}', "task-7.trigger")
    assert caught.value.task_id is None


def test_a_huge_wrong_value_is_shown_in_part() -> None:
    with pytest.raises(TriggerRejected) as caught:
        understand(json.dumps({"description": "x", "task_id": "x" * 5000}).encode(), "a.trigger")
    assert len(caught.value.message) < 300


def test_null_means_not_filled_in() -> None:
    task = understand(b'{"description": "x", "timeout": null, "session": null, "task_id": null}', "task-7.trigger")
    assert isinstance(task, Task)
    assert task.task_id == "7"
