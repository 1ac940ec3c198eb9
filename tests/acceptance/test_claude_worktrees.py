"""Tasks in worktrees of their own, with the real Claude Code CLI and the real git."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_bus.messages import TaskStatus
from tests.acceptance.conftest import Client, needs_isolation
from tests.acceptance.test_claude_worker import start_worker
from tests.git_repository import TestRepository, make_repository
from tests.integration.harness import fetch
from tests.standin.messages_api import MessagesApi, hang, reply, tool_use
from tests.waiting import async_wait_until as until
from tests.waiting import wait_until
from worker_service.agents.leashed_process import descendants_of
from worker_service.service import open_worker
from worker_service.settings import WorkerSettings

pytestmark = [pytest.mark.claude, pytest.mark.timeout(120)]

Settings = Callable[..., WorkerSettings]


@pytest.fixture
def claude_environ(claude_environ: dict[str, str]) -> dict[str, str]:
    """Two slots: tasks that run at once are what worktrees are for."""
    return {**claude_environ, "MAX_CONCURRENT": "2"}


@pytest.fixture
def repository(claude_environ: dict[str, str]) -> TestRepository:
    return make_repository(Path(claude_environ["WORKSPACE"]), Path(claude_environ["HOME"]))


def kinds(client: Client, task_id: str) -> list[str]:
    return [event["event"] for event in client.events(task_id)]


def worktree_events(client: Client, task_id: str) -> list[str]:
    return [kind for kind in kinds(client, task_id) if kind.startswith("worktree")]


async def test_two_tasks_at_once_edit_the_same_file_and_do_not_collide(
    api: MessagesApi, settings_of: Settings, client: Client, repository: TestRepository
) -> None:
    for name in ("left", "right"):
        say = f"echo {name} > README; sleep 0.5; cat README; pwd"
        api.when(f"go {name}", tool_use("Bash", {"command": say}), hang(reply(f"went {name}")))
    async with open_worker(settings_of()) as worker:
        for name in ("left", "right"):
            client.submit(name, f"go {name}", title=f"Go {name}")
        for name in ("left", "right"):
            # Both are in the middle of their work at the same time.
            await until(
                lambda name=name: any(  # type: ignore[misc]
                    seen.tool_results and f"go {name}" in json.dumps(seen.body) for seen in api.requests
                ),
                40,
            )
        api.release()
        for name in ("left", "right"):
            await until(client.has_result(name), 40)
        _, ready = await fetch(worker.http_port, "/readyz")
    for name in ("left", "right"):
        result = client.result(name)
        assert (result.status, result.output, result.changes) == (TaskStatus.COMPLETED, f"went {name}", "committed")
        assert result.branch == f"codehornets/{name}"
        assert result.commit == repository.git("rev-parse", f"codehornets/{name}")
        assert repository.git("show", f"codehornets/{name}:README") == name
        assert repository.git("log", "-1", "--format=%s", f"codehornets/{name}") == f"Go {name}"
        # Nothing came into the work that is not the task's.
        assert repository.git("diff", "--name-only", "main", f"codehornets/{name}") == "README"
        seen = [block for request in api.requests for block in request.tool_results]
        assert any(f"{name}\n{result.worktree}" in json.dumps(block).replace("\\n", "\n") for block in seen)
        assert worktree_events(client, name) == ["worktree_made", "worktree_committed"]
    assert (repository.top / "README").read_text() == "hello\n"
    assert "tasks in git workspaces get one" in ready


async def test_without_worktrees_the_same_two_tasks_collide(
    api: MessagesApi, settings_of: Settings, client: Client, repository: TestRepository
) -> None:
    for name in ("left", "right"):
        api.when(f"go {name}", tool_use("Bash", {"command": f"echo {name} >> README"}), reply(f"went {name}"))
    async with open_worker(settings_of(WORKTREES="off")):
        for name in ("left", "right"):
            client.submit(name, f"go {name}")
        for name in ("left", "right"):
            await until(client.has_result(name), 40)
    assert sorted((repository.top / "README").read_text().split()) == ["hello", "left", "right"]
    assert client.result("left").branch is None and client.result("left").changes is None


async def test_a_task_that_asks_gets_one_with_a_single_slot_and_one_that_does_not_gets_none(
    api: MessagesApi, settings_of: Settings, client: Client, repository: TestRepository
) -> None:
    api.when("write", tool_use("Bash", {"command": "echo mine > mine.txt"}), reply("written"))
    async with open_worker(settings_of(MAX_CONCURRENT="1")):
        client.submit("asks", "write", worktree=True)
        await until(client.has_result("asks"), 40)
        assert not (repository.top / "mine.txt").exists()
        client.submit("silent", "write")
        await until(client.has_result("silent"), 40)
    assert repository.git("show", "codehornets/asks:mine.txt") == "mine"
    assert client.result("silent").branch is None
    assert (repository.top / "mine.txt").read_text() == "mine\n"


async def test_a_workspace_that_is_no_repository(
    api: MessagesApi, settings_of: Settings, client: Client, tmp_path: Path
) -> None:
    async with open_worker(settings_of()):
        client.submit("auto", "hello")
        client.submit("asks", "hello", worktree=True)
        await until(client.has_result("auto"), 40)
        await until(client.has_result("asks"), 40)
    assert client.result("auto").status is TaskStatus.COMPLETED
    result = client.result("asks")
    assert result.status is TaskStatus.FAILED and result.error is not None
    assert result.error.kind == "no_worktree"
    assert result.error.message == (
        f"The task cannot have a worktree: {tmp_path}/workspace is in no git repository; `git init` it and commit, or "
        "name another directory."
    )


async def test_tasks_of_a_session_share_a_conversation_and_a_worktree(
    api: MessagesApi, settings_of: Settings, client: Client, repository: TestRepository
) -> None:
    api.when("begin", tool_use("Bash", {"command": "echo one > story.txt"}), reply("begun"))
    api.when("go on", tool_use("Bash", {"command": "cat story.txt; echo two >> story.txt"}), reply("gone on"))
    async with open_worker(settings_of()):
        client.submit("t1", "begin", session="story")
        client.submit("t2", "go on", session="story")
        await until(client.has_result("t2"), 60)
    first, second = client.result("t1"), client.result("t2")
    assert first.session_id == second.session_id
    assert (first.branch, first.worktree) == (second.branch, second.worktree)
    assert repository.git("show", f"{second.branch}:story.txt") == "one\ntwo"
    assert repository.git("rev-parse", f"{second.commit}^") == first.commit
    assert "begin" in json.dumps(api.requests[-1].body)


def test_kill_9_in_the_middle_and_the_session_goes_on_in_the_same_worktree(
    api: MessagesApi, claude_environ: dict[str, str], client: Client, repository: TestRepository
) -> None:
    api.when("build it", tool_use("Bash", {"command": "echo half > half.txt; echo step-one"}), hang(reply("finished")))
    first = start_worker(claude_environ)
    try:
        client.submit("t1", "build it")
        api.wait_for_request(lambda seen: bool(seen.tool_results), 40)
        transcripts = Path(claude_environ["HOME"]) / ".claude" / "projects"
        wait_until(lambda: any("step-one" in path.read_text() for path in transcripts.glob("*/*.jsonl")))
        family = descendants_of(first.pid)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    wait_until(lambda: not [pid for pid in family if Path(f"/proc/{pid}").exists()], what="the end of the family")
    made = next(event["data"] for event in client.events("t1") if event["event"] == "worktree_made")
    assert (Path(made["path"]) / "half.txt").read_text() == "half\n"
    # The workspace has gone on in the meantime: the task's base has not.
    repository.commit("meanwhile", README="changed\n")

    finish = tool_use("Bash", {"command": "cat half.txt >> whole.txt; pwd"})
    api.when(lambda seen: "You were interrupted" in seen.prompt, finish, reply("resumed and finished"))
    second = start_worker(claude_environ)
    try:
        wait_until(client.has_result("t1"), 40)
    finally:
        second.terminate()
        assert second.wait(30) == 0
    result = client.result("t1")
    assert (result.status, result.output, result.attempts) == (TaskStatus.COMPLETED, "resumed and finished", 2)
    assert (result.worktree, result.branch) == (made["path"], made["branch"])
    assert "step-one" in json.dumps(api.requests[-1].body)
    found = [event["data"]["how"] for event in client.events("t1") if event["event"] == "worktree_made"]
    assert found == ["made", "found"]
    assert repository.git("diff", "--name-only", made["base"], result.branch or "").split() == ["half.txt", "whole.txt"]
    assert "not_resumed" not in kinds(client, "t1")


def test_sigterm_leaves_the_work_uncommitted_and_the_next_worker_goes_on_with_it(
    api: MessagesApi, claude_environ: dict[str, str], client: Client, repository: TestRepository
) -> None:
    environ = {**claude_environ, "SHUTDOWN_GRACE": "0.2"}
    api.when("long work", tool_use("Bash", {"command": "echo half > half.txt"}), hang())
    first = start_worker(environ)
    client.submit("t1", "long work")
    api.wait_for_request(lambda seen: bool(seen.tool_results), 40)
    first.terminate()
    assert first.wait(30) == 0
    assert repository.git("rev-parse", "codehornets/t1") == repository.git("rev-parse", "main")

    api.when(lambda seen: "You were interrupted" in seen.prompt, reply("done after all"))
    second = start_worker(environ)
    try:
        wait_until(client.has_result("t1"), 40)
    finally:
        second.terminate()
        assert second.wait(30) == 0
    assert client.result("t1").changes == "committed"
    assert repository.git("show", "codehornets/t1:half.txt") == "half"


@needs_isolation
async def test_with_isolation_an_agent_commits_and_cannot_change_what_git_runs(
    api: MessagesApi, settings_of: Settings, client: Client, repository: TestRepository
) -> None:
    common = repository.common
    commands = [
        "echo one > one.txt && git add one.txt && git -c user.name=A -c user.email=a@b commit -qm 'by the agent'",
        f"echo '[core]' >> {common}/config",
        "git config core.fsmonitor /tmp/evil",
        f"mkdir -p {common}/hooks; echo x > {common}/hooks/post-checkout",
        "echo two > two.txt",
    ]
    (common / "hooks").mkdir(exist_ok=True)
    before = (common / "config").read_text()
    api.when("commit", *(tool_use("Bash", {"command": command}) for command in commands), reply("done"))
    # Nobody is there to be asked whether the configuration may be written.
    async with open_worker(settings_of(AGENT_ISOLATION="on", QUESTIONS="off")):
        client.submit("t1", "commit")
        await until(client.has_result("t1"), 60)
    came = [block for seen in api.requests for block in seen.tool_results]
    assert [bool(block.get("is_error")) for block in came] == [False, True, True, True, False], came
    assert (common / "config").read_text() == before
    assert not (common / "hooks" / "post-checkout").exists()
    result = client.result("t1")
    assert result.changes == "committed", result.changes_note
    subjects = repository.git("log", "--format=%s", "main..codehornets/t1").splitlines()
    assert subjects == ["commit", "by the agent"]
    assert repository.git("diff", "--name-only", "main", "codehornets/t1").split() == ["one.txt", "two.txt"]
