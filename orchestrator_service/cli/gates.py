"""`codehornets gates`: the limits that hold workers back, and the end of a wait; by the API, files and Redis."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from agent_bus.errors import QueueUnavailable
from agent_bus.gates import GateNotice, closed_gates, open_gate
from agent_bus.heartbeats import is_alive, read_heartbeats
from agent_bus.messages import Heartbeat
from orchestrator_service.cli.api_place import find_api, or_without
from orchestrator_service.cli.channels import Channels, RedisAway, find_channels
from orchestrator_service.cli.errors import UserError
from orchestrator_service.cli.moments import clock
from orchestrator_service.cli.output import print_json
from orchestrator_service.cli.tables import print_table
from orchestrator_service.cli.terminal import harmless
from orchestrator_service.cli.where import Where

if TYPE_CHECKING:
    from agent_bus.redis.client import RedisClient
    from orchestrator_service.accounts import GateRecord

_BY: Final = "the command line"


def list_gates(*, where: Where, as_json: bool) -> int:
    """Show the gates that are closed now."""
    from orchestrator_service.client import calls as api_calls

    found: list[GateRecord] | None = None
    if (place := find_api(where)) is not None:
        found = or_without(place, lambda place: api_calls.ask(place, api_calls.gates()))
    if found is None:
        with _Places(find_channels(where.shared_dir, where.redis)) as places:
            found = places.records()
    if as_json:
        print_json([gate.model_dump(mode="json") for gate in found])
        return 0
    if not found:
        print("No gate is closed.")
        return 0
    print_table(["gate", "limit", "until", "parked>", "workers", "why*"], map(_row, found))
    print("`codehornets gates open ID` ends a wait now; if the limit still holds, the gate closes again.")
    return 0


def _row(gate: GateRecord) -> tuple[str, ...]:
    workers = ", ".join(gate.workers) or gate.worker
    return gate.gate_id, gate.kind.replace("_", " "), clock(gate.until), str(gate.parked_tasks), workers, gate.message


def open_one(gate_id: str, *, where: Where, as_json: bool) -> int:
    """End the wait behind a gate.

    Raises:
        UserError: none of that id is closed, or it cannot be opened.
    """
    from orchestrator_service.client import calls as api_calls

    opened: GateRecord | None = None
    if (place := find_api(where)) is not None:
        opened = or_without(place, lambda place: api_calls.ask(place, api_calls.open_gate(gate_id)))
    if opened is None:
        with _Places(find_channels(where.shared_dir, where.redis)) as places:
            opened = places.open(gate_id)
    if as_json:
        print_json(opened.model_dump(mode="json"))
        return 0
    tasks = f"{opened.parked_tasks} parked task{'' if opened.parked_tasks == 1 else 's'}"
    workers = ", ".join(opened.workers) or opened.worker
    print(harmless(f"The gate {gate_id} is open: {tasks} of {workers} may go on."))
    return 0


class _Places:
    """The gates of a shared directory and of a Redis, whichever there are; files go on without a Redis."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._redis: RedisClient | None = None
        self._stack = ExitStack()

    def __enter__(self) -> _Places:
        if self._channels.has_redis:
            try:
                self._redis = self._stack.enter_context(self._channels.redis())
                self._redis.closed_gates()
            except (RedisAway, QueueUnavailable) as error:
                away = error if isinstance(error, RedisAway) else self._channels.away(error)
                if self._channels.shared is None:
                    raise away from None
                self._redis = None
                print(f"codehornets: {away}", file=sys.stderr)
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    def _closed(self) -> dict[str, GateNotice]:
        found = {} if self._redis is None else self._redis.closed_gates()
        if self._channels.shared is not None:
            for gate_id, notice in closed_gates(self._channels.shared / "gates").items():
                if gate_id not in found or notice.until > found[gate_id].until:
                    found[gate_id] = notice
        return found

    def _beats(self) -> list[Heartbeat]:
        beats = [] if self._redis is None else self._redis.workers()[1]
        if self._channels.shared is not None:
            beats = [*beats, *read_heartbeats(self._channels.shared / "heartbeats")]
        return [beat for beat in beats if is_alive(beat)]

    def records(self) -> list[GateRecord]:
        beats = self._beats()
        return [_record(gate_id, notice, beats) for gate_id, notice in sorted(self._closed().items())]

    def open(self, gate_id: str) -> GateRecord:
        notice = self._closed().get(gate_id)
        if notice is None:
            raise UserError(
                f"No gate {gate_id[:80]!r} is closed in {self._channels.words}; `codehornets gates` lists them."
            )
        record = _record(gate_id, notice, self._beats())
        if self._channels.shared is not None:
            try:
                open_gate(self._channels.shared / "gates", gate_id)
            except OSError as error:
                raise UserError(
                    f"The gate {gate_id} cannot be opened: its file in {self._channels.shared / 'gates'} cannot be "
                    f"removed ({error.strerror or error})."
                ) from None
        if self._redis is not None:
            self._redis.open_gate(gate_id, notice, _BY)
        return record


def _record(gate_id: str, notice: GateNotice, beats: Iterable[Heartbeat]) -> GateRecord:
    from orchestrator_service.accounts import GateRecord

    waiting: dict[str, int] = {}
    for beat in beats:
        if beat.gate_id == gate_id:
            # Instances on one queue see the same tasks.
            waiting[beat.worker] = max(waiting.get(beat.worker, 0), beat.queue_size)
    return GateRecord(
        gate_id=gate_id,
        kind=notice.kind,
        message=notice.message,
        worker=notice.worker,
        closed_at=notice.closed_at,
        until=notice.until,
        parked_tasks=sum(waiting.values()),
        workers=sorted(waiting),
    )
