"""Events for many listeners: none slows another, and who falls behind reads on from the ledger."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator_service.event_hub import KEPT, EventHub
from orchestrator_service.scheduling.step import Happening


def happening(seq: int) -> Happening:
    return Happening(seq, 0.0, "something", None, None, None, "{}")


class Ledger:
    """All events that there are, and how often they were read."""

    def __init__(self) -> None:
        self.events: list[Happening] = []
        self.reads = 0

    async def read_after(self, after: int, limit: int) -> list[Happening]:
        self.reads += 1
        return [event for event in self.events if event.seq > after][:limit]

    def add(self, hub: EventHub, first: int, last: int) -> None:
        new = [happening(seq) for seq in range(first, last + 1)]
        self.events += new
        hub.publish(new)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def hub(ledger: Ledger) -> EventHub:
    return EventHub(ledger.read_after)


async def heard(hub: EventHub, position: int, last: int) -> list[int]:
    """Listen until an event."""
    found: list[int] = []
    while position < last:
        found += [event.seq for event in await hub.after(position)]
        position = found[-1]
    return found


async def test_each_listener_hears_all_in_order(hub: EventHub, ledger: Ledger) -> None:
    listeners = [asyncio.ensure_future(heard(hub, 0, 100)) for _ in range(20)]
    for number in range(10):
        ledger.add(hub, number * 10 + 1, number * 10 + 10)
        await asyncio.sleep(0)
    assert await asyncio.gather(*listeners) == [list(range(1, 101))] * 20
    assert ledger.reads == 0


async def test_one_who_does_not_listen_holds_up_nobody(hub: EventHub, ledger: Ledger) -> None:
    slow = 0
    for number in range(10):
        ledger.add(hub, number * 1000 + 1, number * 1000 + 1000)
        assert (await hub.after(number * 1000))[-1].seq == (number + 1) * 1000
    assert ledger.reads == 0
    # What was kept has gone over him: the ledger has it.
    assert await heard(hub, slow, 10_000) == list(range(1, 10_001))
    assert ledger.reads == 2


@pytest.mark.parametrize("behind", [KEPT - 1, KEPT, KEPT + 1])
async def test_the_border_of_what_is_kept(hub: EventHub, ledger: Ledger, behind: int) -> None:
    ledger.add(hub, 1, 2 * KEPT)
    position = 2 * KEPT - behind
    assert await heard(hub, position, 2 * KEPT) == list(range(position + 1, 2 * KEPT + 1))
    assert (ledger.reads > 0) == (behind > KEPT)


async def test_a_hub_that_begins_late_sends_back_to_the_ledger(ledger: Ledger) -> None:
    ledger.events = [happening(seq) for seq in range(1, 11)]
    hub = EventHub(ledger.read_after, last=10)
    ledger.add(hub, 11, 12)
    assert await heard(hub, 7, 12) == [8, 9, 10, 11, 12]
    assert await heard(hub, 10, 12) == [11, 12]


async def test_the_same_event_is_told_once(hub: EventHub) -> None:
    hub.publish([happening(1), happening(2)])
    hub.publish([happening(2), happening(3)])
    assert await heard(hub, 0, 3) == [1, 2, 3]


async def test_the_end_reaches_everybody(hub: EventHub, ledger: Ledger) -> None:
    waiting = [asyncio.ensure_future(hub.after(0)) for _ in range(3)]
    await asyncio.sleep(0)
    hub.close()
    assert await asyncio.gather(*waiting) == [[], [], []]
    ledger.add(hub, 1, 1)
    assert await hub.after(0) == []
