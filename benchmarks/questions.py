"""Figures of questions to people: from the moment an agent asks until a page shows it, and back until the tool runs."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Page

from benchmarks.claude import claude_environment, wait_for_results
from benchmarks.orchestrator_rig import API, Line, open_orchestrator, request
from benchmarks.rig import MEMORY, Percentiles, open_bench_worker, open_rig, p95_of, say
from tests.browser.chromium import find_chromium, open_chromium
from tests.standin.messages_api import MessagesApi, reply, tool_use

_ANSWER_S = 60.0
_PAGES: Final = ("/inbox", "/")
"""Where a page shows questions; each in a browser of its own, for of one browser only the page in front is painted."""
_SEE_QUESTIONS: Final = """
window.seen = {};
const look = () => {
  for (const row of document.querySelectorAll('[data-question]')) {
    const id = row.dataset.question;
    if (id in window.seen) continue;
    window.seen[id] = null;
    requestAnimationFrame(() => setTimeout(() => { window.seen[id] = performance.timeOrigin + performance.now(); }));
  }
};
new MutationObserver(look).observe(document.body, {childList: true, subtree: true});
"""


@dataclass(frozen=True)
class QuestionFigures:
    """Milliseconds, by the machine's clock."""

    shown: Percentiles
    """From the question to the event at a client of the API."""
    shown_p95_ms: float
    painted: Percentiles | None
    """From the question until its row is painted on an open page, the later of two; None where there is no Chromium."""
    painted_p95_ms: float | None
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
        pages = _open_pages(stack, rig.shared, f"http://127.0.0.1:{orchestrator.port}")
        line = stack.enter_context(Line(orchestrator.port))
        events = _events(orchestrator.port)
        next(events)
        staged, target = rig.stage(1, "ask")
        staged.rename(target)
        shown: list[float] = []
        painted: list[float] = []
        approved: list[float] = []
        for arrived, event in events:
            if event.get("event") != "permission_asked":
                continue
            question_id = event["data"]["question_id"]
            asked_at = _asked_at(rig.shared, question_id)
            shown.append(1000 * (arrived - asked_at))
            if pages:
                painted.append(max(_painted_ms(page, question_id) for page in pages) - 1000 * asked_at)
            approved.append(time.time())
            line.send(request("POST", f"{API}/questions/{question_id}/approve"))
            line.answer()
            if len(shown) == samples:
                break
        wait_for_results(rig, range(1, 2), _ANSWER_S)
        ran = [int(mark) / 1e9 for mark in marks.read_text().split()]
    delays = [1000 * (later - sooner) for sooner, later in zip(approved, ran, strict=True)]
    return QuestionFigures(
        Percentiles.of(shown),
        p95_of(shown),
        Percentiles.of(painted) if painted else None,
        p95_of(painted) if painted else None,
        Percentiles.of(delays),
        p95_of(delays),
    )


def _open_pages(stack: ExitStack, folder: Path, url: str) -> Sequence[Page]:
    program = find_chromium()
    if program is None:
        say("Chromium is not installed, so what a page shows is left out; install the package chromium to have it.")
        return ()
    first = stack.enter_context(open_chromium(program, folder))
    browsers = [first, *(stack.enter_context(first.another()) for _ in _PAGES[1:])]
    pages: list[Page] = []
    for browser, path in zip(browsers, _PAGES, strict=True):
        page = stack.enter_context(browser.window(url)).page(path)
        _wait_until_live(page)
        page.evaluate(_SEE_QUESTIONS)
        pages.append(page)
    return pages


def _wait_until_live(page: Page) -> None:
    end = time.monotonic() + _ANSWER_S
    while not page.locator(".side-end .dot.good").count():
        if time.monotonic() > end:
            raise RuntimeError(
                f"{page.url} was not live within {_ANSWER_S:g} s: {page.locator('body').inner_text()[:300]}"
            )
        time.sleep(0.05)


def _painted_ms(page: Page, question_id: str) -> float:
    # The page's policy forbids what Playwright's own waiting would do.
    end = time.monotonic() + _ANSWER_S
    while time.monotonic() < end:
        if at := page.evaluate(f"window.seen[{json.dumps(question_id)}]"):
            return float(at)
        time.sleep(0.01)
    raise RuntimeError(f"{page.url} did not show the question {question_id} within {_ANSWER_S:g} s.")


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
