"""The shared directory as the orchestrator's way to its workers: what goes out, what comes back, what may go wrong."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from asyncinotify import Mask

from agent_bus.commands import Command, CommandName
from agent_bus.dead_letters import DeadLetter, DeadLetterBox
from agent_bus.errors import DeadLetterReason
from agent_bus.heartbeats import write_heartbeat
from agent_bus.layout import WorkerLayout
from agent_bus.messages import TaskStatus, encode_result, utc_now
from agent_bus.pipes import make_pipe, open_for_reading
from orchestrator_service.transports import file_news, file_tasks, watching
from orchestrator_service.transports.base import Place
from orchestrator_service.transports.files import FileTransport
from tests.integration.harness import ObedientAgent, quick_settings
from tests.integration.transport_harness import (
    KeepingEars,
    dispatch,
    made_beat,
    made_result,
    notify,
    put,
    put_result,
)
from tests.mounts import SmallDisk
from tests.waiting import async_wait_until
from worker_service.service import open_worker

RARELY_S = 600.0


def transport(
    shared: Path, *, rescan_s: float = RARELY_S, open_runs: list[tuple[str, str]] | None = None
) -> FileTransport:
    return FileTransport(shared, known=lambda: ["marie"], rescan_s=rescan_s, open_runs=lambda: open_runs or [])


@asynccontextmanager
async def listening(
    shared: Path,
    *,
    rescan_s: float = RARELY_S,
    open_runs: list[tuple[str, str]] | None = None,
    ears: KeepingEars | None = None,
) -> AsyncIterator[tuple[FileTransport, KeepingEars]]:
    """Open a transport with ears."""
    ears = ears or KeepingEars()
    files = transport(shared, rescan_s=rescan_s, open_runs=open_runs)
    async with files.open(ears):
        yield files, ears


# -- out


async def test_a_task_goes_to_its_worker_and_its_result_comes_back(shared: Path, layout: WorkerLayout) -> None:
    async with open_worker(quick_settings(shared), agent=ObedientAgent()), listening(shared) as (files, ears):
        assert await files.send([dispatch("7")]) == []
        result = await ears.result("7")
        assert (result.status, result.output, result.worker) == (TaskStatus.COMPLETED, "hello", "marie")
        await async_wait_until(lambda: ("file", "marie", "7") in ears.started, what="the start is told")
        assert await files.locate("marie", "7") is Place.ENDED
        assert (await files.result("marie", "7")) == result
        assert any(beat.instance == result.instance for _, beat in ears.beats)
        # The notice is cleared away once the result is stored.
        assert not (layout.orchestrator_triggers / "result-7.trigger").exists()


async def test_a_trigger_is_put_into_place_whole_and_one_that_lies_there_stays(
    shared: Path, layout: WorkerLayout
) -> None:
    files = transport(shared)
    assert await files.send([dispatch("1", "first"), dispatch("2")]) == []
    assert await files.send([dispatch("1", "second")]) == []
    assert sorted(os.listdir(layout.triggers)) == ["task-1.trigger", "task-2.trigger"]
    assert json.loads((layout.triggers / "task-1.trigger").read_bytes())["description"] == "first"


async def test_a_large_batch_gives_the_loop_back(shared: Path) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    assert await transport(shared).send([dispatch(str(number)) for number in range(2000)]) == []
    counting.cancel()
    assert turns > 3


async def test_a_full_disk_gives_a_sentence_and_leaves_nothing_behind(
    shared: Path, layout: WorkerLayout, small_disk: Callable[[Path, int], SmallDisk]
) -> None:
    layout.triggers.mkdir(parents=True)
    small_disk(layout.triggers, 64 * 1024)
    files = transport(shared)
    undelivered = await files.send([dispatch("big", "x" * 200_000), dispatch("small")])
    assert [one.dispatch.wire_id for one in undelivered] == ["big"]
    assert "task-big.trigger cannot be written: No space left on device; make room" in undelivered[0].reason
    assert os.listdir(layout.triggers) == ["task-small.trigger"]


async def test_a_directory_that_cannot_be_made_gives_a_sentence(shared: Path) -> None:
    (shared / "triggers").write_text("in the way")
    (undelivered,) = await transport(shared).send([dispatch("1")])
    assert "cannot be written: Not a directory" in undelivered.reason


async def test_a_waiting_task_is_withdrawn_once(shared: Path, layout: WorkerLayout) -> None:
    files = transport(shared)
    await files.send([dispatch("1")])
    assert await files.locate("marie", "1") is Place.WAITING
    assert await files.withdraw("marie", "1")
    assert not await files.withdraw("marie", "1")
    assert await files.locate("marie", "1") is Place.GONE
    assert os.listdir(layout.triggers) == []


async def test_a_task_that_was_given_back_is_withdrawn_with_its_note(shared: Path, layout: WorkerLayout) -> None:
    put(layout.released / "2~abc~task-1.trigger", b"{}")
    put(layout.released / "abc.note", b"{}")
    put(layout.released / "1~def~task-11.trigger", b"{}")
    files = transport(shared)
    assert await files.locate("marie", "1") is Place.WAITING
    assert await files.withdraw("marie", "1")
    assert os.listdir(layout.released) == ["1~def~task-11.trigger"]


async def test_a_claimed_task_cannot_be_withdrawn_even_beside_a_second_trigger(
    shared: Path, layout: WorkerLayout
) -> None:
    put(layout.inflight / "marie-1" / "1~abc~task-1.trigger", b"{}")
    files = transport(shared)
    assert await files.locate("marie", "1") is Place.TAKEN
    await files.send([dispatch("1")])
    assert not await files.withdraw("marie", "1")
    assert await files.locate("marie", "1") is Place.TAKEN


async def test_a_claim_that_changes_hands_while_it_is_looked_for_is_found(
    shared: Path, layout: WorkerLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, living = (layout.inflight / f"marie-{number}" for number in (1, 2))
    put(dead / "1~abc~task-1.trigger", b"{}")
    living.mkdir()

    read_names = file_tasks._names_in

    def names_in(folder: Path) -> list[str]:
        if Path(folder) == layout.inflight:
            return [living.name, dead.name]
        names = read_names(folder)
        if Path(folder) == living and not names:
            # The next worker takes over what the dead one held, right behind the look at its own folder.
            os.rename(dead / "1~abc~task-1.trigger", living / "2~abc~task-1.trigger")
        return names

    monkeypatch.setattr(file_tasks, "_names_in", names_in)
    assert await transport(shared).locate("marie", "1") is Place.TAKEN


async def test_a_claim_that_changes_hands_with_each_look_is_found_when_it_rests(
    shared: Path, layout: WorkerLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers that are killed one after the other, each as it has taken over what the last one held."""
    put(layout.inflight / "marie-0" / "0~abc~task-1.trigger", b"{}")
    read_names, handed_over = file_tasks._names_in, 0

    def names_in(folder: Path) -> list[str]:
        nonlocal handed_over
        names = read_names(folder)
        if Path(folder) == layout.inflight / f"marie-{handed_over}" and handed_over < 5:
            heir = layout.inflight / f"marie-{handed_over + 1}"
            heir.mkdir()
            os.rename(folder / names[0], heir / names[0])
            handed_over += 1
            names = []
        return names

    monkeypatch.setattr(file_tasks, "_names_in", names_in)
    assert await transport(shared).locate("marie", "1") is Place.TAKEN
    assert handed_over == 5


async def test_a_task_is_withdrawn_or_run_and_never_both(shared: Path, layout: WorkerLayout) -> None:
    withdrawn: set[str] = set()
    agent = ObedientAgent()
    files = transport(shared)
    settings = quick_settings(shared, MAX_CONCURRENT="4")
    async with open_worker(settings, agent=agent):
        for number in range(200):
            task_id = str(number)
            await files.send([dispatch(task_id)])
            # The worker's turn comes in one of the next turns of the loop: sometimes before, sometimes after.
            for _ in range(number % 8):
                await asyncio.sleep(0)
            if await files.withdraw("marie", task_id):
                withdrawn.add(task_id)
        await async_wait_until(lambda: len(agent.ended) + len(withdrawn) == 200, what="all are run or withdrawn")
    assert withdrawn and agent.started
    assert withdrawn.isdisjoint(agent.started)
    assert len(agent.started) == len(set(agent.started))


async def test_a_cancel_reaches_a_running_task(shared: Path) -> None:
    agent = ObedientAgent()
    async with open_worker(quick_settings(shared), agent=agent), listening(shared) as (files, ears):
        await files.send([dispatch("1", "hold")])
        await async_wait_until(lambda: agent.started, what="it runs")
        assert list(await files.running()) == ["1"]
        (holder,) = (await files.running())["1"]
        assert holder.startswith("marie/")
        assert await files.locate("marie", "1") is Place.TAKEN
        await files.cancel("marie", "1")
        assert (await ears.result("1")).status is TaskStatus.CANCELLED
        assert await files.running() == {}


async def test_what_was_set_aside_without_an_answer_is_told_as_failed(shared: Path, layout: WorkerLayout) -> None:
    box = DeadLetterBox(layout)
    for task_id, reason in (("1", DeadLetterReason.FOREIGN_OWNER), ("2", DeadLetterReason.DUPLICATE)):
        source = put(layout.triggers / f"task-{task_id}.trigger", b"{}")
        letter = DeadLetter(
            name="",
            original_name=source.name,
            reason=reason.value,
            message="it belongs to user id 7",
            worker="marie",
            instance="marie-1",
            buried_at=utc_now(),
        )
        box.bury(source, letter)
    async with listening(shared, open_runs=[("marie", "1"), ("marie", "2")]) as (files, ears):
        assert ears.ids == ["1"]
        result = ears.results[0].result
        assert result.error is not None and result.error.kind == "foreign_owner"
        assert await files.locate("marie", "1") is Place.ENDED
        assert await files.result("marie", "1") == result
        # A duplicate lies beside the one that counts.
        assert await files.locate("marie", "2") is Place.GONE


async def test_a_command_is_told_where_somebody_listens(shared: Path, layout: WorkerLayout) -> None:
    files = transport(shared)
    command = Command(name=CommandName.PAUSE)
    assert not await files.tell("marie", command)
    make_pipe(layout.control_pipe("marie"))
    assert not await files.tell("marie", command)
    reader = open_for_reading(layout.control_pipe("marie"))
    try:
        assert await files.tell("marie", command)
        assert json.loads(os.read(reader, 1000)) == {"command": "pause"}
    finally:
        os.close(reader)


async def test_holders_are_told_once_and_older_heartbeats_say_nothing(shared: Path, layout: WorkerLayout) -> None:
    old = made_beat(instance="marie-0", current_tasks=["1"])
    write_heartbeat_file(layout, old)
    async with listening(shared) as (files, ears):
        await async_wait_until(lambda: len(ears.beats) == 1)
        put(layout.inflight / "marie-1" / "1~abc~task-1.trigger", b"{}")
        put(layout.inflight / "marie-1" / "1~abd~odd.trigger", b'{"description": "x", "task_id": "odd-id"}')
        assert await files.running() == {"1": ["marie/marie-1"], "odd-id": ["marie/marie-1"]}
        write_heartbeat_file(layout, made_beat(instance="marie-1", current_tasks=["1"]))
        await async_wait_until(lambda: len(ears.beats) == 2)
        assert (await files.running())["1"] == ["marie/marie-1"]
        # Another one that says so after the task was taken runs it as well.
        later = utc_now() + timedelta(seconds=1)
        write_heartbeat_file(layout, made_beat(instance="marie-2", current_tasks=["1"], timestamp=later))
        await async_wait_until(lambda: len(ears.beats) == 3)
        assert (await files.running())["1"] == ["marie/marie-1", "marie/marie-2"]


def write_heartbeat_file(layout: WorkerLayout, beat: object) -> None:
    layout.heartbeats.mkdir(exist_ok=True)
    write_heartbeat(layout.heartbeat("marie"), beat)  # type: ignore[arg-type]


# -- in


async def test_all_that_is_there_is_told_before_the_block_begins(shared: Path, layout: WorkerLayout) -> None:
    for number in range(5000):
        put_result(layout, str(number))
        notify(layout, str(number))
    write_heartbeat_file(layout, made_beat())
    async with listening(shared) as (_, ears):
        assert sorted(ears.ids, key=int) == [str(number) for number in range(5000)]
        assert [beat.worker for _, beat in ears.beats] == ["marie"]
        assert os.listdir(layout.orchestrator_triggers) == []


async def test_the_loop_is_free_while_many_notices_are_looked_at(
    shared: Path, layout: WorkerLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(500):
        put_result(layout, str(number))
        notify(layout, str(number))
    # Every slice is over with its first notice.
    monkeypatch.setattr(file_news, "SLICE_S", 0.0)
    heard_by_turn = [0]
    ears = KeepingEars()
    files = transport(shared)

    async def count() -> None:
        while True:
            heard_by_turn.append(len(ears.results))
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    async with files.open(ears):
        counting.cancel()
    assert len(ears.results) == 500
    assert max(after - before for before, after in pairwise(heard_by_turn)) <= 2


async def test_a_result_that_nobody_sent_is_told_all_the_same(shared: Path, layout: WorkerLayout) -> None:
    async with listening(shared) as (_, ears):
        put_result(layout, "theirs")
        notify(layout, "theirs")
        assert (await ears.result("theirs")).output == "done"


async def test_a_result_without_a_notice_is_found_at_a_rescan(shared: Path, layout: WorkerLayout) -> None:
    runs = [("marie", "1")]
    async with listening(shared, rescan_s=0.05, open_runs=runs) as (_, ears):
        put_result(layout, "1")
        await ears.result("1")


async def test_the_path_in_a_notice_is_never_believed(shared: Path, layout: WorkerLayout, tmp_path: Path) -> None:
    outside = put(tmp_path / "outside.json", encode_result(made_result("1", "forged")))
    notices = layout.orchestrator_triggers
    lies = {
        "result-1.trigger": {"task_id": "1", "worker": "marie", "path": str(outside)},
        "result-2.trigger": {"task_id": "2", "worker": "../..", "path": str(outside)},
        "result-3.trigger": {"task_id": "../../outside", "worker": "marie", "path": str(outside)},
        "result-4.trigger": {"task_id": 4, "worker": ["marie"], "path": None},
        "result-5.trigger": ["no object"],
    }
    async with listening(shared) as (_, ears):
        for name, body in lies.items():
            put(notices / name, json.dumps(body).encode())
        put(notices / "result-6.trigger", b"\xff{")
        put_result(layout, "7")
        notify(layout, "7")
        await ears.result("7")
        assert ears.ids == ["7"]
        assert ears.broken == []


async def test_other_triggers_are_left_alone(shared: Path, layout: WorkerLayout) -> None:
    put(layout.orchestrator_triggers / "marie-error.trigger", b"{}")
    put(layout.orchestrator_triggers / "plan.trigger", b"do it")
    async with listening(shared) as (_, ears):
        assert ears.results == []
        assert sorted(os.listdir(layout.orchestrator_triggers)) == ["marie-error.trigger", "plan.trigger"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "is no result that this version understands"),
        (b'{"task_id": "1"}', "worker: Field required"),
        (encode_result(made_result("2")), "the result of another task, '2'"),
        (encode_result(made_result("1", worker="anga")), "comes from another worker, 'anga'"),
        (encode_result(made_result("1")).replace(b'"completed"', b'"transcended"'), "status: "),
    ],
)
async def test_a_result_that_cannot_be_understood_is_told_so_at_every_rescan(
    shared: Path, layout: WorkerLayout, body: bytes, words: str
) -> None:
    put(layout.result("1"), body)
    notify(layout, "1")
    async with listening(shared, rescan_s=0.05) as (files, ears):
        transport_name, worker, wire_id, reason = ears.broken[0]
        assert (transport_name, worker, wire_id) == ("file", "marie", "1")
        assert words in reason and str(layout.result("1")) in reason
        assert await files.result("marie", "1") is None
        await async_wait_until(lambda: len(ears.broken) > 1, what="it is told again")
        # Mended by hand.
        put_result(layout, "1")
        await ears.result("1")


async def test_a_symlinked_result_is_not_followed(shared: Path, layout: WorkerLayout, tmp_path: Path) -> None:
    outside = put(tmp_path / "outside.json", encode_result(made_result("1", "secret")))
    layout.results.mkdir(parents=True)
    layout.result("1").symlink_to(outside)
    async with listening(shared) as (files, ears):
        notify(layout, "1")
        await async_wait_until(lambda: ears.broken, what="it is told")
        assert "no plain file; links are not followed" in ears.broken[0][3]
        assert await files.result("marie", "1") is None


async def test_a_pipe_in_the_place_of_a_heartbeat_or_notice_blocks_nothing(shared: Path, layout: WorkerLayout) -> None:
    layout.heartbeats.mkdir()
    layout.orchestrator_triggers.mkdir(parents=True)
    os.mkfifo(layout.heartbeats / "anga-watcher.json")
    os.mkfifo(layout.orchestrator_triggers / "result-1.trigger")
    put_result(layout, "2")
    notify(layout, "2")
    async with listening(shared) as (_, ears):
        assert ears.ids == ["2"]


async def test_a_result_that_is_not_stored_is_told_again(shared: Path, layout: WorkerLayout) -> None:
    put_result(layout, "1")
    notify(layout, "1")
    async with listening(shared, rescan_s=0.05, ears=KeepingEars(stores=False)) as (_, ears):
        await async_wait_until(lambda: ears.ids.count("1") >= 3, what="it is told again")


async def test_a_notice_of_a_result_in_redis_is_left_and_looked_at_once(shared: Path, layout: WorkerLayout) -> None:
    notify(layout, "1")
    async with listening(shared, rescan_s=0.02) as (files, ears):
        assert files._news is not None
        assert files._news._empty.keys() == {"result-1.trigger"}
        # The same task gets a result as a file: its notice is another file then.
        put_result(layout, "1")
        notify(layout, "1")
        await ears.result("1")


async def test_heartbeats_are_told_as_they_come(shared: Path, layout: WorkerLayout) -> None:
    async with listening(shared) as (_, ears):
        write_heartbeat_file(layout, made_beat(queue_size=3))
        await async_wait_until(lambda: ears.beats, what="the heartbeat is told")
        write_heartbeat(layout.heartbeats / "anga-watcher.json", made_beat())
        write_heartbeat(layout.heartbeats / "orchestrator.json", made_beat("orchestrator"))
        (layout.heartbeats / "fabien-watcher.json").write_bytes(b"{")
        write_heartbeat(layout.heartbeats / "zoe-watcher.json", made_beat("zoe"))
        await async_wait_until(lambda: len(ears.beats) == 2, what="the second one is told")
        assert [(name, beat.worker) for name, beat in ears.beats] == [("file", "marie"), ("file", "zoe")]


async def test_a_worker_whose_directory_appears_later_is_heard_of(shared: Path) -> None:
    async with listening(shared) as (_, ears):
        layout = WorkerLayout.under(shared, "late")
        put(layout.event_journal("1"), b"")
        layout.event_journal("2").touch()
        await async_wait_until(lambda: ("file", "late", "2") in ears.started, what="the journal is told")


async def test_what_lies_among_the_journals_and_is_no_directory_disturbs_nothing(
    shared: Path, layout: WorkerLayout, tmp_path: Path
) -> None:
    put(shared / "events" / "notes.txt", b"")
    (shared / "events" / "nowhere").symlink_to(tmp_path / "nowhere")
    (tmp_path / "elsewhere").mkdir()
    (shared / "events" / "marie").symlink_to(tmp_path / "elsewhere")
    async with listening(shared) as (files, ears):
        assert "is watched" in files.findings()[0].text
        layout.event_journal("1").touch()
        await async_wait_until(lambda: ears.started == [("file", "marie", "1")], what="the start is told")


async def test_an_overflow_of_the_kernels_queue_is_made_up_for(shared: Path, layout: WorkerLayout) -> None:
    class Overflow:
        mask = Mask.Q_OVERFLOW
        watch = None
        name = None

    async with listening(shared, open_runs=[("marie", "1")]) as (files, ears):
        put_result(layout, "1")
        assert files._news is not None
        files._news._watching.report(Overflow())  # type: ignore[arg-type]
        await ears.result("1")


async def test_directories_that_are_removed_are_made_and_watched_again(shared: Path, layout: WorkerLayout) -> None:
    async with listening(shared) as (_, ears):
        layout.orchestrator_triggers.rmdir()
        await async_wait_until(layout.orchestrator_triggers.is_dir, what="it is there again")
        put_result(layout, "1")
        notify(layout, "1")
        await ears.result("1")


async def test_without_inotify_it_is_looked_every_second_and_said_so(
    shared: Path, layout: WorkerLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoInotify:
        def __init__(self, **_: object) -> None:
            raise OSError(24, "Too many open files")

    monkeypatch.setattr(watching, "Inotify", NoInotify)
    async with listening(shared) as (files, ears):
        (finding,) = files.findings()
        assert finding.well
        assert "every second, since inotify cannot be had (Too many open files)" in finding.text
        put_result(layout, "1")
        notify(layout, "1")
        await ears.result("1")
        # Once there is one again it is used.
        monkeypatch.undo()
        await async_wait_until(lambda: "is watched" in files.findings()[0].text, what="inotify is used again")
        put_result(layout, "2")
        notify(layout, "2")
        await ears.result("2")


async def test_a_file_system_whose_changes_are_not_told_is_looked_at_every_second(
    shared: Path, layout: WorkerLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a network file system: there are watches, and nothing comes of what others write.
    monkeypatch.setattr(watching.Watching, "report", lambda self, event: None)
    async with listening(shared, rescan_s=0.05) as (files, ears):
        beats = 0

        def is_deaf() -> bool:
            nonlocal beats
            if len(ears.beats) >= beats:
                beats += 1
                write_heartbeat_file(layout, made_beat(queue_size=beats))
            return "changes below" in files.findings()[0].text

        await async_wait_until(is_deaf, what="it is noticed")
        assert files.findings()[0].well
        monkeypatch.undo()
        write_heartbeat_file(layout, made_beat())
        await async_wait_until(lambda: "is watched" in files.findings()[0].text, what="the kernel is believed again")


async def test_a_directory_that_cannot_be_used_is_told_of(shared: Path) -> None:
    (shared / "heartbeats").write_text("in the way")
    async with listening(shared) as (files, _):
        (finding,) = files.findings()
        assert not finding.well
        assert f"{shared / 'heartbeats'} cannot be made: File exists" in finding.text


async def test_how_soon_a_result_is_heard_of(shared: Path, layout: WorkerLayout) -> None:
    taken: list[float] = []
    async with listening(shared) as (_, ears):
        for number in range(200):
            task_id = str(number)
            staged = put(layout.results / f".{task_id}", encode_result(made_result(task_id)))
            began = time.perf_counter()
            staged.rename(layout.result(task_id))
            notify(layout, task_id)
            heard = asyncio.Event()
            ears.on_result = lambda _, heard=heard: heard.set()  # type: ignore[misc]
            await heard.wait()
            taken.append(1000 * (time.perf_counter() - began))
    taken.sort()
    print(f"result in place -> heard: p50 {taken[100]:.2f} ms, p95 {taken[190]:.2f} ms")
