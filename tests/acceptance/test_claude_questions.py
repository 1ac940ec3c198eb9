"""The real Claude Code CLI asks for permissions, and people answer: by file, by nobody, by two at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from agent_bus.messages import TaskStatus
from agent_bus.question_files import QuestionFiles
from agent_bus.questions import Answer, AnswerFate, Decision, Question, QuestionState
from tests.acceptance.conftest import Client, needs_isolation
from tests.integration.harness import fetch
from tests.standin.messages_api import MessagesApi, Step, reply, tool_use
from tests.waiting import async_wait_until as until
from tests.waiting import wait_until
from worker_service.service import open_worker
from worker_service.settings import WorkerSettings

pytestmark = [pytest.mark.claude, pytest.mark.timeout(180)]

Settings = Callable[..., WorkerSettings]

LONG = "600"
"""Seconds that nobody waits for in a test: an answer must come before."""


def questions_of(client: Client) -> QuestionFiles:
    return QuestionFiles(client.shared / "questions" / client.worker)


def open_questions(client: Client) -> list[Question]:
    return [question for question in questions_of(client).all() if question.is_open]


async def one_question(client: Client) -> Question:
    await until(lambda: len(open_questions(client)) == 1, 40, what="a question")
    return open_questions(client)[0]


def answer(client: Client, question: Question, decision: Decision, **fields: Any) -> AnswerFate:
    return questions_of(client).answer(question.question_id, Answer(decision=decision, **fields))


def told(client: Client, task_id: str) -> list[tuple[str, dict[str, Any]]]:
    events = [event for event in client.events(task_id) if event["event"].startswith("permission_")]
    return [(event["event"].removeprefix("permission_"), event["data"]) for event in events]


def outcomes(api: MessagesApi, prompt: str) -> list[dict[str, Any]]:
    """What came back from each tool call, in order."""
    seen = [request for request in api.requests if request.prompt == prompt]
    return [block for request in seen for block in request.tool_results]


def there(path: Path) -> bool:
    return path.exists()


def publish(path: Path) -> Step:
    """A tool call that the rules of these tests leave open."""
    return tool_use("Bash", {"command": f"touch {path}"})


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """What the tool makes if it runs."""
    return tmp_path / "workspace" / "made.txt"


@pytest.mark.parametrize("mode", ["polling", "hooks"])
@pytest.mark.parametrize("isolation", ["off", pytest.param("on", marks=needs_isolation)])
async def test_a_person_allows_and_the_tool_runs(
    api: MessagesApi, settings_of: Settings, client: Client, tmp_path: Path, mode: str, isolation: str
) -> None:
    outside = tmp_path / "elsewhere.txt"
    api.when("go", tool_use("Write", {"file_path": str(outside), "content": "x"}), reply("done"))
    settings = settings_of(ALLOWED_TOOLS="Read", WORKER_MODE=mode, AGENT_ISOLATION=isolation, POLL_INTERVAL="0.05")
    async with open_worker(settings) as worker:
        client.submit("t1", "go")
        question = await one_question(client)
        assert not outside.exists()
        assert (question.task_id, question.worker, question.tool) == ("t1", "marie", "Write")
        assert question.input["file_path"] == str(outside)
        assert question.summary == f"Write: {outside}"
        assert question.asked_because == "Path is outside allowed working directories"
        assert question.expires_at is not None
        assert worker.pulse.heartbeat().open_questions == 1
        _, metrics = await fetch(worker.http_port, "/metrics")
        assert 'codehornets_questions_open{worker="marie"} 1.0' in metrics
        assert answer(client, question, Decision.ALLOW, by="anna") is AnswerFate.COUNTS
        await until(client.has_result("t1"), 40)
        _, metrics = await fetch(worker.http_port, "/metrics")
        assert 'codehornets_question_ends_total{state="allowed",worker="marie"} 1.0' in metrics
        assert 'codehornets_questions_open{worker="marie"} 0.0' in metrics
    assert client.result("t1").output == "done"
    assert outside.read_text() == "x"
    (asked, shown), (answered, data) = told(client, "t1")
    assert (asked, answered) == ("asked", "answered")
    assert shown["question_id"] == data["question_id"] == question.question_id
    assert (data["decision"], data["by"]) == ("allow", "anna")
    closed = questions_of(client).read(question.question_id)
    assert closed is not None
    assert (closed.state, closed.answered_by) == (QuestionState.ALLOWED, "anna")


async def test_a_person_denies_and_claude_hears_the_reason(
    api: MessagesApi, settings_of: Settings, client: Client, made: Path
) -> None:
    api.when("go", publish(made), reply("then not"))
    async with open_worker(settings_of(ALLOWED_TOOLS="Read", PERMISSION_MODE="default")):
        client.submit("t1", "go")
        question = await one_question(client)
        answer(client, question, Decision.DENY, by="anna", reason="not on a Friday")
        await until(client.has_result("t1"), 40)
    assert (client.result("t1").status, client.result("t1").output) == (TaskStatus.COMPLETED, "then not")
    (block,) = outcomes(api, "go")
    assert block["is_error"]
    assert "not on a Friday" in json.dumps(block) and "anna" in json.dumps(block)
    assert not there(made)


async def test_an_answer_written_in_place_by_a_shell_counts(
    api: MessagesApi, settings_of: Settings, client: Client, made: Path
) -> None:
    api.when("go", publish(made), reply("done"))
    async with open_worker(settings_of(ALLOWED_TOOLS="Read", PERMISSION_MODE="default")):
        client.submit("t1", "go")
        question = await one_question(client)
        place = questions_of(client).answer_path(question.question_id)
        await anyio.run_process(["sh", "-c", f"""echo '{{"decision": "allow"}}' > {place}"""])
        await until(client.has_result("t1"), 40)
    assert there(made)
    assert told(client, "t1")[-1][1]["by"] == "somebody"


async def test_silence_denies_by_default_and_the_task_goes_on(
    api: MessagesApi, settings_of: Settings, client: Client, made: Path
) -> None:
    api.when("go", publish(made), reply("without it"))
    async with open_worker(settings_of(ALLOWED_TOOLS="Read", PERMISSION_MODE="default", QUESTION_TIMEOUT="0.3")):
        client.submit("t1", "go")
        await until(client.has_result("t1"), 40)
    assert client.result("t1").output == "without it"
    assert not there(made)
    (_, asked), (_, answered) = told(client, "t1")
    assert (answered["decision"], answered["by"]) == ("deny", "nobody")
    assert "nobody answered within 0.3 s" in json.dumps(outcomes(api, "go"))
    closed = questions_of(client).read(asked["question_id"])
    assert closed is not None and closed.state is QuestionState.EXPIRED
    # Whoever comes now is late.
    assert answer(client, closed, Decision.ALLOW) is AnswerFate.TOO_LATE


async def test_silence_fails_a_task_that_says_so(
    api: MessagesApi, settings_of: Settings, client: Client, made: Path
) -> None:
    api.when("go", publish(made), reply("never said"))
    async with open_worker(settings_of(ALLOWED_TOOLS="Read", PERMISSION_MODE="default")):
        client.submit("t1", "go", on_question="fail", question_timeout=0.3)
        await until(client.has_result("t1"), 40)
    result = client.result("t1")
    assert result.status is TaskStatus.FAILED
    assert result.error is not None and result.error.kind == "question_unanswered"
    assert "nobody answered within 0.3 s" in result.error.message
    assert not there(made)
    assert not any(
        request.tool_results for request in api.requests if request.prompt == "go" and request.kind == "main"
    )


async def test_a_task_that_waits_has_no_end_and_its_own_time_stands_still(
    api: MessagesApi, settings_of: Settings, client: Client, made: Path
) -> None:
    api.when("go", publish(made), reply("done"))
    api.when("other", reply("meanwhile"))
    settings = settings_of(
        ALLOWED_TOOLS="Read", PERMISSION_MODE="default", QUESTION_TIMEOUT="0.3", TASK_TIMEOUT="4", MAX_CONCURRENT="2"
    )
    async with open_worker(settings) as worker:
        client.submit("t1", "go", on_question="wait")
        question = await one_question(client)
        assert question.expires_at is None
        scope = worker.runner.running["t1"].scope
        assert scope.deadline == float("inf")
        client.submit("t2", "other")
        await until(client.has_result("t2"), 40)
        # Negative control: the clock of a task that asks nobody runs.
        assert open_questions(client) == [question]
        answer(client, question, Decision.ALLOW)
        await until(client.has_result("t1"), 40)
        assert scope.deadline < float("inf")
    assert client.result("t1").status is TaskStatus.COMPLETED


async def test_an_agent_that_waits_for_a_person_is_not_called_stuck(
    api: MessagesApi, settings_of: Settings, client: Client, made: Path
) -> None:
    api.when("go", publish(made), reply("done"))
    settings = settings_of(ALLOWED_TOOLS="Read", PERMISSION_MODE="default", STUCK_AFTER="1", HEARTBEAT_INTERVAL="0.5")
    async with open_worker(settings) as worker:
        client.submit("t1", "go", on_question="wait")
        question = await one_question(client)
        beats = []
        worker.pulse.on_beat.append(beats.append)
        # Four times what it would take to be found stuck.
        await until(lambda: len(beats) >= 12, 60, what="time to go by")
        answer(client, question, Decision.ALLOW)
        await until(client.has_result("t1"), 40)
    assert [event["event"] for event in client.events("t1") if "stuck" in event["event"]] == []
    assert client.result("t1").status is TaskStatus.COMPLETED


async def test_without_questions_claude_code_denies_at_once(
    api: MessagesApi, settings_of: Settings, client: Client, made: Path
) -> None:
    api.when("go", publish(made), reply("then not"))
    async with open_worker(settings_of(ALLOWED_TOOLS="Read", PERMISSION_MODE="default", QUESTIONS="off")):
        client.submit("t1", "go")
        await until(client.has_result("t1"), 40)
    assert outcomes(api, "go")[0]["is_error"]
    assert told(client, "t1") == []
    assert list(questions_of(client).all()) == []


async def test_what_the_rules_deny_or_allow_is_not_asked(
    api: MessagesApi, settings_of: Settings, client: Client, made: Path
) -> None:
    """Nor what the mode denies: the mode stays what it is."""
    forged = client.shared / "questions" / "marie" / "q-0000000000000000.answer.json"
    calls = [
        tool_use("Write", {"file_path": str(forged), "content": "{}"}),
        tool_use("Bash", {"command": f"echo '{{}}' > {forged}"}),
        tool_use("Read", {"file_path": str(forged.parent / "q-0000000000000000.json")}),
        tool_use("Bash", {"command": f"cat {client.shared}/triggers/marie/x.trigger"}),
    ]
    api.when("try", *calls, publish(made), reply("tried"))
    async with open_worker(settings_of(ALLOWED_TOOLS="Bash,Read,Write", QUESTION_TIMEOUT=LONG)):
        client.submit("t1", "try")
        await until(client.has_result("t1"), 40)
    *denied, allowed = outcomes(api, "try")
    assert len(denied) == 4
    assert all(block.get("is_error") for block in denied)
    assert not allowed.get("is_error") and there(made)
    assert told(client, "t1") == []
    assert not forged.exists()


async def test_the_mode_that_never_asks_does_not(
    api: MessagesApi, settings_of: Settings, client: Client, made: Path
) -> None:
    api.when("go", publish(made), reply("then not"))
    async with open_worker(settings_of(ALLOWED_TOOLS="Read", PERMISSION_MODE="dontAsk", QUESTION_TIMEOUT=LONG)):
        client.submit("t1", "go")
        await until(client.has_result("t1"), 40)
    assert outcomes(api, "go")[0]["is_error"]
    assert told(client, "t1") == []


def answer_at_once(place: Path, question: Question, given: list[tuple[str, str]]) -> list[str]:
    """Let a process for each of these decisions and names answer; return what each was told."""
    script = (
        "import sys; from pathlib import Path; from agent_bus.question_files import QuestionFiles;"
        "from agent_bus.questions import Answer;"
        "print(QuestionFiles(Path(sys.argv[1])).answer(sys.argv[2], Answer(decision=sys.argv[3], by=sys.argv[4])))"
    )
    command = [sys.executable, "-c", script, str(place), question.question_id]
    started = [subprocess.Popen([*command, *words], stdout=subprocess.PIPE) for words in given]
    return [process.communicate()[0].decode().strip() for process in started]


async def test_of_many_answers_at_once_one_counts(
    api: MessagesApi, settings_of: Settings, client: Client, made: Path
) -> None:
    api.when("go", publish(made), reply("done"))
    async with open_worker(settings_of(ALLOWED_TOOLS="Read", PERMISSION_MODE="default")):
        client.submit("t1", "go")
        question = await one_question(client)
        given = [("allow" if number % 2 else "deny", f"p{number}") for number in range(6)]
        fates = await anyio.to_thread.run_sync(answer_at_once, questions_of(client).directory, question, given)
        await until(client.has_result("t1"), 40)
    assert sorted(fates) == ["counts", *["too_late"] * 5]
    decision, by = given[fates.index("counts")]
    answered = [data for kind, data in told(client, "t1") if kind == "answered"]
    assert [(data["decision"], data["by"]) for data in answered] == [(decision, by)]
    assert there(made) == (decision == "allow")


def as_symlink(path: Path, elsewhere: Path) -> None:
    elsewhere.write_text('{"decision": "allow"}')
    path.symlink_to(elsewhere)


def as_broken(path: Path, elsewhere: Path) -> None:
    path.write_text('{"decision": "all')
    os.utime(path, (0, 0))


def as_wrong(path: Path, elsewhere: Path) -> None:
    path.write_text('{"decision": "allow everything"}')
    os.utime(path, (0, 0))


def as_directory(path: Path, elsewhere: Path) -> None:
    path.mkdir()


def as_pipe(path: Path, elsewhere: Path) -> None:
    os.mkfifo(path)


def as_huge(path: Path, elsewhere: Path) -> None:
    path.write_text('{"decision": "allow", "by": "' + "x" * 100_000 + '"}')
    os.utime(path, (0, 0))


def as_another_owner(path: Path, elsewhere: Path) -> None:
    path.write_text('{"decision": "allow"}')
    os.chown(path, 12_345, 12_345)
    os.utime(path, (0, 0))


@pytest.mark.parametrize(
    "hostile",
    [
        as_symlink,
        as_broken,
        as_wrong,
        as_directory,
        as_pipe,
        as_huge,
        pytest.param(as_another_owner, marks=pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give away")),
    ],
)
async def test_what_is_no_answer_is_put_away_and_a_good_one_counts(
    api: MessagesApi,
    settings_of: Settings,
    client: Client,
    made: Path,
    tmp_path: Path,
    hostile: Callable[[Path, Path], None],
) -> None:
    api.when("go", publish(made), reply("then not"))
    async with open_worker(settings_of(ALLOWED_TOOLS="Read", PERMISSION_MODE="default", QUESTION_TIMEOUT=LONG)):
        client.submit("t1", "go")
        question = await one_question(client)
        place = questions_of(client).answer_path(question.question_id)
        hostile(place, tmp_path / "elsewhere.json")
        await until(lambda: not os.path.lexists(place), 40, what="the removal of what is no answer")
        assert open_questions(client) == [question]
        assert not there(made)
        assert answer(client, question, Decision.DENY, by="anna") is AnswerFate.COUNTS
        await until(client.has_result("t1"), 40)
    assert not there(made)
    assert [data["by"] for kind, data in told(client, "t1") if kind == "answered"] == ["anna"]


async def test_a_cancelled_task_takes_its_question_back(
    api: MessagesApi, settings_of: Settings, client: Client, made: Path
) -> None:
    api.when("go", publish(made), reply("never"))
    async with open_worker(settings_of(ALLOWED_TOOLS="Read", PERMISSION_MODE="default", QUESTION_TIMEOUT=LONG)):
        client.submit("t1", "go")
        question = await one_question(client)
        client.cancel("t1")
        await until(client.has_result("t1"), 40)
        assert client.result("t1").status is TaskStatus.CANCELLED
        closed = questions_of(client).read(question.question_id)
        assert closed is not None
        assert (closed.state, closed.reason) == (QuestionState.WITHDRAWN, "the task was cancelled")
        assert answer(client, closed, Decision.ALLOW) is AnswerFate.TOO_LATE
    assert told(client, "t1")[-1] == (
        "withdrawn",
        {"question_id": question.question_id, "why": "the task was cancelled"},
    )
    assert not there(made)


async def test_a_worker_that_stops_takes_its_question_back(
    api: MessagesApi, settings_of: Settings, client: Client, made: Path
) -> None:
    api.when("go", publish(made), reply("never"))
    settings = settings_of(ALLOWED_TOOLS="Read", PERMISSION_MODE="default", QUESTION_TIMEOUT=LONG, SHUTDOWN_GRACE="0.1")
    async with open_worker(settings):
        client.submit("t1", "go")
        question = await one_question(client)
    closed = questions_of(client).read(question.question_id)
    assert closed is not None
    assert (closed.state, closed.reason) == (QuestionState.WITHDRAWN, "its worker was stopped")
    assert not client.has_result("t1")()


def test_after_kill_9_claude_asks_anew_and_the_old_question_is_withdrawn(
    api: MessagesApi, claude_environ: dict[str, str], client: Client, made: Path
) -> None:
    api.when("go", publish(made), reply("never"))
    api.when(lambda seen: "You were interrupted" in seen.prompt, publish(made), reply("done after all"))
    environ = {**claude_environ, "ALLOWED_TOOLS": "Read", "PERMISSION_MODE": "default", "QUESTION_TIMEOUT": LONG}

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "worker_service"], env=environ, start_new_session=True)

    first = start()
    try:
        client.submit("t1", "go")
        wait_until(lambda: len(open_questions(client)) == 1, 60)
        (old,) = open_questions(client)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert open_questions(client) == [old]
    second = start()
    try:
        wait_until(lambda: [one.question_id for one in open_questions(client)] not in ([], [old.question_id]), 60)
        wait_until(lambda: len(open_questions(client)) == 1, 60)
        (new,) = open_questions(client)
        closed = questions_of(client).read(old.question_id)
        assert closed is not None
        assert (closed.state, closed.reason) == (QuestionState.WITHDRAWN, "the worker that asked has ended")
        assert answer(client, old, Decision.ALLOW) is AnswerFate.TOO_LATE
        assert not there(made)
        assert answer(client, new, Decision.ALLOW, by="anna") is AnswerFate.COUNTS
        wait_until(client.has_result("t1"), 60)
    finally:
        with suppress(ProcessLookupError):
            second.terminate()
        assert second.wait(60) == 0
    assert client.result("t1").output == "done after all"
    assert there(made)


async def test_a_question_to_people_is_answered_with_words(
    api: MessagesApi, settings_of: Settings, client: Client
) -> None:
    options = [{"label": "A", "description": "a"}, {"label": "B", "description": "b"}]
    asked = {"question": "Which one?", "header": "Choice", "options": options, "multiSelect": False}
    api.when("go", tool_use("AskUserQuestion", {"questions": [asked]}), reply("done"))
    async with open_worker(settings_of(ALLOWED_TOOLS="Read")):
        client.submit("t1", "go")
        question = await one_question(client)
        assert question.summary == "AskUserQuestion: Which one?"
        answer(client, question, Decision.ALLOW, by="anna", reason="B, please")
        await until(client.has_result("t1"), 40)
    assert '"Which one?"="B, please"' in str(outcomes(api, "go"))


async def test_who_was_let_out_of_the_plan_mode_serves_no_other_task(
    api: MessagesApi, settings_of: Settings, client: Client, made: Path
) -> None:
    api.when("plan it", tool_use("ExitPlanMode", {"plan": "just do it"}), reply("planned"))
    settings = settings_of(ALLOWED_TOOLS="Read", PERMISSION_MODE="plan", MAX_CONCURRENT="1", WARM_PROCESSES="1")
    async with open_worker(settings):
        client.submit("t1", "plan it")
        question = await one_question(client)
        assert question.tool == "ExitPlanMode"
        answer(client, question, Decision.ALLOW)
        await until(client.has_result("t1"), 40)
        client.submit("t2", "plan it")
        # Were it still out of the plan mode, there would be nothing to ask.
        again = await one_question(client)
        assert again.task_id == "t2"
        answer(client, again, Decision.DENY)
        await until(client.has_result("t2"), 40)
