"""The worker that the benchmarks time: the real one, with an echo agent that notes when it has the prompt.

`python -m benchmarks.worker NAME` takes the worker's environment, and the path of the record file as BENCH_RECORD.
The number of a task's slot is its prompt.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import anyio

from agent_bus.messages import Event
from benchmarks.peers.record import Record
from worker_service.agents.base import Run
from worker_service.agents.echo import EchoAgent
from worker_service.run import open_log, spare_the_collector
from worker_service.service import open_worker
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


class AnswerRecorder:
    """Notes when a command was answered whose id is the number of a slot."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def tell(self, event: Event, line: bytes) -> None:
        """Note the time of an answer."""
        mark = event.data.get("id")
        if event.event == "answer" and isinstance(mark, str) and mark.isdigit():
            slot = int(mark)
            self._record.write(slot, self._record.read(slot)[0], time.monotonic_ns())


async def _serve() -> None:
    settings = read_settings(os.environ, sys.argv[1])
    open_log(settings)
    spare_the_collector()
    record = Record(Path(os.environ[RECORD_VARIABLE]))
    agent = RecordingAgent(record)
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with open_worker(settings, agent) as worker:
            worker.broadcast.add(AnswerRecorder(record))
            await anext(signals)


if __name__ == "__main__":
    anyio.run(_serve)
