"""Figures of questions to people: from the moment an agent asks until it is on the API's stream, and back again."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.claude import claude_environment, wait_for_results
from benchmarks.orchestrator_rig import API, Line, open_orchestrator, request
from benchmarks.rig import MEMORY, Percentiles, open_bench_worker, open_rig, p95_of, say
from tests.standin.messages_api import MessagesApi, reply, tool_use

_ANSWER_S = 60.0


@dataclass(frozen=True)
class QuestionFigures:
    """Milliseconds, by the machine's clock."""

    shown: Percentiles
    """From the question to the event at a client of the API."""
    shown_p95_ms: float
    ran: Percentiles
    """From the POST of an approval until the tool runs."""
    ran_p95_ms: float


def questions(samples: int) -> QuestionFigures:
    """Let the real CLI ask for so many permissions, each shown on the team's stream and approved over HTTP."""
    say(f"{samples} permissions, asked by the real CLI and approved over HTTP")
    with ExitStack() as stack:
        api = stack.enter_context(MessagesApi())
        rig = stack.enter_context(open_rig(MEMORY, 1))
        environ = claude_environment(rig, api.url)
        marks = Path(environ["WORKSPACE"]) / "marks"
        call = tool_use("Bash", {"command": f"date +%s%N >> {marks}"})
        api.when("ask", *[call] * samples, reply("done"))
        asks = {"PERMISSION_MODE": "default", "ALLOWED_TOOLS": "Read", "AGENT_ISOLATION": "off", "WARM_PROCESSES": "1"}
        ledger = rig.shared / "ledger.sqlite3"
        orchestrator = stack.enter_context(open_orchestrator(rig, ledger))
        stack.enter_context(open_bench_worker(rig, module="worker_service", **{**environ, **asks}))
        line = stack.enter_context(Line(orchestrator.port))
        events = _events(orchestrator.port)
        next(events)
        staged, target = rig.stage(1, "ask")
        staged.rename(target)
        shown: list[float] = []
        approved: list[float] = []
        for arrived, event in events:
            if event.get("event") != "permission_asked":
                continue
            question_id = event["data"]["question_id"]
            shown.append(1000 * (arrived - _asked_at(rig.shared, question_id)))
            approved.append(time.time())
            line.send(request("POST", f"{API}/questions/{question_id}/approve"))
            line.answer()
            if len(shown) == samples:
                break
        wait_for_results(rig, range(1, 2), _ANSWER_S)
        ran = [int(mark) / 1e9 for mark in marks.read_text().split()]
    delays = [1000 * (later - sooner) for sooner, later in zip(approved, ran, strict=True)]
    return QuestionFigures(Percentiles.of(shown), p95_of(shown), Percentiles.of(delays), p95_of(delays))


def _asked_at(shared: Path, question_id: str) -> float:
    (path,) = (shared / "questions").glob(f"*/{question_id}.json")
    return datetime.fromisoformat(json.loads(path.read_bytes())["asked_at"]).timestamp()


def _events(port: int) -> Iterator[tuple[float, dict[str, Any]]]:
    """Yield (when, event) of the team's stream; the first one says that it is open."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{API}/events", timeout=_ANSWER_S) as stream:
        yield time.time(), {}
        for line in stream:
            if line.startswith(b"data: "):
                yield time.time(), json.loads(line[6:])
