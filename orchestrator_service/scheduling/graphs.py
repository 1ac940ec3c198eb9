"""Graphs of tasks: keys become ids, and what could never be run is refused before anything is accepted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator_service.errors import FieldProblem
from orchestrator_service.orders import TaskOrder
from orchestrator_service.scheduling.placeholders import names_in, rename

_MOST_PROBLEMS = 20
_MOST_NAMED = 6


@dataclass(frozen=True, slots=True)
class Node:
    """One task of a graph whose names are resolved."""

    order: TaskOrder
    """With `task_id` set, and ids where there were keys."""
    needs: tuple[str, ...]
    """Ids of the tasks it needs, each once."""


def resolve(
    orders: Sequence[TaskOrder],
    graph_id: str | None,
    new_id: Callable[[], str],
    prefix: str = "tasks",
) -> tuple[list[Node], list[FieldProblem]]:
    """Give every task its id and replace keys by ids; returns the tasks and what is wrong with them.

    Args:
        orders: The tasks, in the order in which they were handed in.
        graph_id: What the ids of tasks with a key begin with; None for a task alone.
        new_id: Makes an id up.
        prefix: Where in the request the tasks are, for what is told.
    """
    problems: list[FieldProblem] = []

    def field(number: int, name: str) -> str:
        return f"{prefix}[{number}].{name}" if graph_id is not None else name

    ids: list[str] = []
    by_key: dict[str, str] = {}
    taken: dict[str, int] = {}
    for number, order in enumerate(orders):
        if graph_id is None and order.key is not None:
            problems.append(FieldProblem("key", order.key, "a key is for tasks of a graph; leave it out"))
        own = order.task_id or (f"{graph_id}.{order.key}" if graph_id is not None and order.key else new_id())
        if order.key is not None:
            if order.key in by_key:
                problems.append(FieldProblem(field(number, "key"), order.key, "another task of the graph has this key"))
            by_key[order.key] = own
        if own in taken:
            problems.append(FieldProblem(field(number, "task_id"), own, "another task of the graph has this id"))
        taken[own] = number
        ids.append(own)
    nodes: list[Node] = []
    for number, order in enumerate(orders):
        needs = tuple(dict.fromkeys(by_key.get(name, name) for name in order.dependencies))
        description = rename(order.description, by_key)
        for name in names_in(description):
            if name not in needs:
                problems.append(
                    FieldProblem(
                        field(number, "description"),
                        f"{{{{results.{name}…}}}}",
                        f"it names the output of {name}, which is not among its dependencies; add it there",
                    )
                )
        if ids[number] in needs:
            problems.append(FieldProblem(field(number, "dependencies"), ids[number], "a task cannot need itself"))
        changed = {"task_id": ids[number], "dependencies": list(needs), "description": description}
        nodes.append(Node(order.model_copy(update=changed), needs))
        if len(problems) >= _MOST_PROBLEMS:
            break
    if not problems and (cycle := find_cycle({node.order.task_id or "": node.needs for node in nodes})):
        shown = " → ".join([*cycle[:_MOST_NAMED], *(["…"] if len(cycle) > _MOST_NAMED else []), cycle[0]])
        problems.append(
            FieldProblem(
                prefix if graph_id is not None else "dependencies", shown, "these tasks need each other in a circle"
            )
        )
    return nodes, problems


def find_cycle(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the names along one circle, or nothing where there is none. Takes time in proportion to the graph."""
    done: set[str] = set()
    for start in needs:
        if start in done:
            continue
        path: dict[str, None] = {}
        stack: list[tuple[str, int]] = [(start, 0)]
        while stack:
            name, at = stack.pop()
            path[name] = None
            following = needs[name]
            for index in range(at, len(following)):
                other = following[index]
                if other in path:
                    circle = list(path)
                    return circle[circle.index(other) :]
                if other in needs and other not in done:
                    stack.append((name, index + 1))
                    stack.append((other, 0))
                    break
            else:
                done.add(name)
                del path[name]
    return []
