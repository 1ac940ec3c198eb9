"""The gates that Redis shows: which are closed, and the end of a wait before its time."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from agent_bus.gates import GateNotice, is_gate_id
from agent_bus.redis import keys as redis_keys

if TYPE_CHECKING:
    from agent_bus.redis.caller import RedisCaller

OPENED_BY: Final = "opened_by"
"""The field that makes a notice one of an opening."""


def opening(gate_id: str, notice: GateNotice, by: str) -> bytes:
    """Return the message that a gate is open before its time. Older workers take it for a notice that is over."""
    told = {"fingerprint": gate_id, "until": datetime.fromtimestamp(0, UTC), OPENED_BY: by}
    return notice.model_copy(update=told).model_dump_json().encode()


class RedisGates:
    """The gates in Redis, for a program with a loop."""

    def __init__(self, caller: RedisCaller) -> None:
        self._caller = caller

    async def closed(self, gate_ids: Iterable[str]) -> dict[str, GateNotice]:
        """Return the notices of those of these gates that are closed.

        Raises:
            agent_bus.errors.QueueUnavailable: Redis is away.
        """
        found: dict[str, GateNotice] = {}
        for gate_id in gate_ids:
            notice = _read(await self._caller.command("GET", redis_keys.gate(gate_id)))
            if notice is not None:
                found[gate_id] = notice
        return found

    async def open(self, gate_id: str, notice: GateNotice, by: str) -> None:
        """Open a gate before its time, and tell everybody.

        Raises:
            agent_bus.errors.QueueUnavailable: Redis is away.
        """
        await self._caller.command("DEL", redis_keys.gate(gate_id))
        await self._caller.command("PUBLISH", redis_keys.GATES_CHANNEL, opening(gate_id, notice, by))


def find_closed_gates(redis: Any) -> dict[str, GateNotice]:
    """Return the notices of all gates that a Redis shows as closed; takes a client without asyncio."""
    found: dict[str, GateNotice] = {}
    for key in sorted(set(redis.scan_iter(match=f"{redis_keys.GATE_PREFIX}*", count=1000))):
        gate_id = key.decode("utf-8", "replace").removeprefix(redis_keys.GATE_PREFIX)
        if is_gate_id(gate_id) and (notice := _read(redis.get(key))) is not None:
            found[gate_id] = notice
    return found


def open_gate_in(redis: Any, gate_id: str, notice: GateNotice, by: str) -> None:
    """Open a gate before its time, and tell everybody; takes a client without asyncio."""
    redis.delete(redis_keys.gate(gate_id))
    redis.publish(redis_keys.GATES_CHANNEL, opening(gate_id, notice, by))


def _read(body: bytes | None) -> GateNotice | None:
    try:
        notice = GateNotice.model_validate_json(body or b"")
    except ValidationError:
        return None
    return None if notice.is_over else notice
