"""Figures of the orchestrator: handing in, handing over, results, graphs, and what it costs when nothing happens."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from agent_bus.events import EventJournal
from benchmarks.files import GAP_S
from benchmarks.orchestrator_rig import (
    API,
    BenchOrchestrator,
    FakeWorker,
    Line,
    open_ledger,
    open_orchestrator,
    open_team,
    request,
    wait_for,
    wait_for_ends,
)
from benchmarks.peers.processes import open_process
from benchmarks.peers.record import Record
from benchmarks.rig import (
    DEADLINE_S,
    MEMORY,
    ROOT,
    WORKER,
    Percentiles,
    Rig,
    Usage,
    open_rig,
    resident_mb,
    say,
    usage_of,
)

WARM_UP = 20
LAYER = 100
"""Tasks of a graph that can run at the same time."""
NEVER_S = "86400"
_CLIENTS = 8
_RUNS = 3


def client_environment() -> dict[str, str]:
    """Return the environment of a process of clients."""
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}


def _post(port: int, clients: int, tasks: int, prefix: str) -> Any:
    command = [sys.executable, "-m", "benchmarks.api_clients", "post", *map(str, (port, clients, tasks, prefix))]
    done = subprocess.run(command, env=client_environment(), capture_output=True, text=True, timeout=DEADLINE_S)
    if done.returncode != 0:
        raise RuntimeError(f"The clients failed: {(done.stderr.strip() or 'no output').splitlines()[-1]}")
    return json.loads(done.stdout)


@dataclass(frozen=True)
class PostFigures:
    """What handing in takes while an echo worker works the tasks off."""

    alone: Percentiles
    """One client, one task at a time."""
    rates: list[float]
    """Tasks a second from eight clients, of each run."""
    cpu_ms: float
    """Processor time of the orchestrator a task, from its POST to its result in the ledger."""


def posts(samples: int, tasks: int) -> PostFigures:
    """Hand in tasks, by one client and by eight."""
    say(f"{samples} tasks handed in by one client, then {_RUNS} times {tasks} by {_CLIENTS}")
    with open_rig(MEMORY, 1) as rig, open_team(rig) as orchestrator, Line(orchestrator.port) as line:
        _post(orchestrator.port, 1, WARM_UP, "warm")
        alone = _post(orchestrator.port, 1, samples, "one")["samples_ms"]
        total, rates = WARM_UP + samples, []
        for run in range(_RUNS):
            wait_for_ends(line, orchestrator.child, total)
            before = usage_of([orchestrator.pid])
            rates.append(tasks / _post(orchestrator.port, _CLIENTS, tasks, f"run{run}")["seconds"])
            total += tasks
        wait_for_ends(line, orchestrator.child, total)
        used = usage_of([orchestrator.pid]).since(before)
    return PostFigures(Percentiles.of(alone), rates, 1000 * used.cpu_s / tasks)


def to_prompt(samples: int) -> Percentiles:
    """Time a task from the first byte of its POST until the agent has the prompt; one at a time."""
    say(f"{samples} tasks from their POST to the agent, one at a time")
    total = WARM_UP + samples
    gaps = random.Random(1)
    with open_rig(MEMORY, total) as rig, open_team(rig) as orchestrator, Line(orchestrator.port) as line:
        record = Record(rig.record_path)
        for number in range(total):
            order = {"task_id": f"p-{number}", "description": str(number), "worker": WORKER}
            message = request("POST", f"{API}/tasks", order)
            record.write(number, time.monotonic_ns(), 0)
            line.send(message)
            line.answer()
            wait_for(partial(_is_noted, record, number), orchestrator.child, within_s=10, every_s=0.0005)
            line.get(f"/tasks/wait?id=p-{number}&timeout=10")
            time.sleep(gaps.uniform(*GAP_S))
        pairs = [record.read(number) for number in range(WARM_UP, total)]
    return Percentiles.of([(entered - sent) / 1e6 for sent, entered in pairs])


def _is_noted(record: Record, number: int) -> bool:
    return record.read(number)[1] != 0


@contextmanager
def listeners(rig: Rig, port: int, clients: int, deaf: int, tasks: int, prefix: str, event: str) -> Iterator[Record]:
    """Follow the team with so many clients in one process; yields the record in which they note what they see."""
    path = rig.shared / f"listen-{prefix}"
    record = Record.create(path, clients * tasks)
    log = Path(f"{path}.out")
    arguments = map(str, (port, clients, deaf, path, prefix, tasks, event))
    command = [sys.executable, "-m", "benchmarks.api_clients", "listen", *arguments]
    with open_process(command, log, client_environment()) as child:
        wait_for(lambda: b"ready" in log.read_bytes(), child, within_s=60)
        yield record
        child.check()


def result_visible(samples: int) -> tuple[Percentiles, Percentiles]:
    """Time a result from its rename into place until a waiting client of the API has it, and one of the events."""
    say(f"{samples} results until they are seen")
    total = WARM_UP + samples
    gaps = random.Random(1)
    in_api, in_events = [], []
    with open_rig(MEMORY, 1) as rig, open_ledger() as ledger:
        worker = FakeWorker(rig)
        worker.beat()
        # The fake worker leaves no claims, which a check would take for lost tasks.
        quiet = {"WORKER_SILENT_AFTER": NEVER_S, "CHECK_INTERVAL": NEVER_S}
        with (
            open_orchestrator(rig, ledger, **quiet) as orchestrator,
            Line(orchestrator.port) as line,
            listeners(rig, orchestrator.port, 1, 0, total, "v", "task_ended") as record,
        ):
            for number in range(total):
                task_id = f"v-{number}"
                line.post_task(task_id=task_id, description="x", worker=WORKER)
                worker.take(task_id)
                line.send(request("GET", f"{API}/tasks/wait?id={task_id}&timeout=10"))
                time.sleep(gaps.uniform(*GAP_S))
                placed_ns = worker.finish(task_id)
                (task,) = json.loads(line.answer())
                in_api.append((time.monotonic_ns() - placed_ns) / 1e6)
                if task["state"] != "completed":
                    raise RuntimeError(f"the result of {task_id} was not seen within 10 s")
                wait_for(partial(_is_noted, record, number), orchestrator.child, every_s=0.0005)
                in_events.append((record.read(number)[1] - placed_ns) / 1e6)
                time.sleep(gaps.uniform(*GAP_S))
    return Percentiles.of(in_api[WARM_UP:]), Percentiles.of(in_events[WARM_UP:])


def live_output(samples: int) -> Percentiles:
    """Time what an agent says from its line in the journal until a client that follows the task has it."""
    say(f"{samples} lines of an agent until a client has them")
    total = WARM_UP + samples
    gaps = random.Random(1)
    seen = []
    with open_rig(MEMORY, 1) as rig, open_ledger() as ledger:
        worker = FakeWorker(rig)
        worker.beat()
        quiet = {"WORKER_SILENT_AFTER": NEVER_S, "CHECK_INTERVAL": NEVER_S}
        with open_orchestrator(rig, ledger, **quiet) as orchestrator, Line(orchestrator.port) as line:
            line.post_task(task_id="live", description="x", worker=WORKER)
            worker.take("live")
            journal = EventJournal(rig.shared / "events" / WORKER, worker=WORKER, task_id="live")
            with socket.create_connection(("127.0.0.1", orchestrator.port), timeout=10) as follower:
                follower.sendall(request("GET", f"{API}/tasks/live/events"))
                _read_until(follower, b"task_sent")
                for number in range(total):
                    said = f"said-{number}-end"
                    begun = time.monotonic_ns()
                    journal.append("text", {"text": said})
                    _read_until(follower, said.encode())
                    seen.append((time.monotonic_ns() - begun) / 1e6)
                    time.sleep(gaps.uniform(*GAP_S))
            journal.close()
    return Percentiles.of(seen[WARM_UP:])


def _read_until(connection: socket.socket, wanted: bytes) -> None:
    read = b""
    while wanted not in read:
        piece = connection.recv(65_536)
        if not piece:
            raise RuntimeError(f"the stream ended before {wanted.decode()}")
        read = read[-len(wanted) :] + piece


@dataclass(frozen=True)
class GraphFigures:
    """What came of a graph."""

    accepted_s: float
    """From the first byte of the POST to the last one of its answer."""
    done_s: float
    """From there until all of it was done: handed over, or ended with all results in the ledger."""
    whole_s: float
    """From the first byte of the POST until then."""
    tasks: int


def _graph(tasks: int, *, layered: bool, **fields: str) -> bytes:
    orders = []
    for number in range(tasks):
        order: dict[str, Any] = {"key": f"k{number}", "description": "no work", **fields}
        if layered and number >= LAYER:
            above = number - LAYER
            beside = above - above % LAYER + (above + 1) % LAYER
            order["dependencies"] = [f"k{above}", f"k{beside}"]
        orders.append(order)
    return request("POST", f"{API}/tasks", {"graph_id": "g", "tasks": orders})


def graph_handed_over(tasks: int) -> GraphFigures:
    """Hand in independent tasks in one body, for a worker that takes none: until the last trigger is in place."""
    say(f"{tasks} independent tasks in one body")
    message = _graph(tasks, layered=False, worker=WORKER)
    with open_rig(MEMORY, 1) as rig, open_ledger() as ledger:
        worker = FakeWorker(rig)
        worker.beat()
        all_at_once = {"WORKER_SILENT_AFTER": NEVER_S, "MAX_IN_FLIGHT": "100000"}
        with open_orchestrator(rig, ledger, **all_at_once) as orchestrator, Line(orchestrator.port) as line:
            sent = time.time()
            line.send(message)
            line.answer()
            answered = time.time()
            wait_for(lambda: len(worker.waiting()) >= tasks, orchestrator.child, within_s=120, every_s=0.1)
            # A rename leaves its moment in the file: nobody has to watch, and to get in the way.
            last = max(trigger.stat().st_ctime for trigger in worker.waiting())
    return GraphFigures(answered - sent, last - answered, last - sent, tasks)


def graph_end_to_end(tasks: int) -> GraphFigures:
    """Hand in a graph of layers, for any of two echo workers: until all results are in the ledger."""
    say(f"a graph of {tasks} tasks in layers of {LAYER}, by two workers")
    message = _graph(tasks, layered=True)
    with (
        open_rig(MEMORY, 1) as rig,
        open_team(rig, (WORKER, "other")) as orchestrator,
        Line(orchestrator.port) as line,
    ):
        sent = time.monotonic()
        line.send(message)
        line.answer()
        answered = time.monotonic()
        wait_for_ends(line, orchestrator.child, tasks)
        ended = time.monotonic()
    return GraphFigures(answered - sent, ended - answered, ended - sent, tasks)


def idle(seconds: float) -> tuple[Usage, float, float]:
    """Measure an orchestrator with three workers and nothing to do: use, megabytes, and those after a use of MCP."""
    say(f"an idle orchestrator with 3 workers for {seconds:g} s")
    names = (WORKER, "second", "third")
    with open_rig(MEMORY, 1) as rig, open_team(rig, names, module="worker_service") as orchestrator:
        time.sleep(3)
        before = usage_of([orchestrator.pid])
        time.sleep(seconds)
        used, small_mb = usage_of([orchestrator.pid]).since(before), resident_mb(orchestrator.pid)
        _use_mcp(orchestrator)
        return used, small_mb, resident_mb(orchestrator.pid)


def _use_mcp(orchestrator: BenchOrchestrator) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "list_workers", "arguments": {}}}
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    url = f"http://127.0.0.1:{orchestrator.port}/mcp"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(call).encode(), headers), timeout=30) as answer:
        if WORKER.encode() not in answer.read():
            raise RuntimeError("MCP did not list the workers.")
