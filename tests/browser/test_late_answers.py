"""An answer that comes too late: to a question that was answered already, or whose task has ended."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Route, expect

from agent_bus import VERSION
from agent_bus.heartbeats import write_heartbeat
from agent_bus.messages import Heartbeat, WorkerStatus, utc_now
from agent_bus.question_files import QuestionFiles
from agent_bus.questions import Question
from tests.browser.chromium import DESKTOP, PHONE, Chromium
from tests.browser.team import Team, open_team

pytestmark = pytest.mark.timeout(180)


def ask(team: Team) -> tuple[str, str]:
    """Ask as a worker does; returns the task and the question."""
    folder = team.shared / "heartbeats"
    folder.mkdir(parents=True, exist_ok=True)
    beat = Heartbeat(
        worker="marie",
        instance="one",
        timestamp=utc_now(),
        status=WorkerStatus.IDLE,
        mode="event-driven",
        pid=1,
        version=VERSION,
        interval_seconds=600,
        slots=1,
        agent="none",
    )
    write_heartbeat(folder / "marie-watcher.json", beat)
    task_id = team.submit("publish the page", title="Publish", worker="marie")
    team.wait_for(task_id, "sent")
    question_id = "q-0123456789abcdef"
    QuestionFiles(team.shared / "questions" / "marie").put(
        Question(
            question_id=question_id,
            task_id=task_id,
            worker="marie",
            instance="one",
            tool="Bash",
            input={"command": "git push"},
            summary="Bash: git push",
            asked_because="no rule allows it",
            asked_at=utc_now(),
        )
    )
    return task_id, question_id


@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop-light", "phone-dark"])
@pytest.mark.parametrize("ended", [False, True], ids=["answered", "ended"])
def test_who_answers_too_late_gets_one_clear_message(
    chromium: Chromium, tmp_path: Path, ended: bool, size: dict[str, int], scheme: str
) -> None:
    with (
        open_team(tmp_path / "team", WORKER_SILENT_AFTER="600") as team,
        chromium.window(team.url, size=size, scheme=scheme, touch=size is PHONE) as window,
    ):
        task_id, question_id = ask(team)
        page = window.page("/inbox")
        question = page.locator(f"[data-question='{question_id}']")
        expect(question).to_contain_text("git push")

        def let_another_be_first(route: Route) -> None:
            path = f"tasks/{task_id}/cancel" if ended else f"questions/{question_id}/deny"
            assert team.api.post(f"/api/v1/{path}", json={"reason": "not today"}).is_success
            if ended:
                team.wait_for(task_id, "cancelled")
            route.continue_()

        page.route("**/approve", let_another_be_first)
        with page.expect_response("**/approve") as answered:
            question.get_by_role("button", name="Approve").click()
        assert answered.value.status == 409
        toast = page.locator(".toast.bad")
        expect(toast).to_have_count(1)
        expect(toast).to_contain_text("takes no answer any more" if ended else "was answered already")
        expect(question).to_have_count(0)
        expect(page.get_by_text("Nobody asks for anything")).to_be_visible()
