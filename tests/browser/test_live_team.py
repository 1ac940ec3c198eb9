"""The dashboard before a team at work: the real Claude Code CLI with a scripted model, processes that are killed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.chromium import DESKTOP, PHONE, Chromium, Window
from tests.browser.team import Team, claude_environ, open_team
from tests.standin.messages_api import MessagesApi, hang, rate_limited, reply, tool_use

pytestmark = [pytest.mark.claude, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def model() -> Iterator[MessagesApi]:
    with MessagesApi() as api:
        yield api


@pytest.fixture(scope="module")
def claude(model: MessagesApi, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return claude_environ(model.url, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def team(claude: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    with open_team(tmp_path_factory.mktemp("team"), WORKER_SILENT_AFTER="3", **claude) as team:
        team.worker(
            "marie", **claude, AGENT="claude", ALLOWED_TOOLS="Bash(echo *)", MAX_CONCURRENT="4", WARM_PROCESSES="1"
        )
        yield team


LOOKS = {
    "desktop-light": (DESKTOP, "light"),
    "desktop-dark": (DESKTOP, "dark"),
    "phone-light": (PHONE, "light"),
    "phone-dark": (PHONE, "dark"),
}


def seen_on(*names: str) -> pytest.MarkDecorator:
    """Have a test look at the dashboard in each of these ways."""
    return pytest.mark.parametrize("window", names, indirect=True)


@pytest.fixture
def window(chromium: Chromium, team: Team, request: pytest.FixtureRequest) -> Iterator[Window]:
    size, scheme = LOOKS[request.param]
    with chromium.window(team.url, size=size, scheme=scheme) as window:
        yield window


def live(page: Page) -> Page:
    expect(page.locator(".side-end .dot.good")).to_be_visible()
    return page


@seen_on(*LOOKS)
def test_a_task_is_handed_in_and_seen_at_work(
    window: Window, model: MessagesApi, request: pytest.FixtureRequest
) -> None:
    title = f"Beans by {request.node.callspec.params['window']}"
    model.when(
        f"count the {title}",
        tool_use("Bash", {"command": "echo seventeen"}, say="Let me look."),
        hang(reply("# Beans\n\nThere are **17** beans.")),
    )
    model.hold_again()
    page = live(window.page("/"))
    page.get_by_role("button", name="New task").click()
    page.get_by_label("What is to be done").fill(f"count the {title}")
    page.get_by_label("Title (optional)").fill(title)
    page.get_by_label("For whom").select_option("worker:marie")
    page.get_by_label("Priority").select_option("75")
    page.get_by_role("button", name="Hand in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(title)
    transcript = page.get_by_role("log")
    expect(transcript).to_contain_text("Let me look.")
    expect(transcript).to_contain_text("echo seventeen")
    expect(transcript).to_contain_text("Answer")
    expect(page.locator(".page-head")).to_contain_text("running")
    model.release()
    expect(page.locator(".page-head")).to_contain_text("completed")
    expect(page.locator(".prose strong")).to_have_text("17")
    expect(page.locator(".facts")).to_contain_text("high")
    expect(page.locator(".facts")).to_contain_text(re.compile(r"Cost\$0\.0\d+"))
    expect(page.locator(".timeline")).to_contain_text("begun")
    page.get_by_role("link", name="Tasks", exact=True).click()
    expect(page.get_by_role("row").filter(has_text=title)).to_contain_text("completed")


@seen_on("phone-dark")
def test_a_task_is_cancelled_and_tried_again(window: Window, team: Team, model: MessagesApi) -> None:
    model.when("wait for spring", hang(reply("spring is here")))
    model.hold_again()
    task_id = team.submit("wait for spring", worker="marie")
    page = window.page(f"/tasks/{task_id}")
    expect(page.locator(".page-head")).to_contain_text("running")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_label("Reason").fill("not needed")
    page.get_by_role("button", name="Cancel the task").click()
    expect(page.locator(".page-head .pill")).to_have_text("cancelled")
    expect(page.get_by_role("alert")).to_contain_text("not needed")
    assert team.task(task_id)["state"] == "cancelled"
    model.release()
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".page-head")).to_contain_text("completed")
    expect(page.locator(".prose")).to_contain_text("spring is here")


@seen_on("desktop-dark")
def test_a_worker_that_is_killed_is_seen_to_go_and_to_come_back(window: Window, team: Team) -> None:
    worker = team.worker("anga")
    page = live(window.page("/"))
    card = page.get_by_role("region", name="Worker anga")
    expect(card).to_contain_text("idle")
    expect(page.locator(".figure").first).to_contain_text("2/2")
    worker.kill()
    expect(card.locator(".pill")).to_have_text("down")
    expect(page.get_by_role("log")).to_contain_text("is down")
    expect(page.locator(".figure").first).to_contain_text("1/2")
    team.worker("anga")
    expect(card.locator(".pill")).to_have_text("idle")


@seen_on("phone-light")
def test_a_worker_is_paused_and_resumed(window: Window, team: Team) -> None:
    card = live(window.page("/")).get_by_role("region", name="Worker marie")
    card.get_by_role("button", name="Pause").click()
    expect(card.locator(".pill")).to_have_text("paused")
    assert team.state_of("marie") == "paused"
    card.get_by_role("button", name="Resume").click()
    expect(card.locator(".pill")).to_have_text("idle")


@seen_on("desktop-dark")
def test_a_question_is_answered_on_the_page(
    window: Window, team: Team, model: MessagesApi, tmp_path: Path, chromium: Chromium
) -> None:
    made, kept = tmp_path / "made.txt", tmp_path / "kept.txt"
    model.when("publish it", tool_use("Bash", {"command": f"touch {made}"}), reply("published"))
    model.when("remove it", tool_use("Bash", {"command": f"rm {kept}"}), reply("left alone"))
    kept.touch()
    page = live(window.page("/inbox"))
    expect(page.get_by_text("Nobody asks for anything")).to_be_visible()
    allowed = team.submit("publish it", worker="marie")
    question = page.locator("[data-question]")
    expect(question).to_contain_text(f"touch {made}")
    expect(page.locator(".badge")).to_have_text("1")
    with chromium.window(team.url) as other:
        overview = other.page("/")
        expect(overview.locator("[data-question]")).to_contain_text(f"touch {made}")
        question.get_by_role("button", name="Approve").click()
        expect(page.get_by_text("Nobody asks for anything")).to_be_visible()
        expect(overview.locator("[data-question]")).to_have_count(0)
    team.wait_for(allowed, "completed")
    assert made.exists()
    denied = team.submit("remove it", worker="marie")
    question.get_by_role("button", name="Deny").click()
    page.get_by_label("Reason").fill("it is needed")
    page.get_by_role("button", name="Deny", exact=True).click()
    team.wait_for(denied, "completed")
    assert kept.exists()
    assert any("it is needed" in str(block) for seen in model.requests for block in seen.tool_results)
    page.get_by_role("button", name="Answered").click()
    expect(page.locator("[data-question]")).to_have_count(2)
    expect(page.locator("[data-question]").first).to_contain_text("it is needed")


@seen_on("phone-light")
def test_a_wait_for_a_limit_is_ended_by_its_button(window: Window, team: Team, model: MessagesApi) -> None:
    model.when("too much", rate_limited(retry_after_s=3600), reply("enough after all"), shared=True)
    page = live(window.page("/"))
    task_id = team.submit("too much", worker="marie")
    gate = page.locator("[data-gate]")
    expect(gate).to_contain_text("Waiting for a limit")
    expect(gate).to_contain_text("goes on at")
    assert team.task(task_id)["state"] not in ("completed", "failed")
    gate.get_by_role("button", name="End the wait now").click()
    expect(gate).to_have_count(0)
    team.wait_for(task_id, "completed", 60)


@seen_on("desktop-light")
def test_the_tasks_of_a_goal_are_drawn_and_lead_to_their_pages(window: Window, team: Team, model: MessagesApi) -> None:
    model.when(
        "open a bakery",
        tool_use("mcp__team__submit_task", {"description": "find a shop", "title": "Find a shop"}, say="First a shop."),
        hang(reply("A bakery **is open**.")),
    )
    model.hold_again()
    page = live(window.page("/goals"))
    page.get_by_role("button", name="New goal").click()
    page.get_by_label("What is to be reached").fill("open a bakery")
    page.get_by_role("button", name="Begin").click()
    boxes = page.locator(".graph a")
    expect(boxes).to_have_count(1)
    first = boxes.first.get_attribute("data-task")
    assert first is not None
    oven = team.submit("buy an oven", title="Buy an oven", parent=first, dependencies=[first], worker="marie")
    bake = team.submit("bake", title="Bake", parent=first, dependencies=[oven, first], worker="marie")
    expect(boxes).to_have_count(3)
    expect(page.locator(".graph .edge")).to_have_count(3)
    # An agent that ends before its tasks is told to wait for them.
    team.wait_for(bake, "completed", 60)
    model.release()
    expect(page.locator(".page-head")).to_contain_text("completed")
    expect(page.locator(".prose strong")).to_have_text("is open")
    expect(page.locator(".facts")).to_contain_text("3 of 3")
    box = page.get_by_role("link", name=re.compile("Buy an oven"))
    box.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Buy an oven")
    assert page.url.endswith(f"/tasks/{oven}")
