"""Who is there, by their heartbeats, and by whichever way they come."""

from __future__ import annotations

from datetime import timedelta

import pytest

from agent_bus.messages import WorkerStatus, utc_now
from orchestrator_service.fleet import Fleet
from tests.integration.transport_harness import made_beat


class Machine:
    """A fleet and its clock."""

    def __init__(self, *names: str, max_in_flight: int | None = None) -> None:
        self.time = 1000.0
        self.fleet = Fleet(None, names, silent_after_s=60.0, max_in_flight=max_in_flight, clock=lambda: self.time)

    def hear(self, worker: str = "marie", way: str = "file", **fields: object) -> tuple[list[str], list[str], bool]:
        self.fleet.hear(way, made_beat(worker, **fields))
        return self.fleet.rebuild({})


def test_one_comes_with_its_first_heartbeat_and_goes_with_its_silence() -> None:
    machine = Machine("marie")
    assert machine.hear() == (["marie"], [], True)
    assert machine.fleet.rebuild({}) == ([], [], False)
    machine.time += 59
    assert machine.fleet.rebuild({})[1] == []
    wait = machine.fleet.next_silence()
    assert wait is not None
    assert 0 < wait <= 1.01
    machine.time += wait
    assert machine.fleet.rebuild({}) == ([], ["marie"], True)
    assert machine.fleet.next_silence() is None
    assert machine.hear()[0] == ["marie"]


def test_a_heartbeat_that_has_lain_there_for_long_brings_nobody_up() -> None:
    machine = Machine()
    assert machine.hear(timestamp=utc_now() - timedelta(seconds=90)) == ([], [], True)
    assert not machine.fleet.view.members["marie"].up
    assert machine.hear()[0] == ["marie"]


def test_the_same_heartbeat_keeps_nobody_alive() -> None:
    machine = Machine()
    beat = made_beat()
    machine.fleet.hear("file", beat)
    machine.time += 50
    machine.fleet.hear("file", beat)
    machine.time += 20
    machine.fleet.rebuild({})
    assert not machine.fleet.view.members["marie"].up


def test_files_are_the_quicker_way() -> None:
    machine = Machine()
    machine.hear(way="redis")
    assert machine.fleet.view.members["marie"].transport == "redis"
    machine.hear(way="file")
    assert machine.fleet.view.members["marie"].transport == "file"
    machine.hear(way="redis")
    assert machine.fleet.view.members["marie"].transport == "file"


def test_instances_add_their_places() -> None:
    machine = Machine()
    machine.hear(instance="one", slots=2, queue_size=3, current_tasks=["a"])
    machine.hear(instance="two", slots=4)
    member = machine.fleet.view.members["marie"]
    assert (member.slots, member.cap) == (6, 12)
    machine.hear(instance="two", slots=4, status=WorkerStatus.STOPPED)
    assert machine.fleet.view.members["marie"].slots == 2
    assert machine.fleet.view.members["marie"].up


def test_what_others_handed_in_counts_and_ours_does_not() -> None:
    machine = Machine(max_in_flight=5)
    machine.hear(queue_size=3, current_tasks=["a", "b"])
    machine.fleet.rebuild({"marie": 4})
    member = machine.fleet.view.members["marie"]
    assert (member.foreign, member.cap) == (1, 5)
    machine.fleet.rebuild({"marie": 9})
    assert machine.fleet.view.members["marie"].foreign == 0


@pytest.mark.parametrize(
    ("status", "up", "takes"),
    [
        (WorkerStatus.STARTING, True, True),
        (WorkerStatus.IDLE, True, True),
        (WorkerStatus.BUSY, True, True),
        (WorkerStatus.PAUSED, True, False),
        (WorkerStatus.DRAINING, True, False),
        (WorkerStatus.STOPPED, False, False),
    ],
)
def test_what_a_worker_says_of_itself_counts(status: WorkerStatus, up: bool, takes: bool) -> None:
    machine = Machine()
    machine.hear(status=status)
    member = machine.fleet.view.members["marie"]
    assert (member.up, member.takes) == (up, takes)


@pytest.mark.parametrize(("agent", "costs"), [("claude", True), ("echo", False), ("command", False)])
def test_only_claude_costs_money(agent: str, costs: bool) -> None:
    machine = Machine("unknown")
    machine.hear(agent=agent)
    assert machine.fleet.view.members["marie"].costs is costs
    # Nobody knows what one is that was never heard of.
    assert machine.fleet.view.members["unknown"].costs


def test_an_instance_of_long_ago_is_forgotten_and_its_worker_is_not() -> None:
    machine = Machine()
    machine.hear()
    machine.time += 4000
    machine.fleet.rebuild({})
    assert machine.fleet.instances("marie") == []
    assert list(machine.fleet.view.members) == ["marie"]
