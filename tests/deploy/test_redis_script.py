"""deploy/compose/redis.sh, with a real Redis: what it saves can be loaded, and nothing is mixed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.redis_server import redis_program, running_redis

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "compose" / "redis.sh"
PASSWORD = 'it"s \\ odd'


def script(data: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    secret = data.parent / "secret"
    secret.write_text(PASSWORD)
    redis_program()
    environ = {"PATH": os.environ["PATH"], "REDIS_DATA": str(data), "REDIS_SECRET": str(secret)}
    return subprocess.run(
        ["sh", str(SCRIPT), *arguments], input=stdin, capture_output=True, env=environ, timeout=30, check=False
    )


@pytest.fixture
def saved(tmp_path: Path) -> bytes:
    """What a Redis with three tasks holds, saved after it was killed."""
    one = tmp_path / "one"
    with running_redis(one, password=PASSWORD, durable=True) as server, server.client() as client:
        for number in range(3):
            client.xadd("tasks", {"task": str(number)})
    said = script(one, "save")
    assert said.returncode == 0, said
    assert [path.name for path in one.iterdir() if path.name.startswith(".saving")] == []
    return said.stdout


def test_what_was_saved_is_there_after_it_was_loaded_and_goes_on(tmp_path: Path, saved: bytes) -> None:
    other = tmp_path / "other"
    other.mkdir()
    said = script(other, "load", stdin=saved)
    assert said.returncode == 0, said
    for tasks in (4, 5):  # started twice: what is written after the load must be kept too
        with running_redis(other, password=PASSWORD, durable=True) as server, server.client() as client:
            client.xadd("tasks", {"task": "more"})
            assert client.xlen("tasks") == tasks


@pytest.mark.parametrize("cut", [200, 0])
def test_half_a_save_is_refused_and_leaves_nothing(tmp_path: Path, saved: bytes, cut: int) -> None:
    other = tmp_path / "other"
    other.mkdir()
    said = script(other, "load", stdin=saved[:cut])
    assert (said.returncode, said.stderr) == (2, b"What came is no whole save of Redis; nothing was restored.\n")
    assert list(other.iterdir()) == []


def test_a_place_that_holds_something_is_left_alone(tmp_path: Path, saved: bytes) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "dump.rdb").write_bytes(b"mine")
    said = script(other, "load", stdin=saved)
    assert said.returncode == 2
    assert said.stderr.startswith(b"Redis has something in ")
    assert [path.name for path in other.iterdir()] == ["dump.rdb"]


def test_an_unknown_word_is_refused(tmp_path: Path) -> None:
    said = script(tmp_path / "data", "drop")
    assert (said.returncode, said.stderr) == (2, b"redis.sh cannot 'drop'; allowed is serve, check, save or load.\n")
