"""Two workers on one Redis stream with the real Claude Code: what one of them cannot finish, the other one does."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent_bus.messages import TaskStatus
from agent_bus.redis.client import RedisClient
from agent_bus.redis.url import parse_redis_url
from tests.integration.harness import REPOSITORY
from tests.redis_server import running_redis
from tests.standin.messages_api import MessagesApi, hang, reply, tool_use
from tests.waiting import wait_until

pytestmark = [pytest.mark.claude, pytest.mark.timeout(180)]


def start_worker(environ: dict[str, str], place: Path) -> subprocess.Popen[bytes]:
    """Start a worker that has Redis, and a log of its own."""
    place.mkdir()
    alone = {name: value for name, value in environ.items() if name not in ("SHARED_DIR", "TASK_DIR", "TRIGGER_DIR")}
    with (place / "output").open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "worker_service", "marie"],
            env={**alone, "LOG_DIR": str(place), "HEARTBEAT_DIR": str(place), "PYTHONPATH": str(REPOSITORY)},
            stdout=output,
            stderr=output,
        )


def test_a_worker_that_is_killed_in_the_middle_leaves_its_conversations_to_the_other_one(
    api: MessagesApi, claude_environ: dict[str, str], tmp_path: Path
) -> None:
    api.when(
        lambda seen: "part one" in seen.prompt,
        tool_use("Bash", {"command": "echo step-of-one; sleep 0.3"}),
        hang(reply("never heard")),
    )
    api.when(
        lambda seen: "part two" in seen.prompt,
        tool_use("Bash", {"command": "echo step-of-two; sleep 0.3"}),
        hang(reply("never heard")),
    )
    with ExitStack() as ends:
        server = ends.enter_context(running_redis(tmp_path / "redis"))
        client = RedisClient(parse_redis_url(server.url))
        ends.callback(client.close)
        environ = {**claude_environ, "REDIS_URL": server.url, "REDIS_LEASE": "2", "MAX_CONCURRENT": "2"}
        first = start_worker(environ, tmp_path / "first")
        ends.callback(first.kill)
        wait_until(lambda: len(client.heartbeats()) == 1, 40)
        for part in ("one", "two"):
            client.submit("marie", {"task_id": part, "description": f"do part {part}"})
        transcripts = Path(claude_environ["HOME"]) / ".claude" / "projects"

        def has_step(part: str) -> Callable[[], bool]:
            # In a tool's result, not in the request for it.
            return lambda: any(
                f"step-of-{part}" in json.dumps(entry.get("toolUseResult", ""))
                for path in transcripts.glob("*/*.jsonl")
                for entry in map(json.loads, path.read_text().splitlines())
            )

        for part in ("one", "two"):
            wait_until(has_step(part), 60, f"step of {part}")
        second = start_worker(environ, tmp_path / "second")
        ends.callback(second.kill)
        wait_until(lambda: len(client.heartbeats()) == 2, 40)
        before = {path.stem for path in transcripts.glob("*/*.jsonl")}
        for part in ("one", "two"):
            api.when(
                lambda seen, part=part: "You were interrupted" in seen.prompt and f"part {part}" in seen.prompt,
                reply(f"finished {part}"),
            )
        first.send_signal(signal.SIGKILL)
        first.wait()
        for part in ("one", "two"):
            result = client.result(part, wait_s=60)
            assert result is not None
            assert (result.status, result.output) == (TaskStatus.COMPLETED, f"finished {part}")
            assert result.attempts == 2
            assert result.session_id in before
        second.terminate()
        assert second.wait(40) == 0
        with server.client() as asking:
            assert asking.xlen("codehornets:results") == 2
            assert asking.xlen("codehornets:tasks:marie") == 0
