"""Prometheus with these rules, and Alertmanager where it is installed, beside a team of this machine: for a look.

`make monitoring-up` runs it. Who is scraped is read from the heartbeats, again and again: a worker that starts appears
by itself. Nothing is kept: what was measured goes with the end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import yaml

from agent_bus.files import write_atomic
from agent_bus.heartbeats import age_seconds, read_heartbeat
from agent_bus.messages import WorkerStatus

HERE: Final = Path(__file__).resolve().parent
LOOK_EVERY_S: Final = 2.0
FORGOTTEN_AFTER_S: Final = 3600.0
"""A worker that was killed stays a target, and is seen to be down; one of last week is not missed."""

_START_S: Final = 30.0
_STOP_S: Final = 10.0


class Unavailable(Exception):
    """It cannot be started; the text says why in one sentence."""


def find_targets(shared: Path) -> dict[str, list[str]]:
    """Return the addresses of all that gives a sign of life, by the name of the job."""
    found: dict[str, list[str]] = {"codehornets-workers": [], "codehornets-orchestrator": []}
    for path in sorted((shared / "heartbeats").glob("*.json")):
        beat = read_heartbeat(path)
        if beat is None or not beat.http_port or beat.status is WorkerStatus.STOPPED:
            continue
        if age_seconds(beat) < FORGOTTEN_AFTER_S:
            job = "codehornets-orchestrator" if path.name == "orchestrator.json" else "codehornets-workers"
            found[job].append(f"127.0.0.1:{beat.http_port}")
    return found


def choose_port(wanted: int) -> int:
    """Return the wanted port of loopback, or any free one where that is taken."""
    for port in (wanted, 0):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)) as listener:
            free: int = listener.getsockname()[1]
            return free
    raise Unavailable("No port of 127.0.0.1 is free.")


def _read(name: str) -> Any:
    return yaml.safe_load((HERE / name).read_text(encoding="utf-8"))


def write_prometheus_config(folder: Path, alertmanager: int | None) -> Path:
    """Write what prometheus.yml says, with this machine's targets; returns the file."""
    config = _read("prometheus.yml")
    config["global"] = dict.fromkeys(config["global"], "5s")
    config["rule_files"] = [str(HERE / pattern) for pattern in config["rule_files"]]
    static = [{"targets": [] if alertmanager is None else [f"127.0.0.1:{alertmanager}"]}]
    config["alerting"]["alertmanagers"] = [{"static_configs": static}]
    for job in config["scrape_configs"]:
        del job["static_configs"]
        job["file_sd_configs"] = [{"files": [str(folder / f"{job['job_name']}.json")], "refresh_interval": "5s"}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def write_alertmanager_config(folder: Path) -> Path:
    """Write what alertmanager.yml says of routes, with receivers that call nobody; returns the file."""
    config = _read("alertmanager.yml")
    del config["global"]
    config["receivers"] = [{"name": receiver["name"]} for receiver in config["receivers"]]
    path = folder / "alertmanager.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@contextmanager
def started(name: str, command: list[str], log: Path, url: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server for the length of the block, which begins when it is ready."""
    with log.open("wb") as said:
        # Of its own session: Ctrl-C is for this program, which ends the others in their order.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True)
    try:
        deadline = time.monotonic() + _START_S
        while not _answers(f"{url}/-/ready"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Unavailable(f"{name} did not start: {_last_line(log)}")
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    # Loopback is never reached by a proxy, whatever the environment says.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with suppress(OSError), opener.open(url, timeout=2) as answer:
        return bool(answer.status == 200)
    return False


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1] if lines else "it said nothing"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Watch a team of this machine with Prometheus.")
    shared = Path(os.environ.get("SHARED_DIR", "shared"))
    parser.add_argument("--shared-dir", type=Path, default=shared, help="where the team runs (SHARED_DIR, ./shared)")
    parser.add_argument("--port", type=int, default=9090, help="of Prometheus; any free one where it is taken")
    parser.add_argument("--alertmanager-port", type=int, default=9093, help="of Alertmanager; the same")
    return parser.parse_args()


def watch(shared: Path, port: int, alertmanager_port: int, stop: threading.Event) -> None:
    """Run until told to stop.

    Raises:
        Unavailable: Prometheus is not installed, or one of the two did not start.
    """
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        raise Unavailable("prometheus is not on the PATH; install it (on Debian and Ubuntu: apt install prometheus).")
    alertmanager = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="codehornets-monitoring-")))
        told: dict[str, list[str]] = {}

        def renew() -> None:
            for job, targets in find_targets(shared).items():
                if told.get(job) != targets:
                    write_atomic(folder / f"{job}.json", json.dumps([{"targets": targets}]).encode())
                    told[job] = targets

        renew()
        processes: list[subprocess.Popen[bytes]] = []
        alerts = None
        if alertmanager is not None:
            alerts = choose_port(alertmanager_port)
            command = [alertmanager, f"--config.file={write_alertmanager_config(folder)}"]
            command += [f"--storage.path={folder}/alertmanager", "--cluster.listen-address="]
            command.append(f"--web.listen-address=127.0.0.1:{alerts}")
            url = f"http://127.0.0.1:{alerts}"
            processes.append(running.enter_context(started("Alertmanager", command, folder / "alertmanager.log", url)))
        port = choose_port(port)
        command = [prometheus, f"--config.file={write_prometheus_config(folder, alerts)}"]
        command += [f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"]
        url = f"http://127.0.0.1:{port}"
        processes.append(running.enter_context(started("Prometheus", command, folder / "prometheus.log", url)))
        _tell(shared, told, url, alerts)
        while not stop.wait(LOOK_EVERY_S):
            renew()
            if any(process.poll() is not None for process in processes):
                raise Unavailable("Prometheus or Alertmanager has ended by itself.")


def _tell(shared: Path, targets: dict[str, list[str]], url: str, alerts: int | None) -> None:
    workers = len(targets["codehornets-workers"])
    print(f"Prometheus:   {url}/alerts and {url}/targets")
    if alerts is None:
        print("Alertmanager: not installed (on Debian and Ubuntu: apt install prometheus-alertmanager)")
    else:
        print(f"Alertmanager: http://127.0.0.1:{alerts} (it shows who would be told, and tells nobody)")
    if any(targets.values()):
        print(f"Scraped are {workers} workers and {len(targets['codehornets-orchestrator'])} orchestrator of {shared}.")
    else:
        print(f"No team runs at {shared} yet: `make run` in another shell starts one, and it is found by itself.")
    print("Ctrl-C stops it.", flush=True)


def main() -> int:
    """Run until Ctrl-C; 2 where it cannot."""
    arguments = _parse()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        watch(arguments.shared_dir.absolute(), arguments.port, arguments.alertmanager_port, stop)
    except Unavailable as error:
        print(f"monitoring-up: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
