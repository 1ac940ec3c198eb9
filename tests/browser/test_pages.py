"""Every page: before many tasks, without a connection, with hostile text, for everybody who has to use it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from agent_bus.events import EventJournal
from agent_bus.messages import Event, Result, TaskError, TaskStatus, encode_result, utc_now
from agent_bus.question_files import QuestionFiles
from agent_bus.questions import Question
from tests.browser.chromium import DESKTOP, PHONE, Chromium, StrangeRequest
from tests.browser.team import Team, open_team
from tests.deploy.tools import TOOLS
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(180)

AXE = TOOLS / "node_modules" / "axe-core" / "axe.min.js"
MANY = 10_000


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    with open_team(tmp_path_factory.mktemp("pages")) as team:
        team.worker("marie")
        yield team


def live(page: Page) -> Page:
    expect(page.locator(".side-end .dot.good")).to_be_visible()
    return page


# -- thousands of rows


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """A ledger with ten thousand tasks that wait for a worker who never comes."""
    with open_team(tmp_path_factory.mktemp("crowd"), WORKERS="marie,anga") as team:
        tasks: list[dict[str, Any]] = [
            {
                "key": f"t{number}",
                "title": f"Lesson {number:05d}",
                "description": "teach salsa" if number % 2 else "teach rumba",
                "worker": "marie" if number % 10 else "anga",
                "priority": 75 if number == 4321 else 50,
            }
            for number in range(MANY)
        ]
        assert team.api.post("/api/v1/tasks", json={"tasks": tasks}).status_code == 201
        yield team


def test_ten_thousand_tasks_are_sorted_filtered_and_scrolled(chromium: Chromium, crowd: Team) -> None:
    with chromium.window(crowd.url) as window:
        page = window.page("/tasks")
        table = page.get_by_role("table", name="Tasks", exact=True)
        rows = table.get_by_role("row")
        expect(page.get_by_text("10,000 tasks", exact=True)).to_be_visible()
        expect(table).to_have_attribute("aria-rowcount", str(MANY))
        expect(rows.first).to_contain_text("Lesson")
        assert rows.count() < 80, "only what can be seen is there"
        page.get_by_role("button", name="Title").click()
        expect(table.locator("[aria-rowindex='1']")).to_contain_text("Lesson 00000")
        page.get_by_role("button", name="Title").click()
        expect(table.locator("[aria-rowindex='1']")).to_contain_text("Lesson 09999")
        page.get_by_role("button", name="Priority").click()
        expect(table.locator("[aria-rowindex='1']")).to_contain_text("Lesson 04321")
        page.get_by_role("button", name="Title").click()
        table.evaluate("list => { list.scrollTop = list.scrollHeight }")
        expect(table.locator(f"[aria-rowindex='{MANY}']")).to_contain_text("Lesson 09999")
        page.get_by_label("Search").fill("esson 0432")
        expect(page.get_by_text("10 tasks match")).to_be_visible()
        page.get_by_label("Search").fill("rumba")
        expect(page.get_by_text("5,000 tasks match")).to_be_visible()
        page.get_by_label("State").select_option("Completed")
        expect(page.get_by_text("No task matches")).to_be_visible()
        page.get_by_role("button", name="Show all tasks").click()
        expect(page.get_by_text("10,000 tasks", exact=True)).to_be_visible()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_tasks_of_a_worker_are_those_it_got_and_those_that_wait_for_it(
    chromium: Chromium, crowd: Team, size: dict[str, int]
) -> None:
    with chromium.window(crowd.url, size=size) as window:
        page = window.page("/tasks")
        worker = page.get_by_label("Worker")
        expect(worker.get_by_role("option")).to_have_text(["All workers", "anga", "marie"])
        worker.select_option("anga")
        expect(page.get_by_text("1,000 tasks match")).to_be_visible()
        page.get_by_label("Search").fill("esson 0432")
        expect(page.get_by_text("1 task match")).to_be_visible()
        expect(page.locator(".row:not([hidden]) a.title")).to_have_text(["Lesson 04320"])
        page.reload()
        expect(worker).to_have_value("anga")
        expect(page.get_by_text("1 task match")).to_be_visible()


def test_what_is_typed_last_is_what_is_shown(chromium: Chromium, crowd: Team) -> None:
    with chromium.window(crowd.url) as window:
        page = window.page("/tasks?sort=title&order=asc")
        expect(page.get_by_text("10,000 tasks", exact=True)).to_be_visible()
        page.get_by_label("Search").press_sequentially("lesson 00123", delay=15)
        expect(page.get_by_text("1 task match")).to_be_visible()
        expect(page.locator(".row:not([hidden]) a.title")).to_have_text(["Lesson 00123"])
        for _ in range(5):
            page.keyboard.press("Backspace")
        expect(page.get_by_text("10,000 tasks match")).to_be_visible()
        expect(page.locator("[aria-rowindex='1'] a.title")).to_have_text("Lesson 00000")


def test_the_list_is_walked_by_keys(chromium: Chromium, crowd: Team) -> None:
    with chromium.window(crowd.url) as window:
        page = window.page("/tasks?sort=title&order=asc")
        table = page.get_by_role("table", name="Tasks", exact=True)
        expect(table.locator("[aria-rowindex='1']")).to_contain_text("Lesson 00000")
        table.focus()
        for _ in range(40):
            page.keyboard.press("ArrowDown")
        expect(page.get_by_role("link", name="Lesson 00039")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Lesson 00039")
        expect(page.locator(".notice")).to_contain_text("marie")


# -- the connection


def test_a_lost_connection_is_told_and_no_event_is_missed(
    chromium: Chromium, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with open_team(tmp_path_factory.mktemp("lost")) as team, chromium.window(team.url) as window:
        page = live(window.page("/"))
        before = team.submit("before", title="Before", worker="marie")
        feed = page.get_by_role("log")
        expect(feed).to_contain_text("Before handed in")
        team.stop()
        banner = page.get_by_text("Connection lost. What you see is from")
        expect(banner).to_be_visible()
        # The worker and a second page's user go on meanwhile.
        team.start()
        during = team.submit("during", title="During", worker="marie")
        expect(banner).to_be_hidden()
        live(page)
        expect(feed).to_contain_text("During handed in")
        expect(feed.get_by_text("Before handed in")).to_have_count(1)
        team.worker("marie")
        for task_id in (before, during):
            team.wait_for(task_id, "completed")
        expect(feed.get_by_text("completed")).to_have_count(2)


@pytest.mark.parametrize("name", ["session.js", "main.js", "style.css"])
def test_a_page_that_lost_a_file_on_its_way_comes_up_by_itself(chromium: Chromium, crowd: Team, name: str) -> None:
    """As a phone does that changes its network while it loads."""
    with chromium.window(crowd.url) as window:
        page = window.context.new_page()
        lost: list[str] = []

        def lose_twice(route: Route) -> None:
            if len(lost) == 2:
                route.continue_()
                return
            lost.append(route.request.url)
            route.abort("internetdisconnected")

        page.route(f"**/{name}", lose_twice)
        page.goto(f"{crowd.url}/inbox")
        expect(page.get_by_role("heading", level=1, name="Inbox")).to_be_visible()
        expect(page.locator(".side-end .dot.good")).to_be_visible()
        expect(page.locator("body")).to_have_css("margin", "0px")
        # What is counted for the next loss begins anew.
        tries = "sessionStorage.getItem('codehornets-tries')"
        wait_until(lambda: page.evaluate(f"document.readyState === 'complete' && {tries} === null"), 30)
        assert len(lost) == 2


def test_a_page_of_a_task_goes_on_where_it_was(chromium: Chromium, tmp_path_factory: pytest.TempPathFactory) -> None:
    with open_team(tmp_path_factory.mktemp("task")) as team, chromium.window(team.url) as window:
        task_id = team.submit("patience", worker="marie")
        page = live(window.page(f"/tasks/{task_id}"))
        timeline = page.locator(".timeline li")
        expect(timeline).to_have_count(1)
        team.stop()
        expect(page.get_by_text("Connection lost", exact=True)).to_be_visible()
        team.start()
        team.worker("marie")
        expect(page.locator(".page-head .pill")).to_have_text("completed")
        expect(page.locator(".prose")).to_have_text("patience")
        expect(timeline.first).to_contain_text("handed in")
        expect(page.locator(".timeline").get_by_text("handed in")).to_have_count(1)


def test_the_overview_tells_what_was_before_it_and_goes_on_without_gap_or_double(
    chromium: Chromium, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with open_team(tmp_path_factory.mktemp("feed")) as team, chromium.window(team.url) as window:
        early = [team.submit("early", title=f"Early {number}", worker="marie") for number in range(3)]
        page = window.context.new_page()
        held: list[Route] = []

        def hold(route: Route) -> None:
            held.append(route)

        page.route("**/api/v1/events/latest*", hold)
        page.goto(f"{team.url}/")
        live(page)
        feed = page.get_by_role("log")
        # What happens after the channel is open and before the history has come is in both.
        team.submit("between", title="Between", worker="marie")
        expect(feed).to_contain_text("Between handed in")
        expect(feed).not_to_contain_text("Early")
        wait_until(lambda: bool(held) or page.wait_for_timeout(50) is not None, 30)
        held[0].continue_()
        page.unroute("**/api/v1/events/latest*")
        for number in range(3):
            expect(feed).to_contain_text(f"Early {number} handed in")
        team.submit("late", title="Late", worker="marie")
        expect(feed).to_contain_text("Late handed in")
        told = feed.locator("li a").all_text_contents()
        assert told == ["Late", "Between", "Early 2", "Early 1", "Early 0"]
        # A task that was handed in before is named by its title, not by its number.
        team.api.post(f"/api/v1/tasks/{early[0]}/cancel")
        expect(feed.locator("li").first).to_contain_text("Early 0 cancelled")
        page.get_by_role("link", name="Tasks", exact=True).click()
        page.get_by_role("link", name="Overview", exact=True).click()
        expect(feed.locator("li").first).to_contain_text("Early 0 cancelled")
        expect(feed.get_by_text("Between")).to_have_count(1)


# -- hostile text


EVIL = "<img src=x onerror='window.pwned=1'><script>window.pwned=1</script><b id=pwned>"
EVIL_MARKDOWN = (
    f"{EVIL}\n\n[click](javascript:window.pwned=1) ![p](https://evil.example/p.png) <javascript:alert(1)>\n\n"
    f"[safe](https://example.org/x)\n\n```{EVIL}\n{EVIL}\n```\n\n| {EVIL} |\n|---|\n| {EVIL} |\n\n# {EVIL}\n"
)


def plant(team: Team) -> str:
    """Write what a hostile model could write, in every place that a worker writes; returns the task."""
    task_id = team.submit(EVIL_MARKDOWN, title=EVIL[:200], worker="eve", session=EVIL[:200], model="<b>x</b>")
    shared = team.shared
    # Its question would be withdrawn with its end.
    asking = team.submit(EVIL, title=EVIL[:200], worker="eve")
    journal = EventJournal(shared / "events" / "eve", worker="eve", task_id=task_id)
    for event, data in (
        ("session", {"session_id": EVIL, "model": EVIL, "cwd": EVIL}),
        ("text", {"text": EVIL_MARKDOWN}),
        ("tool_use", {"id": "1", "name": EVIL, "input": {EVIL: EVIL, "other": [EVIL]}}),
        ("tool_result", {"id": "1", "is_error": True, "text": EVIL}),
        ("tool_result", {"id": "none", "text": EVIL}),
        (EVIL, {"message": EVIL}),
        ("rate_limit", {"status": EVIL, "kind": EVIL}),
        ("result", {"subtype": EVIL, "num_turns": 1, "cost_usd": 0.1}),
    ):
        journal.write(Event(event=event, timestamp=utc_now(), worker="eve", task_id=task_id, data=data))
    journal.close()
    QuestionFiles(shared / "questions" / "eve").put(
        Question(
            question_id="q-0123456789abcdef",
            task_id=asking,
            worker="eve",
            instance="i",
            tool=EVIL[:60],
            input={EVIL: EVIL},
            summary=EVIL,
            asked_because=EVIL,
            asked_at=utc_now(),
        )
    )
    result = Result(
        task_id=task_id,
        worker="eve",
        instance=EVIL,
        status=TaskStatus.FAILED,
        output=EVIL_MARKDOWN,
        structured_output={EVIL: EVIL},
        error=TaskError(kind="<b>kind</b>", message=EVIL),
        session_id=EVIL,
        num_turns=1,
        cost_usd=0.1,
        usage={"input_tokens": 1, "output_tokens": 2},
        started_at=utc_now(),
        completed_at=utc_now(),
        timestamp=utc_now(),
        branch=EVIL,
        commit=EVIL,
    )
    folder = shared / "results" / "eve"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{task_id}.json").write_bytes(encode_result(result))
    notices = shared / "triggers" / "orchestrator"
    (notices / f".{task_id}.tmp").write_text(json.dumps({"task_id": task_id, "worker": "eve"}))
    (notices / f".{task_id}.tmp").rename(notices / f"result-{task_id}.trigger")
    team.wait_for(task_id, "failed")
    return task_id


def beat_of_eve(team: Team, *stuck: str) -> None:
    """A worker whose heartbeat says what it likes."""
    folder = team.shared / "heartbeats"
    folder.mkdir(parents=True, exist_ok=True)
    beat = {
        "worker": "eve",
        "instance": EVIL,
        "component": "worker",
        "timestamp": utc_now().isoformat(),
        "status": "busy",
        "current_tasks": [EVIL],
        "queue_size": 1,
        "mode": EVIL,
        "pid": 1,
        "version": EVIL,
        "interval_seconds": 600.0,
        "slots": 3,
        "agent": EVIL,
        "stuck_tasks": stuck,
    }
    (folder / ".eve.tmp").write_text(json.dumps(beat))
    (folder / ".eve.tmp").rename(folder / "eve-watcher.json")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_what_a_model_says_never_becomes_an_element(
    chromium: Chromium, tmp_path_factory: pytest.TempPathFactory, size: dict[str, int]
) -> None:
    team_file = tmp_path_factory.mktemp("words") / "team.toml"
    team_file.write_text(f"[workers.eve]\nrole = {json.dumps(EVIL)}\nskills = [{json.dumps(EVIL)}]\n")
    environ = {"WORKERS": "eve", "TEAM_FILE": str(team_file)}
    folder = tmp_path_factory.mktemp("evil")
    with open_team(folder, **environ) as team, chromium.window(team.url, size=size) as window:
        beat_of_eve(team)
        overview = live(window.page("/"))
        task_id = plant(team)
        beat_of_eve(team, f"{task_id}+2", EVIL)
        pages = [window.page(path) for path in ("/tasks", f"/tasks/{task_id}", "/inbox", "/goals", "/usage")]
        expect(overview.locator("[data-question]")).to_contain_text("<script>window.pwned=1</script>")
        expect(overview.get_by_role("log")).to_contain_text("window.pwned=1")
        expect(overview.get_by_role("region", name="Worker eve")).to_contain_text("<script>")
        expect(pages[0].locator(".row a.title").first).to_contain_text("<script>")
        task = pages[1]
        expect(task.locator(".prose").first).to_contain_text("<script>window.pwned=1</script>")
        expect(task.get_by_role("log")).to_contain_text("<script>window.pwned=1</script>")
        expect(task.locator(".facts")).to_contain_text("<img src=x")
        expect(task.get_by_role("alert")).to_contain_text("<b>kind</b>")
        expect(pages[2].locator("[data-question]")).to_contain_text("<img src=x")
        stuck = overview.locator(".needs > li").filter(has_text="Stuck: <img src=x")
        expect(stuck.locator(f"a[href='/tasks/{task_id}']")).to_have_text(re.compile("^<img src=x"))
        expect(stuck).to_have_count(2)
        assert task.locator(".prose a").evaluate_all("links => links.map(link => link.getAttribute('href'))") == [
            "https://evil.example/p.png",
            "https://example.org/x",
        ]
        for page in (overview, *pages):
            assert page.evaluate("window.pwned") is None
            assert page.locator("main #pwned, main img, main script, main iframe, [onerror]").count() == 0
            assert page.locator("a[href^='javascript' i]").count() == 0


def test_the_browser_itself_would_refuse_markup(chromium: Chromium, team: Team) -> None:
    with chromium.window(team.url) as window:
        page = live(window.page("/"))
        refused = page.evaluate(
            "() => { try { document.body.innerHTML = '<b>x</b>'; return false } catch (error) { return error.name } }"
        )
        assert refused == "TypeError"
        page.evaluate(
            "() => { const made = document.createElement('style'); made.textContent = 'body{display:none}';"
            " document.head.append(made) }"
        )
        assert page.locator("body").is_visible(), "a style of the page itself is refused"
        window.complaints.clear()


def test_a_request_to_another_host_would_be_noticed(chromium: Chromium, team: Team) -> None:
    with pytest.raises(StrangeRequest, match=r"example\.org"), chromium.window(team.url) as window:
        page = window.context.new_page()
        page.goto(f"{team.url}/healthz")
        page.evaluate("fetch('https://example.org/').catch(() => null)")


# -- for everybody


def audit(page: Page) -> list[str]:
    """Return what axe finds that is serious."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']} ({one['impact']}): {node['target']} {node['failureSummary']}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.fixture(scope="module")
def busy(team: Team) -> str:
    """A team in which something has happened; returns a task with a result."""
    later = team.submit("later", title="Later", worker="marie", not_before="2100-01-01T00:00:00Z")
    team.api.post(f"/api/v1/tasks/{later}/cancel", json={"reason": "not needed"})
    task_id = team.submit("# Plan\n\n- warm up\n- *dance*\n\n`code` and [more](https://example.org)", worker="marie")
    team.wait_for(task_id, "completed")
    return task_id


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing_serious(
    chromium: Chromium, team: Team, busy: str, size: dict[str, int], scheme: str
) -> None:
    with chromium.window(team.url, size=size, scheme=scheme, touch=size is PHONE) as window:
        page = live(window.page("/"))
        paths = ["/", "/tasks", f"/tasks/{busy}", "/goals", "/inbox", "/usage"]
        paths += ["/nowhere-at-all", "/tasks/none", "/goals/none"]
        for path in paths:
            page.goto(f"{team.url}{path}")
            expect(page.locator("h1")).to_be_visible()
            expect(page.get_by_text("Loading", exact=True)).to_have_count(0)
            assert audit(page) == [], path
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} is too wide"
        page.goto(f"{team.url}/")
        page.get_by_role("button", name="New task").click()
        expect(page.get_by_label("What is to be done")).to_be_focused()
        page.get_by_text("More options").click()
        assert audit(page) == []


def test_axe_would_find_something(chromium: Chromium, team: Team) -> None:
    with chromium.window(team.url) as window:
        page = live(window.page("/"))
        page.evaluate("document.querySelector('h1').append(document.createElement('button'))")
        assert any("button-name" in one for one in audit(page))


def test_dark_is_chosen_and_stays(chromium: Chromium, team: Team) -> None:
    color = "getComputedStyle(document.body).backgroundColor"
    with chromium.window(team.url, scheme="light") as window:
        page = window.page("/")
        light = page.evaluate(color)
        page.get_by_role("button", name="Theme: system").click()
        assert page.evaluate(color) != light
        page.reload()
        expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()
        assert page.evaluate(color) != light
        page.get_by_role("button", name="Theme: dark").click()
        assert page.evaluate(color) == light
    with chromium.window(team.url, scheme="dark") as window:
        assert window.page("/").evaluate(color) != light


def test_charts_tell_their_values_to_pointer_keys_and_ears(chromium: Chromium, team: Team, busy: str) -> None:
    with chromium.window(team.url) as window:
        page = live(window.page("/"))
        chart = page.get_by_role("img", name=re.compile("^Throughput: [0-9]+ ended"))
        expect(chart).to_be_visible()
        chart.focus()
        page.keyboard.press("End")
        readout = page.locator(".chart").first.locator(".readout")
        expect(readout).to_contain_text(re.compile(r"completed \d+"))
        page.keyboard.press("ArrowLeft")
        expect(readout).to_contain_text("completed")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_an_axis_has_the_room_that_its_words_need(
    chromium: Chromium, team: Team, busy: str, size: dict[str, int]
) -> None:
    with chromium.window(team.url, size=size) as window:
        page = window.context.new_page()

        def longer(route: Route) -> None:
            data = route.fetch().json()
            moments = len(data["times"])
            for key, value in (("p50_seconds", 12.0), ("p99_seconds", 30_000.0), ("cost_usd", 1234.5)):
                data[key] = [value] * moments
            route.fulfill(json=data)

        page.route("**/api/v1/series*", longer)
        page.goto(f"{team.url}/")
        expect(page.get_by_role("img", name=re.compile("p99: most 8 h 20 min"))).to_be_visible()
        outside = page.locator(".chart").evaluate_all(
            "charts => charts.flatMap(chart => [...chart.querySelectorAll('text.axis')].filter(label => {"
            " const inside = chart.getBoundingClientRect(), box = label.getBoundingClientRect();"
            " return box.left < inside.left || box.right > inside.right; }).map(label => label.textContent))"
        )
        assert outside == []


def test_an_error_is_told_in_the_form(chromium: Chromium, team: Team) -> None:
    with chromium.window(team.url) as window:
        page = window.page("/tasks")
        page.get_by_role("button", name="New task").first.click()
        page.get_by_label("What is to be done").fill("x")
        page.get_by_text("More options").click()
        page.get_by_label("Model").fill("two words")
        page.get_by_role("button", name="Hand in").click()
        expect(page.locator("#new-wrong")).to_contain_text("model")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)


def test_the_skip_link_comes_first(chromium: Chromium, team: Team) -> None:
    with chromium.window(team.url) as window:
        page = live(window.page("/"))
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="To the content")).to_be_focused()


def test_axe_is_there() -> None:
    assert Path(AXE).exists(), f"{AXE} is missing; run `make checks`"
