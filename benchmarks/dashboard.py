"""`python -m benchmarks.dashboard`: the dashboard in a real Chromium, and what its pages cost."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from agent_bus import VERSION
from agent_bus.events import EventJournal
from agent_bus.heartbeats import write_heartbeat
from agent_bus.messages import Event, Heartbeat, WorkerStatus, utc_now
from benchmarks.rig import DISK, p95_of, resident_mb, say, usage_of
from benchmarks.table import Row, table
from tests.browser.chromium import Chromium, Window, find_chromium, open_chromium
from tests.browser.team import Team, open_team

TASKS = 10_000
PAGES = 20
_SETTLE_S = 20.0
"""So many browsers on few cores are busy for some seconds after their start."""
_WHEN_PAINTED = """
window.painted = null;
new MutationObserver(() => {
  const row = document.querySelector('.row a.title');
  if (window.painted !== null || !row || !row.textContent.startsWith('Lesson')) return;
  window.painted = 0;
  requestAnimationFrame(() => setTimeout(() => { window.painted = performance.now(); }));
}).observe(document, {childList: true, subtree: true, characterData: true});
"""
_SEE_MARKS = """
window.marks = {};
new MutationObserver(changes => {
  for (const change of changes) for (const node of change.addedNodes) {
    const found = /mark-(\\d+)-/.exec(node.textContent || '');
    if (found) requestAnimationFrame(() => { window.marks[found[1]] = performance.timeOrigin + performance.now(); });
  }
}).observe(document.querySelector('.transcript'), {childList: true, subtree: true});
"""
_SCROLL = """
() => new Promise(done => {
  const list = document.querySelector('.list'), frames = [];
  let last = performance.now(), left = 180;
  const step = now => {
    frames.push(now - last); last = now;
    list.scrollTop += 220;
    if (--left) requestAnimationFrame(step); else done(frames.slice(1));
  };
  requestAnimationFrame(step);
})
"""
_FILTER = """
words => new Promise(done => {
  const input = document.querySelector('#search'), told = document.querySelector('.list-foot [role=status]');
  const before = told.textContent, began = performance.now();
  new MutationObserver((_, watch) => {
    if (told.textContent === before) return;
    watch.disconnect();
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)));
  }).observe(told, {childList: true, subtree: true, characterData: true});
  input.value = words;
  input.dispatchEvent(new Event('input', {bubbles: true}));
})
"""


@dataclass(frozen=True)
class Figures:
    """What was measured; milliseconds where nothing else is said."""

    paint_ms: list[float]
    frames_ms: list[float]
    filters_ms: list[float]
    seen_ms: list[float]
    lost: int
    """Events that a page had not shown after the wait."""
    cpu_percent: float
    idle_s: float
    grown_mb: float


@contextmanager
def _setting() -> Iterator[tuple[Team, Chromium]]:
    program = find_chromium()
    if program is None:
        raise RuntimeError("Chromium is not installed; install the package chromium.")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="codehornets-bench-page-", dir=DISK)))
        team = stack.enter_context(
            open_team(
                folder, CHECK_INTERVAL="60", HEARTBEAT_INTERVAL="10", RESCAN_INTERVAL="30", WORKER_SILENT_AFTER="3600"
            )
        )
        _beat(team)
        yield team, stack.enter_context(open_chromium(program, folder))


def _beat(team: Team) -> None:
    """Give a sign of life of a worker who takes tasks and does nothing with them."""
    beat = Heartbeat(
        worker="marie",
        instance="bench",
        timestamp=utc_now(),
        status=WorkerStatus.IDLE,
        mode="event-driven",
        pid=1,
        version=VERSION,
        interval_seconds=3600,
        slots=4,
        agent="none",
    )
    folder = team.shared / "heartbeats"
    folder.mkdir(parents=True, exist_ok=True)
    write_heartbeat(folder / "marie-watcher.json", beat)


def measure(rounds: int, events: int, idle_s: float) -> Figures:
    """Measure all of it: so many paints and filters, events on all pages, and an idle time."""
    with _setting() as (team, chromium):
        assert team.orchestrator is not None
        pid = team.orchestrator.process.pid
        with chromium.window(team.url) as window:
            say(f"an open page and an idle team, {idle_s:g} s")
            cpu, grown = _idle(window, pid, idle_s)
        say(f"events at the worker until they are seen, {PAGES} pages")
        with ExitStack() as windows:
            browsers = [windows.enter_context(chromium.another()) for _ in range(PAGES)]
            seen, lost = _events([windows.enter_context(one.window(team.url)) for one in browsers], team, events)
        say(f"{TASKS:,} tasks")
        _fill(team)
        paints, frames, filters = [], [], []
        for _ in range(rounds):
            with chromium.window(team.url) as window:
                page = window.context.new_page()
                page.add_init_script(_WHEN_PAINTED)
                page.goto(f"{team.url}/tasks?sort=title&order=asc")
                paints.append(_painted(page))
                frames += _scrolled(page)
                filters += [float(page.evaluate(_FILTER, words)) for words in ("rumba", "esson 0432", "salsa")]
    return Figures(paints, frames, filters, seen, lost, cpu, idle_s, grown)


def _fill(team: Team) -> None:
    tasks: list[dict[str, Any]] = [
        {"key": f"t{n}", "title": f"Lesson {n:05d}", "description": "salsa" if n % 2 else "rumba", "worker": "marie"}
        for n in range(TASKS)
    ]
    team.api.post("/api/v1/tasks", json={"tasks": tasks}, timeout=120).raise_for_status()


def _painted(page: Page) -> float:
    # The page's policy forbids what Playwright's own waiting would do.
    for _ in range(600):
        if painted := page.evaluate("window.painted"):
            return float(painted)
        time.sleep(0.05)
    raise RuntimeError("The list was not painted within 30 s.")


def _scrolled(page: Page) -> list[float]:
    return [float(frame) for frame in page.evaluate(_SCROLL)]


def _idle(window: Window, pid: int, idle_s: float) -> tuple[float, float]:
    page = window.page("/")
    page.locator(".side-end .dot.good").wait_for()
    time.sleep(15)
    memory, used = resident_mb(pid), usage_of([pid])
    time.sleep(idle_s)
    return 100 * usage_of([pid]).since(used).cpu_s / idle_s, resident_mb(pid) - memory


def _events(windows: list[Window], team: Team, events: int) -> tuple[list[float], int]:
    """Write to a task's journal what its worker would, and look when each page, in front in its browser, paints it."""
    task_id = team.submit("nobody does it", worker="marie")
    journal = EventJournal(team.shared / "events" / "marie", worker="marie", task_id=task_id)
    pages = [window.page(f"/tasks/{task_id}") for window in windows]
    for page in pages:
        page.locator(".timeline li").first.wait_for()
        page.evaluate(_SEE_MARKS)
    time.sleep(_SETTLE_S)
    sent: list[float] = []
    for number in range(-3, events):
        sent.append(time.time() * 1000)
        text = f"mark-{number}-" if number >= 0 else "warming up"
        journal.write(Event(event="text", timestamp=utc_now(), worker="marie", task_id=task_id, data={"text": text}))
        time.sleep(0.25)
    time.sleep(2)
    journal.close()
    marks = [page.evaluate("window.marks") for page in pages]
    samples = [float(one[str(n)]) - sent[n + 3] for one in marks for n in range(events) if str(n) in one]
    return samples, PAGES * events - len(samples)


def measure_dashboard(*, quick: bool) -> list[Row]:
    """Measure the dashboard; its memory over some minutes only, see `measure_idle`."""
    found = measure(3, 20, 60) if quick else measure(7, 60, 300)
    paint, filtered = statistics.median(found.paint_ms), max(found.filters_ms)
    late = sum(frame > 50 for frame in found.frames_ms)
    p95 = p95_of(found.seen_ms)
    return [
        Row(
            f"dashboard: first paint of the list, {TASKS:,} tasks in the ledger",
            "≤ 1 s",
            f"{paint / 1000:.2f} s (slowest {max(found.paint_ms) / 1000:.2f} s)",
            paint <= 1000,
        ),
        Row(
            "… frames while it scrolls",
            "no hitch",
            f"p50 {statistics.median(found.frames_ms):.0f} ms, p95 {p95_of(found.frames_ms):.0f} ms, {late} of "
            f"{len(found.frames_ms)} above 50 ms",
            late <= len(found.frames_ms) / 100,
        ),
        Row(
            "… a filter typed until its rows are painted",
            "≤ 150 ms",
            f"p50 {statistics.median(found.filters_ms):.0f} ms, slowest {filtered:.0f} ms",
            statistics.median(found.filters_ms) <= 150,
        ),
        Row(
            f"event at the worker → visible on each of {PAGES} open pages",
            "p95 ≤ 200 ms",
            f"p50 {statistics.median(found.seen_ms):.0f} ms, p95 {p95:.0f} ms, {found.lost} missed",
            p95 <= 200 and found.lost == 0,
        ),
        *_idle_rows(found.cpu_percent, found.grown_mb, found.idle_s),
    ]


def measure_idle(seconds: float) -> list[Row]:
    """Measure an open page of an idle team alone, for so many seconds."""
    with _setting() as (team, chromium), chromium.window(team.url) as window:
        assert team.orchestrator is not None
        cpu, grown = _idle(window, team.orchestrator.process.pid, seconds)
    return _idle_rows(cpu, grown, seconds)


def _idle_rows(cpu_percent: float, grown_mb: float, seconds: float) -> list[Row]:
    return [
        Row(
            "an open page, idle team: CPU of the orchestrator",
            "≤ 1 %",
            f"{cpu_percent:.2f} %",
            cpu_percent <= 1,
        ),
        Row(f"… its memory after {seconds / 60:g} min", "no growth", f"{grown_mb:+.1f} MB", grown_mb <= 1),
    ]


def main() -> None:
    """Measure, and print the lines of the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dashboard", description="Measure the dashboard.")
    parser.add_argument("--quick", action="store_true", help="fewer samples: for a look, not for a record")
    parser.add_argument("--idle", type=float, metavar="MINUTES", help="only an open page of an idle team, for so long")
    chosen = parser.parse_args()
    idle: float | None = chosen.idle
    print(table(measure_idle(60 * idle) if idle is not None else measure_dashboard(quick=chosen.quick)))


if __name__ == "__main__":
    main()
