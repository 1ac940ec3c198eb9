"""`codehornets hook`: one event on stdin, reported everywhere; never a word, and never another exit code than 0."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers.redis_server import open_redis
from tests.integration.harness import REPOSITORY

EVENT = {
    "session_id": "5f0c",
    "hook_event_name": "PostToolUseFailure",
    "tool_name": "Bash",
    "tool_use_id": "t1",
    "tool_input": {"command": "false"},
    "error": "Exit code 1",
}
RULE = {
    "name": "tell",
    "event": "OnError",
    "action": {"type": "trigger", "path": "/shared/triggers/orchestrator/bad.trigger", "payload": {"e": "${error}"}},
}


def run_hook(shared: Path, body: bytes, **environ: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-P", "-m", "orchestrator_service.cli", "hook", "--shared-dir", str(shared)]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), **environ}
    return subprocess.run(command, input=body, env=environment, capture_output=True, timeout=30, check=False)


def report(shared: Path, event: dict[str, Any], **environ: str) -> None:
    ran = run_hook(shared, json.dumps(event).encode(), **environ)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")


def test_an_event_reaches_log_journal_pipe_and_rules(shared: Path) -> None:
    (shared / "hooks-config").mkdir()
    (shared / "hooks-config" / "orchestrator-hooks.json").write_text(json.dumps([RULE]))
    (shared / "pipes").mkdir()
    pipe = shared / "pipes" / "orchestrator-status"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        report(shared, EVENT)
        told = json.loads(os.read(reader, 65536))
    finally:
        os.close(reader)
    journal = shared / "events" / "orchestrator" / "session-5f0c.jsonl"
    assert [json.loads(line) for line in journal.read_text().splitlines()] == [told]
    assert (told["event"], told["worker"], told["data"]["error"]) == ("hook", "orchestrator", "Exit code 1")
    log = (shared / "watcher-logs" / "orchestrator-tool-use.log").read_text()
    assert json.loads(log)["tool_name"] == "Bash"
    assert json.loads((shared / "triggers" / "orchestrator" / "bad.trigger").read_text()) == {"e": "Exit code 1"}


def test_a_pipe_that_nobody_reads_or_that_is_none_is_left_alone(shared: Path) -> None:
    (shared / "pipes").mkdir()
    os.mkfifo(shared / "pipes" / "orchestrator-status")
    report(shared, EVENT)
    (shared / "pipes" / "orchestrator-status").unlink()
    (shared / "pipes" / "orchestrator-status").write_text("a file")
    report(shared, EVENT)
    assert (shared / "pipes" / "orchestrator-status").read_text() == "a file"
    assert not (shared / "watcher-logs" / "orchestrator-watcher.log").exists()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"hook_event_name": "Boom"}', b"\xff\xfe", b"x" * (9 << 20)])
def test_what_cannot_be_read_is_told_in_the_log_alone(shared: Path, body: bytes) -> None:
    ran = run_hook(shared, body)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")
    line = json.loads((shared / "watcher-logs" / "orchestrator-watcher.log").read_text())
    assert (line["action"], line["level"]) == ("hook_failed", "warning")


def test_broken_rules_and_an_absent_redis_cost_only_themselves(shared: Path) -> None:
    (shared / "hooks-config").mkdir()
    (shared / "hooks-config" / "orchestrator-hooks.json").write_text("{")
    report(shared, EVENT, REDIS_URL="redis://:hunter2@127.0.0.1:1/0")
    log = (shared / "watcher-logs" / "orchestrator-watcher.log").read_text()
    assert len(log.splitlines()) == 2 and "not valid JSON" in log and "Redis" in log
    assert "hunter2" not in log
    assert (shared / "events" / "orchestrator" / "session-5f0c.jsonl").exists()


def test_a_shared_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    report(tmp_path / "none", EVENT)
    assert list(tmp_path.iterdir()) == []


def test_a_session_of_the_pool_is_not_reported_twice(shared: Path) -> None:
    report(shared, EVENT, CODEHORNETS_WORKER="marie")
    assert list(shared.iterdir()) == []


def test_an_event_reaches_redis(shared: Path) -> None:
    import redis

    with open_redis() as url, redis.Redis.from_url(url) as client, client.pubsub() as listener:
        listener.subscribe("hooks:orchestrator")
        assert listener.get_message(timeout=5) is not None
        report(shared, EVENT, REDIS_URL=url)
        message = listener.get_message(timeout=5)
    assert message is not None and json.loads(message["data"])["data"]["hook"] == "PostToolUseFailure"


def test_install_check_and_uninstall(shared: Path, tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"

    def run(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-P", "-m", "orchestrator_service.cli", *arguments]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "SHARED_DIR": str(shared)}
        ran = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
        )
        return ran.returncode, ran.stdout + ran.stderr

    assert run("hooks", "install", "--settings", str(settings), "--worker", "ann")[0] == 0
    command = json.loads(settings.read_text())["hooks"]["PostToolUseFailure"][0]["hooks"][0]["command"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}
    # As Claude Code runs it: by a shell, somewhere else.
    subprocess.run(command, shell=True, input=json.dumps(EVENT).encode(), env=environment, cwd="/", check=True)
    assert (shared / "events" / "ann" / "session-5f0c.jsonl").exists()
    assert run("hooks", "uninstall", "--settings", str(settings))[0] == 0
    assert json.loads(settings.read_text()) == {}
    settings.write_text("{")
    code, said = run("hooks", "install", "--settings", str(settings))
    assert code == 2 and "not valid JSON" in said and "Traceback" not in said
    (shared / "hooks-config").mkdir()
    rules = shared / "hooks-config" / "ann-hooks.json"
    rules.write_text(json.dumps([RULE]))
    assert run("hooks", "check") == (0, f"{rules}: good\n")
    rules.write_text(json.dumps([{**RULE, "event": "Boom"}]))
    code, said = run("hooks", "check")
    assert code == 1 and "rule 'tell', event is 'Boom'" in said
