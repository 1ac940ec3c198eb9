"""Figures of the control pipe: how long it takes from a line to what it says being done."""

from __future__ import annotations

import os
import random
import time

from benchmarks.files import GAP_S, WARM_UP
from benchmarks.peers.record import Record
from benchmarks.rig import MEMORY, WORKER, Percentiles, open_bench_worker, open_rig, say


def control_latency(samples: int) -> Percentiles:
    """Time a line from its write until the worker has carried it out; one line at a time."""
    say(f"latency of {samples} lines on the control pipe, one at a time")
    total = WARM_UP + samples
    gaps = random.Random(1)
    with open_rig(MEMORY, total) as rig, open_bench_worker(rig, WORKER_MODE="hooks") as worker:
        record = Record(rig.record_path)
        pipe = os.open(rig.shared / "pipes" / f"{WORKER}-control", os.O_WRONLY)
        try:
            for number in range(total):
                record.write(number, time.monotonic_ns(), 0)
                os.write(pipe, b"wake\n")
                deadline = time.monotonic() + 10
                while not record.read(number)[1]:
                    worker.child.check()
                    if time.monotonic() > deadline:
                        raise RuntimeError(f"line {number} was not carried out within 10 s")
                    time.sleep(0.0005)
                time.sleep(gaps.uniform(*GAP_S))
        finally:
            os.close(pipe)
        pairs = [record.read(number) for number in range(WARM_UP, total)]
    return Percentiles.of([(handled - sent) / 1e6 for sent, handled in pairs])
