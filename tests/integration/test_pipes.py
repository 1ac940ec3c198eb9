"""The control and the status pipe, with real FIFOs: many writers, bad lines, floods, and readers that come and go."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agent_bus.layout import WorkerLayout
from agent_bus.messages import Event, TaskStatus, WorkerStatus, utc_now
from agent_bus.pipes import LONGEST_STATUS_LINE, PipeUnavailable, StatusPipe, make_pipe
from tests.integration.harness import ObedientAgent, Shop, child_worker, fetch, quick_settings
from tests.waiting import async_wait_until, wait_until
from worker_service.service import open_worker
from worker_service.wakeups import control_pipe


class Reader:
    """Reads a status pipe in a thread, as `cat` would."""

    def __init__(self, path: Path) -> None:
        self.lines: list[bytes] = []
        self._stop = threading.Event()
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        pending = b""
        while not self._stop.is_set():
            with suppress(BlockingIOError):
                *ended, pending = (pending + os.read(self._descriptor, 65_536)).split(b"\n")
                self.lines += ended
            self._stop.wait(0.002)

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in list(self.lines)]
        return [event for event in found if name in (None, event["event"])]

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        os.close(self._descriptor)


@pytest.fixture
def read_status(layout: WorkerLayout) -> Iterator[Callable[[], Reader]]:
    """Opens readers of marie's status pipe."""
    with contextlib.ExitStack() as readers:

        def make() -> Reader:
            reader = Reader(layout.status_pipe("marie"))
            readers.callback(reader.close)
            return reader

        yield make


def write(path: Path, data: bytes) -> None:
    """Write as a shell's `>` does: open, write, close."""
    with path.open("wb", buffering=0) as pipe:
        pipe.write(data)


def hooks(shared: Path, **environ: str) -> Any:
    return quick_settings(shared, WORKER_MODE="hooks", **environ)


async def answered(reader: Reader, command: str, number: int = 1) -> dict[str, Any]:
    """Wait for the answer to a command and return its data."""

    def find() -> list[dict[str, Any]]:
        found = [event["data"] for event in reader.events("answer") if event["data"]["command"] == command]
        return found if len(found) >= number else []

    return (await async_wait_until(find, what=f"answer to {command}"))[number - 1]


async def refused(reader: Reader, words: str) -> str:
    """Wait for an error that contains the words."""

    def find() -> list[str]:
        return [event["data"]["message"] for event in reader.events("error") if words in event["data"]["message"]]

    return (await async_wait_until(find, what=f"error with {words!r}"))[0]


# -- commands


async def test_a_shell_asks_and_is_answered(
    shared: Path, shop: Shop, layout: WorkerLayout, read_status: Callable[[], Reader]
) -> None:
    async with open_worker(hooks(shared), ObedientAgent()):
        reader = read_status()
        asked = await asyncio.create_subprocess_shell(f"echo status > '{layout.control_pipe('marie')}'")
        assert await asked.wait() == 0
        answer = await answered(reader, "status")
    assert answer["ok"]
    assert answer["status"]["mode"] == "hooks"
    assert answer["status"]["bells"] == ["inotify", "interval", "pipe"]
    assert answer["status"]["slots"] == 5


async def test_the_pipes_are_fifos_for_owner_and_group_whatever_the_umask(shared: Path, layout: WorkerLayout) -> None:
    before = os.umask(0o077)
    try:
        async with open_worker(hooks(shared), ObedientAgent()):
            for path in (layout.control_pipe("marie"), layout.status_pipe("marie")):
                mode = path.stat().st_mode
                assert stat.S_ISFIFO(mode)
                assert stat.S_IMODE(mode) == 0o660
    finally:
        os.umask(before)


async def test_modes_without_hooks_have_no_pipes(shared: Path, layout: WorkerLayout) -> None:
    async with open_worker(quick_settings(shared), ObedientAgent()) as worker:
        assert worker.bells == ["inotify", "interval"]
    assert not layout.pipes.exists()


async def test_pause_and_resume(
    shared: Path, shop: Shop, layout: WorkerLayout, read_status: Callable[[], Reader]
) -> None:
    agent = ObedientAgent()
    async with open_worker(hooks(shared), agent) as worker:
        reader = read_status()
        write(layout.control_pipe("marie"), b"pause\n")
        await answered(reader, "pause")
        assert worker.pulse.status is WorkerStatus.PAUSED
        status, text = await fetch(worker.http_port, "/readyz")
        assert (status, "it is paused" in text) == (503, True)
        shop.submit("7")
        # What comes while it is paused is seen and left where it is.
        await async_wait_until(lambda: worker.queue.depth() == 1)
        assert agent.started == []
        write(layout.control_pipe("marie"), b'{"command": "resume", "id": "mine"}\n')
        assert (await answered(reader, "resume"))["id"] == "mine"
        await shop.async_result("7")
        assert (await fetch(worker.http_port, "/readyz"))[0] == 200


async def test_cancel_finds_running_and_waiting_tasks(
    shared: Path, shop: Shop, layout: WorkerLayout, read_status: Callable[[], Reader]
) -> None:
    async with open_worker(hooks(shared, MAX_CONCURRENT="1"), agent := ObedientAgent()):
        reader = read_status()
        shop.submit("first", "hold")
        await async_wait_until(lambda: agent.started == ["first"])
        shop.submit("second")
        write(layout.control_pipe("marie"), b"cancel second\ncancel first\ncancel third\n")
        assert (await answered(reader, "cancel", 1))["found"] == "waiting"
        assert (await answered(reader, "cancel", 2))["found"] == "running"
        third = await answered(reader, "cancel", 3)
        assert (third["ok"], third["message"]) == (False, "no task third runs or waits here")
        for task_id in ("first", "second"):
            assert (await shop.async_result(task_id)).status is TaskStatus.CANCELLED
    assert agent.started == ["first"]


async def test_wake_finds_what_no_event_has_named(
    shared: Path, shop: Shop, layout: WorkerLayout, read_status: Callable[[], Reader]
) -> None:
    settings = hooks(shared, RESCAN_INTERVAL="600")
    async with open_worker(settings, ObedientAgent()) as worker:
        reader = read_status()
        await async_wait_until(lambda: worker.probe_age_s() is not None)
        worker.files.watcher._watch = None
        worker.files.queue.intake.notice = lambda *args, **kwargs: None  # type: ignore[method-assign]
        shop.submit("7")
        await async_wait_until(lambda: worker.bell.rings["inotify"] > 0)
        del worker.files.queue.intake.notice
        write(layout.control_pipe("marie"), b"wake\n")
        await answered(reader, "wake")
        await shop.async_result("7")


@pytest.mark.parametrize("word", ["drain", "shutdown"])
def test_drain_and_shutdown_end_the_process(shared: Path, shop: Shop, layout: WorkerLayout, word: str) -> None:
    with child_worker(shared, WORKER_MODE="hooks", AGENT="command", AGENT_COMMAND="sleep 30") as worker:
        worker.port()
        write(layout.control_pipe("marie"), word.encode() + b"\n")
        assert worker.wait() == 0
        beat = worker.heartbeat()
        assert beat is not None
        assert beat.status is WorkerStatus.STOPPED


def test_a_drain_waits_as_long_as_its_tasks_take(
    shared: Path, shop: Shop, layout: WorkerLayout, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    command = f"sh -c 'cat {gate}'"
    environ = {"AGENT": "command", "AGENT_COMMAND": command, "SHUTDOWN_GRACE": "0"}
    with child_worker(shared, WORKER_MODE="hooks", **environ) as worker:
        worker.port()
        shop.submit("7")
        wait_until(shop.claims)
        write(layout.control_pipe("marie"), b"drain\n")
        wait_until(lambda: (beat := worker.heartbeat()) and beat.status is WorkerStatus.DRAINING)
        write(gate, b"took its time")
        assert worker.wait() == 0
    result = shop.result("7")
    assert result is not None
    assert result.output == "took its time"


def test_a_signal_shortens_a_drain(shared: Path, shop: Shop, layout: WorkerLayout) -> None:
    environ = {"AGENT": "command", "AGENT_COMMAND": "sleep 600", "SHUTDOWN_GRACE": "0.2"}
    with child_worker(shared, WORKER_MODE="hooks", **environ) as worker:
        worker.port()
        shop.submit("7")
        wait_until(shop.claims)
        write(layout.control_pipe("marie"), b"drain\n")
        wait_until(lambda: (beat := worker.heartbeat()) and beat.status is WorkerStatus.DRAINING)
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    assert shop.result("7") is None
    assert len(list(layout.released.glob("*~*"))) == 1


# -- writers and lines


async def test_writers_come_and_go_and_a_line_may_come_in_pieces(
    shared: Path, layout: WorkerLayout, read_status: Callable[[], Reader]
) -> None:
    path = layout.control_pipe("marie")
    async with open_worker(hooks(shared), ObedientAgent()) as worker:
        reader = read_status()
        with path.open("wb", buffering=0) as one, path.open("wb", buffering=0) as other:
            one.write(b"sta")
            await async_wait_until(lambda: worker.pipes and worker.pipes._control._partial == b"sta")
            one.write(b"tus\n")
            await answered(reader, "status", 1)
            other.write(b"status\nstatus\n")
            await answered(reader, "status", 3)
        for number in range(4, 24):
            write(path, b"status\n")
            await answered(reader, "status", number)
    assert reader.events("error") == []


BAD_LINES = [
    (b"dance\n", "'dance' is no command"),
    (b"[1, 2]\n", "is JSON, but no object"),
    (b'{"command": \n', "is not JSON"),
    (b"\x00\xff\xfe\n", "is not UTF-8"),
    (b"x" * 1_000_000 + b"\n", "more than 65536 bytes"),
    (b'{"command": "cancel", "task_id": 7}\n', "cancel needs"),
    (b"status", "its writer left before the line's end"),
]


@pytest.mark.parametrize(("line", "words"), BAD_LINES)
async def test_a_bad_line_is_answered_and_the_next_good_one_works(
    shared: Path, layout: WorkerLayout, read_status: Callable[[], Reader], line: bytes, words: str
) -> None:
    path = layout.control_pipe("marie")
    async with open_worker(hooks(shared), ObedientAgent()):
        reader = read_status()
        await asyncio.to_thread(write, path, line)
        await refused(reader, words)
        write(path, b"status\n")
        await answered(reader, "status")
    assert len(reader.events("error")) == 1


async def test_a_line_whose_writer_forgets_it_is_dropped_in_time(
    shared: Path, layout: WorkerLayout, read_status: Callable[[], Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_pipe, "_UNENDED_S", 0.05)
    path = layout.control_pipe("marie")
    async with open_worker(hooks(shared), ObedientAgent()):
        reader = read_status()
        with path.open("wb", buffering=0) as forgetful:
            forgetful.write(b"stat")
            await refused(reader, "its end did not come")
            forgetful.write(b"status\n")
            await answered(reader, "status")


async def test_a_flood_leaves_the_worker_to_its_tasks(
    shared: Path, shop: Shop, layout: WorkerLayout, read_status: Callable[[], Reader]
) -> None:
    path = layout.control_pipe("marie")
    async with open_worker(hooks(shared), ObedientAgent()) as worker:
        flood = asyncio.create_task(asyncio.to_thread(write, path, b"nonsense\nwake\n" * 50_000))
        await async_wait_until(lambda: worker.pipes and worker.pipes._control._lines.is_behind)
        shop.submit("7")
        await shop.async_result("7")
        assert (await fetch(worker.http_port, "/healthz"))[0] == 200
        assert not flood.done(), "the flood was over before the task: nothing is proven"
        await asyncio.wait_for(flood, 60)
        await async_wait_until(lambda: worker.bell.rings["control"] == 50_000, 60)
        await async_wait_until(lambda: worker.pipes and worker.pipes.drops["no_reader"] >= 100_000)
        reader = read_status()
        write(path, b"status\n")
        await answered(reader, "status")


# -- what has a pipe's name


@pytest.mark.parametrize("name", ["marie-control", "marie-status"])
@pytest.mark.parametrize(
    ("kind", "word"), [("file", "an ordinary file"), ("link", "a symbolic link"), ("folder", "a directory")]
)
def test_something_else_of_a_pipes_name_stops_the_start_with_a_sentence(
    shared: Path, layout: WorkerLayout, tmp_path: Path, name: str, kind: str, word: str
) -> None:
    layout.pipes.mkdir(parents=True)
    path = layout.pipes / name
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    with child_worker(shared, WORKER_MODE="hooks") as worker:
        assert worker.wait() == 2
    said = worker.output().strip().splitlines()[-1]
    assert said == f"worker_service: {path} is {word}, not a named pipe; remove it or set PIPE_DIR"
    if kind == "file":
        assert path.read_text() == "precious"


async def test_a_left_over_pipe_is_used(shared: Path, layout: WorkerLayout, read_status: Callable[[], Reader]) -> None:
    for path in (layout.control_pipe("marie"), layout.status_pipe("marie")):
        make_pipe(path)
    inode = layout.control_pipe("marie").stat().st_ino
    async with open_worker(hooks(shared), ObedientAgent()):
        reader = read_status()
        write(layout.control_pipe("marie"), b"status\n")
        await answered(reader, "status")
    assert layout.control_pipe("marie").stat().st_ino == inode


async def test_pipes_that_somebody_removed_are_made_again(
    shared: Path, layout: WorkerLayout, read_status: Callable[[], Reader]
) -> None:
    async with open_worker(hooks(shared), ObedientAgent()) as worker:
        first = read_status()
        write(layout.control_pipe("marie"), b"status\n")
        await answered(first, "status")
        for path in (layout.control_pipe("marie"), layout.status_pipe("marie")):
            path.unlink()
        layout.control_pipe("marie").write_text("")
        worker.pulse.beat()
        assert worker.pipes is not None
        assert worker.pipes.trouble is not None
        assert "pipe" not in worker.bells
        layout.control_pipe("marie").unlink()
        worker.pulse.beat()
        assert "pipe" in worker.bells
        second = read_status()
        write(layout.control_pipe("marie"), b"status\n")
        await answered(second, "status")


# -- the status pipe


def event(text: str) -> Event:
    return Event(event="text", timestamp=utc_now(), worker="marie", data={"text": text, "more": {"a": [text] * 50}})


def test_no_reader_and_a_slow_one_cost_lines_and_no_time(tmp_path: Path) -> None:
    make_pipe(tmp_path / "status")
    pipe = StatusPipe(tmp_path / "status")
    small = b'{"event": "x"}'
    pipe.tell(event("x"), small)
    assert pipe.drops == {"no_reader": 1}
    reader = os.open(tmp_path / "status", os.O_RDONLY | os.O_NONBLOCK)
    for _ in range(10_000):
        pipe.tell(event("x"), small)
    assert pipe.drops["slow_reader"] > 1000
    taken = 10_000 - pipe.drops["slow_reader"]
    assert os.read(reader, 10_000_000) == (small + b"\n") * taken
    os.close(reader)
    pipe.tell(event("x"), small)
    assert pipe.drops["no_reader"] == 2
    reader = os.open(tmp_path / "status", os.O_RDONLY | os.O_NONBLOCK)
    pipe.tell(event("x"), small)
    assert os.read(reader, 1000) == small + b"\n"
    os.close(reader)
    pipe.close()


def test_a_long_event_is_shortened_to_what_the_kernel_takes_whole(tmp_path: Path) -> None:
    make_pipe(tmp_path / "status")
    pipe = StatusPipe(tmp_path / "status")
    reader = os.open(tmp_path / "status", os.O_RDONLY | os.O_NONBLOCK)
    for text in ("x" * 3000, "y" * 1_000_000, "é" * 5000, "\x00" * 5000):
        long = event(text)
        pipe.tell(long, long.model_dump_json().encode())
        line = os.read(reader, 1_000_000)
        assert len(line) <= LONGEST_STATUS_LINE
        assert json.loads(line)["data"]["shortened"] is True
    os.close(reader)
    pipe.close()


def test_a_pipe_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PipeUnavailable, match="cannot be made: File exists; mend the directory"):
        make_pipe(tmp_path / "file" / "status")


async def test_what_a_task_does_is_told_while_it_happens(
    shared: Path, shop: Shop, read_status: Callable[[], Reader]
) -> None:
    async with open_worker(hooks(shared), ObedientAgent()):
        reader = read_status()
        shop.submit("7", "fail on purpose")
        shop.drop("note.trigger", b"hello")
        shop.drop("bad.trigger", b'{"description": 7}')
        await async_wait_until(lambda: len(reader.events("dead_letter")) == 1 and reader.events("task_ended"))
        await async_wait_until(lambda: reader.events("trigger"))
    told = [found["event"] for found in reader.events() if found["task_id"] == "7"]
    assert told == ["task_started", "prompt", "hook", "task_ended"]
    assert reader.events("hook")[0]["data"]["hook"] == "OnError"
    assert reader.events("task_ended")[0]["data"]["error"]["kind"] == "agent_error"
    assert reader.events("trigger")[0]["data"] == {"name": "note.trigger", "body": "hello"}
