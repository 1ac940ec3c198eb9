"""What moves while it is saved: each move is made at the very moment at which it could be lost or doubled."""

from __future__ import annotations

import io
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from agent_bus.dead_letters import DeadLetter, DeadLetterBox
from agent_bus.layout import WorkerLayout
from agent_bus.messages import utc_now
from orchestrator_service.backups import taking
from orchestrator_service.backups.archive import ArchiveReader
from orchestrator_service.backups.queue_capture import QueueCapture
from orchestrator_service.backups.taking import BackupPlan, take_backup
from orchestrator_service.ledger.schema import migrate

Move = Callable[[], object]


@pytest.fixture(autouse=True)
def directories(layout: WorkerLayout) -> None:
    for path in (layout.triggers, layout.inflight / "i-1", layout.released, layout.results, layout.dead_letters):
        path.mkdir(parents=True)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A ledger of task `t` (never sent), and of the runs `open` and `ended`."""
    path = tmp_path / "ledger.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrate(connection)
        for number, (task_id, ended) in enumerate({"t": None, "open": None, "ended": 2.0}.items(), start=1):
            connection.execute(
                "INSERT INTO tasks (seq, task_id, state, lane, priority, origin, submitted_by, on_failure,"
                " submitted_at) VALUES (?, ?, 'ready', 'w', 50, 'api', 'admin', 'continue', 1)",
                (number, task_id),
            )
            if task_id != "t":
                connection.execute(
                    "INSERT INTO runs (wire_id, seq, number, worker, transport, sent_at, ended_at, budget_day)"
                    " VALUES (?, ?, 1, 'marie', 'file', 1, ?, '')",
                    (task_id, number, ended),
                )
    return path


def save(
    shared: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    ledger: Path,
    before_queues: Move | None = None,
    after_queues: Move | None = None,
    after_ledger: Move | None = None,
) -> set[str]:
    """Take a backup while things move; returns the queue's files, results and letters that are in it."""
    copy, take = taking.copy_ledger, QueueCapture.take

    def watched_take(capture: QueueCapture) -> object:
        if before_queues is not None:
            before_queues()
        found = take(capture)
        if after_queues is not None:
            after_queues()
        return found

    def watched_copy(path: Path, target: Path) -> object:
        found = copy(path, target)
        if after_ledger is not None:
            after_ledger()
        return found

    monkeypatch.setattr(QueueCapture, "take", watched_take)
    monkeypatch.setattr(taking, "copy_ledger", watched_copy)
    packed = io.BytesIO()
    plan = BackupPlan(shared=shared, ledger=ledger, scratch=shared.parent)
    take_backup(plan, packed, lambda files, size: None)
    paths = [entry.path for entry in ArchiveReader(io.BytesIO(packed.getvalue())).manifest().entries]
    return {path.removeprefix("shared/") for path in paths if path.startswith("shared/")}


def trigger(layout: WorkerLayout, task_id: str, body: str = '{"description": "x"}') -> Path:
    path = layout.triggers / f"task-{task_id}.trigger"
    path.write_text(body)
    return path


def claim(layout: WorkerLayout, task_id: str) -> Path:
    path = layout.inflight / "i-1" / f"1~u{task_id}~task-{task_id}.trigger"
    return trigger(layout, task_id).rename(path)


def answer(layout: WorkerLayout, task_id: str) -> None:
    layout.result(task_id).write_text(f'{{"task_id": "{task_id}"}}')


def letter(layout: WorkerLayout, path: Path, task_id: str | None, reason: str = "malformed") -> DeadLetter:
    told = DeadLetter(
        name="",
        original_name=path.name.rpartition("~")[2],
        reason=reason,
        message="no",
        worker="marie",
        instance="i-1",
        buried_at=utc_now(),
        task_id=task_id,
    )
    return DeadLetterBox(layout).bury(path, told)


def test_a_task_that_is_answered_meanwhile_has_its_answer_and_nothing_else(
    shared: Path, layout: WorkerLayout, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, waiting = claim(layout, "open"), trigger(layout, "b")

    def move() -> None:
        for task_id, path in {"open": held, "b": waiting}.items():
            answer(layout, task_id)
            path.unlink()

    found = save(shared, monkeypatch, ledger=ledger, after_queues=move)
    assert found == {"results/marie/open.json", "results/marie/b.json"}


def test_a_result_that_the_ledger_knows_is_in_however_late_it_came(
    shared: Path, layout: WorkerLayout, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = save(shared, monkeypatch, ledger=ledger, after_queues=lambda: answer(layout, "ended"))
    assert found == {"results/marie/ended.json"}


def test_a_result_of_a_task_that_the_ledger_will_send_is_left_out(
    shared: Path, layout: WorkerLayout, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def move() -> None:
        for task_id in ("t", "open+2", "direct"):
            answer(layout, task_id)

    assert save(shared, monkeypatch, ledger=ledger, after_ledger=move) == {"results/marie/direct.json"}


def test_a_task_that_is_claimed_or_given_back_meanwhile_is_in_once(
    shared: Path, layout: WorkerLayout, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, held = trigger(layout, "a"), claim(layout, "b")
    note = held.with_name("ub.note")
    note.write_text("{}")
    moves: dict[str, Move] = {
        # Whoever lists the triggers next finds the first one gone, and so on along the way.
        str(layout.triggers): lambda: waiting.rename(layout.inflight / "i-1" / "1~ua~task-a.trigger"),
        str(layout.inflight / "i-1"): lambda: [
            note.rename(layout.released / note.name),
            held.rename(layout.released / held.name),
        ],
    }
    listed = os.listdir

    def listing_then_move(path: str) -> list[str]:
        names = listed(path)
        if (move := moves.pop(path, None)) is not None:
            move()
        return names

    def begin() -> None:
        monkeypatch.setattr(os, "listdir", listing_then_move)

    found = save(shared, monkeypatch, ledger=ledger, before_queues=begin)
    assert not moves
    assert found == {
        "tasks/marie/inflight/i-1/1~ua~task-a.trigger",
        "tasks/marie/released/1~ub~task-b.trigger",
        "tasks/marie/released/ub.note",
    }


def test_a_task_that_is_set_aside_meanwhile_is_a_letter_and_nothing_else(
    shared: Path, layout: WorkerLayout, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = trigger(layout, "a", "{ no JSON")
    found = save(shared, monkeypatch, ledger=ledger, after_queues=lambda: letter(layout, bad, "a"))
    place = "tasks/marie/dead-letter/task-a.trigger"
    assert found == {place, f"{place}.reason.json"}


def test_a_duplicate_that_is_set_aside_takes_nothing_along(
    shared: Path, layout: WorkerLayout, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = claim(layout, "a")
    second = trigger(layout, "a")
    found = save(shared, monkeypatch, ledger=ledger, after_queues=lambda: letter(layout, second, "a", "duplicate"))
    assert f"tasks/marie/inflight/i-1/{held.name}" in found


def test_a_letter_that_is_replayed_meanwhile_is_in_once(
    shared: Path, layout: WorkerLayout, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = letter(layout, trigger(layout, "a"), "a")
    found = save(shared, monkeypatch, ledger=ledger, before_queues=lambda: DeadLetterBox(layout).replay(told))
    assert found == {"triggers/marie/task-a.trigger"}


def test_a_letter_that_is_replayed_behind_the_back_of_the_queues_is_still_in(
    shared: Path, layout: WorkerLayout, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = letter(layout, trigger(layout, "a"), "a")
    found = save(shared, monkeypatch, ledger=ledger, after_queues=lambda: DeadLetterBox(layout).replay(told))
    place = "tasks/marie/dead-letter/task-a.trigger"
    assert found == {place, f"{place}.reason.json"}


def test_a_task_that_was_taken_back_is_not_in_and_one_that_went_otherwise_is(
    shared: Path, layout: WorkerLayout, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [trigger(layout, task_id) for task_id in ("ended", "open")]
    found = save(shared, monkeypatch, ledger=ledger, after_queues=lambda: [path.unlink() for path in paths])
    assert found == {"triggers/marie/task-open.trigger"}


def test_a_half_written_trigger_that_is_whole_later_is_in_whole(
    shared: Path, layout: WorkerLayout, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = trigger(layout, "a", '{"descr')
    rounds = []

    def finish(shared: Path) -> list[str]:
        rounds.append(shared)
        if len(rounds) == 2:
            path.write_text('{"description": "x"}')
        return ["marie"]

    monkeypatch.setattr("orchestrator_service.backups.queue_capture.workers_of", finish)
    found = save(shared, monkeypatch, ledger=ledger)
    assert found == {"triggers/marie/task-a.trigger"}


def test_a_bell_whose_task_is_known_is_left_out(
    shared: Path, layout: WorkerLayout, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trigger(layout, "a", "")
    (layout.tasks / "a.json").write_text('{"description": "x"}')
    trigger(layout, "b", "")
    claim(layout, "c")
    trigger(layout, "c", "")
    found = save(shared, monkeypatch, ledger=ledger)
    assert found == {
        "tasks/marie/a.json",
        "triggers/marie/task-b.trigger",
        "tasks/marie/inflight/i-1/1~uc~task-c.trigger",
    }
