"""Questions without a model: what people are shown, whose time runs, and what a lost disk means."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent_bus.messages import OnQuestion, Task
from agent_bus.question_files import QuestionFiles, question_of
from agent_bus.questions import (
    LONGEST_INPUT_TEXT,
    LONGEST_SUMMARY,
    Answer,
    AnswerFate,
    Decision,
    Question,
    QuestionState,
    encode_question,
    is_question_id,
    shown_input,
    summarize,
)
from tests.waiting import async_wait_until as until
from worker_service.agents.base import Run, StopCause, Verdict, Wish
from worker_service.metrics import Metrics
from worker_service.questions import forsaken
from worker_service.questions.asking import Asking, AskingSettings
from worker_service.questions.places import NoPlace
from worker_service.settings import read_settings
from worker_service.task_clock import TaskClock

ID = "q-0123456789abcdef"


def asked(**fields: Any) -> Question:
    given: dict[str, Any] = {
        "question_id": ID,
        "task_id": "t1",
        "worker": "marie",
        "instance": "marie-1",
        "tool": "Bash",
        "summary": "Bash: ls",
        "asked_at": datetime.now(UTC),
    }
    return Question.model_validate({**given, **fields})


# -- what people are shown


def test_a_summary_is_one_line_that_moves_no_cursor() -> None:
    line = summarize("Bash", {"command": "ls\n\x1b[2Jrm -rf /\r\u202egpj.exe"})
    assert line.isprintable() and "\n" not in line
    assert line.startswith("Bash: ls [2Jrm -rf / gpj.exe")
    assert len(summarize("Bash", {"command": "x" * 10_000})) == LONGEST_SUMMARY
    assert summarize("Odd", {}) == "Odd"
    assert summarize("mcp__db__drop", {"table": "users"}) == 'mcp__db__drop: {"table": "users"}'


def test_what_is_cut_says_so() -> None:
    shown = shown_input({"command": "x" * (LONGEST_INPUT_TEXT + 5), "list": [{"deep": "y" * 20_000}], "n": 1})
    assert shown["command"].endswith("(5 more characters are not shown)")
    assert shown["list"][0]["deep"].endswith("(10,000 more characters are not shown)")
    assert shown["n"] == 1
    many = shown_input({str(number): "x" * 9_000 for number in range(100)})
    assert "more characters are not shown" in many["shortened"]
    # Negative control: what is short is shown as it is.
    assert shown_input({"command": "ls"}) == {"command": "ls"}


def test_half_a_character_stops_no_question() -> None:
    assert b"?" in encode_question(asked(input={"command": "\ud800"}))


@pytest.mark.parametrize("name", ["../x", "q-0123", f"{ID}\n", "Q-0123456789abcdef", ""])
def test_what_is_no_id_names_no_file(name: str) -> None:
    assert not is_question_id(name)
    assert question_of(f"{name}.json") is None


def test_names_of_files() -> None:
    assert question_of(f"{ID}.json") == ID
    assert question_of(f"{ID}.answer.json") is None


def test_old_ends_are_removed_and_open_ones_stay(tmp_path: Path) -> None:
    files = QuestionFiles(tmp_path / "marie")
    other = "q-ffffffffffffffff"
    files.put(asked(state="denied"))
    files.put(asked(question_id=other))
    assert files.answer(ID, Answer(decision=Decision.DENY)) is AnswerFate.COUNTS
    for path in (tmp_path / "marie").iterdir():
        os.utime(path, (0, 0))
    files.prune()
    assert [path.name for path in (tmp_path / "marie").iterdir()] == [f"{other}.json"]


def test_an_answer_to_nothing_is_too_late(tmp_path: Path) -> None:
    assert QuestionFiles(tmp_path / "nobody").answer(ID, Answer(decision=Decision.ALLOW)) is AnswerFate.TOO_LATE


# -- whose time runs


async def test_the_clock_stands_still_while_anybody_is_waited_for() -> None:
    loop = asyncio.get_running_loop()
    scope = anyio.CancelScope()
    clock = TaskClock(scope)
    clock.start(100)
    with clock.stopped():
        with clock.stopped():
            assert scope.deadline == float("inf")
        assert scope.deadline == float("inf")
    left = scope.deadline - loop.time()
    assert 99 < left <= 100


# -- one question, with a place in memory


class Memory:
    """A place for questions that may be lost."""

    look_s = 60.0

    def __init__(self) -> None:
        self.questions: dict[str, Question] = {}
        self.answers: dict[str, Answer] = {}
        self.lost = False
        self.listening = False
        self.takes = asyncio.Event()
        """Set unless it is slow to take what is put there."""
        self.takes.set()

    async def put(self, question: Question) -> None:
        await self.takes.wait()
        if self.lost:
            raise NoPlace("the disk is full")
        self.questions[question.question_id] = question

    async def renew(self, question: Question) -> bool:
        return False

    async def answer_of(self, question_id: str) -> Answer | None:
        return self.answers.get(question_id)

    async def answer(self, question_id: str, answer: Answer) -> AnswerFate:
        return AnswerFate.COUNTS if self.answers.setdefault(question_id, answer) is answer else AnswerFate.TOO_LATE

    async def forsaken(self) -> Sequence[Question]:
        return [question for question in self.questions.values() if question.instance == "dead" and question.is_open]

    async def of_task(self, task_id: str) -> Sequence[Question]:
        return [question for question in self.questions.values() if question.task_id == task_id and question.is_open]

    async def prune(self) -> None:
        return None

    def listen(self, on_news: Callable[[], None]) -> None:
        self.listening = True

    def unlisten(self) -> None:
        self.listening = False


class Scene:
    def __init__(self, **settings: Any) -> None:
        self.place = Memory()
        given = {"worker": "marie", "instance": "marie-1", **settings}
        self.asking = Asking(AskingSettings(**given), self.place, Metrics("marie"))
        self.events: list[tuple[str, dict[str, Any]]] = []

    def run(self, **fields: Any) -> Run:
        task = Task(task_id="t1", description="x", **fields)
        return Run(task=task, emit=lambda event, data: self.events.append((event, data)))

    async def ask(self, run: Run, tool: str = "Bash") -> Verdict:
        return await self.asking.ask(run, TaskClock(anyio.CancelScope()), Wish(tool=tool, input={"command": "ls"}))

    @property
    def names(self) -> list[str]:
        return [event for event, _ in self.events]


async def test_a_place_that_is_lost_denies_and_says_why() -> None:
    scene = Scene()
    scene.place.lost = True
    verdict = await scene.ask(scene.run())
    assert not verdict.allowed
    assert "no person could be asked (the disk is full)" in verdict.message
    assert (scene.events, scene.asking.open) == ([], 0)


async def test_several_questions_of_one_run_are_answered_one_by_one() -> None:
    scene = Scene()
    run = scene.run()
    first, second = asyncio.create_task(scene.ask(run, "A")), asyncio.create_task(scene.ask(run, "B"))
    await until(lambda: scene.asking.open == 2)
    assert scene.place.listening
    by_tool = {question.tool: question_id for question_id, question in scene.place.questions.items()}
    await scene.place.answer(by_tool["B"], Answer(decision=Decision.ALLOW))
    scene.asking.look()
    assert (await second).allowed
    assert not first.done() and scene.place.listening
    await scene.place.answer(by_tool["A"], Answer(decision=Decision.DENY))
    scene.asking.look()
    assert not (await first).allowed
    assert not scene.place.listening
    assert scene.names.count("permission_answered") == 2


async def test_a_run_that_is_over_takes_its_questions_along_and_no_others() -> None:
    scene = Scene()
    over, other = scene.run(), scene.run()
    gone, stays = asyncio.create_task(scene.ask(over)), asyncio.create_task(scene.ask(other))
    await until(lambda: scene.asking.open == 2)
    scene.asking.abandon(over)
    assert not (await gone).allowed
    assert (scene.asking.open, stays.done()) == (1, False)
    states = sorted(question.state.value for question in scene.place.questions.values())
    assert states == ["open", "withdrawn"]
    stays.cancel()
    await asyncio.gather(stays, return_exceptions=True)
    assert {question.state for question in scene.place.questions.values()} == {QuestionState.WITHDRAWN}


@pytest.mark.parametrize("how", ["abandoned", "cancelled"])
async def test_a_run_that_ends_while_its_question_is_being_put_there_takes_it_along(how: str) -> None:
    scene = Scene()
    scene.place.takes.clear()
    run = scene.run()
    asking = asyncio.create_task(scene.ask(run))
    await until(lambda: scene.asking.open == 1)
    run.stop_cause = StopCause.CANCEL
    if how == "abandoned":
        scene.asking.abandon(run)
    else:
        asking.cancel()
        await asyncio.sleep(0)
    scene.place.takes.set()
    (said,) = await asyncio.wait_for(asyncio.gather(asking, return_exceptions=True), 20)
    assert isinstance(said, asyncio.CancelledError if how == "cancelled" else Verdict)
    assert [question.state for question in scene.place.questions.values()] == [QuestionState.WITHDRAWN]
    assert (scene.names, scene.asking.open) == (["permission_asked", "permission_withdrawn"], 0)
    assert not scene.place.listening


def test_silence_denies_after_five_minutes_where_nobody_says_otherwise(tmp_path: Path) -> None:
    settings = read_settings({"WORKER_NAME": "marie", "SHARED_DIR": str(tmp_path), "AGENT": "echo"}).questions
    assert (settings.on, settings.policy, settings.timeout_s) == (True, OnQuestion.DENY, 300)
    assert AskingSettings(worker="marie", instance="i").policy is OnQuestion.DENY


async def test_the_tasks_own_policy_wins_over_the_workers() -> None:
    scene = Scene(policy=OnQuestion.WAIT, timeout_s=0.01)
    verdict = await scene.ask(scene.run(on_question="fail"))
    assert verdict.ends_task
    waiting = asyncio.create_task(scene.ask(scene.run()))
    await until(lambda: scene.asking.open == 1)
    (question,) = (one for one in scene.place.questions.values() if one.is_open)
    assert (question.policy, question.expires_at) == (OnQuestion.WAIT, None)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_an_answer_in_the_last_moment_counts() -> None:
    """The place is taken by a person between the last look and the end of the time."""

    class Late(Memory):
        async def answer(self, question_id: str, answer: Answer) -> AnswerFate:
            self.answers.setdefault(question_id, Answer(decision=Decision.ALLOW, by="anna"))
            return await super().answer(question_id, answer)

    scene = Scene(timeout_s=0.01)
    scene.place = Late()
    scene.asking = Asking(
        AskingSettings(worker="marie", instance="marie-1", timeout_s=0.01), scene.place, Metrics("marie")
    )
    assert (await scene.ask(scene.run())).allowed
    assert scene.events[-1][1]["by"] == "anna"


async def test_what_the_dead_asked_is_withdrawn_and_what_the_living_ask_is_not() -> None:
    scene = Scene()
    await scene.place.put(asked(instance="dead"))
    await scene.place.put(asked(question_id="q-ffffffffffffffff", instance="marie-2"))
    await scene.asking.forsaken.withdraw_all()
    assert scene.place.questions[ID].state is QuestionState.WITHDRAWN
    assert scene.place.questions["q-ffffffffffffffff"].is_open
    assert ID in scene.place.answers


async def test_an_answer_that_two_come_upon_holds_once() -> None:
    """At a start what the dead left is tidied while its task begins anew."""
    scene = Scene()
    question = asked(instance="dead", input={"command": "ls"})
    await scene.place.put(question)
    await scene.place.answer(ID, Answer(decision=Decision.ALLOW, by="anna"))
    await scene.asking.forsaken.withdraw_of_task("t1")
    assert scene.asking.forsaken.given("t1", "Bash", {"command": "ls"}) is not None
    # The other one had read the question before that.
    await scene.place.put(question)
    await scene.asking.forsaken.withdraw_all()
    assert scene.asking.forsaken.given("t1", "Bash", {"command": "ls"}) is None
    assert scene.place.questions[ID].state is QuestionState.WITHDRAWN


async def test_what_the_dead_asked_is_withdrawn_as_soon_as_the_place_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Away(Memory):
        away = True

        async def forsaken(self) -> Sequence[Question]:
            self.away, was_away = False, self.away
            if was_away:
                raise NoPlace("the disk is away")
            return await super().forsaken()

        async def of_task(self, task_id: str) -> Sequence[Question]:
            raise NoPlace("the disk is away")

    monkeypatch.setattr(forsaken, "_TIDY_AGAIN_S", 0.01)
    scene = Scene()
    place = Away()
    scene.asking = Asking(AskingSettings(worker="marie", instance="marie-1"), place, Metrics("marie"))
    await place.put(asked(instance="dead"))
    tidying = asyncio.create_task(scene.asking.forsaken.tidy_forever())
    await until(lambda: not place.questions[ID].is_open)
    # Now it would look again in ten minutes; a task that is begun anew has it look at once.
    await place.put(asked(instance="dead"))
    await scene.asking.forsaken.withdraw_of_task("t1")
    await until(lambda: not place.questions[ID].is_open)
    tidying.cancel()


async def test_how_long_the_oldest_waits_and_how_much_of_its_time_is_used() -> None:
    scene = Scene(timeout_s=1000.0)
    assert (scene.asking.oldest_age_s, scene.asking.time_used) == (0.0, 0.0)
    waits = asyncio.create_task(scene.ask(scene.run(on_question="wait")))
    await until(lambda: scene.asking.open == 1)
    # One that waits for ever has an age, and no time that could be used up.
    await until(lambda: scene.asking.oldest_age_s > 0)
    assert scene.asking.time_used == 0.0
    decides = asyncio.create_task(scene.ask(scene.run(question_timeout=600)))
    await until(lambda: scene.asking.open == 2)
    await until(lambda: 0 < scene.asking.time_used < 0.5)
    for asking in (waits, decides):
        asking.cancel()
    await asyncio.gather(waits, decides, return_exceptions=True)
    assert (scene.asking.oldest_age_s, scene.asking.time_used) == (0.0, 0.0)


@pytest.mark.parametrize("cause", [None, *StopCause])
async def test_each_end_of_a_run_says_why_its_question_is_withdrawn(cause: StopCause | None) -> None:
    scene = Scene()
    run = scene.run()
    asking = asyncio.create_task(scene.ask(run))
    await until(lambda: scene.asking.open == 1)
    run.stop_cause = cause
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    (question,) = scene.place.questions.values()
    assert (question.state, bool(question.reason)) == (QuestionState.WITHDRAWN, True)
    assert scene.events[-1] == ("permission_withdrawn", {"question_id": question.question_id, "why": question.reason})
