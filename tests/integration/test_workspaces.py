"""A worker's tasks in worktrees: who gets one, what the result says, and when old ones are looked at."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agent_bus.layout import WorkerLayout
from agent_bus.messages import Result, Task, TaskStatus, utc_now
from service_kit.git.command import find_git
from tests.git_repository import TestRepository, make_repository
from tests.integration.harness import Shop, fetch, quick_settings
from tests.waiting import async_wait_until as until
from worker_service.agents.base import Run
from worker_service.service import open_worker
from worker_service.settings import WorkerSettings
from worker_service.workspaces.desk import NoWorktree, Workspaces
from worker_service.workspaces.keeper import Keeper

Settings = Callable[..., WorkerSettings]


@pytest.fixture
def repository(tmp_path: Path) -> TestRepository:
    return make_repository(tmp_path / "repo", tmp_path / "home")


@pytest.fixture
def settings_of(shared: Path, tmp_path: Path, repository: TestRepository) -> Settings:
    def make(**changes: str) -> WorkerSettings:
        usual = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path / "home"),
            "WORKSPACE": str(repository.top),
            "AGENT": "command",
            "AGENT_COMMAND": "sh -s",
            "WORKTREES": "auto",
            "MAX_CONCURRENT": "2",
        }
        return quick_settings(shared, **{**usual, **changes})

    return make


def result_of(layout: WorkerLayout, task_id: str) -> Result:
    return Result.model_validate_json(layout.result(task_id).read_bytes())


async def carry_out(settings: WorkerSettings, layout: WorkerLayout, description: str, **fields: Any) -> Result:
    """Run one task from its trigger to its result."""
    shop = Shop(layout)
    async with open_worker(settings):
        shop.submit("t1", description, **fields)
        await until(lambda: layout.result("t1").exists(), 30)
    return result_of(layout, "t1")


async def test_a_command_works_in_a_worktree_and_its_result_names_branch_and_commit(
    settings_of: Settings, layout: WorkerLayout, repository: TestRepository
) -> None:
    result = await carry_out(settings_of(), layout, "echo new > new.txt; pwd", title="Make a file")
    assert result.status is TaskStatus.COMPLETED
    assert result.output == f"{result.worktree}\n" == f"{layout.shared}/worktrees/marie/t1\n"
    assert (result.branch, result.changes, result.changes_note) == ("codehornets/t1", "committed", None)
    assert result.commit == repository.git("rev-parse", "codehornets/t1")
    assert repository.git("log", "-1", "--format=%s%n%b", "codehornets/t1") == "Make a file\nTask: t1\nWorker: marie"
    assert not (repository.top / "new.txt").exists()


async def test_a_task_that_changes_nothing_leaves_nothing(
    settings_of: Settings, layout: WorkerLayout, repository: TestRepository
) -> None:
    result = await carry_out(settings_of(), layout, "cat README")
    assert (result.output, result.changes) == ("hello\n", "none")
    assert (result.branch, result.commit, result.worktree) == (None, None, None)
    assert repository.branches() == {"main"}
    assert os.listdir(layout.shared / "worktrees" / "marie") == [".gitignore"]


@pytest.mark.parametrize("ending", ["exit 3", "sleep 1000"])
async def test_the_work_of_a_task_that_failed_or_ran_out_of_time_is_kept(
    settings_of: Settings, layout: WorkerLayout, repository: TestRepository, ending: str
) -> None:
    result = await carry_out(settings_of(), layout, f"echo half > half.txt; {ending}", timeout=3)
    assert result.status in (TaskStatus.FAILED, TaskStatus.TIMED_OUT)
    assert result.changes == "committed"
    assert repository.git("show", "codehornets/t1:half.txt") == "half"


async def test_nothing_of_the_agent_writes_any_more_when_its_work_is_committed(
    settings_of: Settings, layout: WorkerLayout, repository: TestRepository
) -> None:
    busy = "(while true; do echo x >> busy.txt; done) & sleep 0.2"
    result = await carry_out(settings_of(), layout, busy)
    assert (result.changes, result.changes_note) == ("committed", None)
    assert repository.git("status", "--porcelain", at=Path(result.worktree or "")) == ""


@pytest.mark.parametrize(
    ("changes", "worktree", "gets_one"),
    [
        ({}, None, True),
        ({"MAX_CONCURRENT": "1"}, None, False),
        ({"MAX_CONCURRENT": "1"}, True, True),
        ({"MAX_CONCURRENT": "1", "WORKTREES": "on"}, None, True),
        ({"WORKTREES": "on"}, False, False),
        ({"WORKTREES": "off"}, None, False),
        ({"WORKTREES": "off"}, True, True),
        ({}, False, False),
        ({"AGENT": "echo"}, None, False),
    ],
)
async def test_who_gets_one(
    settings_of: Settings, changes: dict[str, str], worktree: bool | None, gets_one: bool
) -> None:
    workspaces = Workspaces(settings_of(**changes))
    run = Run(task=Task(task_id="t1", description="x", worktree=worktree))
    place = await workspaces.open(run)
    assert (place.record is not None) is gets_one
    assert (run.task.workspace is not None) is gets_one
    await workspaces.close(run, place, ended=False)


async def test_without_git_auto_makes_none_and_who_asks_is_told(settings_of: Settings) -> None:
    workspaces = Workspaces(settings_of(PATH="/nonexistent"))
    assert (await workspaces.open(Run(task=Task(task_id="t1", description="x")))).record is None
    with pytest.raises(NoWorktree, match=r"^The task cannot have a worktree: git is not installed; install .* git\.$"):
        await workspaces.open(Run(task=Task(task_id="t1", description="x", worktree=True)))
    assert workspaces.finding().well
    assert not Workspaces(settings_of(PATH="/nonexistent", WORKTREES="on")).finding().well


async def test_readiness_tells_that_a_worker_cannot_do_what_it_must(settings_of: Settings, shared: Path) -> None:
    async with open_worker(settings_of(AGENT="echo", WORKTREES="on", PATH="/nonexistent")) as worker:
        status, text = await fetch(worker.http_port, "/readyz")
    assert status == 503
    assert "git is not installed: no task gets a worktree" in text


async def test_a_workspace_below_the_top_is_the_same_place_in_the_worktree(
    settings_of: Settings, layout: WorkerLayout, repository: TestRepository
) -> None:
    result = await carry_out(settings_of(), layout, "pwd; cat code.py", workspace=str(repository.top / "src"))
    assert result.output == f"{layout.shared}/worktrees/marie/t1/src\nprint(1)\n"


async def test_a_worker_cleans_up_at_its_start_and_when_one_is_due_and_rests_otherwise(
    settings_of: Settings, layout: WorkerLayout, repository: TestRepository
) -> None:
    await carry_out(settings_of(), layout, "echo new > new.txt")
    repository.git("merge", "--quiet", "codehornets/t1")
    settings = settings_of()
    workspaces = Workspaces(settings)
    git = workspaces.git
    assert git is not None
    keeper = Keeper(workspaces, keep_s=3600)
    wait_s = keeper.tidy(git)
    assert wait_s is not None and 3000 < wait_s <= 3600
    record = workspaces.book.read("t1")
    assert record is not None
    old = record.model_copy(update={"used_at": utc_now() - timedelta(seconds=4000)})
    (layout.worktree_records / "t1.json").write_text(old.model_dump_json())
    async with open_worker(settings_of(WORKTREE_KEEP="3600")):
        await until(lambda: workspaces.book.names() == [], 30)
    assert (repository.branches(), repository.worktrees()) == ({"main"}, 1)
    # With none left there is nothing to wait for.
    assert keeper.tidy(git) is None


def test_git_is_there() -> None:
    assert find_git(os.environ) is not None
