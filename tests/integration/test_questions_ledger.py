"""Questions in the orchestrator: written down, answered once, and not forgotten over a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent_bus.questions import Decision, Question, QuestionState
from orchestrator_service.desk import Asker
from orchestrator_service.errors import Conflict, NotKnown, Unavailable
from orchestrator_service.metrics import OrchestratorMetrics
from orchestrator_service.observation import Observation
from orchestrator_service.scheduling.pruning import prune
from tests.integration.core_harness import Scene, open_scene

ANNA = Asker(name="anna")
OTTO = Asker(name="otto")


def asked(wire_id: str = "t", number: int = 1, **fields: Any) -> Question:
    now = datetime.now(UTC)
    given: dict[str, Any] = {
        "question_id": f"q-{number:016x}",
        "task_id": wire_id,
        "worker": "marie",
        "instance": "marie-1",
        "tool": "Bash",
        "input": {"command": "npm publish"},
        "summary": "Bash: npm publish",
        "asked_at": now,
        "expires_at": now + timedelta(seconds=300),
    }
    return Question.model_validate({**given, **fields})


async def hear(scene: Scene, question: Question) -> str:
    scene.service.clerk.hear_question("file", question)
    await scene.quiet()
    return question.question_id


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path, silent_after_s=1e7) as opened:
        await opened.beat("marie")
        await opened.submit(task_id="t")
        await opened.take("t")
        yield opened


async def test_a_question_is_a_row_and_an_event_and_told_again_it_is_neither(scene: Scene) -> None:
    question_id = await hear(scene, asked())
    await hear(scene, asked())
    (record,) = await scene.desk.questions()
    assert (record.question_id, record.task_id, record.state) == (question_id, "t", QuestionState.OPEN)
    assert record.input == {"command": "npm publish"}
    assert (await scene.events("t")).count("permission_asked") == 1
    assert scene.service.inbox.open == 1


async def test_a_later_try_of_a_task_asks_in_the_name_of_the_task(scene: Scene) -> None:
    await scene.core.change(lambda step: step.connection.execute("UPDATE runs SET wire_id = 't+2' WHERE wire_id = 't'"))
    await hear(scene, asked("t+2"))
    (record,) = await scene.desk.questions(task_id="t")
    assert record.task_id == "t"
    assert "permission_asked" in await scene.events("t")


async def test_the_answer_goes_to_the_worker_and_into_the_ledger(scene: Scene) -> None:
    question_id = await hear(scene, asked())
    record = await scene.desk.answer_question(question_id, Decision.DENY, ANNA, "not on a Friday")
    assert (record.state, record.answered_by, record.reason) == (QuestionState.DENIED, "anna", "not on a Friday")
    sent = scene.transport.answers[question_id]
    assert (sent.decision, sent.by, sent.reason) == (Decision.DENY, "anna", "not on a Friday")
    assert (await scene.events("t")).count("permission_answered") == 1
    # The worker tells of it as well, later: it is the same answer.
    await hear(scene, asked(state="denied", decision="deny", answered_by="anna"))
    assert (await scene.events("t")).count("permission_answered") == 1
    assert await scene.desk.questions() == []
    assert [one.question_id for one in await scene.desk.questions(state="answered")] == [question_id]


async def test_of_two_answers_at_once_one_counts_and_the_other_hears_so(scene: Scene) -> None:
    question_id = await hear(scene, asked())
    outcomes = await asyncio.gather(
        scene.desk.answer_question(question_id, Decision.ALLOW, ANNA),
        scene.desk.answer_question(question_id, Decision.DENY, OTTO),
        return_exceptions=True,
    )
    refused = [one for one in outcomes if isinstance(one, Conflict)]
    assert len(refused) == 1
    record = await scene.desk.question(question_id)
    winner = scene.transport.answers[question_id]
    assert (record.decision, record.answered_by) == (winner.decision, winner.by)
    with pytest.raises(Conflict, match=f"was answered already: {winner.by} (allowed|denied) it"):
        await scene.desk.answer_question(question_id, Decision.ALLOW, OTTO)


async def test_an_answer_that_another_way_gave_first_is_respected(scene: Scene) -> None:
    question_id = await hear(scene, asked())
    await hear(scene, asked(state="allowed", decision="allow", answered_by="a file"))
    with pytest.raises(Conflict, match="a file allowed it"):
        await scene.desk.answer_question(question_id, Decision.DENY, ANNA)
    assert scene.transport.answers == {}
    assert (await scene.events("t")).count("permission_answered") == 1


async def test_a_question_of_a_task_that_has_ended_takes_no_answer(scene: Scene) -> None:
    question_id = await hear(scene, asked())
    await scene.finish("t")
    with pytest.raises(Conflict, match="its task has ended"):
        await scene.desk.answer_question(question_id, Decision.ALLOW, ANNA)
    assert scene.transport.answers == {}
    await scene.service.inbox.sweep()
    record = await scene.desk.question(question_id)
    assert (record.state, record.reason) == (QuestionState.WITHDRAWN, "the task has ended")
    assert "permission_withdrawn" in await scene.events("t")


async def test_the_sweep_leaves_alone_what_still_waits(scene: Scene) -> None:
    question_id = await hear(scene, asked())
    await scene.service.inbox.sweep()
    assert (await scene.desk.question(question_id)).state is QuestionState.OPEN


async def test_a_worker_that_cannot_be_reached_changes_nothing(scene: Scene) -> None:
    question_id = await hear(scene, asked())
    scene.transport.unreachable = True
    with pytest.raises(Unavailable, match="cannot be reached now"):
        await scene.desk.answer_question(question_id, Decision.ALLOW, ANNA)
    told = "It cannot be answered now (the road is closed); it stays open, and its time goes on."
    found = await scene.desk.question(question_id)
    assert (found.state, found.unreachable) == (QuestionState.OPEN, told)
    assert [one.unreachable for one in await scene.desk.questions()] == [told]
    # Negative control: back again, nothing is said, and the answer counts.
    scene.transport.unreachable = False
    assert (await scene.desk.question(question_id)).unreachable is None
    assert (await scene.desk.answer_question(question_id, Decision.ALLOW, ANNA)).state is QuestionState.ALLOWED


async def test_the_age_of_the_oldest_open_question_is_measured(scene: Scene) -> None:
    now = datetime.now(UTC)
    assert scene.service.inbox.oldest_age_s == 0
    await hear(scene, asked(number=1, asked_at=now - timedelta(seconds=40)))
    await hear(scene, asked(number=2, asked_at=now - timedelta(seconds=4000)))
    metrics = OrchestratorMetrics()
    await Observation(metrics, scene.service).refresh()
    assert metrics.registry.get_sample_value("codehornets_orchestrator_questions_open") == 2
    age = metrics.registry.get_sample_value("codehornets_orchestrator_question_age_seconds")
    assert age is not None and 4000 <= age < 4600
    await scene.desk.answer_question("q-0000000000000002", Decision.DENY, ANNA)
    assert 40 <= scene.service.inbox.oldest_age_s < 640


async def test_what_is_not_known_is_not_known(scene: Scene) -> None:
    with pytest.raises(NotKnown, match="question"):
        await scene.desk.answer_question("q-0000000000000000", Decision.ALLOW, ANNA)
    with pytest.raises(NotKnown, match="question"):
        await scene.desk.question("q-0000000000000000")


async def test_open_questions_are_there_after_a_restart(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as first:
        question_id = await hear(first, asked("of-a-file"))
    async with open_scene(tmp_path) as second:
        # The transports tell again what lies there.
        await hear(second, asked("of-a-file"))
        (record,) = await second.desk.questions()
        assert (record.question_id, record.task_id) == (question_id, "of-a-file")
        assert (await second.events()).count("permission_asked") == 1
        await second.desk.answer_question(question_id, Decision.ALLOW, ANNA)
        assert question_id in second.transport.answers


async def test_the_ledger_forgets_what_ended_long_ago_and_nothing_else(scene: Scene) -> None:
    await hear(scene, asked(number=1, state="expired", decision="deny", answered_at=datetime(2020, 1, 1, tzinfo=UTC)))
    kept = await hear(scene, asked(number=2))
    await scene.core.change(lambda step: prune(step, step.now - 3 * 86_400))
    assert [record.question_id for record in await scene.desk.questions(state="all")] == [kept]
