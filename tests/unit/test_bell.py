from __future__ import annotations

import anyio

from worker_service.bell import Bell


async def test_a_ring_before_listening_is_heard_once() -> None:
    bell = Bell()
    bell.ring("a")
    bell.ring("b")
    assert bell.is_rung
    with anyio.fail_after(1):
        await bell.heard()
    assert not bell.is_rung
    with anyio.move_on_after(0.01) as scope:
        await bell.heard()
    assert scope.cancelled_caught
    assert bell.rings == {"a": 1, "b": 1}


async def test_how_long_a_ring_has_gone_unheard_counts_from_the_first() -> None:
    bell = Bell()
    assert bell.rung_since is None
    bell.ring("a")
    first = bell.rung_since
    bell.ring("a")
    assert first is not None
    assert bell.rung_since == first
    await bell.heard()
    assert bell.rung_since is None
