"""A real Prometheus over real services: on a free loopback port, with the project's rules, ended with the test."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.monitoring_files import MONITORING, program
from tests.ports import free_port
from tests.waiting import wait_until


class Prometheus:
    """A running server."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self._process = process
        self._log = log
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False, verify=False)

    def ready(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        with suppress(httpx.TransportError):
            return self._client.get("/-/ready").status_code == 200
        return False

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Evaluate a query now; returns its series. Fails where Prometheus refuses it."""
        told = self._client.post("/api/v1/query", data={"query": query}).json()
        assert told["status"] == "success", f"{query}: {told.get('error')}"
        data = told["data"]
        return data["result"] if data["resultType"] == "vector" else [{"metric": {}, "value": data["result"]}]

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of another part of its API."""
        told = self._client.get(f"/api/v1/{path}", params=parameters).json()
        assert told["status"] == "success", told
        return told["data"]

    def close(self) -> None:
        self._client.close()
        self._process.terminate()
        self._process.wait(20)


@contextmanager
def running_prometheus(folder: Path, targets: dict[str, list[str]]) -> Iterator[Prometheus]:
    """Scrape these targets by the project's own configuration, but every second.

    Args:
        folder: Where it keeps what it has; made.
        targets: By the names of the jobs in deploy/monitoring/prometheus.yml, all of which must be there.
    """
    folder.mkdir()
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    del config["alerting"]
    config["global"] = dict.fromkeys(config["global"], "1s")
    config["rule_files"] = [str(MONITORING / pattern) for pattern in config["rule_files"]]
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": targets[job["job_name"]]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port, log = free_port(), folder / "log"
    command = [program("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
    server = Prometheus(process, port, log)
    try:
        wait_until(server.ready, 30, "Prometheus is ready")
        yield server
    finally:
        server.close()
