"""Graphs of tasks: keys become ids, and circles are found, however large the graph."""

from __future__ import annotations

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from orchestrator_service.errors import FieldProblem
from orchestrator_service.orders import TaskOrder
from orchestrator_service.scheduling.graphs import Node, find_cycle, resolve


def resolved(*orders: TaskOrder, graph_id: str | None = "g") -> tuple[list[Node], list[FieldProblem]]:
    numbers = count(1)
    return resolve(orders, graph_id, lambda: f"made-{next(numbers)}")


def order(key: str | None = None, description: str = "x", *needs: str, task_id: str | None = None) -> TaskOrder:
    return TaskOrder(key=key, description=description, dependencies=list(needs), task_id=task_id)


@st.composite
def dags(draw: st.DrawFn) -> dict[str, list[str]]:
    """Return a graph without circles, its tasks in any order."""
    size = draw(st.integers(1, 25))
    needs = {
        f"t{number}": [f"t{other}" for other in draw(st.sets(st.integers(0, number - 1), max_size=4))] if number else []
        for number in range(size)
    }
    return {name: needs[name] for name in draw(st.permutations(list(needs)))}


@given(dags())
def test_a_graph_without_circles_is_accepted(needs: dict[str, list[str]]) -> None:
    assert find_cycle(needs) == []
    nodes, problems = resolved(*(order(name, "x", *needed) for name, needed in needs.items()))
    assert problems == []
    assert {node.order.task_id: set(node.needs) for node in nodes} == {
        f"g.{name}": {f"g.{each}" for each in needed} for name, needed in needs.items()
    }


@given(dags(), st.data())
def test_any_edge_back_is_refused(needs: dict[str, list[str]], data: st.DataObject) -> None:
    edges = [(name, each) for name, needed in needs.items() for each in needed]
    if not edges:
        return
    above, below = data.draw(st.sampled_from(edges))
    needs[below] = [*needs[below], above]
    circle = find_cycle(needs)
    assert len(circle) >= 2
    for one, other in zip(circle, [*circle[1:], circle[0]], strict=True):
        assert other in needs[one]
    _, problems = resolved(*(order(name, "x", *needed) for name, needed in needs.items()))
    assert [(problem.field, problem.message) for problem in problems] == [
        ("tasks", "these tasks need each other in a circle")
    ]


def test_a_chain_of_ten_thousand_needs_no_recursion() -> None:
    chain = {f"t{number}": [f"t{number - 1}"] if number else [] for number in range(10_000)}
    assert find_cycle(dict(reversed(chain.items()))) == []
    chain["t0"] = ["t9999"]
    assert len(find_cycle(chain)) == 10_000


def test_keys_stand_for_tasks_of_the_same_graph_alone() -> None:
    text = "{{results.a.output}} {{ results.elsewhere.structured_output }}"
    nodes, problems = resolved(
        order("a"), order("b", text, "a", "elsewhere", "a"), order(None, "x", "a", task_id="own"), order()
    )
    assert problems == []
    assert [node.order.task_id for node in nodes] == ["g.a", "g.b", "own", "made-1"]
    assert nodes[1].needs == ("g.a", "elsewhere")
    assert nodes[1].order.description == "{{results.g.a.output}} {{results.elsewhere.structured_output}}"


def test_each_mistake_names_its_field() -> None:
    orders = (order("a"), order("a"), order("b", "{{results.c.output}}"), order("c", "x", "c"), order(task_id="g.b"))
    _, problems = resolved(*orders)
    assert [(problem.field, problem.value) for problem in problems] == [
        ("tasks[1].key", "a"),
        ("tasks[1].task_id", "g.a"),
        ("tasks[4].task_id", "g.b"),
        ("tasks[2].description", "{{results.g.c…}}"),
        ("tasks[3].dependencies", "g.c"),
    ]
    _, problems = resolved(order("a"), graph_id=None)
    assert [(problem.field, problem.value) for problem in problems] == [("key", "a")]


def test_not_every_mistake_of_a_large_graph_is_told() -> None:
    _, problems = resolved(*(order(f"t{number}", "{{results.none.output}}") for number in range(1000)))
    assert len(problems) == 20
