"""What a worker at work shows on the pages: a task that gets stuck and moves again, a branch and its commit."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.chromium import DESKTOP, PHONE, Chromium
from tests.browser.team import Team, open_team

pytestmark = pytest.mark.timeout(180)

HANGING = """
import pathlib, time
folder = pathlib.Path({folder!r})
while not (folder / "go").exists():
    time.sleep(0.1)
while not (folder / "end").exists():
    print("at work", flush=True)
    time.sleep(0.1)
"""


def live(page: Page) -> Page:
    expect(page.locator(".side-end .dot.good")).to_be_visible()
    return page


def command(program: str) -> str:
    return shlex.join([sys.executable, "-S", "-u", "-c", program])


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_stuck_task_is_seen_at_once_and_gone_when_it_moves_on(
    chromium: Chromium, tmp_path: Path, size: dict[str, int]
) -> None:
    with (
        open_team(tmp_path / "team", WORKER_SILENT_AFTER="600", RESCAN_INTERVAL="300") as team,
        chromium.window(team.url, size=size) as window,
    ):
        # Only what its worker says at once can be seen: the next heartbeat would come in five minutes.
        team.worker(
            "marie",
            AGENT="command",
            AGENT_COMMAND=command(HANGING.format(folder=str(tmp_path))),
            STUCK_AFTER="1",
            STUCK_ACTION="tell",
            HEARTBEAT_INTERVAL="300",
        )
        overview = live(window.page("/"))
        tasks = live(window.page("/tasks"))
        task_id = team.submit("wait for a sign", title="Patience", worker="marie")
        page = live(window.page(f"/tasks/{task_id}"))
        card = overview.get_by_role("region", name="Worker marie")
        row = tasks.get_by_role("row").filter(has_text="Patience")
        pill = page.locator(".page-head .pill")
        expect(pill).to_have_text("stuck")
        expect(page.locator("[data-stuck]")).to_contain_text("stream is silent")
        expect(card.locator(".pill")).to_have_text("stuck")
        expect(overview.locator(".needs > li").filter(has_text="Stuck: Patience")).to_contain_text("stream is silent")
        expect(overview.get_by_role("log")).to_contain_text("Patience seems stuck")
        expect(row).to_contain_text("stuck")
        # Whoever opens a page now sees it as well.
        expect(window.page("/tasks").get_by_role("row").filter(has_text="Patience")).to_contain_text("stuck")
        later = live(window.page("/"))
        expect(later.get_by_role("region", name="Worker marie").locator(".pill")).to_have_text("stuck")
        (tmp_path / "go").touch()
        expect(pill).to_have_text("running")
        expect(page.locator("[data-stuck]")).to_have_count(0)
        expect(card.locator(".pill")).to_have_text("busy")
        expect(row).to_contain_text("running")
        expect(overview.locator(".needs > li").filter(has_text="Stuck:")).to_have_count(0)
        expect(overview.get_by_role("log")).to_contain_text("Patience goes on")
        expect(page.locator(".timeline").get_by_text("seems stuck")).to_have_count(1)
        expect(page.locator(".timeline").get_by_text("goes on")).to_have_count(1)
        (tmp_path / "end").touch()
        expect(pill).to_have_text("completed")
        expect(row).to_contain_text("completed")


def git(folder: Path, *arguments: str) -> str:
    named = ("-c", "user.name=Marie", "-c", "user.email=marie@example.org")
    return subprocess.run(
        ["git", *named, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def made_repository(folder: Path) -> Path:
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "README").write_text("hello\n")
    git(folder, "add", "README")
    git(folder, "commit", "--quiet", "--message=Begin")
    return folder


def selected(page: Page, word: str) -> str:
    """Return what is marked when somebody clicks on the text to copy it."""
    place = page.locator(".facts > div").filter(has=page.get_by_text(word, exact=True)).locator("code")
    place.click()
    text: str = page.evaluate("getSelection().toString()")
    return text


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_task_in_a_worktree_shows_its_branch_and_commit(
    chromium: Chromium, tmp_path: Path, size: dict[str, int]
) -> None:
    repository = made_repository(tmp_path / "repository")
    team: Team
    with open_team(tmp_path / "team") as team, chromium.window(team.url, size=size) as window:
        team.worker(
            "marie",
            AGENT="command",
            AGENT_COMMAND=command("import pathlib; pathlib.Path('plan.txt').write_text('salsa'); print('planned')"),
            WORKTREES="on",
            WORKSPACE=str(repository),
        )
        task_id = team.submit("plan the lesson", title="Plan", worker="marie")
        page = live(window.page(f"/tasks/{task_id}"))
        expect(page.locator(".page-head .pill")).to_have_text("completed")
        branch = f"codehornets/{task_id}"
        expect(page.locator(".facts")).to_contain_text(branch)
        assert selected(page, "Branch") == branch
        commit = git(repository, "rev-parse", branch)
        assert selected(page, "Commit") == commit, "the whole of it can be copied"
        assert git(repository, "show", f"{commit}:plan.txt") == "salsa"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
