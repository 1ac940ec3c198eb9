"""A real Alertmanager with the project's configuration: each receiver gets what it needs, from secrets in files."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.monitoring_files import MONITORING, alerts, program
from tests.ports import free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(90)

SECRETS = {
    "pagerduty_routing_key": "a" * 32,
    "opsgenie_api_key": "opsgenie-key",
    "slack_url": "",  # the address of the one that plays Slack, put in by the test
    "teams_client_secret": "teams-secret",
}


class Receivers:
    """Plays PagerDuty, Opsgenie, Slack, Teams and the one who gives out tokens for it."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["Content-Length"])).decode()
                body = json.loads(text) if text.startswith("{") else text
                outer.got.append((self.path, dict(self.headers), body))
                answer = {"access_token": "a-token", "token_type": "Bearer", "expires_in": 3600, "status": "success"}
                self.send_response(202 if "opsgenie" in self.path or "pagerduty" in self.path else 200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def sent_to(self, place: str) -> list[tuple[dict[str, str], Any]]:
        return [(headers, body) for path, headers, body in self.got if path.startswith(f"/{place}")]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def running_alertmanager(folder: Path, receivers: Receivers, secrets: dict[str, str]) -> Iterator[str]:
    """Run it by deploy/monitoring/alertmanager.yml, but that addresses and secrets are the test's."""
    for name, secret in secrets.items():
        (folder / name).write_text(receivers.url + "/slack" if name == "slack_url" else secret)
    text = (MONITORING / "alertmanager.yml").read_text().replace("/etc/alertmanager/secrets", str(folder))
    text = text.replace("https://workflows.example.com", receivers.url + "/teams")
    text = text.replace("https://login.example.com", receivers.url + "/login")
    config = yaml.safe_load(text)
    config["global"] |= {"opsgenie_api_url": receivers.url + "/opsgenie", "pagerduty_url": receivers.url + "/pagerduty"}
    config["route"]["group_wait"] = config["route"]["routes"][0]["group_wait"] = "0s"
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
    url, log = f"http://127.0.0.1:{free_port()}", folder / "log"
    command = [program("prometheus-alertmanager"), f"--config.file={folder}/alertmanager.yml"]
    command += [f"--storage.path={folder}/data", "--cluster.listen-address=", f"--web.listen-address={url[7:]}"]
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        with suppress(httpx.TransportError):
            return httpx.get(f"{url}/-/ready", trust_env=False, verify=False).status_code == 200
        return False

    try:
        wait_until(ready, 30, "Alertmanager is ready")
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def receivers() -> Iterator[Receivers]:
    played = Receivers()
    yield played
    played.close()


def _fire(url: str, name: str, **labels: str) -> None:
    alert = alerts()[name]
    told = {"alertname": name, **alert["labels"], **labels}
    annotations = {**alert["annotations"], "summary": f"summary of {name}", "description": "what it means"}
    body = [{"labels": told, "annotations": annotations}]
    answer = httpx.post(f"{url}/api/v2/alerts", json=body, trust_env=False, verify=False)
    assert answer.status_code == 200, answer.text


def test_each_receiver_is_told_in_its_own_way(tmp_path: Path, receivers: Receivers) -> None:
    with running_alertmanager(tmp_path, receivers, SECRETS) as url:
        _fire(url, "CodehornetsNoReadyWorker")
        _fire(url, "CodehornetsAgentProcessesMissing", worker="marie", instance="marie:8080", job="codehornets-workers")
        for place in ("pagerduty", "opsgenie", "slack", "teams"):
            wait_until(lambda place=place: receivers.sent_to(place), 30, place)  # type: ignore[misc]
    (_, paged), (headers, called) = receivers.sent_to("pagerduty")[0], receivers.sent_to("opsgenie")[0]
    assert (paged["routing_key"], paged["event_action"]) == (SECRETS["pagerduty_routing_key"], "trigger")
    assert paged["payload"]["severity"] == "critical"
    assert paged["payload"]["summary"] == "summary of CodehornetsNoReadyWorker"
    assert paged["client_url"].endswith("docs/troubleshooting.md#no-worker-is-ready")
    assert headers["Authorization"] == f"GenieKey {SECRETS['opsgenie_api_key']}"
    assert (called["message"], called["priority"]) == ("summary of CodehornetsAgentProcessesMissing", "P1")
    assert "#no-agent-process-starts" in called["description"]
    (_, written) = receivers.sent_to("slack")[0]
    assert written["channel"] == "#codehornets"
    assert written["attachments"][0]["title"] == "FIRING: CodehornetsNoReadyWorker"
    assert "|Runbook>" in written["attachments"][0]["text"]
    headers, posted = receivers.sent_to("teams")[0]
    assert headers["Authorization"] == "Bearer a-token"
    assert posted["alerts"][0]["labels"]["worker"] == "marie"
    asked, _ = receivers.sent_to("login")[0]
    credential = base64.b64decode(asked["Authorization"].removeprefix("Basic ")).decode()
    assert credential.endswith(f":{SECRETS['teams_client_secret']}")


def test_a_missing_secret_is_named_and_the_others_are_told(tmp_path: Path, receivers: Receivers) -> None:
    secrets = {name: secret for name, secret in SECRETS.items() if name != "pagerduty_routing_key"}
    with running_alertmanager(tmp_path, receivers, secrets) as url:
        _fire(url, "CodehornetsNoReadyWorker")
        wait_until(lambda: receivers.sent_to("slack"), 30, "Slack is told all the same")
        wait_until(lambda: "pagerduty_routing_key" in (tmp_path / "log").read_text(), 30, "the log names the file")
    assert receivers.sent_to("pagerduty") == []


def test_one_cause_gives_one_notification(tmp_path: Path, receivers: Receivers) -> None:
    labels = {"worker": "marie", "instance": "marie:8080", "job": "codehornets-workers"}
    with running_alertmanager(tmp_path, receivers, SECRETS) as url:
        _fire(url, "CodehornetsTargetDown", instance=labels["instance"], job=labels["job"])
        _fire(url, "CodehornetsWorkerNoHeartbeat", worker="marie")
        wait_until(lambda: len(receivers.sent_to("slack")) == 2, 30, "both causes are told")
        for name in ("ScrapedButStale", "LatencyHigh", "CpuHigh"):
            _fire(url, f"Codehornets{name}", **labels)
        _fire(url, "CodehornetsCpuHigh", worker="anga", instance="anga:8080", job="codehornets-workers")
        wait_until(lambda: len(receivers.sent_to("slack")) == 3, 30, "what is not inhibited is told")
        told = httpx.get(f"{url}/api/v2/alerts", trust_env=False, verify=False).json()
    suppressed = {
        (alert["labels"]["alertname"], alert["labels"].get("worker"))
        for alert in told
        if alert["status"]["state"] == "suppressed"
    }
    quiet = ("CodehornetsScrapedButStale", "CodehornetsLatencyHigh", "CodehornetsCpuHigh")
    assert suppressed == {(name, "marie") for name in quiet}
