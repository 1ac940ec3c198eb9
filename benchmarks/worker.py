"""The worker that the benchmarks time: the real one, with an echo agent that notes when it has the prompt.

`python -m benchmarks.worker NAME` takes the worker's environment, and the path of the record file as BENCH_RECORD.
The number of a task's slot is its prompt.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from pathlib import Path

import anyio

from benchmarks.peers.record import Record
from service_kit.entry import open_log, spare_the_collector
from worker_service.agents.base import Run
from worker_service.agents.echo import EchoAgent
from worker_service.service import Worker, open_worker
from worker_service.settings import read_settings

RECORD_VARIABLE = "BENCH_RECORD"


class RecordingAgent(EchoAgent):
    """The echo agent, with a note of the moment at which it has the prompt: 16 bytes copied, no system call."""

    def __init__(self, record: Record) -> None:
        self._record = record

    async def run(self, run: Run) -> None:
        """Note the time and echo."""
        entered_ns = time.monotonic_ns()
        await super().run(run)
        prompt = run.task.description
        if prompt.isdigit():
            slot = int(prompt)
            self._record.write(slot, self._record.read(slot)[0], entered_ns)


def note_wakes(worker: Worker, record: Record) -> None:
    """Note when each command `wake` has been carried out, the first one in the first slot."""
    wake, slots = worker.wake, itertools.count()

    def wake_and_note() -> None:
        wake()
        slot = next(slots)
        record.write(slot, record.read(slot)[0], time.monotonic_ns())

    worker.wake = wake_and_note  # type: ignore[method-assign]


async def _serve() -> None:
    settings = read_settings(os.environ, sys.argv[1])
    open_log(settings.layout.log(settings.worker), settings.log_level, settings.worker)
    spare_the_collector()
    record = Record(Path(os.environ[RECORD_VARIABLE]))
    agent = RecordingAgent(record)
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with open_worker(settings, agent) as worker:
            note_wakes(worker, record)
            await anext(signals)


if __name__ == "__main__":
    anyio.run(_serve)
