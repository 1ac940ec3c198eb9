"""Questions of the real Claude Code CLI, answered by touch on a phone; and what is said to whoever comes too late."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.acceptance.test_questions_live import command
from tests.browser.chromium import PHONE, Chromium
from tests.browser.team import Team, claude_environ, open_team
from tests.standin.messages_api import MessagesApi, reply, tool_use
from tests.waiting import wait_until

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
    with open_team(tmp_path_factory.mktemp("team"), **claude) as team:
        asks = {"ALLOWED_TOOLS": "Read", "PERMISSION_MODE": "default", "QUESTION_TIMEOUT": "600"}
        team.worker("marie", **claude, **asks, AGENT="claude", MAX_CONCURRENT="4", WARM_PROCESSES="1")
        yield team


@pytest.fixture
def phone(chromium: Chromium, team: Team) -> Iterator[Page]:
    with chromium.window(team.url, size=PHONE, touch=True) as window:
        page = window.page("/inbox")
        expect(page.get_by_role("heading", level=1, name="Inbox")).to_be_visible()
        yield page


def question_of(page: Page, text: str) -> Locator:
    """Return the row of the question that shows this text, all of it within the phone's width."""
    row = page.locator("[data-question]").filter(has_text=text)
    expect(row).to_have_count(1)
    # A row that is drawn anew in this moment has no place.
    box = wait_until(row.bounding_box, 30)
    assert box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], "the page is wider than the phone"
    return row


def open_denial(page: Page, row: Locator) -> Locator:
    """Tap what denies, and return the dialog that asks why."""
    row.get_by_role("button", name="Deny").tap()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    return dialog


def test_a_question_is_approved_and_another_denied_by_touch(
    phone: Page, team: Team, model: MessagesApi, tmp_path: Path
) -> None:
    made, kept = tmp_path / "made.txt", tmp_path / "kept.txt"
    kept.touch()
    model.when("publish by phone", tool_use("Bash", {"command": f"touch {made}"}), reply("published"))
    model.when("remove by phone", tool_use("Bash", {"command": f"rm {kept}"}), reply("left alone"))
    allowed = team.submit("publish by phone", worker="marie")
    row = question_of(phone, f"touch {made}")
    # A thumb is wider than a pointer.
    for button in row.get_by_role("button").all():
        box = wait_until(button.bounding_box, 30)
        assert box["height"] >= 32 and box["width"] >= 44, box
    row.get_by_role("button", name="Approve").tap()
    expect(phone.get_by_text("Approved.")).to_be_visible()
    team.wait_for(allowed, "completed", 60)
    assert made.exists()
    denied = team.submit("remove by phone", worker="marie")
    dialog = open_denial(phone, question_of(phone, f"rm {kept}"))
    dialog.get_by_label("Reason").fill("it is needed, says the phone")
    dialog.get_by_role("button", name="Deny").tap()
    expect(phone.get_by_text("Denied.")).to_be_visible()
    team.wait_for(denied, "completed", 60)
    assert kept.exists()
    assert any("says the phone" in str(block) for seen in model.requests for block in seen.tool_results)
    phone.goto(f"{team.url}/tasks/{denied}")
    expect(phone.locator(".prose")).to_contain_text("left alone")


def test_who_comes_after_the_command_line_is_told_so_in_one_sentence(
    phone: Page, team: Team, model: MessagesApi, claude: dict[str, str], tmp_path: Path
) -> None:
    made = tmp_path / "made.txt"
    model.when("publish by both", tool_use("Bash", {"command": f"touch {made}"}), reply("published"))
    task_id = team.submit("publish by both", worker="marie")
    row = question_of(phone, f"touch {made}")
    question_id = row.get_attribute("data-question")
    assert question_id is not None
    # The dialog stands open while somebody else is faster.
    dialog = open_denial(phone, row)
    approved = command(claude, "approve", question_id, "--shared-dir", str(team.shared))
    assert approved.returncode == 0, approved.stderr
    team.wait_for(task_id, "completed", 60)
    dialog.get_by_role("button", name="Deny").tap()
    told = phone.locator(".toast")
    expect(told).to_have_count(1)
    expect(told).to_have_text(re.compile(rf"^Question {question_id} was answered already: \S+ allowed it\.$"))
    expect(row).to_have_count(0)
    assert made.exists()


def test_who_answers_for_a_task_that_has_ended_is_told_so_in_one_sentence(
    phone: Page, team: Team, model: MessagesApi, tmp_path: Path
) -> None:
    made = tmp_path / "made.txt"
    model.when("publish in vain", tool_use("Bash", {"command": f"touch {made}"}), reply("never"))
    task_id = team.submit("publish in vain", worker="marie")
    row = question_of(phone, f"touch {made}")
    question_id = row.get_attribute("data-question")
    dialog = open_denial(phone, row)
    assert team.api.post(f"/api/v1/tasks/{task_id}/cancel").status_code < 300
    team.wait_for(task_id, "cancelled", 60)
    dialog.get_by_role("button", name="Deny").tap()
    told = phone.locator(".toast")
    expect(told).to_have_count(1)
    expect(told).to_have_text(re.compile(rf"^Question {question_id} takes no answer any more: .*task.*\.$"))
    expect(row).to_have_count(0)
    assert not made.exists()
