"""docs/cli.md names every command that there is, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import typer

from orchestrator_service.cli.commands import app
from orchestrator_service.cli.graph_files import parse_graph

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"


def _commands(program: typer.Typer, before: str = "") -> Iterator[str]:
    for command in program.registered_commands:
        assert command.callback is not None
        yield before + (command.name or command.callback.__name__)
    for group in program.registered_groups:
        assert group.typer_instance is not None
        callback = group.typer_instance.registered_callback
        if callback is not None and callback.callback is not None:
            yield f"{before}{group.name}"
        yield from _commands(group.typer_instance, f"{before}{group.name} ")


def _rows() -> list[list[str]]:
    section = PAGE.read_text().partition("## Commands\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in row] for row in rows]


def test_every_command_is_told_of_once() -> None:
    told = [row[0].strip("`") for row in _rows()]
    assert len(set(told)) == len(told)
    assert set(told) == set(_commands(app))


def test_the_example_of_a_graph_is_one() -> None:
    text = PAGE.read_text().partition("```yaml\n")[2].partition("```")[0]
    graph = parse_graph(text, "docs/cli.md")
    assert [(task.key, task.dependencies) for task in graph.tasks] == [("plan", []), ("write", ["plan"])]


def test_every_command_that_answers_can_answer_as_json() -> None:
    serving = {"up", "worker", "hook", "mcp", "schedules", "dead-letters"}
    program = typer.main.get_command(app)
    for name in set(_commands(app)) - serving:
        command = program
        for word in name.split():
            command = command.commands[word]  # type: ignore[attr-defined]
        assert "--json" in {option for parameter in command.params for option in parameter.opts}, name
