"""docs/tasks.md and docs/control.md name every field, error kind, event, reason and command, and no others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from agent_bus.commands import CommandName
from agent_bus.errors import DeadLetterReason
from agent_bus.messages import Heartbeat, Result, Task

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "tasks.md"

_RAISERS = {"fail", "GaveUp", "ProcessGone", "NotResumable", "BadOutput"}


def _section(title: str, page: Path) -> str:
    """Return the text below a heading, up to the next one."""
    parts = re.split(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[title]


def _first_column(title: str, page: Path = PAGE) -> set[str]:
    rows = [line.split("|")[1] for line in _section(title, page).splitlines() if line.startswith("| ")]
    return {name for row in rows[1:] for name in re.findall(r"`(\w+)`", row)}


def _trees() -> Iterator[ast.AST]:
    for package in ("agent_bus", "worker_service"):
        for path in (REPOSITORY / package).rglob("*.py"):
            yield from ast.walk(ast.parse(path.read_text()))


def _words_given_to(names: set[str]) -> set[str]:
    """Return the first argument of each call of a function of these names, where it is a literal text."""
    found: set[str] = set()
    for node in _trees():
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in names and isinstance(node.args[0].value, str):
                found.add(node.args[0].value)
    return found


def _kinds() -> set[str]:
    found = _words_given_to(_RAISERS)
    for node in _trees():
        match node:
            case ast.keyword(arg="kind", value=ast.Constant(value=str(word))):
                found.add(word)
            case ast.Assign(targets=[ast.Name(id="kind")], value=value):
                constants = (part for part in ast.walk(value) if isinstance(part, ast.Constant))
                found |= {part.value for part in constants if isinstance(part.value, str) and part.value.isidentifier()}
            case ast.AnnAssign(target=ast.Name(id="_ERROR_KINDS"), value=ast.Dict(values=values)):
                found |= {ast.literal_eval(value) for value in values}
    # What a limit is called is no error of the task.
    return found - _words_given_to({"RateLimited"}) | {DeadLetterReason.ATTEMPTS_EXHAUSTED.value}


def test_task_fields() -> None:
    assert _first_column("Task fields") == set(Task.model_fields)


def test_result_fields() -> None:
    assert _first_column("Results") == set(Result.model_fields)


def test_error_kinds() -> None:
    assert _first_column("Error kinds") - {"error"} == _kinds()


def test_events() -> None:
    assert _first_column("Live events of a task") == _words_given_to({"emit"})


def test_commands_and_what_a_worker_tells() -> None:
    page = REPOSITORY / "docs" / "control.md"
    assert _first_column("Commands", page) == set(CommandName)
    assert _first_column("What comes out", page) == _words_given_to({"publish"}) | {"answer"}


def test_dead_letter_reasons() -> None:
    assert _first_column("Dead letters") == {reason.value for reason in DeadLetterReason}


def test_heartbeat_fields() -> None:
    text = _section("Heartbeats", PAGE)
    assert [name for name in Heartbeat.model_fields if f"`{name}`" not in text] == []
