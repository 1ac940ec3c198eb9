"""What the real CLI's tools can reach: not the machinery, not the secrets; and with isolation not even by a program."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agent_bus.messages import TaskStatus
from tests.acceptance.conftest import Client, needs_isolation
from tests.integration.harness import fetch
from tests.standin.messages_api import MessagesApi, hang, reply, tool_use
from tests.waiting import async_wait_until as until
from worker_service.agents.choice import AgentUnavailable, make_agent
from worker_service.agents.leashed_process import descendants_of
from worker_service.service import open_worker
from worker_service.settings import WorkerSettings

pytestmark = [pytest.mark.claude, pytest.mark.timeout(120)]

Settings = Callable[..., WorkerSettings]

TOOLS = "Bash,Read,Edit,Write,Glob,Grep"
SECRETS = {
    "REDIS_URL": "unix:///nonexistent/hunter2.sock",
    "HOOK_TOKEN": "hunter3",
    "API_TOKEN": "hunter4",
    "AGENT_ENV": "HOOK_TOKEN,API_TOKEN",
}


def outcomes(api: MessagesApi, prompt: str) -> list[dict[str, Any]]:
    """What came back from each tool call, in order."""
    seen = [request for request in api.requests if request.prompt == prompt]
    return [block for request in seen for block in request.tool_results]


def calls_on(shared: Path, workspace: Path) -> list[tuple[str, dict[str, Any]]]:
    secret, folder = shared / "triggers" / "anga" / "secret.trigger", shared / "results" / "marie"
    return [
        ("Read", {"file_path": str(secret)}),
        ("Write", {"file_path": str(folder / "forged.json"), "content": "x"}),
        ("Edit", {"file_path": str(secret), "old_string": "PLUGH", "new_string": "x"}),
        ("Bash", {"command": f"cat {secret}"}),
        ("Bash", {"command": f"echo hi > {folder / 'forged.json'}"}),
        ("Glob", {"pattern": f"{secret.parent}/*"}),
        ("Read", {"file_path": str(workspace / "link" / "secret.trigger")}),
        ("Bash", {"command": "cat link/secret.trigger"}),
        ("Write", {"file_path": str(workspace / ".claude" / "settings.json"), "content": "{}"}),
    ]


@pytest.mark.parametrize("isolation", ["off", pytest.param("on", marks=needs_isolation)])
@pytest.mark.parametrize("mode", ["polling", "hooks"])
async def test_the_machinery_is_denied_and_a_workspace_beside_it_works(
    api: MessagesApi, settings_of: Settings, client: Client, isolation: str, mode: str
) -> None:
    workspace = client.shared / "workspaces" / "marie"
    workspace.mkdir(parents=True)
    secret = client.shared / "triggers" / "anga" / "secret.trigger"
    secret.parent.mkdir(parents=True)
    secret.write_text("PLUGH")
    (workspace / "link").symlink_to(secret.parent)
    denied = calls_on(client.shared, workspace)
    works = [
        ("Write", {"file_path": str(workspace / "own.txt"), "content": "mine"}),
        ("Read", {"file_path": str(workspace / "own.txt")}),
        ("Bash", {"command": "cat own.txt > copy.txt; cat copy.txt"}),
    ]
    api.when("try it", *(tool_use(name, given) for name, given in (*denied, *works)), reply("tried"))
    settings = settings_of(
        WORKSPACE=str(workspace), ALLOWED_TOOLS=TOOLS, WORKER_MODE=mode, AGENT_ISOLATION=isolation, POLL_INTERVAL="0.05"
    )
    async with open_worker(settings):
        client.submit("t1", "try it")
        await until(client.has_result("t1"), 60)
    came = outcomes(api, "try it")
    assert client.result("t1").output == "tried"
    for (name, given), block in zip(denied, came, strict=False):
        assert block.get("is_error"), (name, given, block)
    assert "PLUGH" not in json.dumps(came)
    for block in came[len(denied) :]:
        assert not block.get("is_error"), block
    assert (workspace / "copy.txt").read_text() == "mine"
    assert secret.read_text() == "PLUGH"
    assert sorted(path.name for path in (client.shared / "results" / "marie").iterdir()) == ["t1.json"]
    left = sorted(path.name for path in workspace.iterdir() if path.name not in (".claude", "link"))
    assert left == ["copy.txt", "own.txt"]


async def test_the_users_own_rules_hold_beside_ours(
    api: MessagesApi, settings_of: Settings, client: Client, tmp_path: Path
) -> None:
    folder = tmp_path / "home" / ".claude"
    folder.mkdir()
    rules = {"deny": ["Bash(uname:*)"], "allow": ["Bash(true:*)"]}
    (folder / "settings.json").write_text(json.dumps({"permissions": rules}))
    api.when("try", tool_use("Bash", {"command": "uname"}), tool_use("Bash", {"command": "true"}), reply("tried"))
    async with open_worker(settings_of(ALLOWED_TOOLS="Read")):
        client.submit("t1", "try")
        await until(client.has_result("t1"), 40)
    assert [bool(block.get("is_error")) for block in outcomes(api, "try")] == [True, False]


@pytest.mark.parametrize("isolation", ["off", pytest.param("on", marks=needs_isolation)])
async def test_what_a_shell_command_sees(
    api: MessagesApi, settings_of: Settings, client: Client, isolation: str
) -> None:
    look = "env; cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | grep -a sk-dummy"
    api.when("look", tool_use("Bash", {"command": look}), reply("seen"))
    settings = settings_of(**SECRETS, WORKER_MODE="hooks", AGENT_ISOLATION=isolation)
    async with open_worker(settings) as worker:
        client.submit("t1", "look")
        await until(client.has_result("t1"), 40)
        _, ready = await fetch(worker.http_port, "/readyz")
    seen = json.dumps(outcomes(api, "look"))
    assert "HOME=" in seen
    for secret in ("hunter2", "hunter3", "hunter4"):
        assert secret not in seen
    assert ("sk-dummy-for-tests" in seen) is (isolation == "off")
    line = next(line for line in ready.splitlines() if "isolation" in line)
    assert ("without the agent's key" in line) is (isolation == "on")


@pytest.mark.parametrize("isolation", ["off", pytest.param("on", marks=needs_isolation)])
async def test_files_of_secrets_are_denied(
    api: MessagesApi, settings_of: Settings, client: Client, tmp_path: Path, isolation: str
) -> None:
    # As Kubernetes mounts them: a link to a link to the file.
    folder = tmp_path / "secrets"
    (folder / "..1").mkdir(parents=True)
    (folder / "..1" / "token").write_text("PLUGH-1")
    (folder / "..data").symlink_to("..1")
    (folder / "token").symlink_to("..data/token")
    (tmp_path / "password").write_text("PLUGH-2")
    login = tmp_path / "home" / ".claude" / ".credentials.json"
    login.parent.mkdir(exist_ok=True)
    login.write_text('{"note": "PLUGH-3"}')
    denied = [
        ("Read", {"file_path": str(folder / "token")}),
        ("Read", {"file_path": str(folder / "..1" / "token")}),
        ("Bash", {"command": f"cat {folder / 'token'}"}),
        ("Read", {"file_path": str(tmp_path / "password")}),
        ("Read", {"file_path": str(login)}),
        ("Bash", {"command": f"cat {login}"}),
    ]
    programs = [
        f"python3 -c \"print(open('{path}').read())\"" for path in (folder / "token", tmp_path / "password", login)
    ]
    calls = [*denied, *(("Bash", {"command": program}) for program in programs), ("Bash", {"command": "echo works"})]
    api.when("spy", *(tool_use(name, given) for name, given in calls), reply("tried"))
    settings = settings_of(
        HOOK_TOKEN_FILE=str(folder / "token"),
        REDIS_PASSWORD_FILE=str(tmp_path / "password"),
        ALLOWED_TOOLS=TOOLS,
        AGENT_ISOLATION=isolation,
    )
    async with open_worker(settings):
        client.submit("t1", "spy")
        await until(client.has_result("t1"), 60)
    came = outcomes(api, "spy")
    assert [bool(block.get("is_error")) for block in came[:6]] == [True] * 6, came
    assert "PLUGH" not in json.dumps(came[:6])
    # A program that opens the file by itself is kept from it by isolation alone.
    assert ["PLUGH" in json.dumps(block) for block in came[6:9]] == [isolation == "off"] * 3, came[6:9]
    assert "works" in json.dumps(came[9])


@needs_isolation
async def test_with_isolation_no_program_gets_at_the_queue(
    api: MessagesApi, settings_of: Settings, client: Client
) -> None:
    folder = client.shared / "triggers" / "marie"
    write = f"python3 -c \"open('{folder}/forged.trigger', 'w')\""
    api.when(
        "forge", tool_use("Bash", {"command": write}), tool_use("Bash", {"command": "echo mine > new.txt"}), reply("x")
    )
    settings = settings_of(AGENT_ISOLATION="on", MAX_CONCURRENT="1")
    async with open_worker(settings) as worker:

        def resting() -> set[int]:
            counts = worker.agent.processes()
            return set(descendants_of(os.getpid())) if counts["busy"] == counts["starting"] == 0 else set()

        families = []
        for number in range(3):
            client.submit(f"t{number}", "forge")
            await until(client.has_result(f"t{number}"), 40)
            families.append(await until(resting))
        assert worker.metrics.registry.get_sample_value("codehornets_trigger_events_total", {"worker": "marie"}) == 0
    # The fence around a command ends with it: the pool keeps its process.
    assert families[0] == families[1] == families[2]
    assert all(client.result(f"t{number}").status is TaskStatus.COMPLETED for number in range(3))
    assert [bool(block["is_error"]) for block in outcomes(api, "forge")][:2] == [True, False]
    assert sorted(path.name for path in settings.workspace.iterdir() if path.name != ".claude") == ["new.txt"]


@needs_isolation
async def test_nothing_of_an_isolated_command_outlives_its_task(
    api: MessagesApi, settings_of: Settings, client: Client
) -> None:
    command = "setsid nohup tail -f /dev/null > /dev/null 2>&1 & exec tail -f /dev/null"
    api.when("stay", tool_use("Bash", {"command": command}), hang())
    before = descendants_of(os.getpid())
    async with open_worker(settings_of(AGENT_ISOLATION="on", WARM_PROCESSES="0")) as worker:
        client.submit("t1", "stay")

        def tails() -> list[str]:
            found = []
            for pid in descendants_of(os.getpid()) - before:
                # It may end between two looks.
                with suppress(OSError):
                    found.append(Path(f"/proc/{pid}/cmdline").read_bytes().decode())
            return [line for line in found if line.startswith("tail\0")]

        await until(lambda: len(tails()) == 2, 40, "both commands")
        client.cancel("t1")
        await until(client.has_result("t1"), 40)
        await until(lambda: not tails(), 20, "the end of both commands")
        assert worker.agent.processes()["busy"] == 0


@needs_isolation
def test_isolation_that_cannot_be_had_stops_the_start_when_it_is_asked_for(
    settings_of: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AgentUnavailable, match="PERMISSION_MODE is 'plan'"):
        make_agent(settings_of(AGENT_ISOLATION="on", PERMISSION_MODE="plan"))
    with pytest.raises(AgentUnavailable, match="bubblewrap is not installed"):
        make_agent(settings_of(AGENT_ISOLATION="on", PATH="/nonexistent"))
    make_agent(settings_of(AGENT_ISOLATION="auto", PATH="/nonexistent"))
