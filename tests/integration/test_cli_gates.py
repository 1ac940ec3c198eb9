"""`codehornets gates` and `codehornets usage`, with and without an orchestrator."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_bus.gates import Gate, GateNotice, after_seconds, closed_gates
from agent_bus.heartbeats import write_heartbeat
from agent_bus.messages import utc_now
from agent_bus.redis.client import RedisClient
from agent_bus.redis.gate_keys import opening
from agent_bus.redis.keys import gate
from agent_bus.redis.url import parse_redis_url
from orchestrator_service import cli
from orchestrator_service.api import money_examples
from orchestrator_service.cli.moments import money
from tests.integration.api_stub import running_stub
from tests.integration.transport_harness import made_beat
from tests.redis_server import running_redis

GATE = "5b1d7e0c9f3a2468"


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    return lambda: capsys.readouterr().out


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CODEHORNETS_URL", "REDIS_URL", "REDIS_URL_FILE", "SHARED_DIR", "API_TOKEN", "API_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared"


def notice(seconds: float = 600) -> GateNotice:
    return GateNotice(kind="five_hour", until=after_seconds(seconds), message="used up", worker="marie")


def test_without_an_orchestrator_the_files_tell_and_are_opened(shared: Path, output: Callable[[], str]) -> None:
    assert cli.run(["gates"]) == 0
    assert output() == "No gate is closed.\n"
    Gate(shared / "gates", GATE).close_until(notice())
    (shared / "heartbeats").mkdir()
    for name, gate_id in (("marie", GATE), ("anga", "other")):
        beat = made_beat(name, timestamp=utc_now(), gate_id=gate_id, queue_size=2)
        write_heartbeat(shared / "heartbeats" / f"{name}-watcher.json", beat)
    assert cli.run(["gates"]) == 0
    shown = output()
    assert GATE in shown and "five hour" in shown and "marie" in shown and "anga" not in shown and "used up" in shown
    assert cli.run(["gates", "--json"]) == 0
    (found,) = json.loads(output())
    assert (found["gate_id"], found["parked_tasks"], found["workers"]) == (GATE, 2, ["marie"])
    assert cli.run(["gates", "open", GATE]) == 0
    assert f"The gate {GATE} is open: 2 parked tasks of marie may go on." in output()
    assert closed_gates(shared / "gates") == {}


@pytest.mark.parametrize("gate_id", [GATE, "../x", "none"])
def test_a_gate_that_is_not_closed_is_one_sentence(
    shared: Path, gate_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["gates", "open", gate_id]) == 2
    said = capsys.readouterr()
    assert f"No gate '{gate_id}' is closed in" in said.err and "Traceback" not in said.err


def test_redis_alone_tells_and_is_opened(shared: Path, tmp_path: Path, output: Callable[[], str]) -> None:
    shared.rmdir()
    with running_redis(tmp_path / "redis") as server, server.client() as redis:
        redis.set(gate(GATE), notice().model_dump_json(), px=600_000)
        redis.set(gate("broken"), b"{ half")
        assert cli.run(["gates", "--redis", server.url, "--json"]) == 0
        assert [found["gate_id"] for found in json.loads(output())] == [GATE]
        assert cli.run(["gates", "open", GATE, "--redis", server.url]) == 0
        assert redis.get(gate(GATE)) is None
        client = RedisClient(parse_redis_url(server.url))
        assert client.closed_gates() == {}
        client.close()


def test_files_go_on_without_redis(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Gate(shared / "gates", GATE).close_until(notice())
    arguments = ["--redis", "redis://127.0.0.1:1/0", "--shared-dir", str(shared)]
    assert cli.run(["gates", "open", GATE, *arguments]) == 0
    said = capsys.readouterr()
    assert "is open" in said.out and "cannot be used" in said.err
    assert closed_gates(shared / "gates") == {}


def test_an_opening_means_nothing_to_an_older_worker() -> None:
    """It takes the message for a notice whose time is over."""
    read = GateNotice.model_validate_json(opening(GATE, notice(), "me"))
    assert read.is_over


def test_the_api_is_asked_where_there_is_one(shared: Path, output: Callable[[], str]) -> None:
    with running_stub() as stub:
        stub.answer("GET", "/gates", [money_examples.GATE])
        stub.answer("POST", f"/gates/{GATE}/open", money_examples.GATE)
        assert cli.run(["gates", "--api", stub.url]) == 0
        assert GATE in output()
        assert cli.run(["gates", "open", GATE, "--api", stub.url, "--json"]) == 0
        assert json.loads(output())["gate_id"] == GATE


def test_usage_is_a_table_with_notional_dollars_named(shared: Path, output: Callable[[], str]) -> None:
    with running_stub() as stub:
        content: dict[str, Any] = json.loads(json.dumps(money_examples.USAGE))
        content["rows"][0] |= {"key": "marie", "label": "marie", "cost_usd": 1.2}
        stub.answer("GET", "/usage", content)
        assert cli.run(["usage", "--by", "worker", "--since", "2026-03-01T00:00Z", "--api", stub.url]) == 0
        shown = output()
        assert "≈ $1.20 notional" in shown and "$3.40 (≈ $1.20 notional)" in shown and "52,000" in shown
        assert "2026-03-02: $3.40 spent, $0.50 reserved, $46.10 of $50.00 left." in shown
        assert "marie: $1.27 spent, $0.50 reserved, $18.23 of $20.00 left." in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--by", "colour"], "--by is 'colour'; allowed are day, worker, goal, task, model."),
        (["--since", "yesterday"], "--since is 'yesterday'; allowed is a moment"),
        ([], "`usage` needs the orchestrator"),
    ],
)
def test_a_wrong_question_is_one_sentence(
    shared: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["usage", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_money_says_what_nobody_is_billed_for() -> None:
    assert money(None) == ""
    assert (money(1.2), money(1.2, 0.0), money(1.2, None)) == ("$1.20",) * 3
    assert money(1.2, 1.2) == "≈ $1.20 notional"
    assert money(1.2, 0.2) == "$1.20 (≈ $0.20 notional)"
