"""`make monitoring-up`: Prometheus and Alertmanager beside a team of this machine."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.integration.harness import REPOSITORY
from tests.integration.orchestrator_process import processes
from tests.monitoring_files import program, rules
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

PROGRAM = REPOSITORY / "deploy" / "monitoring" / "local.py"


@contextmanager
def looking(shared: Path, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """The program, on any free ports; it gets Ctrl-C at the end."""
    process = subprocess.Popen(
        [sys.executable, PROGRAM, "--shared-dir", shared, "--port", "0", "--alertmanager-port", "0"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=40)


def _say(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("Ctrl-C"):
            return "".join(lines)
    assert process.stderr is not None
    raise AssertionError("".join(lines) + process.stderr.read())


def test_a_team_is_scraped_and_found_when_it_starts_later(shared: Path) -> None:
    assert program("prometheus")
    assert program("prometheus-alertmanager")
    with looking(shared) as process, processes(shared) as team, httpx.Client(trust_env=False, verify=False) as client:
        said = _say(process)
        assert f"No team runs at {shared} yet" in said
        url, alerts = re.findall(r"http://127\.0\.0\.1:\d+", said)[0], re.findall(r"http://127\.0\.0\.1:\d+", said)[-1]

        def ask(query: str) -> list[dict[str, dict[str, str]]]:
            answer = client.get(f"{url}/api/v1/query", params={"query": query}).json()
            found: list[dict[str, dict[str, str]]] = answer["data"]["result"]
            return found

        def waits(name: str) -> bool:
            told = client.get(f"{alerts}/api/v2/alerts").json()
            return any(alert["labels"]["alertname"] == name for alert in told)

        groups = client.get(f"{url}/api/v1/rules").json()["data"]["groups"]
        assert sum(len(group["rules"]) for group in groups) == len(rules())
        worker = team.worker("marie")
        team.orchestrator()
        worker.ready()
        (shared / "triggers" / "marie" / "broken.trigger").write_text("{")
        jobs = {"codehornets-workers", "codehornets-orchestrator"}
        wait_until(lambda: {series["metric"]["job"] for series in ask("up == 1")} == jobs, 60, "both are scraped")
        wait_until(lambda: waits("CodehornetsDeadLettersArriving"), 60, "Alertmanager knows of the broken trigger")
        worker.kill()
        wait_until(lambda: ask('up{job="codehornets-workers"} == 0'), 60, "a killed worker is seen to be down")
        children = _children(process.pid)
        assert len(children) == 2
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 0
        assert [child for child in children if Path(f"/proc/{child}").exists()] == []


def _children(pid: int) -> list[str]:
    return [child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


def test_without_prometheus_one_sentence_says_so(shared: Path, tmp_path: Path) -> None:
    with looking(shared, PATH=str(tmp_path)) as process:
        assert process.wait(40) == 2
        assert process.stderr is not None
        assert process.stderr.read() == (
            "monitoring-up: prometheus is not on the PATH; install it (on Debian and Ubuntu: apt install prometheus).\n"
        )
