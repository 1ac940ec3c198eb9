"""The process of a goal's agent: one for a conversation, and gone when its owner is."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from claude_agent_sdk import CLIConnectionError

from orchestrator_service.goals.process import GoalProcess
from tests.integration.harness import REPOSITORY
from tests.waiting import async_wait_until as until
from tests.waiting import wait_until


def process(tmp_path: Path, *command: str, session_id: str = "s") -> GoalProcess:
    return GoalProcess([*command], environment={"ONLY": "this"}, directory=tmp_path, session_id=session_id)


def holds_open(path: Path) -> bool:
    """Tell whether this process has a file open."""
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{descriptor}") == str(path):
                return True
    return False


async def test_messages_go_both_ways_in_a_clean_environment(tmp_path: Path) -> None:
    here = process(
        tmp_path, "/bin/sh", "-c", 'echo plain; echo "{\\"only\\": \\"$ONLY\\", \\"home\\": \\"$HOME\\"}"; cat'
    )
    await here.connect()
    messages = here.read_messages()
    assert await anext(messages) == {"only": "this", "home": ""}
    await here.write('{"said": 1}\n')
    assert await anext(messages) == {"said": 1}
    await here.close()
    assert not here.is_ready() and os.listdir(tmp_path) == []
    with pytest.raises(CLIConnectionError):
        await here.write("{}\n")


async def test_a_conversation_has_one_process_at_a_time(tmp_path: Path) -> None:
    first, other = process(tmp_path, "/bin/cat"), process(tmp_path, "/bin/cat", session_id="t")
    await first.connect()
    await other.connect()
    second = process(tmp_path, "/bin/cat")
    coming = asyncio.create_task(second.connect())
    await until(lambda: holds_open(tmp_path / "s.lock"))
    assert not second.is_ready()
    await first.close()
    await coming
    assert second.is_ready()
    for each in (second, other):
        await each.close()


def test_it_ends_with_its_owner(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys; from pathlib import Path; from orchestrator_service.goals.process import GoalProcess\n"
        "async def main():\n"
        f"    here = GoalProcess(['/bin/sleep', '1000'], environment={{}}, directory=Path({str(tmp_path)!r}), "
        "session_id='s')\n"
        "    await here.connect(); print(here._process.pid, flush=True); await asyncio.sleep(1000)\n"
        "asyncio.run(main())"
    )
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen([sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        wait_until(lambda: "sleep" in Path(f"/proc/{pid}/cmdline").read_text(), 20)
        owner.send_signal(signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2], 20)
