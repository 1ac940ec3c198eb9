"""Tests that change the machine run alone, and do not wait for ever to do so."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_bus.ownership import try_lock
from tests.machine import lock_path, turn
from tests.waiting import wait_until


@pytest.fixture
def house() -> Iterator[str]:
    """Locks that no run of the tests uses."""
    name = secrets.token_hex(4)
    yield name
    for part in ("door", "inside"):
        lock_path(f"{name}-{part}").unlink(missing_ok=True)


def test_who_wants_to_be_alone_waits_for_those_inside_and_goes_before_those_behind(house: str) -> None:
    diary: list[str] = []

    def visit(who: str, *, alone: bool) -> threading.Thread:
        def stay() -> None:
            with turn(alone=alone, house=house):
                diary.append(f"{who} comes")
                diary.append(f"{who} goes")

        thread = threading.Thread(target=stay)
        thread.start()
        return thread

    with turn(alone=False, house=house):
        visit("beside", alone=False).join(10)
        loner = visit("loner", alone=True)
        wait_until(lambda: is_locked(lock_path(f"{house}-door")), what="one who stands in the door")
        late = visit("late", alone=False)
        diary.append("first goes")
    loner.join(10)
    late.join(10)
    order = ["beside comes", "beside goes", "first goes", "loner comes", "loner goes", "late comes", "late goes"]
    assert diary == order


def is_locked(path: Path) -> bool:
    descriptor = try_lock(path)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False
