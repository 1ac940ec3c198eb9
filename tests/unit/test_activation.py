from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_bus.redis.activation import Activation, BadMessage, Nothing, TaskName, TaskPath, TaskText, parse_activation


@pytest.mark.parametrize(
    ("message", "meaning"),
    [
        (b"", Nothing()),
        (b" \n", Nothing()),
        (b"/shared/tasks/marie/t.json\n", TaskPath("/shared/tasks/marie/t.json")),
        (b"task-7", TaskName("task-7")),
        (b'{"task_id": "t", "description": "x"}', TaskText(b'{"task_id": "t", "description": "x"}', "t")),
        (b'{"description": "x"}', TaskText(b'{"description": "x"}', None)),
        (b'{"task_id": "../t"}', TaskText(b'{"task_id": "../t"}', None)),
    ],
)
def test_the_four_forms(message: bytes, meaning: Activation) -> None:
    assert parse_activation(message) == meaning


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (b"\xff", "UTF-8"),
        (b"[1]", "an array"),
        (b"{nonsense", "JSON"),
        (b"two words", "no task id"),
        (b"x" * 3000, "3000 bytes"),
    ],
)
def test_what_is_none_of_them_is_said_in_one_sentence(message: bytes, says: str) -> None:
    meaning = parse_activation(message, max_bytes=2000)
    assert isinstance(meaning, BadMessage) and says in meaning.why


@given(st.binary(max_size=200))
def test_no_message_raises(message: bytes) -> None:
    parse_activation(message)
