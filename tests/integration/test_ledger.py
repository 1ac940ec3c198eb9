"""The file under the ledger: its versions, its groups of writes, and what happens when it cannot be written."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator_service.errors import LedgerUnavailable
from orchestrator_service.ledger import schema
from orchestrator_service.ledger.database import LedgerInUse, open_database
from orchestrator_service.orders import TaskOrder, TaskQuery
from orchestrator_service.transports.base import HeardResult
from tests.integration.core_harness import ME, Scene, open_scene
from tests.mounts import SmallDisk
from tests.waiting import async_wait_until


def with_more(monkeypatch: pytest.MonkeyPatch, statements: str) -> int:
    """Add a migration; returns its number."""
    known = schema.migrations()
    number = known[-1][0] + 1
    monkeypatch.setattr(schema, "migrations", lambda: [*known, (number, statements)])
    return number


def look(path: Path, question: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(question).fetchall()
    finally:
        connection.close()


# -- versions


def test_no_two_migrations_have_the_same_number() -> None:
    numbers = [number for number, _ in schema.migrations()]
    assert numbers[0] == 1
    assert numbers == sorted(set(numbers))


def test_a_migration_that_comes_late_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that were written side by side may arrive in either order."""
    known = schema.migrations()
    early, late = (901, "CREATE TABLE early (x);"), (902, "CREATE TABLE late (x);")
    connection = sqlite3.connect(tmp_path / "ledger.sqlite3", isolation_level=None)
    for there in ([*known, late], [*known, early, late], [*known, early, late]):
        monkeypatch.setattr(schema, "migrations", lambda there=there: there)
        schema.migrate(connection)
    assert connection.execute("SELECT * FROM early").fetchall() == connection.execute("SELECT * FROM late").fetchall()
    assert connection.execute("PRAGMA user_version").fetchone() == (902,)
    connection.close()


async def test_an_older_file_is_brought_up_and_keeps_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = tmp_path / "ledger.sqlite3"
    first = schema.migrations()[0][1]
    connection = sqlite3.connect(ledger, isolation_level=None)
    connection.executescript(f"{first}\nPRAGMA user_version = 1;")
    connection.execute(
        "INSERT INTO tasks (seq, task_id, state, lane, priority, origin, submitted_by, on_failure, submitted_at)"
        " VALUES (1, 'old', 'ready', '[null, null, []]', 50, 'api', 'local', 'fail_dependents', 1)"
    )
    connection.execute('INSERT INTO orders (seq, body) VALUES (1, \'{"description": "from before"}\')')
    connection.close()
    number = with_more(monkeypatch, "ALTER TABLE tasks ADD COLUMN colour TEXT DEFAULT 'red';\nCREATE TABLE more (x);")
    async with open_scene(tmp_path) as scene:
        await scene.beat("marie")
        assert scene.body("old")["description"] == "from before"
        await scene.submit(task_id="new")
        await scene.finish("old")
    assert look(ledger, "SELECT task_id, colour FROM tasks") == [("old", "red"), ("new", "red")]
    assert look(ledger, "PRAGMA user_version") == [(number,)]
    # Once is enough: the same migration would fail a second time.
    async with open_scene(tmp_path) as scene:
        assert await scene.states() == {"old": "completed", "new": "sent"}


async def test_a_migration_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_scene(tmp_path) as scene:
        await scene.beat("marie")
        await scene.submit(task_id="t")
    ledger = tmp_path / "ledger.sqlite3"
    before = look(ledger, "SELECT name, sql FROM sqlite_master ORDER BY name")
    with monkeypatch.context() as patched:
        with_more(patched, "CREATE TABLE half (x);\nINSERT INTO nowhere VALUES (1);")
        async with open_database(ledger) as database:
            assert database.trouble is not None
            assert "cannot be opened: no such table: main.nowhere; mend it" in database.trouble or (
                "no such table: nowhere" in database.trouble
            )
    assert look(ledger, "SELECT name, sql FROM sqlite_master ORDER BY name") == before
    async with open_scene(tmp_path) as scene:
        assert await scene.states() == {"t": "sent"}


async def refuses_everything(scene: Scene, reason: str) -> None:
    desk = scene.desk
    for call in (
        desk.submit(TaskOrder(description="x"), ME),
        desk.task("t"),
        desk.tasks(TaskQuery()),
        desk.result("t"),
        desk.wait(["t"], 0),
        desk.cancel("t", ME),
        desk.retry("t", ME),
        desk.schedules(),
        desk.delete_schedule("s", ME),
        anext(desk.task_events("t", None, follow=True)),
    ):
        with pytest.raises(LedgerUnavailable, match=reason):
            await call
    assert await desk.workers() == []
    finding = next(found for found in scene.service.readiness() if found.part == "ledger")
    assert (finding.well, reason in finding.text) == (False, True)


def spoil_with_newer(ledger: Path) -> None:
    connection = sqlite3.connect(ledger)
    connection.execute("PRAGMA user_version = 999")
    connection.close()


def spoil_with_noise(ledger: Path) -> None:
    ledger.write_bytes(b"this is no database at all " * 200)


def spoil_with_a_directory(ledger: Path) -> None:
    ledger.mkdir()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_with_newer, "the ledger is of version 999, and this program knows versions up to"),
        (spoil_with_noise, "cannot be opened: file is not a database; mend it, or name another one in LEDGER_PATH"),
        (spoil_with_a_directory, "cannot be opened: unable to open database file"),
    ],
)
async def test_a_file_that_cannot_be_used_is_told_and_left_alone(
    tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    ledger = tmp_path / "ledger.sqlite3"
    spoil(ledger)
    before = ledger.read_bytes() if ledger.is_file() else b""
    for _ in range(2):
        async with open_scene(tmp_path, found=False) as scene:
            await refuses_everything(scene, reason)
    assert (ledger.read_bytes() if ledger.is_file() else b"") == before


async def test_a_place_where_nothing_can_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with open_database(tmp_path / "file" / "ledger.sqlite3") as database:
        assert database.trouble is not None
        with pytest.raises(LedgerUnavailable, match=r"cannot be opened: .*mend it, or name another one in LEDGER_PATH"):
            await database.write(lambda connection: None)


async def test_two_cannot_have_one_ledger(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.sqlite3"
    async with open_database(ledger):
        with pytest.raises(LedgerInUse, match="is in use by another orchestrator"):
            async with open_database(ledger):
                pass
    async with open_database(ledger) as database:
        assert database.trouble is None


# -- a disk without room


async def test_a_full_disk_refuses_and_goes_on_when_there_is_room(
    tmp_path: Path, small_disk: Callable[[Path, int], SmallDisk]
) -> None:
    disk = small_disk(tmp_path / "disk", 2 * 2**20)
    async with open_scene(disk.path) as scene:
        await scene.beat("marie")
        await scene.submit(task_id="before")
        disk.fill()
        with pytest.raises(LedgerUnavailable, match=r"cannot be written: .*full.*; nothing was changed"):
            for number in range(1000):
                await scene.submit("x" * 1000, task_id=f"full{number}")
        taken = await scene.states()
        # A result that comes now is kept until it can be written.
        scene.service.clerk.hear_result(HeardResult(result=scene.made("before"), transport="file"))
        await async_wait_until(lambda: scene.service.database.trouble is not None)
        assert await scene.states() == taken
        assert not next(found for found in scene.service.readiness() if found.part == "ledger").well
        disk.make_room()
        await scene.submit(task_id="after")
        await async_wait_until(lambda: "before" not in scene.core.open, what="the result in the ledger")
        await scene.quiet()
        assert await scene.states() == {**taken, "before": "completed", "after": await scene.state("after")}
        assert next(found for found in scene.service.readiness() if found.part == "ledger").well
        await scene.check_book()
        known = set(await scene.states())
        assert {dispatch.wire_id for dispatch in scene.transport.sent} <= known


# -- groups


async def test_one_change_that_raises_takes_nothing_with_it(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        await scene.beat("marie", slots=100)

        def spoiled(step: object) -> None:
            raise ValueError("spoiled")

        calls = []
        for number in range(30):
            calls.append(scene.desk.submit(TaskOrder(description="x", task_id=f"t{number}"), ME))
            if number % 3 == 0:
                calls.append(scene.core.change(spoiled))  # type: ignore[arg-type]
                calls.append(scene.desk.submit(TaskOrder(description="x", task_id="t0", worker="marie"), ME))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        await scene.quiet()
        kinds = [type(answer).__name__ for answer in answers]
        assert (kinds.count("Submission"), kinds.count("ValueError"), kinds.count("Conflict")) == (30, 10, 10)
        assert await scene.states() == {f"t{number}": "sent" for number in range(30)}
        await scene.check_book()


async def test_trouble_of_the_file_gives_up_the_whole_group(tmp_path: Path) -> None:
    async with open_database(tmp_path / "ledger.sqlite3") as database:

        def add(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO positions (name, value) VALUES ('x', 'y')")

        def broken(connection: sqlite3.Connection) -> None:
            raise sqlite3.DatabaseError("database disk image is malformed")

        answers = await asyncio.gather(database.write(broken), database.write(add), return_exceptions=True)
        assert isinstance(answers[0], LedgerUnavailable)
        assert "malformed" in str(answers[0])


async def test_what_was_asked_for_is_written_before_the_end(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.sqlite3"
    async with open_database(ledger) as database:
        for number in range(500):
            database.begin_write(
                lambda connection, number=number: (
                    connection.execute(  # type: ignore[misc]
                        "INSERT INTO positions (name, value) VALUES (?, '')", (str(number),)
                    ).rowcount
                )
            )
    assert look(ledger, "SELECT COUNT(*) FROM positions") == [(500,)]


async def test_a_large_change_leaves_the_loop_free_and_keeps_its_place_in_the_order(tmp_path: Path) -> None:
    met = threading.Event()
    done: list[str] = []

    def large(connection: sqlite3.Connection) -> None:
        assert met.wait(20), "the loop went on meanwhile"
        done.append("large")

    async with open_database(tmp_path / "ledger.sqlite3") as database:
        writes = [
            database.begin_write(lambda connection: done.append("first")),
            database.begin_write(large, large=True),
            database.begin_write(lambda connection: done.append("last")),
        ]
        await writes[0]
        await async_wait_until(lambda: database.stuck_s() > 0, what="the large one is under way")
        assert done == ["first"]
        met.set()
        await asyncio.gather(*writes)
        assert done == ["first", "large", "last"]
        assert database.stuck_s() == 0


async def test_a_change_that_cannot_be_written_does_not_hold_up_the_next(tmp_path: Path) -> None:
    def broken(connection: sqlite3.Connection) -> None:
        connection.execute("SELECT * FROM nowhere")

    async with open_database(tmp_path / "ledger.sqlite3") as database:
        bad = database.begin_write(broken)
        with pytest.raises(LedgerUnavailable):
            await bad
        assert await database.write(lambda connection: connection.execute("SELECT 1").fetchone()) == (1,)
        assert database.trouble is None
