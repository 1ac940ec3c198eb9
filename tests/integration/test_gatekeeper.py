"""Closed gates: told, counted, and opened before their time, by files and by Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from agent_bus.commands import CommandName
from agent_bus.gates import Gate, GateNotice, after_seconds, closed_gates, open_gate
from agent_bus.messages import utc_now
from orchestrator_service.errors import NotKnown, Unavailable
from tests.integration.core_harness import ME, Scene, open_scene
from tests.integration.harness import ObedientAgent, Shop, quick_settings
from tests.waiting import async_wait_until
from worker_service.agents.base import RateLimited, Run
from worker_service.service import open_worker

GATE = "5b1d7e0c9f3a2468"


def notice(seconds: float = 600) -> GateNotice:
    return GateNotice(
        kind="five_hour", until=after_seconds(seconds), message="used up", worker="marie", closed_at=utc_now()
    )


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path) as opened:
        yield opened


async def happened(scene: Scene) -> list[tuple[str, str]]:
    rows = await scene.core.database.read(
        lambda db: db.execute("SELECT event, data FROM events WHERE event LIKE 'gate%' ORDER BY seq").fetchall()
    )
    return [(event, data) for event, data in rows]


async def test_a_closed_gate_is_told_with_who_shares_it_and_what_waits(scene: Scene, tmp_path: Path) -> None:
    gatekeeper = scene.service.gatekeeper
    await gatekeeper.look()
    for name, gate in (("marie", GATE), ("anga", GATE), ("fabien", "other")):
        await scene.beat(name, gate_id=gate, queue_size=3 if name == "anga" else 0)
    await scene.submit(task_id="a", worker="marie")
    await scene.submit(task_id="b", worker="marie")
    assert await scene.desk.gates() == []
    Gate(tmp_path / "gates", GATE).close_until(notice())
    (found,) = await scene.desk.gates()
    assert (found.gate_id, found.kind, found.message, found.worker) == (GATE, "five_hour", "used up", "marie")
    assert (found.workers, found.parked_tasks) == (["anga", "marie"], 5)
    assert found.closed_at is not None and found.until > utc_now() + timedelta(seconds=500)
    ((event, data),) = await happened(scene)
    assert event == "gate_closed" and f'"gate_id":"{GATE}"' in data and '"kind":"five_hour"' in data


async def test_a_running_task_is_not_counted_as_waiting(scene: Scene, tmp_path: Path) -> None:
    await scene.beat("marie", gate_id=GATE)
    await scene.submit(task_id="a", worker="marie")
    await scene.take("a")
    await scene.beat("marie", gate_id=GATE, current_tasks=["a"])
    Gate(tmp_path / "gates", GATE).close_until(notice())
    assert [gate.parked_tasks for gate in await scene.desk.gates()] == [0]


async def test_opening_removes_the_file_wakes_the_workers_and_is_told(scene: Scene, tmp_path: Path) -> None:
    await scene.service.gatekeeper.look()
    await scene.beat("marie", gate_id=GATE)
    await scene.beat("fabien", gate_id="other")
    gate = Gate(tmp_path / "gates", GATE)
    gate.close_until(notice())
    opened = await scene.desk.open_gate(GATE, ME)
    assert (opened.gate_id, opened.workers) == (GATE, ["marie"])
    assert gate.closed() is None
    assert [(name, command.name) for name, command in scene.transport.commands] == [("marie", CommandName.WAKE)]
    assert [event for event, _ in await happened(scene)] == ["gate_closed", "gate_opened"]
    assert '"by":"local"' in (await happened(scene))[-1][1]
    with pytest.raises(NotKnown):
        await scene.desk.open_gate(GATE, ME)


async def test_a_gate_whose_time_has_come_was_opened_by_nobody(scene: Scene, tmp_path: Path) -> None:
    await scene.service.gatekeeper.look()
    Gate(tmp_path / "gates", GATE).close_until(notice(0.5))
    looking = asyncio.create_task(scene.service.gatekeeper.run_forever())
    await scene.desk.gates()
    try:
        await async_wait_until(lambda: scene.core.hub.last >= 2, 20)
    finally:
        looking.cancel()
    assert '"by":null' in (await happened(scene))[-1][1]


async def test_what_was_closed_before_the_start_is_no_news(scene: Scene, tmp_path: Path) -> None:
    Gate(tmp_path / "gates", GATE).close_until(notice())
    assert len(await scene.desk.gates()) == 1
    assert await happened(scene) == []


@pytest.mark.parametrize("gate_id", ["../ledger", "a/b", "", "x" * 65, "none"])
async def test_no_other_file_is_touched(scene: Scene, tmp_path: Path, gate_id: str) -> None:
    (tmp_path / "gates").mkdir()
    (tmp_path / "ledger.json").write_text("{}")
    with pytest.raises(NotKnown):
        await scene.desk.open_gate(gate_id, ME)
    assert open_gate(tmp_path / "gates", gate_id) is False
    assert (tmp_path / "ledger.json").exists()


async def test_a_file_that_stays_is_told(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Gate(tmp_path / "gates", GATE).close_until(notice())

    def fail(directory: Path, gate_id: str) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("orchestrator_service.gatekeeper.open_gate", fail)
    with pytest.raises(Unavailable, match="cannot be opened: Permission denied"):
        await scene.desk.open_gate(GATE, ME)


def test_broken_files_and_other_names_are_no_gates(tmp_path: Path) -> None:
    assert closed_gates(tmp_path / "none") == {}
    Gate(tmp_path, "good").close_until(notice())
    (tmp_path / "bad.json").write_text("{ half")
    (tmp_path / ".hidden.json").write_text(notice().model_dump_json())
    Gate(tmp_path, "over").close_until(notice(-5))
    assert list(closed_gates(tmp_path)) == ["good"]


# -- a worker behind it


class Limited(ObedientAgent):
    """Meets a limit of ten minutes so many times, then works."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.met = 0

    async def run(self, run: Run) -> None:
        if self.met < self.times:
            self.met += 1
            raise RateLimited("five_hour", utc_now() + timedelta(minutes=10), "the limit is met")
        await super().run(run)


@pytest.mark.parametrize("mode", ["polling", "event-driven"])
async def test_a_parked_task_goes_on_at_once_when_its_gate_is_opened(shared: Path, shop: Shop, mode: str) -> None:
    agent = Limited(2)
    async with open_worker(quick_settings(shared, WORKER_MODE=mode), agent) as worker:
        worker.runner.gate = Gate(shop.layout.gates, "key")
        shop.submit("7")
        await async_wait_until(lambda: worker.dispatcher.parked() is not None)
        await async_wait_until(lambda: not worker.runner.running)
        assert worker.pulse.heartbeat().gate_id == "key"
        assert open_gate(shop.layout.gates, "key")
        # The limit still holds: the gate closes again.
        await async_wait_until(lambda: agent.met == 2)
        await async_wait_until(lambda: worker.dispatcher.parked() is not None)
        assert not shop.layout.result("7").exists()
        assert open_gate(shop.layout.gates, "key")
        result = await shop.async_result("7", 20)
        assert (result.attempts, result.status.value) == (1, "completed")


async def test_without_opening_a_parked_task_stays(shared: Path, shop: Shop) -> None:
    agent = Limited(1)
    async with open_worker(quick_settings(shared), agent) as worker:
        worker.runner.gate = Gate(shop.layout.gates, "key")
        shop.submit("7")
        await async_wait_until(lambda: worker.dispatcher.parked() is not None and not worker.runner.running)
        looks = worker.bell.rings["retry"]
        await async_wait_until(lambda: worker.bell.rings["retry"] >= looks + 2)
        worker.bell.ring("test")
        assert (agent.started, worker.dispatcher.current_tasks) == ([], [])
