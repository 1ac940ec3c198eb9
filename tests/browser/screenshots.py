"""`python -m tests.browser.screenshots`: pictures of each page into docs/images, from a team that has done something.

The team and its work are real, with a scripted model; only what it did is spread over an hour that it did not take.
"""

from __future__ import annotations

import os
import random
import sqlite3
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.browser.chromium import DESKTOP, PHONE, Chromium, find_chromium, open_chromium
from tests.browser.team import Team, open_team
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


def _claude(home: Path, url: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "sk-dummy-for-tests",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    }


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
    for worker, titles in _PAST:
        for number in range(34):
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
    _wait_for_all(team)
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


def _wait_for_all(team: Team) -> None:
    while sum(team.api.get("/api/v1/counts").json().get(state, 0) for state in ("ready", "sent", "running")):
        time.sleep(0.2)


def _first_task(team: Team, goal: str) -> str:
    while not (found := team.api.get(f"/api/v1/goals/{goal}").json()["task_ids"]):
        time.sleep(0.1)
    first: str = found[0]
    return first


def _age(team: Team) -> None:
    """Spread what was done in a minute over the last hour, with times and costs as real work has them."""
    team.stop()
    chance = random.Random(7)
    ledger = sqlite3.connect(team.shared / "orchestrator" / "ledger.sqlite3")
    now = time.time()
    ledger.execute("DELETE FROM samples")
    with ledger:
        for (seq,) in ledger.execute("SELECT seq FROM tasks WHERE ended_at IS NOT NULL").fetchall():
            began = now - 120 - 3400 * chance.random() ** 0.8
            took, waited = chance.lognormvariate(3.4, 0.7), chance.expovariate(0.5)
            cost = round(chance.lognormvariate(-3, 0.6), 4)
            ledger.execute(
                "UPDATE tasks SET submitted_at = ?, ready_at = ?, sent_at = ?, started_at = ?, ended_at = ?,"
                " cost_usd = ? WHERE seq = ?",
                (began - waited, began - waited, began - 0.01, began, began + took, cost, seq),
            )
            ledger.execute("UPDATE runs SET ended_at = ?, cost_usd = ? WHERE seq = ?", (began + took, cost, seq))
        for minute in range(60):
            ledger.execute(
                "INSERT INTO samples (at, queued, running) VALUES (?, ?, ?)",
                (int(now - 3600 + 60 * minute), max(0, int(4 + 4 * chance.gauss(0, 1))), chance.randint(1, 4)),
            )
        tokens = "input_tokens = tries * 4200, output_tokens = tries * 640, cache_read_tokens = tries * 21000"
        ledger.execute(f"UPDATE usage SET cost_usd = tries * 0.061, {tokens}")
    ledger.close()
    team.start()
    while team.state_of("marie") != "up":
        time.sleep(0.1)


def _settle(page: Page) -> None:
    page.locator(".side-end .dot.good").wait_for()
    page.get_by_text("Loading", exact=True).first.wait_for(state="detached")
    page.wait_for_timeout(900)


def _take(chromium: Chromium, team: Team, paths: dict[str, str]) -> None:
    views: list[tuple[str, dict[str, int], str]] = [
        ("", DESKTOP, "light"),
        ("-dark", DESKTOP, "dark"),
        ("-phone", PHONE, "light"),
    ]
    for suffix, size, scheme in views:
        with chromium.window(team.url, size=size, scheme=scheme, touch=size is PHONE) as window:
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
        claude = _claude(folder, model.url)
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
