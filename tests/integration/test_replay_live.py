"""`codehornets dead-letters replay` beside a real orchestrator: `result` and `task` tell the last outcome."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_cli_api import clean_environment
from tests.integration.test_cli_live import Team
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(180)

TEAM = """
[orchestrator]
http_port = 0
[workers.ann]
agent = "command"
agent_command = "sh -c 'cat > {folder}/prompt; test -e {folder}/go && echo done at last || exec sleep 100'"
[workers.ann.environment]
MAX_ATTEMPTS = "1"
"""


def task(team: Team) -> dict[str, Any]:
    said = team.run("task", "t", "--json")
    found: dict[str, Any] = json.loads(said.stdout)
    return found


def test_the_ledger_takes_a_replayed_letter_up(tmp_path: Path) -> None:
    (tmp_path / "team.toml").write_text(TEAM.format(folder=tmp_path))
    team = Team(tmp_path, clean_environment(tmp_path))
    with team.up():
        said = team.run("submit", "ann", "work", "--id", "t", "--via", "api")
        assert said.returncode == 0, said.stderr
        wait_until((tmp_path / "prompt").exists, 40, "the agent has the prompt")
        os.kill(team.pid("ann"), signal.SIGKILL)
        wait_until(lambda: task(team).get("state") == "failed", 60, "the task is set aside")
        assert task(team)["error"]["kind"] == "attempts_exhausted"
        assert team.run("result", "t").returncode == 1

        (tmp_path / "go").touch()
        said = team.run("dead-letters", "replay", "t")
        assert said.returncode == 0, said.stderr
        wait_until(lambda: task(team).get("state") == "completed", 60, "the replayed try is known")
        said = team.run("result", "t")
        assert (said.returncode, said.stdout.strip()) == (0, "done at last")
        runs = task(team)["runs"]
        assert [(run["number"], run["status"]) for run in runs] == [(1, "failed"), (2, "completed")]
