"""Questions over a real Redis that is killed, stopped, or emptied while they wait for a person."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from agent_bus.errors import QueueUnavailable
from agent_bus.messages import Task, utc_now
from agent_bus.questions import Answer, AnswerFate, Decision, Question, QuestionState, late_sentence
from agent_bus.redis.caller import RedisCaller
from agent_bus.redis.client import RedisClient
from agent_bus.redis.questions import RedisQuestions
from agent_bus.redis.url import parse_redis_url
from tests.redis_server import RedisServer, running_redis
from tests.waiting import async_wait_until as until
from worker_service.agents.base import Run, StopCause, Verdict, Wish
from worker_service.metrics import Metrics
from worker_service.questions.asking import Asking, AskingSettings
from worker_service.questions.places import RedisPlace
from worker_service.task_clock import TaskClock

ANNA = Answer(decision=Decision.ALLOW, by="anna")
WITHIN_S = 60.0


class Scene:
    """One worker's questions in a Redis, and a person with a client."""

    def __init__(self, server: RedisServer, instance: str, timeout_s: float) -> None:
        self.caller = RedisCaller(parse_redis_url(server.url))
        place = RedisPlace(self.caller, worker="marie", instance=instance, hears=lambda: False)
        self.asking = Asking(
            AskingSettings(worker="marie", instance=instance, timeout_s=timeout_s), place, Metrics("marie")
        )
        self.person = RedisClient(parse_redis_url(server.url))
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._running: list[asyncio.Task[Any]] = [asyncio.create_task(self.asking.write_ends_forever())]

    def run(self, **fields: Any) -> Run:
        task = Task(task_id="t1", description="x", **fields)
        return Run(task=task, emit=lambda event, data: self.events.append((event, data)))

    def ask(self, run: Run | None = None, command: str = "ls") -> asyncio.Task[Verdict]:
        wish = Wish(tool="Bash", input={"command": command})
        scope = anyio.CancelScope()
        asking = asyncio.create_task(self.asking.ask(run or self.run(), TaskClock(scope), wish))
        self._running.append(asking)
        return asking

    async def seen(self) -> list[Question]:
        """Return what a person sees now; nothing where Redis is away."""
        try:
            return await anyio.to_thread.run_sync(self.person.questions)
        except QueueUnavailable:
            return []

    async def open_question(self) -> Question:
        async with asyncio.timeout(WITHIN_S):
            while True:
                found = [one for one in await self.seen() if one.is_open]
                if found:
                    return found[0]
                await asyncio.sleep(0.02)

    async def ended(self, question_id: str) -> Question:
        async with asyncio.timeout(WITHIN_S):
            while True:
                found = [one for one in await self.seen() if one.question_id == question_id and not one.is_open]
                if found:
                    return found[0]
                await asyncio.sleep(0.02)

    async def answer(self, question: Question, answer: Answer = ANNA) -> AnswerFate:
        return await anyio.to_thread.run_sync(
            lambda: self.person.answer_question("marie", question.question_id, answer)
        )

    async def put(self, question: Question) -> None:
        """Leave a question as another process would."""
        await RedisQuestions(self.caller).put(question)

    def told(self, name: str) -> list[dict[str, Any]]:
        return [data for event, data in self.events if event == f"permission_{name}"]

    async def close(self) -> None:
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self.caller.aclose()
        self.person.close()


def asked(**fields: Any) -> Question:
    given: dict[str, Any] = {
        "question_id": "q-0123456789abcdef",
        "task_id": "t1",
        "worker": "marie",
        "instance": "marie-1",
        "tool": "Bash",
        "input": {"command": "ls"},
        "summary": "Bash: ls",
        "asked_at": utc_now(),
    }
    return Question.model_validate({**given, **fields})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path / "redis") as server:
        yield server


@asynccontextmanager
async def opened(server: RedisServer, *, instance: str = "marie-1", timeout_s: float = 600.0) -> AsyncIterator[Scene]:
    scene = Scene(server, instance, timeout_s)
    try:
        yield scene
    finally:
        await scene.close()


async def test_a_redis_that_lost_its_data_is_given_the_question_again(server: RedisServer) -> None:
    async with opened(server) as scene:
        asking = scene.ask()
        before = await scene.open_question()
        server.kill()
        await until(lambda: not scene.caller.connected, WITHIN_S, what="the loss being noticed")
        assert scene.asking.open == 1 and not asking.done()
        server.start()
        again = await scene.open_question()
        assert again == before
        assert await scene.answer(again) is AnswerFate.COUNTS
        assert (await asking).allowed
        assert await scene.answer(again, Answer(decision=Decision.DENY)) is AnswerFate.TOO_LATE
    assert [data["by"] for data in scene.told("answered")] == ["anna"]
    assert len(scene.told("asked")) == 1


async def test_a_restart_between_two_looks_loses_no_question(server: RedisServer) -> None:
    """Nobody notices that the connection was another one: the question itself is looked for."""
    async with opened(server) as scene:
        asking = scene.ask()
        await scene.open_question()
        with server.client() as redis:
            redis.flushall()
        question = await scene.open_question()
        assert await scene.answer(question) is AnswerFate.COUNTS
        assert (await asking).allowed


async def test_a_redis_that_hangs_takes_no_question_along(server: RedisServer) -> None:
    async with opened(server) as scene:
        asking = scene.ask()
        question = await scene.open_question()
        server.pause()
        await until(lambda: not scene.caller.connected, WITHIN_S, what="the silence being noticed")
        assert scene.asking.open == 1 and not asking.done()
        server.resume()
        assert await scene.answer(question) is AnswerFate.COUNTS
        assert (await asking).allowed
    assert [data["by"] for data in scene.told("answered")] == ["anna"]


async def test_a_question_asked_while_redis_is_away_is_put_when_it_is_back(server: RedisServer) -> None:
    async with opened(server) as scene:
        server.kill()
        asking = scene.ask()
        await until(lambda: scene.asking.open == 1, WITHIN_S, what="a question that waits")
        server.start()
        question = await scene.open_question()
        assert await scene.answer(question, Answer(decision=Decision.DENY, by="anna", reason="no")) is AnswerFate.COUNTS
        verdict = await asking
        assert not verdict.allowed and verdict.message.endswith("anna denied the permission to use Bash: no")


@pytest.mark.parametrize("way", ["killed", "hanging"])
async def test_the_silence_policy_holds_while_redis_is_away_and_the_end_is_written_later(
    server: RedisServer, way: str
) -> None:
    # What is written to the file is there again after the kill: an open row that only its worker can end.
    server._options += ["--appendonly", "yes", "--appendfsync", "always"]
    server.restart()
    async with opened(server, timeout_s=2.0) as scene:
        run = scene.run()
        asking = scene.ask(run)
        question = await scene.open_question()
        server.kill() if way == "killed" else server.pause()
        async with asyncio.timeout(WITHIN_S):
            verdict = await asking
        assert not verdict.allowed and "nobody answered within 2 s" in verdict.message
        assert scene.asking.open == 0
        server.start() if way == "killed" else server.resume()
        ended = await scene.ended(question.question_id)
        assert (ended.state, ended.answered_by) == (QuestionState.EXPIRED, "nobody")
        assert await scene.answer(question) is AnswerFate.TOO_LATE


async def test_a_task_cancelled_while_redis_is_away_leaves_no_ghost(server: RedisServer) -> None:
    server._options += ["--appendonly", "yes", "--appendfsync", "always"]
    server.restart()
    async with opened(server) as scene:
        run = scene.run(on_question="wait")
        asking = scene.ask(run)
        question = await scene.open_question()
        server.kill()
        run.stop_cause = StopCause.CANCEL
        scene.asking.abandon(run)
        async with asyncio.timeout(WITHIN_S):
            assert not (await asking).allowed
        server.start()
        ended = await scene.ended(question.question_id)
        assert (ended.state, ended.reason) == (QuestionState.WITHDRAWN, "the task was cancelled")
        assert await scene.answer(question) is AnswerFate.TOO_LATE


async def test_an_answer_after_the_time_is_late_though_the_worker_has_not_said_so(server: RedisServer) -> None:
    """Redis came back before its worker: what it holds is open, and past its time."""
    async with opened(server) as scene:
        now = utc_now()
        old = asked(asked_at=now - timedelta(seconds=90), expires_at=now - timedelta(seconds=30))
        await scene.put(old)
        assert await scene.answer(old) is AnswerFate.TOO_LATE
        assert late_sentence(old).endswith("takes no answer any more: nobody answered in time.")
        # Negative control: while there is time it counts.
        young = old.model_copy(update={"expires_at": now + timedelta(seconds=600)})
        await scene.put(young)
        assert await scene.answer(young) is AnswerFate.COUNTS


async def test_an_answer_to_a_dead_worker_holds_for_the_same_call_asked_anew_and_for_no_other(
    server: RedisServer,
) -> None:
    async with opened(server, instance="marie-2") as scene:
        question = asked(instance="marie-1")
        await scene.put(question)
        assert await scene.answer(question) is AnswerFate.COUNTS
        await scene.asking.forsaken.withdraw_of_task("t1")
        ended = await scene.ended(question.question_id)
        assert ended.state is QuestionState.WITHDRAWN
        assert ended.reason is not None and "anna's answer holds" in ended.reason
        other = scene.ask(command="rm -rf /")
        assert (await scene.open_question()).input == {"command": "rm -rf /"}
        same = scene.ask()
        async with asyncio.timeout(WITHIN_S):
            assert (await same).allowed
        assert not other.done()
        assert [data["by"] for data in scene.told("answered")] == ["anna"]
        # Once: what is asked a third time is asked of a person.
        third = scene.ask()
        await until(lambda: scene.asking.open == 2, WITHIN_S)
        assert not third.done()


async def test_what_a_dead_worker_asked_and_nobody_answered_is_asked_anew(server: RedisServer) -> None:
    async with opened(server, instance="marie-2") as scene:
        question = asked(instance="marie-1")
        await scene.put(question)
        await scene.asking.forsaken.withdraw_all()
        assert (await scene.ended(question.question_id)).reason == "the worker that asked has ended"
        assert await scene.answer(question) is AnswerFate.TOO_LATE
        same = scene.ask()
        anew = await scene.open_question()
        assert anew.question_id != question.question_id and not same.done()
