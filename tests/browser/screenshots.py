"""`python -m tests.browser.screenshots`: pictures of each page into docs/images, from a team that has done something.

The team and its work are real, with a scripted model; only what it did is spread over an hour that it did not take.
"""

from __future__ import annotations

import json
import random
import re
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.browser.chromium import DESKTOP, PHONE, Chromium, find_chromium, open_chromium
from tests.browser.team import Team, claude_environ, open_team
from tests.integration.harness import REPOSITORY
from tests.standin.messages_api import MessagesApi, api_error, hang, reply, tool_use

IMAGES = REPOSITORY / "docs" / "images"
_TEAM = """
[workers.marie]
role = "dance teaching assistant"
skills = ["lesson plans", "choreography"]
[workers.anga]
role = "software engineer"
skills = ["python", "code review"]
[workers.fabien]
role = "marketing"
skills = ["campaigns", "newsletters"]
"""
_PATIENCE_MS = 150_000
"""Pictures are taken on busy machines, too."""
_STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")
_PAST = (
    ("marie", ("Plan the salsa lesson for Tuesday", "Count out the rumba routine", "Progress notes for the beginners")),
    ("anga", ("Mend the booking form", "Review the payment module", "Speed up the search of courses")),
    ("fabien", ("Three slogans for the spring sale", "Newsletter for March", "Names for the summer course")),
)
_PLAN = """## A warm-up of ten minutes

1. **Walk and turn** for two minutes, with the music: *La vida es un carnaval*.
2. **Hips and shoulders**, four counts each side.
3. **Basic step** on the spot, then forwards and back.

| minute | what | count |
|---|---|---|
| 0-2 | walking | 1-8 |
| 2-6 | isolation | 1-4 |
| 6-10 | basic step | 1-7 |

> Nobody needs a partner for it.
"""


def _work(team: Team, model: MessagesApi) -> dict[str, str]:
    """Let the team do what the pictures show; returns the paths of the pages."""
    model.when(
        "warm-up",
        tool_use("Bash", {"command": "echo 12 dancers, 2 of them new"}, say="Let me see who comes on Tuesday."),
        reply(_PLAN, input_tokens=5200, output_tokens=830),
    )
    model.when(
        "publish",
        tool_use("Bash", {"command": "git push origin spring-sale"}, say="The page is ready."),
        reply("Done."),
    )
    model.when(
        "refactor",
        tool_use("Bash", {"command": "echo 214 passed in 12.4 s"}, say="First the tests, then the change."),
        hang(),
    )
    model.when(
        "spring sale",
        tool_use(
            "mcp__team__submit_task",
            {"description": "research what other schools offer", "title": "Look at other schools", "worker": "fabien"},
            say="I split this into five tasks.",
        ),
        hang(reply("## The spring sale is ready\n\nThe page is up, the newsletter is written.")),
    )
    model.hold_again()
    chance = random.Random(3)
    for number in range(22):
        for worker, titles in _PAST:
            _wait_for_fewer_than(team, chance.randrange(2, 12))
            team.submit(f"Please do this: {titles[number % 3]}.", title=titles[number % 3], worker=worker)
    model.when(
        "prices", api_error(400, "invalid_request_error", "The list of last year is longer than the model reads")
    )
    broken = team.submit("Fetch the prices of last year.", title="Fetch the prices of last year", worker="anga")
    shown = team.submit(
        "Plan a warm-up of ten minutes for adults.", title="Plan a ten-minute warm-up", worker="marie", priority=75
    )
    for task_id in (shown,):
        team.wait_for(task_id, "completed", 120)
    team.wait_for(broken, "failed", 60)
    _wait_for_fewer_than(team, 1)
    _age(team)
    goal = team.api.post(
        "/api/v1/goals", json={"goal": "Prepare the spring sale: a page, a newsletter and three posts."}
    ).json()["goal_id"]
    first = _first_task(team, goal)
    rest: dict[str, str] = {}
    for key, title, worker, needs in (
        ("slogans", "Write three slogans", "fabien", ["first"]),
        ("page", "Build the page of the sale", "anga", ["slogans"]),
        ("posts", "Three posts", "fabien", ["slogans"]),
        ("letter", "Write the newsletter", "fabien", ["page", "posts"]),
    ):
        ids = [first if need == "first" else rest[need] for need in needs]
        hold = {"not_before": (datetime.now(UTC) + timedelta(minutes=20)).isoformat()} if key == "page" else {}
        rest[key] = team.submit(title, title=title, worker=worker, dependencies=ids, parent=first, **hold)
    team.wait_for(rest["posts"], "completed", 60)
    team.submit("Please refactor the booking module.", title="Refactor the booking module", worker="anga")
    team.submit("Please publish the page.", title="Publish the page of the spring sale", worker="anga", priority=100)
    while not team.api.get("/api/v1/questions").json():
        time.sleep(0.1)
    return {
        "overview": "/",
        "tasks": "/tasks",
        "task": f"/tasks/{shown}",
        "goal": f"/goals/{goal}",
        "goals": "/goals",
        "inbox": "/inbox",
        "usage": "/usage",
    }


def _wait_for_fewer_than(team: Team, most: int) -> None:
    while sum(team.api.get("/api/v1/counts").json().get(state, 0) for state in ("ready", "sent", "running")) >= most:
        time.sleep(0.05)


def _first_task(team: Team, goal: str) -> str:
    while not (found := team.api.get(f"/api/v1/goals/{goal}").json()["task_ids"]):
        time.sleep(0.1)
    first: str = found[0]
    return first


def _age(team: Team) -> None:
    """Stretch what was done in some minutes over the last hour: each moment, wherever it is written, by one measure."""
    team.stop()
    ledger = sqlite3.connect(team.shared / "orchestrator" / "ledger.sqlite3")
    first, last = ledger.execute("SELECT MIN(at), MAX(at) FROM events").fetchone()
    end = time.time() - 60
    stretch = 3400 / (last - first)

    def aged(at: float | None) -> float | None:
        return None if at is None else end - (last - at) * stretch

    def restamped(text: str) -> str:
        return _STAMP.sub(lambda found: _moved(found, aged), text)

    ledger.create_function("aged", 1, aged)
    ledger.create_function("restamped", 1, lambda body: restamped(bytes(body).decode()).encode())
    with ledger:
        for table, columns in (
            ("tasks", ("submitted_at", "ready_at", "sent_at", "started_at", "ended_at")),
            ("runs", ("sent_at", "started_at", "ended_at")),
            ("events", ("at",)),
        ):
            ledger.execute(f"UPDATE {table} SET {', '.join(f'{name} = aged({name})' for name in columns)}")
        ledger.execute("UPDATE results SET body = restamped(body)")
        _price(ledger)
        ledger.execute("DELETE FROM samples")
        for minute in range(60):
            at = int(end - 3400 + 57 * minute)
            queued, running = (
                ledger.execute(
                    f"SELECT COUNT(*) FROM tasks WHERE {begin} <= ? AND COALESCE({over}, 1e12) > ?", (at, at)
                ).fetchone()[0]
                for begin, over in (("ready_at", "sent_at"), ("sent_at", "ended_at"))
            )
            ledger.execute("INSERT INTO samples (at, queued, running) VALUES (?, ?, ?)", (at, queued, running))
    ledger.close()
    for journal in (team.shared / "events").glob("*/*.jsonl"):
        journal.write_text(restamped(journal.read_text()))
    team.start()
    while team.state_of("marie") != "up":
        time.sleep(0.1)


def _moved(found: re.Match[str], aged: Callable[[float | None], float | None]) -> str:
    """Return another moment as long as the one that stood there: places in a journal are counted in bytes."""
    at = aged(datetime.fromisoformat(found[0]).timestamp())
    whole = datetime.fromtimestamp(at or 0, UTC)
    fraction = f".{whole.microsecond:06d}"[: len(found[1])] if found[1] else ""
    return f"{whole:%Y-%m-%dT%H:%M:%S}{fraction}{found[2]}"


def _price(ledger: sqlite3.Connection) -> None:
    """Give what a model did tokens and a cost as real work has them, the same wherever they are told."""
    chance = random.Random(7)
    for wire_id, seq, body in ledger.execute(
        "SELECT r.wire_id, r.seq, o.body FROM runs AS r JOIN results AS o ON o.wire_id = r.wire_id"
        " WHERE r.cost_usd IS NOT NULL"
    ).fetchall():
        result = json.loads(body)
        read, written = chance.randrange(9_000, 60_000), chance.randrange(400, 2_600)
        cost = round(read * 0.8e-6 + written * 15e-6, 4)
        usage = {"input_tokens": read // 9, "output_tokens": written, "cache_read_input_tokens": read - read // 9}
        result["cost_usd"] = cost
        result["usage"] = {**(result.get("usage") or {}), **usage}
        ledger.execute("UPDATE results SET body = ? WHERE wire_id = ?", (json.dumps(result).encode(), wire_id))
        ledger.execute(
            "UPDATE runs SET cost_usd = ?, input_tokens = ?, output_tokens = ?, cache_read_tokens = ?"
            " WHERE wire_id = ?",
            (cost, read // 9, written, read - read // 9, wire_id),
        )
        ledger.execute("UPDATE tasks SET cost_usd = ? WHERE seq = ?", (cost, seq))
    ledger.execute("DELETE FROM usage")
    ledger.execute(
        "INSERT INTO usage SELECT r.budget_day, r.worker, COALESCE(t.goal_id, ''), COALESCE(r.model, ''),"
        " SUM(r.counted), COUNT(*), SUM(COALESCE(r.cost_usd, 0)), 0, SUM(COALESCE(r.input_tokens, 0)),"
        " SUM(COALESCE(r.output_tokens, 0)), SUM(COALESCE(r.cache_read_tokens, 0)),"
        " SUM(COALESCE(r.cache_creation_tokens, 0))"
        " FROM runs AS r JOIN tasks AS t ON t.seq = r.seq WHERE r.counted IS NOT NULL GROUP BY 1, 2, 3, 4"
    )


def _where_it_is_morning() -> str:
    """Return a time zone in which an hour ago was no other day."""
    ahead = (10 - datetime.now(UTC).hour + 12) % 24 - 12
    return f"Etc/GMT{-ahead:+d}"


def _settle(page: Page) -> None:
    page.locator(".side-end .dot.good").wait_for(timeout=_PATIENCE_MS)
    page.get_by_text("Loading", exact=True).first.wait_for(state="detached", timeout=_PATIENCE_MS)
    page.wait_for_timeout(900)


def _take(chromium: Chromium, team: Team, paths: dict[str, str]) -> None:
    views: list[tuple[str, dict[str, int], str]] = [
        ("", DESKTOP, "light"),
        ("-dark", DESKTOP, "dark"),
        ("-phone", PHONE, "light"),
    ]
    for suffix, size, scheme in views:
        with chromium.window(
            team.url, size=size, scheme=scheme, touch=size is PHONE, timezone=_where_it_is_morning()
        ) as window:
            window.context.set_default_navigation_timeout(_PATIENCE_MS)
            for name, path in paths.items():
                page = window.page(path)
                _settle(page)
                page.screenshot(path=IMAGES / f"dashboard-{name}{suffix}.png")
                page.close()


def _take_login(chromium: Chromium, folder: Path) -> None:
    with open_team(folder, API_TOKEN="a-token-for-pictures") as team, chromium.window(team.url) as window:
        page = window.page("/login")
        page.get_by_label("Token").wait_for()
        page.screenshot(path=IMAGES / "dashboard-login.png")


def main() -> None:
    """Take all pictures."""
    program = find_chromium()
    if program is None:
        sys.exit("screenshots: Chromium is not installed; install the package chromium.")
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, MessagesApi() as model:
        folder = Path(name)
        (folder / "team.toml").write_text(_TEAM)
        claude = claude_environ(model.url, folder)
        budget = {"TASK_BUDGET_USD": "1", "DAY_BUDGET_USD": "25"}
        settings: dict[str, Any] = {
            **claude,
            **budget,
            "TEAM_FILE": str(folder / "team.toml"),
            "WORKERS": "marie,anga,fabien",
        }
        with open_team(folder / "team", **settings) as team, open_chromium(program, folder) as chromium:
            for worker in ("marie", "anga"):
                team.worker(worker, **claude, AGENT="claude", ALLOWED_TOOLS="Bash(echo *)", MAX_CONCURRENT="4")
            team.worker("fabien", MAX_CONCURRENT="4")
            paths = _work(team, model)
            _take(chromium, team, paths)
            _take_login(chromium, folder / "guarded")
            model.release()


if __name__ == "__main__":
    main()
