"""A real Prometheus scrapes real services, and every query of every alert, recording rule and board is asked of it.

What a query names must be there: a metric that nobody exports, a label it does not have, a value it never takes are
found here, and not by whoever waits for an alert that cannot come.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent_bus.heartbeats import read_heartbeat
from agent_bus.layout import WorkerLayout
from agent_bus.messages import WorkerStatus
from tests.integration.harness import REPOSITORY
from tests.integration.orchestrator_process import WorkerProcess, processes
from tests.integration.prometheus_process import Prometheus, running_prometheus
from tests.monitoring_files import BoardQuery, board_queries, rules
from tests.promql import Selector, asked_for
from tests.redis_server import running_redis
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(170)

MAY_BE_EMPTY = {
    'codehornets_orchestrator_http_requests_total{status=~"5.."}': "the orchestrator made no mistake of its own",
}
"""Selectors that find nothing in a team that is well, and why."""


@dataclass(frozen=True)
class Query:
    """Something to ask, and where it stands."""

    where: str
    text: str
    legend_labels: frozenset[str] = frozenset()
    shown: bool = False
    """Whether somebody looks at its answer, which must then be there. An alert's is empty as long as all is well."""


def _queries() -> list[Query]:
    found = [Query(rule.get("alert") or rule["record"], rule["expr"], shown="record" in rule) for rule in rules()]
    return found + [_shown(board) for board in board_queries()]


def _shown(board: BoardQuery) -> Query:
    # A threshold that hides what is well hides everything here.
    return Query(board.where, re.sub(r" > 0$", "", board.query), board.legend_labels, shown=True)


QUERIES = _queries()


def find_faults(server: Prometheus, query: Query, lacking: frozenset[str] = frozenset(MAY_BE_EMPTY)) -> list[str]:
    """Return what is wrong with a query; `lacking` are the selectors that may find nothing."""
    faults: list[str] = []
    asked = asked_for(query.text)
    labels: set[str] = set()
    excused = False
    assert asked.selectors or "vector(" in query.text, f"{query.where}: no selector was found in {query.text}"
    for selector in asked.selectors:
        if str(selector) in lacking:
            excused = True
            labels |= _labels_of(server, selector.metric)
            continue
        known = _labels_of(server, selector.metric)
        labels |= known
        if not known:
            faults.append(f"nobody exports {selector.metric}")
        elif unknown := {label for label, _, _ in selector.matchers} - known:
            faults.append(f"{selector.metric} has no label {', '.join(sorted(unknown))}")
        elif not server.ask(f"last_over_time({selector}[10m])"):
            faults.append(f"{selector} finds nothing")
    if not excused and (unknown := asked.labels - labels):
        faults.append(f"no selector has the label {', '.join(sorted(unknown))}")
    answer = server.ask(query.text)
    if query.shown and not excused and not answer:
        faults.append("the answer is empty")
    for label in query.legend_labels if answer else ():
        if not any(label in series["metric"] for series in answer):
            faults.append(f"the legend names {label}, which the answer does not have")
    return faults


def _labels_of(server: Prometheus, metric: str) -> set[str]:
    return {label for series in server.get("series", **{"match[]": metric}) for label in series if label != "__name__"}


def _claude(folder: Path) -> dict[str, str]:
    """Return the environment of a worker whose Claude Code is a script."""
    for name in ("home", "fake"):
        (folder / name).mkdir()
    script = folder / "claude"
    fake = REPOSITORY / "tests" / "standin" / "fake_claude.py"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{fake}" "$@"\n')
    script.chmod(0o755)
    return {
        "AGENT": "claude",
        "CLAUDE_CLI": str(script),
        "CLAUDE_FAKE_DIR": str(folder / "fake"),
        "HOME": str(folder / "home"),
        "ANTHROPIC_API_KEY": "sk-dummy-for-tests",
        "WARM_PROCESSES": "1",
        "MAX_CONCURRENT": "2",
    }


def _write_rule_that_fails(shared: Path) -> None:
    rule = {"name": "blocked", "event": "Stop", "action": {"type": "trigger", "path": "blocked/stop.trigger"}}
    (shared / "hooks-config").mkdir()
    (shared / "hooks-config" / "marie-hooks.json").write_text(json.dumps([rule]))
    (shared / "blocked").write_text("a file where a directory has to be")


def _address(worker: WorkerProcess) -> str:
    beat = read_heartbeat(WorkerLayout.under(worker.shared, worker.name).heartbeat(worker.name))
    assert beat is not None
    assert beat.status is not WorkerStatus.STARTING
    return f"127.0.0.1:{beat.http_port}"


def _order(client: httpx.Client, task_id: str, worker: str, description: str) -> None:
    body = {"task_id": task_id, "worker": worker, "description": description, "max_attempts": 1}
    answer = client.post("/api/v1/tasks", json=body)
    assert answer.status_code == 201, answer.text


def _ended(client: httpx.Client, task_id: str) -> bool:
    state: str = client.get(f"/api/v1/tasks/{task_id}").json()["state"]
    return state in ("completed", "failed")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A team that has gone through most of what can happen to it, and a Prometheus that was there from the start."""
    folder = tmp_path_factory.mktemp("watched")
    shared = folder / "shared"
    shared.mkdir()
    claude = _claude(folder)
    _write_rule_that_fails(shared)
    with running_redis(folder / "redis") as redis, processes(shared) as team:
        marie = team.worker("marie", WORKER_MODE="hybrid", REDIS_URL=redis.url, PROBE_INTERVAL="1", **claude)
        bell = {"WORKER_MODE": "", "ACTIVATION_WRAPPER": "1", "ACTIVATION_MODE": "redis"}
        anga = team.worker("anga", REDIS_URL=redis.url, PROBE_INTERVAL="1", POLL_INTERVAL="0.1", **bell)
        money = {"DAY_BUDGET_USD": "100", "WORKER_BUDGET_USD": "50", "TASK_BUDGET_USD": "1"}
        goals = {name: value for name, value in claude.items() if name in ("HOME", "ANTHROPIC_API_KEY", "CLAUDE_CLI")}
        orchestrator = team.orchestrator(
            REDIS_URL=redis.url, **money, **goals, CLAUDE_FAKE_DIR=claude["CLAUDE_FAKE_DIR"]
        )
        marie.ready()
        anga.ready()
        with orchestrator.client() as client:
            targets = {
                "codehornets-workers": [_address(marie), _address(anga)],
                "codehornets-orchestrator": [f"127.0.0.1:{client.base_url.port}"],
            }
            with running_prometheus(folder / "prometheus", targets) as server:
                wait_until(lambda: len(server.ask("up == 1")) == 3, 60, "all targets are up")
                _live(client, server, shared, targets["codehornets-workers"][0])
                redis.kill()
                falls = 'codehornets_fallbacks_total{worker="anga",to="polling"} > 0'
                wait_until(lambda: server.ask(falls), 30, "anga polls, since Redis is away")
                redis.start()
                wait_until(lambda: server.ask(falls.replace("to=", "from=")), 30, "anga is woken by Redis again")
                # Rates need two looks at what there is last, and the recorded ones a look of their own.
                settled = 'min(count_over_time(codehornets_fallbacks_total{from="polling"}[1m])) >= 3'
                wait_until(lambda: server.ask(settled), 30, "everything was scraped and recorded")
                yield server


def _live(client: httpx.Client, server: Prometheus, shared: Path, marie: str) -> None:
    """Let happen what makes series."""
    for number in range(3):
        _order(client, f"good-{number}", "marie", f"hello {number}")
        _order(client, f"echo-{number}", "anga", f"hello {number}")
    _order(client, "bad", "marie", "die 3")
    goal = client.post("/api/v1/goals", json={"goal": "hello"})
    assert goal.status_code < 300, goal.text
    layout = WorkerLayout.under(shared, "marie")
    (layout.triggers / "broken.trigger").write_text("{")
    (layout.triggers / "news.trigger").write_text("something happened")
    with (shared / "pipes" / "marie-control").open("w") as pipe:
        pipe.write("status\nnonsense\n")
    refused = httpx.post(f"http://{marie}/hooks/Stop", json={}, trust_env=False, verify=False)
    assert refused.status_code in (401, 403)
    ids = [f"{kind}-{number}" for kind in ("good", "echo") for number in range(3)] + ["bad"]
    for task_id in ids:
        wait_until(lambda task_id=task_id: _ended(client, task_id), 30, f"the end of {task_id}")  # type: ignore[misc]
    _order(client, "limited", "marie", "limit five_hour 1 s")
    wait_until(lambda: server.ask("codehornets_tasks_parked_total > 0"), 30, "a task was parked")
    goal_id = goal.json()["goal_id"]
    wait_until(lambda: client.get(f"/api/v1/goals/{goal_id}").json()["state"] != "running", 60, "the end of the goal")


@pytest.mark.parametrize("query", QUERIES, ids=[f"{number}-{query.where}" for number, query in enumerate(QUERIES)])
def test_a_query_is_understood_and_names_what_is_exported(watched: Prometheus, query: Query) -> None:
    assert find_faults(watched, query) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("sum(codehornets_redy)", "nobody exports codehornets_redy"),
        ('codehornets_ready{wroker="marie"}', "codehornets_ready has no label wroker"),
        ('codehornets_tasks_total{status="complete"}', 'codehornets_tasks_total{status="complete"} finds nothing'),
        ("sum by (staus) (codehornets_tasks_total)", "no selector has the label staus"),
        ("worker:codehornets_tasks:rate1m", "nobody exports worker:codehornets_tasks:rate1m"),
        ("codehornets_ready > 7", "the answer is empty"),
    ],
)
def test_what_is_misspelt_is_found(watched: Prometheus, text: str, fault: str) -> None:
    assert fault in find_faults(watched, Query("test", text, shown=True))


def test_a_legend_that_names_no_label_is_found(watched: Prometheus) -> None:
    query = Query("test", "sum by (worker) (codehornets_ready)", frozenset({"instance"}), shown=True)
    assert find_faults(watched, query) == ["the legend names instance, which the answer does not have"]


def test_what_prometheus_refuses_fails(watched: Prometheus) -> None:
    with pytest.raises(AssertionError, match="parse error"):
        find_faults(watched, Query("test", "sum(codehornets_ready"))


def test_every_exception_is_still_needed(watched: Prometheus) -> None:
    named = {str(selector) for query in QUERIES for selector in asked_for(query.text).selectors}
    assert set(MAY_BE_EMPTY) <= named, "an exception for a selector that no query has"
    there = [selector for selector in MAY_BE_EMPTY if watched.ask(f"last_over_time({selector}[10m])")]
    assert there == [], "an exception for what is there"


def test_the_alert_of_what_happened_fires_and_no_other(watched: Prometheus) -> None:
    def firing() -> set[str]:
        return {series["metric"]["alertname"] for series in watched.ask('ALERTS{alertstate="firing"}')}

    wait_until(lambda: "CodehornetsDeadLettersArriving" in firing(), 20, "the alert for the broken trigger")
    assert firing() == {"CodehornetsDeadLettersArriving"}


def test_prometheus_could_use_every_rule(watched: Prometheus) -> None:
    told: list[dict[str, Any]] = [rule for group in watched.get("rules")["groups"] for rule in group["rules"]]
    assert len(told) == len(rules())
    assert {rule["health"] for rule in told} == {"ok"}, [rule for rule in told if rule["health"] != "ok"]


def test_selectors_are_found_wherever_they_stand() -> None:
    asked = asked_for(
        'sum by (a, b) (rate(x_total{c=~"d|e", f!="}"}[5m])) / on (g) group_left () y:z unless up offset 5m'
    )
    assert asked.selectors == (
        Selector("x_total", (("c", "=~", "d|e"), ("f", "!=", "}"))),
        Selector("y:z"),
        Selector("up"),
    )
    assert asked.labels == {"a", "b", "g"}
