"""A worker that is killed at a hundred random moments still answers each task exactly once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agent_bus.heartbeats import read_heartbeat
from agent_bus.messages import TaskStatus
from tests.integration.harness import QUICK, REPOSITORY, Shop
from tests.waiting import wait_until

KILLS = 100
TASKS = 1000

# A template process imports everything once and forks a worker for each line it is sent; a start costs milliseconds.
TEMPLATE = """
import os, random, signal, sys
import anyio
from tests.integration import harness
import worker_service.run as entry, worker_service.service as service
from worker_service.agents.echo import EchoAgent

class Dawdler(EchoAgent):
    async def run(self, run):
        await anyio.sleep(random.random() * 0.02)
        await super().run(run)

service.make_agent = lambda settings: Dawdler()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
sys.argv = ["worker_service", "marie"]
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        random.seed()
        os._exit(entry.main())
    print(child, flush=True)
"""


class Supervisor:
    """Starts workers and kills them."""

    def __init__(self, shared: Path, **environ: str) -> None:
        environment = {"PATH": os.environ["PATH"], **QUICK, "SHARED_DIR": str(shared), "PYTHONPATH": str(REPOSITORY)}
        self._template = subprocess.Popen(
            [sys.executable, "-c", TEMPLATE],
            env={**environment, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.started: list[int] = []

    def start(self) -> int:
        assert self._template.stdin is not None
        assert self._template.stdout is not None
        self._template.stdin.write("go\n")
        self._template.stdin.flush()
        self.started.append(int(self._template.stdout.readline()))
        return self.started[-1]

    def living(self) -> list[int]:
        return [pid for pid in self.started if Path(f"/proc/{pid}").exists()]

    def close(self) -> None:
        for pid in self.living():
            os.kill(pid, signal.SIGKILL)
        self._template.kill()
        self._template.communicate()


def hand_in(shop: Shop, choice: random.Random, pause_s: float) -> None:
    """Hand the tasks in, in every way there is."""
    for number in range(TASKS):
        task_id = f"t{number}"
        match number % 4:
            case 0 | 1:
                shop.submit(task_id)
            case 2:
                shop.submit(task_id, session=f"s{number % 3}")
            case 3:
                shop.task_file(task_id)
                (shop.layout.triggers / f"task-{task_id}.trigger").touch()
        time.sleep(pause_s * choice.random())


@pytest.mark.crash
@pytest.mark.timeout(240)
def test_a_hundred_kills_lose_and_double_nothing(shared: Path, shop: Shop) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    choice = random.Random(seed)
    # An attempt is spent by each kill that meets the task; nothing is to be given up here.
    supervisor = Supervisor(
        shared, MAX_ATTEMPTS="1000", RESCAN_INTERVAL="1", SETTLE_TIME="1", MAX_CONCURRENT="5", LOG_LEVEL="WARNING"
    )
    producer = threading.Thread(target=hand_in, args=(shop, random.Random(seed), 0.06), daemon=True)
    try:
        for kill in range(KILLS):
            worker = supervisor.start()
            if kill == 0:
                wait_until(lambda: shop.layout.inflight.is_dir(), 30)
                producer.start()
            time.sleep(choice.random() * 0.45)
            os.kill(worker, signal.SIGKILL)
            wait_until(lambda pid=worker: not Path(f"/proc/{pid}").exists())  # type: ignore[misc]
        killed_at = len(shop.result_ids())
        producer.join(60)
        for half_done in (*shop.layout.inflight.glob(".new-*"), *shared.rglob(".*.tmp"), *shared.rglob(".*.result")):
            # A kill met it before it had its place; it is taken for dead, and removed, after a minute or an hour.
            os.utime(half_done, (0, 0))
        last = supervisor.start()
        wait_until(lambda: (beat := read_heartbeat(shop.layout.heartbeat("marie"))) and beat.pid == last, 20)
        wait_until(lambda: len(shop.result_ids()) >= TASKS, 60, "all results")
        wait_until(lambda: not list(shop.layout.triggers.glob("*.trigger")), 20, "all triggers taken")
        os.kill(last, signal.SIGTERM)
        wait_until(lambda: supervisor.living() == [], 20, "the worker's end")
    finally:
        supervisor.close()
    print(f"{killed_at} results by the last kill")
    assert killed_at > 50
    assert shop.result_ids() == {f"t{number}" for number in range(TASKS)}
    results = [shop.result(f"t{number}") for number in range(TASKS)]
    assert {result.status for result in results if result is not None} == {TaskStatus.COMPLETED}
    assert max(result.attempts for result in results if result is not None) > 1, "no kill met a running task"
    assert [letter.message for letter in shop.letters()] == []
    assert shop.claims() == []
    assert shop.litter() == []
    assert supervisor.living() == []
