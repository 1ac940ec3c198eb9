"""Finding the place again: what became of dispatches while the orchestrator was away, or of workers that are away.

And the invariants: rules that files, streams and ledger must keep, compared now and then, told in `/metrics` and by
`codehornets doctor`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import anyio

from agent_bus.layout import TASK_SUFFIX, is_worker_name
from agent_bus.messages import is_task_id
from orchestrator_service.clerk import Clerk
from orchestrator_service.core import Core
from orchestrator_service.dispatching import Dispatcher
from orchestrator_service.errors import LedgerUnavailable
from orchestrator_service.ledger.queries import open_runs
from orchestrator_service.records import Invariant
from orchestrator_service.scheduling.giving_up import give_up
from orchestrator_service.scheduling.routing import route_of
from orchestrator_service.scheduling.settling import send_again
from orchestrator_service.scheduling.step import OpenRun
from orchestrator_service.transports.base import HeardResult, Place, Transport

log = logging.getLogger(__name__)

AGREE: Final = "files_streams_and_ledger_agree"
ONE_PLACE: Final = "no_task_runs_in_two_places"
LIVING_OWNER: Final = "every_running_task_has_a_living_owner"
RESULTS_KNOWN: Final = "no_result_without_a_task"
NAMES: Final = (AGREE, ONE_PLACE, LIVING_OWNER, RESULTS_KNOWN)

_MOST_EXAMPLES: Final = 10
_OVERLAP_S: Final = 5.0
"""A file may be renamed into place a little after the time that it carries."""
_SCANNED: Final = "file:results-scanned"
_CHUNK: Final = 500
_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 30.0


class Reconciler:
    """Compares what the ledger believes with what is there, and mends what it can."""

    def __init__(
        self, core: Core, clerk: Clerk, dispatcher: Dispatcher, transports: Mapping[str, Transport], results: Path
    ) -> None:
        """Look after all transports; `results` is the directory above those of the workers."""
        self._core = core
        self._clerk = clerk
        self._dispatcher = dispatcher
        self._transports = transports
        self._results = results
        self._missing: set[str] = set()
        """Dispatches of which no trace was found the last time."""
        self.invariants = [
            Invariant(name=name, holds=True, violations=0, examples=[], checked_at=None) for name in NAMES
        ]

    async def catch_up(self) -> None:
        """Learn what happened while nobody listened; dispatches of which there is no trace are sent again, soon."""
        lost: set[str] = set()
        if unknown := await self._look_for(list(self._core.open.values()), lost):
            self._core.spawn(self._look_until_found(unknown, lost), "find dispatches")
        await self._adopt_results()

    async def _look_for(self, runs: list[OpenRun], lost: set[str]) -> list[OpenRun]:
        """Send again what is with nobody, and was so the last time; returns the dispatches to look for once more.

        A task on its way from one hand to the next may be seen in neither. Sent again it would be set aside as a
        duplicate, if it has not been done twice.
        """
        unknown: list[OpenRun] = []
        for run in runs:
            place = await self._find(run)
            if place is Place.UNKNOWN:
                lost.discard(run.wire_id)
                unknown.append(run)
            elif place is Place.GONE and run.wire_id not in lost:
                lost.add(run.wire_id)
                unknown.append(run)
            elif place is Place.GONE:
                log.warning(
                    "task %s is with nobody; it is sent again",
                    run.wire_id,
                    extra={"action": "sent_again", "task_id": run.wire_id},
                )
                await self._send_again(run)
        return unknown

    async def _look_until_found(self, runs: list[OpenRun], lost: set[str]) -> None:
        """Look again until all is known: a Redis that is not connected yet knows nothing of what lies in it."""
        pause_s = _FIRST_PAUSE_S
        while runs:
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            with suppress(LedgerUnavailable):
                runs = await self._look_for([run for run in runs if run.wire_id in self._core.open], lost)

    async def _find(self, run: OpenRun) -> Place:
        if self._dispatcher.holds(run.wire_id):
            return Place.WAITING
        transport = self._transports.get(run.transport)
        if transport is None:
            return Place.UNKNOWN
        place = await transport.locate(run.worker, run.wire_id)
        if place is Place.ENDED:
            result = await transport.result(run.worker, run.wire_id)
            if result is not None:
                self._clerk.hear_result(HeardResult(result=result, transport=run.transport))
        return place

    async def _send_again(self, run: OpenRun) -> None:
        await self._core.change(lambda step: send_again(step, run.wire_id))

    # -- workers that are away

    async def evacuate(self, workers: list[str]) -> None:
        """Give tasks that wait at these workers to others, where they are for others as well."""
        rows = await self._core.database.read(open_runs)
        for wire_id, worker, transport, started_at, lane in rows:
            route = route_of(lane)
            if worker in workers and started_at is None and route.worker is None:
                others = self._core.fleet.view.candidates(lane)
                if any(member.takes and member.name != worker for member in others):
                    await self._dispatcher.withdraw(OpenRun(wire_id, worker, transport))

    # -- invariants

    async def check(self) -> list[Invariant]:
        """Compare everything once; returns the invariants."""
        for wire_id in await self._core.change(give_up):
            self._core.forget(wire_id)
        rows = await self._core.database.read(open_runs)
        places: dict[str, Place] = {}
        for wire_id, worker, transport, _started, _lane in rows:
            places[wire_id] = await self._find(OpenRun(wire_id, worker, transport))
        # One that ended, or was sent, while we looked is no matter.
        still = {row[0] for row in await self._core.database.read(open_runs)}
        missing = {wire_id for wire_id, place in places.items() if place is Place.GONE and wire_id in still}
        twice = missing & self._missing
        self._missing = missing
        for wire_id, worker, transport, _started, _lane in rows:
            if wire_id in twice:
                await self._send_again(OpenRun(wire_id, worker, transport))
        unknown = await self._adopt_results()
        holders: dict[str, list[str]] = {}
        for way in self._transports.values():
            for wire_id, where in (await way.running()).items():
                # An instance that is known by both ways is one holder.
                holders.setdefault(wire_id, []).extend(where)
        members = self._core.fleet.view.members
        orphans = [
            f"Task {wire_id} runs at {worker}, which is down."
            for wire_id, worker, _transport, started, _lane in rows
            if started is not None and wire_id in still and not (worker in members and members[worker].up)
        ]
        self.invariants = [
            _judge(AGREE, [f"Of task {wire_id}, which was sent, there is no trace." for wire_id in sorted(missing)]),
            _judge(
                ONE_PLACE,
                [
                    f"{wire_id} is held by {', '.join(sorted(set(who)))}."
                    for wire_id, who in holders.items()
                    if len(set(who)) > 1
                ],
            ),
            _judge(LIVING_OWNER, orphans),
            _judge(RESULTS_KNOWN, unknown),
        ]
        for invariant in self.invariants:
            if not invariant.holds:
                log.warning(
                    "%s does not hold: %s",
                    invariant.name,
                    invariant.examples[0],
                    extra={"action": "invariant_broken", "invariant": invariant.name},
                )
        return self.invariants

    async def _adopt_results(self) -> list[str]:
        """Take results into the ledger that it does not know; returns a sentence for each that cannot be taken."""
        transport = self._transports.get("file")
        if transport is None:
            return []
        begun = time.time()
        since = await self._core.database.read(_scanned_until)
        found = await asyncio.get_running_loop().run_in_executor(None, results_since, self._results, since)
        unknown = await self._core.database.read(lambda connection: _unknown(connection, found, self._results))
        broken: list[str] = []
        for worker, wire_id in unknown:
            result = await transport.result(worker, wire_id)
            if result is not None:
                self._clerk.hear_result(HeardResult(result=result, transport="file"))
            elif wire_id not in self._core.open:
                broken.append(
                    f"results/{worker}/{wire_id}{TASK_SUFFIX} cannot be understood, and its task is not known."
                )
        if not broken:
            await self._core.database.write(lambda connection: _set_scanned(connection, begun - _OVERLAP_S))
        return broken


def _judge(name: str, sentences: list[str]) -> Invariant:
    return Invariant(
        name=name,
        holds=not sentences,
        violations=len(sentences),
        examples=sentences[:_MOST_EXAMPLES],
        checked_at=datetime.now(UTC),
    )


def results_since(results: Path, since: float) -> list[tuple[str, str]]:
    """Return (worker, wire id) of the results that came at `since` (seconds since 1970) or later."""
    found: list[tuple[str, str]] = []
    with suppress(OSError), os.scandir(results) as workers:
        for worker in workers:
            with suppress(OSError):
                # A directory in which nothing has changed holds nothing new.
                if not is_worker_name(worker.name) or worker.stat().st_mtime < since:
                    continue
                with os.scandir(worker.path) as files:
                    found += [
                        (worker.name, file.name.removesuffix(TASK_SUFFIX))
                        for file in files
                        if file.name.endswith(TASK_SUFFIX)
                        and is_task_id(file.name.removesuffix(TASK_SUFFIX))
                        and file.stat(follow_symlinks=False).st_mtime >= since
                    ]
    return found


def _unknown(connection: sqlite3.Connection, found: list[tuple[str, str]], results: Path) -> list[tuple[str, str]]:
    """Return those that the ledger has not, or has an older one of: a try that a person had run anew."""
    known: dict[str, float | None] = {}
    for start in range(0, len(found), _CHUNK):
        names = [wire_id for _, wire_id in found[start : start + _CHUNK]]
        marks = ", ".join("?" * len(names))
        rows = connection.execute(
            "SELECT wire_id, CASE status WHEN 'failed' THEN ended_at END FROM runs"
            f" WHERE ended_at IS NOT NULL AND wire_id IN ({marks})",
            names,
        )
        known.update(rows)
    return [
        (worker, wire_id)
        for worker, wire_id in found
        if wire_id not in known or _is_newer(results / worker / f"{wire_id}{TASK_SUFFIX}", known[wire_id])
    ]


def _is_newer(path: Path, moment: float | None) -> bool:
    try:
        return moment is not None and path.stat().st_mtime > moment
    except OSError:
        return False


def _scanned_until(connection: sqlite3.Connection) -> float:
    found = connection.execute("SELECT value FROM positions WHERE name = ?", (_SCANNED,)).fetchone()
    return 0.0 if found is None else float(found[0])


def _set_scanned(connection: sqlite3.Connection, moment: float) -> None:
    connection.execute(
        "INSERT INTO positions (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (_SCANNED, str(moment)),
    )
