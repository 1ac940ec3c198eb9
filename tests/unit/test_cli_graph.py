"""Files of task graphs: what they may look like, and what is said of those that are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator_service.cli.errors import UserError
from orchestrator_service.cli.graph_files import parse_graph, read_graph
from orchestrator_service.cli.plain_yaml import PlainEvents
from orchestrator_service.scheduling.graphs import resolve
from orchestrator_service.team import EXAMPLE_TEAM, read_team

YAML = """
graph_id: summer
title: 2026-06-01
tasks:
  - key: plan
    description: Plan it.
    role: teacher
  - key: write
    description: "Write: {{results.plan.output}}"
    dependencies: [plan]
    deadline: 2030-01-31 18:00:00Z
    retry: {max_retries: 2}
"""


def test_a_list_of_tasks_as_the_api_takes_it() -> None:
    graph = parse_graph(YAML, "g.yaml")

    assert (graph.graph_id, graph.title) == ("summer", "2026-06-01")
    plan, write = graph.tasks
    assert (plan.key, plan.role) == ("plan", "teacher")
    assert (write.dependencies, write.retry.max_retries) == (["plan"], 2)
    assert write.deadline is not None
    assert write.deadline.isoformat() == "2030-01-31T18:00:00+00:00"


def test_a_mapping_of_tasks_by_their_keys() -> None:
    graph = parse_graph("tasks: {plan: {description: a}, write: {description: b, dependencies: [plan]}}", "g")

    assert [(task.key, task.dependencies) for task in graph.tasks] == [("plan", []), ("write", ["plan"])]


def test_json_and_yaml_say_the_same() -> None:
    content = {"tasks": {"a": {"description": "x", "metadata": {"n": [1, None, True]}}}}

    assert parse_graph(json.dumps(content), "g.json") == parse_graph(
        "tasks: {a: {description: x, metadata: {n: [1, ~, true]}}}", "g.yaml"
    )


def test_anchors_and_merges_save_writing() -> None:
    text = """
tasks:
  a: &usual {description: x, role: teacher, retry: {max_retries: 3}}
  b: {<<: *usual, description: y}
"""
    a, b = parse_graph(text, "g").tasks
    assert (a.description, b.description) == ("x", "y")
    assert b.retry == a.retry


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(YAML)

    assert len(read_graph(tmp_path / "g.yaml").tasks) == 2


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tasks: [{description: 7}]", "g: tasks[0].description is 7; allowed is a valid string."),
        ("tasks: {a: {description: yes}}", "tasks.a.description is True; allowed is a valid string"),
        ("tasks: {a: {}}", "tasks.a.description is missing"),
        ("tasks: {a: {description: x, colour: red}}", "tasks.a.colour is 'red', and there is no such field"),
        ("tasks: {a: {description: x, retry: {factor: 0}}}", "tasks.a.retry.factor is 0; allowed is greater than or"),
        ("tasks: {a: x}", "tasks.a is a single value; allowed is a mapping with a `description`"),
        ("tasks: {a: {description: x, key: b}}", "tasks.a.key is 'b'; leave it out, it is 'a'"),
        ("tasks: {'a b': {description: x}}", "tasks.a b.key is 'a b': String should match"),
        ("tasks: []", "tasks is []: List should have at least 1 item"),
        ("tasks: 5", "tasks is 5; allowed is a valid array"),
        ("", "g holds nothing"),
        ("- 1", "g holds a list"),
        ("tasks: {a: {description: x}, a: {description: y}}", "the key 'a' is there twice (line 1, column 8)"),
        ('{"tasks": [{"description": "x", "description": "y"}]}', "has the key 'description' twice"),
        ("tasks: [", "is not valid YAML"),
        ("tasks: !!python/object/apply:os.system [ls]", "is not valid YAML: could not determine a constructor"),
        ("tasks: {a: {description: x, metadata: {b: !!binary aGk=}}}", "holds what JSON has not"),
        ("tasks: {a: {description: x, timeout: .inf}}", "holds what JSON has not"),
        (
            "tasks: {a: {description: x, deadline: 2030-01-01}}",
            "tasks.a.deadline is '2030-01-01': Input should have timezone info",
        ),
        ("tasks: {a: {description: x, deadline: 2030-99-01}}", "cannot be read"),
        ("a: &a [*a]", "something contains itself"),
        (bomb(), "its aliases stand for too much"),
        ("[" * 5000, "g is nested too deep"),
        ("a: " + "{a: " * 5000, "g is nested too deep"),
        ("\x00", "is not valid YAML"),
        ("a: 1\n---\na: 2", "but found another document"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(text: str, words: str) -> None:
    with pytest.raises(UserError) as refusal:
        parse_graph(text, "g")

    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("body", "words"), [(None, "cannot be read: No such file"), (b"\xff", "is not UTF-8 text (byte 0)")]
)
def test_a_file_that_cannot_be_read(tmp_path: Path, body: bytes | None, words: str) -> None:
    if body is not None:
        (tmp_path / "g").write_bytes(body)
    with pytest.raises(UserError) as refusal:
        read_graph(tmp_path / "g")
    assert words in str(refusal.value)


def test_without_libyaml_the_events_are_the_same() -> None:
    parser = PlainEvents(YAML)
    events = []
    while parser.check_event():
        events.append(type(parser.get_event()).__name__)
    assert events[0] == "StreamStartEvent" and events.count("MappingStartEvent") == 4


def test_the_example_is_a_graph_that_the_example_team_can_do() -> None:
    order = read_graph(EXAMPLE_TEAM.parent / "course.yaml")
    roles = {plan.role for plan in read_team(EXAMPLE_TEAM).workers.values()}
    assert {task.role for task in order.tasks} <= roles
    nodes, problems = resolve(order.tasks, "g", lambda: "x")
    assert problems == []
    assert [len(node.needs) for node in nodes] == [0, 1, 2]
