from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_bus.dead_letters import REASON_SUFFIX, DeadLetter, DeadLetterBox, DeadLetterError
from agent_bus.layout import WorkerLayout
from agent_bus.messages import Result, TaskStatus, utc_now
from tests.mounts import SmallDisk


def letter(name: str, task_id: str | None = None, reason: str = "malformed") -> DeadLetter:
    return DeadLetter(
        name="",
        original_name=name,
        reason=reason,
        message="why",
        worker="marie",
        instance="i",
        buried_at=utc_now(),
        task_id=task_id,
    )


@pytest.fixture
def box(layout: WorkerLayout) -> DeadLetterBox:
    """An empty box with its worker's directories."""
    for path in (layout.triggers, layout.results, layout.tasks):
        path.mkdir(parents=True)
    return DeadLetterBox(layout)


def bury(box: DeadLetterBox, name: str, body: bytes = b"x", **fields: str) -> DeadLetter:
    source = box.layout.triggers / name
    source.write_bytes(body)
    return box.bury(source, letter(name, **fields))


def write_result(box: DeadLetterBox, task_id: str, status: TaskStatus) -> Path:
    now = utc_now()
    path = box.layout.result(task_id)
    result = Result(task_id=task_id, worker="marie", instance="i", status=status, completed_at=now, timestamp=now)
    path.write_text(result.model_dump_json())
    return path


def test_a_buried_file_lies_beside_its_reason(box: DeadLetterBox) -> None:
    buried = bury(box, "a.trigger", b"body", task_id="7")
    assert (box.layout.dead_letters / "a.trigger").read_bytes() == b"body"
    reason = DeadLetter.model_validate_json((box.layout.dead_letters / f"a.trigger{REASON_SUFFIX}").read_bytes())
    assert reason == buried == box.find("7") == box.find("a.trigger")


def test_letters_of_one_name_do_not_overwrite_each_other(box: DeadLetterBox) -> None:
    names = {bury(box, "a.trigger", str(number).encode()).name for number in range(5)}
    assert len(names) == 5
    assert [found.original_name for found in box.letters()] == ["a.trigger"] * 5
    assert {(box.layout.dead_letters / name).read_bytes() for name in names} == {b"0", b"1", b"2", b"3", b"4"}


def test_a_long_name_is_cut_and_still_unique(box: DeadLetterBox) -> None:
    first, second = bury(box, "ä" * 100 + ".trigger"), bury(box, "ä" * 101 + ".trigger")
    assert first.name != second.name
    assert len(list(box.letters())) == 2


def test_a_name_that_is_no_text_gets_one(box: DeadLetterBox) -> None:
    name = os.fsdecode(b"\xff\xfe.trigger")
    source = box.layout.triggers / name
    source.write_bytes(b"x")
    buried = box.bury(source, letter(os.fsencode(name).decode("utf-8", "replace")))
    assert buried.name == "__.trigger"
    assert len(list(box.letters())) == 1


def test_a_file_that_is_gone_leaves_no_reason(box: DeadLetterBox) -> None:
    with pytest.raises(FileNotFoundError):
        box.bury(box.layout.triggers / "gone.trigger", letter("gone.trigger"))
    assert os.listdir(box.layout.dead_letters) == []


def test_of_two_workers_that_bury_the_same_file_the_slower_does_not_take_the_reason(box: DeadLetterBox) -> None:
    source = box.layout.triggers / "a.trigger"
    source.write_bytes(b"x")

    def overtaken(path: str, target: str) -> None:
        box.bury(source, letter("a.trigger"))
        os.rename(path, target)

    with pytest.raises(FileNotFoundError):
        DeadLetterBox(box.layout, overtaken).bury(source, letter("a.trigger"))
    found = list(box.letters())
    assert len(found) == 1
    assert (box.layout.dead_letters / found[0].name).read_bytes() == b"x"
    assert len(os.listdir(box.layout.dead_letters)) == 2


def test_a_replayed_letter_is_a_trigger_again(box: DeadLetterBox) -> None:
    path = box.replay(bury(box, "task-7.trigger", b"body", task_id="7"))
    assert path == box.layout.triggers / "task-7.trigger"
    assert path.read_bytes() == b"body"
    assert os.listdir(box.layout.dead_letters) == []


def test_a_replayed_task_file_comes_back_as_a_trigger(box: DeadLetterBox) -> None:
    assert box.replay(bury(box, "7.json")).name == "task-7.trigger"


def test_replaying_sets_the_failed_result_aside(box: DeadLetterBox) -> None:
    write_result(box, "7", TaskStatus.FAILED)
    box.replay(bury(box, "task-7.trigger", task_id="7"))
    assert not box.layout.result("7").exists()
    assert len(os.listdir(box.layout.results / "superseded")) == 1


def test_a_completed_task_is_not_replayed(box: DeadLetterBox) -> None:
    buried = bury(box, "task-7.trigger", task_id="7")
    path = write_result(box, "7", TaskStatus.COMPLETED)
    with pytest.raises(DeadLetterError, match="has completed"):
        box.replay(buried)
    assert path.exists()
    assert box.find("7")


def test_replaying_does_not_overwrite_a_waiting_trigger(box: DeadLetterBox) -> None:
    buried = bury(box, "a.trigger", b"old")
    (box.layout.triggers / "a.trigger").write_bytes(b"new")
    with pytest.raises(DeadLetterError, match="there already"):
        box.replay(buried)
    assert (box.layout.triggers / "a.trigger").read_bytes() == b"new"


def test_a_replay_that_is_refused_changes_nothing(box: DeadLetterBox) -> None:
    path = write_result(box, "7", TaskStatus.FAILED)
    buried = bury(box, "task-7.trigger", task_id="7")
    (box.layout.triggers / "task-7.trigger").write_bytes(b"new")
    with pytest.raises(DeadLetterError):
        box.replay(buried)
    assert path.exists()


def test_a_dropped_letter_is_gone(box: DeadLetterBox) -> None:
    box.drop(bury(box, "a.trigger"))
    assert os.listdir(box.layout.dead_letters) == []
    (box.layout.triggers / "d.trigger").mkdir()
    box.drop(box.bury(box.layout.triggers / "d.trigger", letter("d.trigger")))
    assert os.listdir(box.layout.dead_letters) == []


def test_what_is_not_there_is_said(box: DeadLetterBox) -> None:
    with pytest.raises(DeadLetterError, match="No dead letter 'x'"):
        box.find("x")
    assert list(box.letters()) == []


def test_a_letter_cannot_name_a_file_elsewhere(box: DeadLetterBox) -> None:
    victim = box.layout.results / "precious"
    victim.write_bytes(b"x")
    forged = letter("x").model_copy(update={"name": "../../../results/marie/precious"})
    bury(box, f"evil{REASON_SUFFIX}", forged.model_dump_json().encode())
    assert [found.original_name for found in box.letters()] == [f"evil{REASON_SUFFIX}"]


@pytest.mark.parametrize("status", [TaskStatus.CANCELLED, TaskStatus.TIMED_OUT])
def test_only_a_failed_result_is_set_aside(box: DeadLetterBox, status: TaskStatus) -> None:
    buried = bury(box, "task-7.trigger", task_id="7")
    path = write_result(box, "7", status)
    with pytest.raises(DeadLetterError, match="only a failed one"):
        box.replay(buried)
    assert path.exists()
    assert box.find("7")


def test_a_letter_goes_back_to_triggers_on_another_mount(
    layout: WorkerLayout, small_disk: Callable[[Path, int], SmallDisk]
) -> None:
    small_disk(layout.triggers, 65_536)
    for path in (layout.results, layout.dead_letters):
        path.mkdir(parents=True)
    box = DeadLetterBox(layout)
    (layout.dead_letters / "staged").write_bytes(b"body")
    buried = box.bury(layout.dead_letters / "staged", letter("task-7.trigger", task_id="7"))
    write_result(box, "7", TaskStatus.FAILED)
    assert box.replay(buried).read_bytes() == b"body"
    assert os.listdir(layout.dead_letters) == []


def test_a_letter_that_cannot_go_back_keeps_its_result(
    layout: WorkerLayout, small_disk: Callable[[Path, int], SmallDisk]
) -> None:
    disk = small_disk(layout.triggers, 65_536)
    for path in (layout.results, layout.dead_letters):
        path.mkdir(parents=True)
    box = DeadLetterBox(layout)
    (layout.dead_letters / "staged").write_bytes(b"body")
    buried = box.bury(layout.dead_letters / "staged", letter("task-7.trigger", task_id="7"))
    path = write_result(box, "7", TaskStatus.FAILED)
    disk.fill()
    with pytest.raises(DeadLetterError, match="No space left"):
        box.replay(buried)
    assert path.exists()
    assert box.find("7")
