"""Every bad thing that can be put into a queue's directory is set aside with its reason, and the worker goes on."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_bus.errors import DeadLetterReason as Reason
from agent_bus.messages import TaskStatus
from agent_bus.ownership import InstanceDirectory
from tests.conftest import needs_root
from tests.integration.harness import ChildWorker, ObedientAgent, Shop, child_worker, quick_settings
from tests.mounts import SmallDisk
from tests.waiting import async_wait_until, wait_until
from worker_service.service import open_worker


def task(**fields: object) -> bytes:
    return json.dumps({"description": "x", **fields}).encode()


BODIES: dict[str, tuple[str, bytes, Reason, str | None]] = {
    "half JSON": ("task-7.trigger", b'{"description": "x', Reason.MALFORMED, "7"),
    "blank task file": ("7.json", b"  ", Reason.MALFORMED, "7"),
    "empty, no task file": ("task-7.trigger", b"", Reason.TASK_FILE_MISSING, "7"),
    "an array": ("task-7.trigger", b"[1]", Reason.MALFORMED, "7"),
    "wrong type": ("task-7.trigger", task(description=5), Reason.INVALID_TASK, "7"),
    "wrong types everywhere": ("task-7.trigger", task(priority={}, metadata=1, session=[]), Reason.INVALID_TASK, "7"),
    "no description": ("task-7.trigger", b"{}", Reason.INVALID_TASK, "7"),
    "2 MB of text": ("task-7.trigger", b"x" * 2_000_000, Reason.TOO_LARGE, "7"),
    "2 MB of task": ("7.json", task(description="x" * 2_000_000), Reason.TOO_LARGE, "7"),
    "binary": ("task-7.trigger", bytes(range(256)), Reason.MALFORMED, "7"),
    "binary event": ("event.trigger", b"\x89PNG\r\n\x1a\n\xff", Reason.MALFORMED, None),
    "NUL bytes": ("task-7.trigger", b'{"description": "a\0b"}', Reason.MALFORMED, "7"),
    "nesting": ("task-7.trigger", b'{"a":' * 3000 + b"1" + b"}" * 3000, Reason.MALFORMED, "7"),
    "id with a slash": ("a.trigger", task(task_id="a/b"), Reason.INVALID_TASK, None),
    "id that climbs": ("a.trigger", task(task_id="../../../etc/x"), Reason.INVALID_TASK, None),
    "dots": ("a.trigger", task(task_id=".."), Reason.INVALID_TASK, None),
    "id of 5,000 characters": ("a.trigger", task(task_id="x" * 5000), Reason.INVALID_TASK, None),
    "another worker's": ("task-7.trigger", task(worker="anga"), Reason.WRONG_WORKER, "7"),
    "odd dependency": ("task-7.trigger", task(dependencies=[{"id": 1}]), Reason.INVALID_TASK, "7"),
    "dependencies no list": ("task-7.trigger", task(dependencies="6"), Reason.INVALID_TASK, "7"),
    "negative timeout": ("task-7.trigger", task(timeout=-5), Reason.INVALID_TASK, "7"),
    "nameless and invalid": ("a.trigger", task(description=5), Reason.INVALID_TASK, None),
    "nameless and another worker's": ("a.trigger", task(worker="anga"), Reason.WRONG_WORKER, None),
    "long name": ("task-" + "x" * 220 + ".trigger", task(), Reason.BAD_NAME, None),
}


async def check_set_aside(shop: Shop, name: str, reason: Reason, task_id: str | None) -> None:
    letter = await shop.async_letter(name)
    assert letter.reason == reason
    assert letter.message
    assert letter.name in [path.name for path in shop.layout.dead_letters.iterdir()]
    if task_id is not None:
        result = await shop.async_result(task_id)
        assert result.error is not None
        assert (result.status, result.error.kind) == (TaskStatus.FAILED, reason)
    shop.submit("good")
    assert (await shop.async_result("good")).status is TaskStatus.COMPLETED
    assert shop.result_ids() == {"good"} | ({task_id} if task_id else set())
    assert not list(shop.layout.triggers.iterdir()) or [path.name[0] for path in shop.layout.triggers.iterdir()] == [
        "."
    ]


@pytest.mark.parametrize("case", BODIES)
async def test_bad_content_is_set_aside(shared: Path, shop: Shop, case: str) -> None:
    name, body, reason, task_id = BODIES[case]
    folder = shop.layout.tasks if name.endswith(".json") else shop.layout.triggers
    async with open_worker(quick_settings(shared)):
        (folder / name).write_bytes(body)
        await check_set_aside(shop, name, reason, task_id)


def make_symlink(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def make_dangling_symlink(path: Path) -> None:
    path.symlink_to("nowhere")


def make_socket(path: Path) -> None:
    folder = os.open(path.parent, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            # The address of a socket has room for 107 characters, and the path of a test's directory may have more.
            listener.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def make_full_directory(path: Path) -> None:
    path.mkdir()
    (path / "inner").write_bytes(b"x")


MAKERS: list[Callable[[Path], None]] = [
    make_symlink,
    make_dangling_symlink,
    os.mkfifo,
    Path.mkdir,
    make_full_directory,
    make_socket,
]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("at_start", [True, False], ids=["waiting", "arriving"])
async def test_what_is_no_plain_file_is_set_aside(
    shared: Path, shop: Shop, make: Callable[[Path], None], at_start: bool
) -> None:
    if at_start:
        make(shop.layout.triggers / "x.trigger")
    async with open_worker(quick_settings(shared)):
        if not at_start:
            make(shop.layout.triggers / "x.trigger")
        await check_set_aside(shop, "x.trigger", Reason.NOT_A_FILE, None)
    assert stat.S_ISREG(os.stat("/etc/passwd").st_mode)


async def test_a_name_that_is_no_text_runs_under_a_made_up_id(shared: Path, shop: Shop) -> None:
    async with open_worker(quick_settings(shared)):
        (shop.layout.triggers / os.fsdecode(b"\xff\xfe.trigger")).write_bytes(task())
        (shop.layout.triggers / os.fsdecode(b"\xfe\xff.trigger")).write_bytes(b'{"description": 1}')
        await async_wait_until(lambda: len(shop.result_ids()) == 1 and len(shop.letters()) == 1)
        assert shop.letters()[0].task_id is None


@needs_root
async def test_a_strangers_file_is_set_aside(shared: Path, shop: Shop) -> None:
    async with open_worker(quick_settings(shared)):
        path = shared / "x"
        path.write_bytes(task())
        os.chown(path, 12345, 12345)
        path.rename(shop.layout.triggers / "task-7.trigger")
        letter = await shop.async_letter("task-7.trigger")
        assert letter.reason == Reason.FOREIGN_OWNER
        assert "12345" in letter.message


@needs_root
async def test_a_strangers_file_is_taken_where_that_is_allowed(shared: Path, shop: Shop) -> None:
    async with open_worker(quick_settings(shared, TRIGGER_OWNERS="12345")):
        path = shared / "x"
        path.write_bytes(task())
        os.chown(path, 12345, 12345)
        path.rename(shop.layout.triggers / "task-7.trigger")
        await shop.async_result("7")


# Root may read everything; without two of its capabilities it reads what it owns, wherever Python and the checkout lie.
WITHOUT_ROOTS_EYES = """
import ctypes, sys
header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
libc = ctypes.CDLL(None, use_errno=True)
assert libc.capget(header, sets) == 0
for number in range(3):
    sets[number] &= ~(1 << 1 | 1 << 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
assert libc.capset(header, sets) == 0
from worker_service.run import main
sys.argv = ["worker_service", "marie"]
sys.exit(main())
"""


class ShortSightedWorker(ChildWorker):
    """One that may not read the files of others."""

    program = ("-c", WITHOUT_ROOTS_EYES)


@needs_root
def test_a_file_one_may_not_read_is_set_aside(shared: Path, shop: Shop) -> None:
    with child_worker(shared, ShortSightedWorker, TRIGGER_OWNERS="any") as worker:
        worker.port()
        secret = shared / "secret"
        secret.write_bytes(task())
        os.chown(secret, 12345, 12345)
        secret.chmod(0o600)
        secret.rename(shop.layout.triggers / "task-7.trigger")
        letter = wait_until(lambda: next(iter(shop.letters()), None))
        assert (letter.original_name, letter.reason) == ("task-7.trigger", Reason.UNREADABLE)


async def test_a_used_id_never_overwrites_its_result(shared: Path, shop: Shop) -> None:
    async with open_worker(quick_settings(shared)):
        shop.submit("7", "first")
        before = await shop.async_result("7")
        shop.submit("7", "second")
        letter = await shop.async_letter("task-7.trigger")
        assert letter.reason == Reason.DUPLICATE
        shop.drop("broken.trigger", b'{"task_id": "7", "description": 5}')
        await shop.async_letter("broken.trigger")
        assert shop.result("7") == before


async def test_an_id_that_is_running_is_refused(shared: Path, shop: Shop) -> None:
    agent = ObedientAgent()
    async with open_worker(quick_settings(shared), agent):
        shop.submit("7", "hold")
        await async_wait_until(lambda: agent.started == ["7"])
        shop.drop("again.trigger", task(task_id="7"))
        assert (await shop.async_letter("again.trigger")).reason == Reason.DUPLICATE
        shop.drop("broken.trigger", b'{"task_id": "7", "description": 5}')
        await shop.async_letter("broken.trigger")
        agent.let_go()
        assert (await shop.async_result("7")).status is TaskStatus.COMPLETED


async def test_a_bad_file_does_not_answer_for_a_task_that_another_replica_runs(shared: Path, shop: Shop) -> None:
    other = InstanceDirectory(shop.layout.inflight, "other-1-x")
    (shop.layout.inflight / "other-1-x" / "1~uid~task-7.trigger").write_bytes(task())
    (shop.layout.inflight / "other-1-x" / "1~uid2~named.trigger").write_bytes(task(task_id="8"))
    async with open_worker(quick_settings(shared)):
        shop.drop("task-7.trigger", b'{"description": 5}')
        await shop.async_letter("task-7.trigger")
        shop.drop("event.trigger", b'{"description": 5, "task_id": "8"}')
        await shop.async_letter("event.trigger")
    assert shop.result_ids() == set()
    other.close()


async def test_a_late_trigger_does_not_answer_for_a_task_whose_worker_died(shared: Path, shop: Shop) -> None:
    """The worker took the task file and was killed; only then came the empty trigger."""
    dead = shop.layout.inflight / "dead-1-x"
    dead.mkdir(parents=True)
    (dead / "1~uid~7.json").write_bytes(task(description="go on"))
    (dead / "1~uid2~8.json").write_bytes(task(description="hold", priority="urgent"))
    trigger = shop.drop("task-7.trigger", b"")
    agent = ObedientAgent()
    async with open_worker(quick_settings(shared, SETTLE_TIME="0", MAX_CONCURRENT="1"), agent):
        await async_wait_until(lambda: agent.started == ["8"])
        await async_wait_until(lambda: not trigger.exists())
        agent.let_go()
        result = await shop.async_result("7")
        assert (result.status, result.output) == (TaskStatus.COMPLETED, "go on")
    assert shop.letters() == []


async def test_the_reason_waits_for_room_and_the_failed_result_is_not_forgotten(
    shared: Path, shop: Shop, small_disk: Callable[[Path, int], SmallDisk]
) -> None:
    disk = small_disk(shop.layout.results, 65_536)
    disk.fill()
    async with open_worker(quick_settings(shared, SETTLE_TIME="0")):
        shop.drop("task-7.trigger", b'{"description": 5}')
        shop.drop("task-8.trigger", b"[")
        shop.drop("deploy.trigger", b"event")
        await async_wait_until(lambda: not (shop.layout.triggers / "deploy.trigger").exists())
        disk.make_room()
        for task_id in ("7", "8"):
            assert (await shop.async_result(task_id)).status is TaskStatus.FAILED
            await shop.async_letter(f"task-{task_id}.trigger")


def test_a_worker_process_survives_them_all(shared: Path, shop: Shop) -> None:
    with child_worker(shared) as worker:
        worker.port()
        for number, (name, body, _, _) in enumerate(BODIES.values()):
            folder = shop.layout.tasks if name.endswith(".json") else shop.layout.triggers
            body = body.replace(b"x", str(number).encode()[:1])
            (folder / f"{number}{name}" if len(name) < 100 else folder / name).write_bytes(body)
        for number, make in enumerate(MAKERS):
            make(shop.layout.triggers / f"made-{number}.trigger")
        shop.submit("good")
        wait_until(lambda: shop.result("good"))
        wait_until(lambda: not list(shop.layout.triggers.glob("*.trigger")))
        assert worker.process.poll() is None
