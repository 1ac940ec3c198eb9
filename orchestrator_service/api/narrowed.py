"""The team's stream, narrowed to what one client wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any, Final

from orchestrator_service.api.sse import close
from orchestrator_service.desk import Desk
from orchestrator_service.records import GoalState, StreamEvent

_PATIENCE_S: Final = 1.0


async def narrowed(events: AsyncIterator[StreamEvent], wanted: Mapping[str, str]) -> AsyncIterator[StreamEvent]:
    """Yield the events whose fields have the `wanted` values, such as `{"goal_id": "goal-51c2"}`."""
    # Most events are not wanted: that a name does not even occur is seen without reading the JSON.
    needles = [json.dumps(value).encode()[1:-1] for value in wanted.values()]
    try:
        async for event in events:
            if all(needle in event.data for needle in needles) and _has(event, wanted):
                yield event
    finally:
        await close(events)


async def of_goal(desk: Desk, goal_id: str, after: str | None, *, agent: bool) -> AsyncIterator[StreamEvent]:
    """Yield what happens for a goal, until it has ended; nothing if it has and no position is given.

    Raises:
        NotKnown: there is no such goal.
        OrderRefused: `after` is no position.
    """
    events = narrowed(desk.events(after, agent=agent), {"goal_id": goal_id})
    first = asyncio.ensure_future(anext(events, None))
    try:
        # First listen, then look: the goal might end in between.
        await asyncio.sleep(0)
        goal = await desk.goal(goal_id)
        if goal.state is not GoalState.RUNNING and after is None:
            return
        # Of a goal that has ended all is in the ledger, and comes at once: what does not is nothing.
        patience_s = None if goal.state is GoalState.RUNNING else _PATIENCE_S
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                event = await first
            while event is not None:
                yield event
                if event.event == "goal_ended":
                    return
                async with asyncio.timeout(patience_s):
                    event = await anext(events, None)
    finally:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await close(events)


def _has(event: StreamEvent, wanted: Mapping[str, str]) -> bool:
    told: dict[str, Any] = json.loads(event.data)
    return all(told.get(field) == value for field, value in wanted.items())
