"""`{{results.ID.output}}`: the output of a task that is needed, and never more than that."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_bus.messages import Result
from orchestrator_service.scheduling.placeholders import fill_in, names_in, rename
from tests.integration.transport_harness import made_result


def results(**outputs: str) -> dict[str, Result]:
    return {name: made_result(name, output) for name, output in outputs.items()}


@given(st.text())
def test_an_output_is_put_in_as_it_is(output: str) -> None:
    known = results(a=output, b="never")
    assert fill_in("<{{results.a.output}}>", known.get) == f"<{output}>"


def test_what_an_output_contains_is_no_placeholder() -> None:
    known = results(a="{{results.b.output}}", b="secret", c="{{results.", d="b.output}}")
    assert fill_in("{{results.a.output}}", known.get) == "{{results.b.output}}"
    assert fill_in("{{results.c.output}}{{results.d.output}}", known.get) == "{{results.b.output}}"


@pytest.mark.parametrize("text", ["{{results.a.output}}", "{{ results.a.output }}", "{{\n  results.a.output\t}}"])
def test_blanks_within_the_braces_are_no_matter(text: str) -> None:
    assert names_in(text) == ["a"]
    assert fill_in(text, results(a="done").get) == "done"


@pytest.mark.parametrize(
    "text",
    ["{{results.a}}", "{{results.a.error}}", "{results.a.output}", "{{ result.a.output }}", "{{results..output}}"],
)
def test_everything_else_stays_as_it_is(text: str) -> None:
    assert names_in(text) == []
    assert fill_in(text, results(a="done").get) == text


def test_structured_output_is_json() -> None:
    known = made_result("a").model_copy(update={"structured_output": {"é": [1, None]}})
    assert fill_in("{{results.a.structured_output}}", {"a": known}.get) == '{"é": [1, null]}'
    assert fill_in("{{results.b.structured_output}}", results(b="x").get) == "null"


def test_a_task_without_a_result_has_an_empty_output() -> None:
    assert fill_in("<{{results.a.output}}{{results.a.structured_output}}>", lambda name: None) == "<>"


def test_ids_may_look_like_a_part_of_it() -> None:
    text = "{{results.g.a.output}} {{results.x.output.output}} {{results.t+2.output}}"
    assert names_in(text) == ["g.a", "x.output", "t+2"]


def test_names_are_told_once_and_in_order_and_renamed() -> None:
    text = "{{results.b.output}} {{results.a.output}} {{ results.b.structured_output }}"
    assert names_in(text) == ["b", "a"]
    assert rename(text, {"b": "g.b"}) == (
        "{{results.g.b.output}} {{results.a.output}} {{results.g.b.structured_output}}"
    )
