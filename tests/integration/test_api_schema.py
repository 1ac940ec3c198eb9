"""The OpenAPI document is complete and true: examples, problems, and nothing that a wild client could break."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from orchestrator_service.api import examples
from orchestrator_service.api.app import make_app
from orchestrator_service.api.problems import PROBLEM_TYPE, Problem, ProblemKind
from orchestrator_service.api.questions import AnswerOrder
from orchestrator_service.metrics import OrchestratorMetrics
from orchestrator_service.orders import GoalOrder, GraphOrder, ScheduleOrder, TaskOrder
from orchestrator_service.records import (
    Budget,
    EventRecord,
    GoalRecord,
    Invariant,
    QuestionRecord,
    ScheduleRecord,
    Submission,
    TaskPage,
    TaskRecord,
    TaskResult,
    TaskSummary,
    Told,
    WorkerRecord,
)
from orchestrator_service.settings import ApiSettings
from tests.integration.api_harness import MemoryDesk, explore, serving

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "api.md"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    app = make_app(
        MemoryDesk(),
        settings=ApiSettings(),
        metrics=OrchestratorMetrics(),
        liveness=list,
        readiness=list,
        refresh=lambda: None,
    )
    return app.openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_every_route_is_described_with_examples(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        assert operation["summary"] and operation["description"].endswith("."), name
        good = [code for code in operation["responses"] if code in ("200", "201")]
        assert good or "204" in operation["responses"], name
        for code in good:
            for content in operation["responses"][code]["content"].values():
                assert "example" in content, f"{name} {code}"
        for content in operation.get("requestBody", {}).get("content", {}).values():
            assert "example" in content or "examples" in content, name
        if name.startswith("POST") and "/" not in name.removeprefix("POST /api/v1/"):
            assert "requestBody" in operation, name


def test_every_route_tells_its_problems(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        told = {code: answer for code, answer in operation["responses"].items() if code >= "4"}
        assert {"401", "403", "429", "500", "503"} <= set(told), name
        if "{" in name:
            assert "404" in told, name
        if "requestBody" in operation:
            assert {"400", "413", "415", "422"} <= set(told), name
        for code, answer in told.items():
            assert list(answer["content"]) == [PROBLEM_TYPE], f"{name} {code}"
            content = answer["content"][PROBLEM_TYPE]
            assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
            assert Problem.model_validate(content["example"]).status == int(code), f"{name} {code}"


def test_all_that_is_referred_to_is_there(document: dict[str, Any]) -> None:
    referred = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert referred <= set(document["components"]["schemas"])
    assert {"TaskOrder", "GraphOrder", "GoalOrder", "ScheduleOrder", "Problem"} <= referred
    assert "HTTPValidationError" not in json.dumps(document)
    body = document["paths"]["/api/v1/tasks"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert [one["$ref"].rpartition("/")[2] for one in body["oneOf"]] == ["TaskOrder", "GraphOrder"]
    assert document["security"] == [{"bearer": []}]


@pytest.mark.parametrize(
    ("model", "example"),
    [
        (TaskOrder, examples.TASK_ORDER),
        (GraphOrder, examples.GRAPH_ORDER),
        (GoalOrder, examples.GOAL_ORDER),
        (ScheduleOrder, examples.SCHEDULE_ORDER),
        (Submission, examples.SUBMISSION),
        (TaskPage, examples.TASK_PAGE),
        (TaskRecord, examples.TASK_RECORD),
        (TaskResult, examples.TASK_RESULT),
        (TaskSummary, examples.CANCELLED),
        (WorkerRecord, examples.WORKER),
        (Told, examples.TOLD),
        (ScheduleRecord, examples.SCHEDULE),
        (GoalRecord, examples.CANCELLED_GOAL),
        (Budget, examples.BUDGET),
        (Invariant, examples.INVARIANTS[0]),
        (EventRecord, examples.LATEST_EVENTS[0]),
        (QuestionRecord, examples.QUESTION),
        (QuestionRecord, examples.APPROVED_QUESTION),
        (QuestionRecord, examples.DENIED_QUESTION),
        (AnswerOrder, examples.ANSWER_ORDER),
    ],
)
def test_examples_are_what_they_are_examples_of(model: type[BaseModel], example: dict[str, Any]) -> None:
    TypeAdapter(model).validate_json(json.dumps(example))
    assert set(example) <= set(model.model_fields), "a field that does not exist"


def test_the_documentation_names_every_path_and_problem(document: dict[str, Any]) -> None:
    text = PAGE.read_text()
    named = set(re.findall(r"`(GET|POST|DELETE) (/[^`\s?]*)`", text))
    there = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    beside = {("GET", path) for path in ("/", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics")}
    assert named == there | beside
    table = {row[0]: int(row[1]) for row in re.findall(r"^\| `/problems/([a-z-]+)` \| (\d+) \|", text, re.MULTILINE)}
    assert table == {kind.slug: kind.status for kind in ProblemKind}


async def test_the_pages_load_nothing_from_elsewhere() -> None:
    async with serving() as served, served.client() as client:
        for path in ("/", "/docs"):
            page = await client.get(path)
            assert "default-src 'none'" in page.headers["Content-Security-Policy"]
            assert not re.search(r"https?://|//[a-z]|(?:src|href)=\"(?!/)", page.text)
        assert "/api/v1/tasks/{task_id}/result" in page.text
        assert (await client.get("/openapi.json")).json()["paths"]


@pytest.mark.timeout(180)  # about 15 seconds on a free machine
async def test_a_wild_client_never_gets_a_5xx(tmp_path: Path) -> None:
    """Its seed is fixed, so that a failure can be seen again."""

    class Hurried(MemoryDesk):
        """Waits for nothing: the wild client would wait for minutes."""

        async def wait(self, task_ids: Sequence[str], timeout_s: float, *, any_of: bool = False) -> list[TaskSummary]:
            return await super().wait(task_ids, 0.0, any_of=any_of)

    async with serving(Hurried()) as served:
        code, report = await explore(served, tmp_path, without="/events$", seed=4)
    assert code == 0, report


def test_the_documentation_names_every_metric() -> None:
    metrics = OrchestratorMetrics()
    there = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in metrics.registry.collect()
        if family.name.startswith("codehornets_")
    }
    assert set(re.findall(r"^\| `(codehornets_\w+)", PAGE.read_text(), re.MULTILINE)) == there
