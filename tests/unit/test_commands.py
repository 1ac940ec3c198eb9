"""Control commands: what is understood, and the sentence for what is not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_bus.commands import BadCommand, Command, CommandName, parse_command

GOOD = [
    (b"status", CommandName.STATUS, None),
    (b"  wake \r", CommandName.WAKE, None),
    (b"cancel 7", CommandName.CANCEL, "7"),
    (b'{"command": "pause"}', CommandName.PAUSE, None),
    (b'{"command": "cancel", "task_id": "a.b-1", "more": [1]}', CommandName.CANCEL, "a.b-1"),
]

BAD = [
    (b"dance", "'dance' is no command; there are status, pause"),
    (b"", "is no command"),
    (b"status now", "more than one word"),
    (b"cancel", 'cancel needs a "task_id"'),
    (b"cancel ../x", 'cancel needs a "task_id"'),
    (b'{"command": "cancel", "task_id": 7}', 'cancel needs a "task_id"'),
    (b'{"command": 7}', 'has no "command"'),
    (b'{"task_id": "7"}', 'has no "command"'),
    (b'{"command": "status", "id": 7}', '"id" must be a text'),
    (b'["status"]', "is JSON, but no object"),
    (b'"status"', "is JSON, but no object"),
    (b'{"command": "sta', "is not JSON"),
    (b"[" * 5000, "is not JSON"),
    (b"\xff\xfe\x00", "is not UTF-8"),
    (b"x" * 70_000, "more than 65536 bytes"),
]


@pytest.mark.parametrize(("line", "name", "task_id"), GOOD)
def test_a_word_and_an_object_say_the_same(line: bytes, name: CommandName, task_id: str | None) -> None:
    command = parse_command(line)
    assert (command.name, command.task_id) == (name, task_id)
    assert parse_command(command.encode()) == command


@pytest.mark.parametrize(("line", "words"), BAD)
def test_what_is_no_command_gives_one_sentence(line: bytes, words: str) -> None:
    with pytest.raises(BadCommand) as caught:
        parse_command(line)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@given(
    st.binary(max_size=200) | st.builds(lambda value: json.dumps(value).encode(), st.dictionaries(st.text(), st.text()))
)
def test_no_line_does_harm(line: bytes) -> None:
    try:
        assert isinstance(parse_command(line), Command)
    except BadCommand as error:
        assert "\n" not in str(error)
