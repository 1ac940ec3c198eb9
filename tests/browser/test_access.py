"""Who may see the dashboard: login, a wrong token, a session that is over, logging out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.browser.chromium import Chromium
from tests.browser.team import Team, open_team
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

SECRET = "a-secret-for-the-dashboard"
READER = "a-secret-for-readers"


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("guarded")
    with open_team(folder, API_TOKEN=SECRET, API_TOKENS=f"guest:read:{READER}", LOG_LEVEL="DEBUG") as team:
        team.submit("water the plants", title="Plants", worker="marie")
        yield team


def test_a_token_opens_the_page_and_is_kept_nowhere(chromium: Chromium, team: Team) -> None:
    with chromium.window(team.url) as window:
        page = window.page("/tasks?state=open")
        expect(page.get_by_label("Token")).to_be_focused()
        assert page.url == f"{team.url}/login"
        page.get_by_label("Token").fill(SECRET)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("link", name="Plants")).to_be_visible()
        assert page.url == f"{team.url}/tasks?state=open"
        expect(page.get_by_text("Live", exact=True)).to_be_visible()
        (cookie,) = window.context.cookies()
        assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("codehornets_session", True, "Strict")
        kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, history.state])")
        assert SECRET not in kept + page.content() + page.url and SECRET not in cookie["value"]
        assert cookie["value"] not in kept
    written = [path.read_text(errors="replace") for path in team.shared.rglob("*.log")]
    sessions = (team.shared / "orchestrator" / "sessions.json").read_text()
    said = "".join([*written, sessions, team.orchestrator.output() if team.orchestrator else ""])
    assert SECRET not in said and cookie["value"] not in said


def test_a_wrong_token_is_a_sentence_and_many_must_wait(chromium: Chromium, team: Team) -> None:
    with chromium.window(team.url) as window:
        page = window.page("/")
        for _ in range(5):
            page.get_by_label("Token").fill("not-the-secret-at-all")
            page.get_by_role("button", name="Log in").click()
            expect(page.get_by_role("alert")).to_contain_text("none of this orchestrator's")
            expect(page.get_by_label("Token")).to_have_value("")

        def let_in() -> bool:
            page.get_by_label("Token").fill(SECRET)
            with page.expect_response("**/login") as answered:
                page.get_by_role("button", name="Log in").click()
            return answered.value.ok

        # The right token waits as well, and then opens the page: nobody after this test is made to wait.
        wait_until(let_in, 30)
        expect(page.locator(".figures")).to_be_visible()


def test_logging_out_ends_the_session_in_every_page(chromium: Chromium, team: Team) -> None:
    with chromium.window(team.url) as window:
        page = window.page("/")
        page.get_by_label("Token").fill(READER)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_text("guest (read)")).to_be_visible()
        assert page.get_by_role("button", name="New task").count() == 0, "a reader cannot hand in"
        other = window.page("/tasks")
        expect(other.get_by_role("link", name="Plants")).to_be_visible()
        expect(other.get_by_text("Live", exact=True)).to_be_visible()
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_text("You are logged out.")).to_be_visible()
        expect(other.get_by_label("Token")).to_be_visible()
        expect(other.get_by_text("The session is over; log in again.")).to_be_visible()
        assert "Plants" not in other.content()


HOLD_LOGOUT = """
const ask = window.fetch;
let refused;
const refusal = new Promise(done => { refused = done; });
window.fetch = async (path, options) => {
  const answer = await ask(path, options);
  if (window.loggingOut && answer.status === 401) refused();
  if (path === '/logout') await refusal;
  return answer;
};
"""
"""The answer to the log-out is held back until the page was refused elsewhere."""


def test_who_logs_out_is_told_so_even_when_the_channel_hears_of_it_first(chromium: Chromium, team: Team) -> None:
    with chromium.window(team.url) as window:
        page = window.context.new_page()
        page.add_init_script(HOLD_LOGOUT)
        page.goto(team.url)
        page.get_by_label("Token").fill(READER)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_text("Live", exact=True)).to_be_visible()
        page.evaluate("window.loggingOut = true")
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_text("You are logged out.")).to_be_visible()


def test_a_session_outlives_the_orchestrator_and_ends_with_its_time(
    chromium: Chromium, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("short")
    with open_team(folder, API_TOKEN=SECRET) as team, chromium.window(team.url) as window:
        page = window.page("/goals")
        page.get_by_label("Token").fill(SECRET)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_text("No goals yet")).to_be_visible()
        team.stop()
        expect(page.get_by_text("Connection lost", exact=True)).to_be_visible()
        team.start(SESSION_TTL="1")
        expect(page.get_by_text("Live", exact=True)).to_be_visible()
        page.get_by_role("button", name="Log out").click()
        page.get_by_label("Token").fill(SECRET)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_text("The session is over; log in again.")).to_be_visible()
        assert page.url == f"{team.url}/login"
