"""Every path under the shared directory, in one place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

WORKER_NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
"""A worker's name is a folder name, a pod name and a metric label."""

TRIGGER_SUFFIX: Final = ".trigger"
TASK_SUFFIX: Final = ".json"
ORCHESTRATOR: Final = "orchestrator"
"""The name below `triggers/` that belongs to whoever leads the team."""
CANCEL_SUFFIX: Final = ".cancel"
"""`tasks/NAME/ID.cancel` asks for the end of task ID, running or waiting."""


def is_worker_name(text: str) -> bool:
    """Tell whether `text` may name a worker."""
    return re.fullmatch(WORKER_NAME_PATTERN, text) is not None


@dataclass(frozen=True, kw_only=True)
class WorkerLayout:
    """The directories of one worker. Nothing here touches the disk."""

    shared: Path
    triggers: Path
    tasks: Path
    results: Path
    heartbeats: Path
    logs: Path
    events: Path
    gates: Path
    """Rate-limit gates, one file a credential, shared by all workers of the directory."""
    pipes: Path
    orchestrator_triggers: Path
    """Where workers tell the orchestrator of results and failures."""
    hooks_config: Path
    """Rules that say which hook events become triggers, a file a worker."""
    questions: Path
    """Questions of agents to people, and the answers."""

    @classmethod
    def under(cls, shared: Path, worker: str) -> WorkerLayout:
        """Return the layout of `worker` with every directory at its default place below `shared`."""
        return _under(shared, worker)

    @classmethod
    def _make(cls, shared: Path, worker: str) -> WorkerLayout:
        return cls(
            shared=shared,
            triggers=shared / "triggers" / worker,
            tasks=shared / "tasks" / worker,
            results=shared / "results" / worker,
            heartbeats=shared / "heartbeats",
            logs=shared / "watcher-logs",
            events=shared / "events" / worker,
            gates=shared / "gates",
            pipes=shared / "pipes",
            orchestrator_triggers=shared / "triggers" / ORCHESTRATOR,
            hooks_config=shared / "hooks-config",
            questions=shared / "questions" / worker,
        )

    @property
    def released(self) -> Path:
        """Claims given back: by a drain, by a rate limit, or on behalf of a dead owner."""
        return self.tasks / "released"

    @property
    def sessions(self) -> Path:
        """Which conversation a session's name stands for, and who holds it now."""
        return self.tasks / "sessions"

    @property
    def dead_letters(self) -> Path:
        """What was set aside, each beside a `NAME.reason.json`."""
        return self.tasks / "dead-letter"

    @property
    def worktree_records(self) -> Path:
        """What is known of the worktrees of tasks, a file each."""
        return self.tasks / "worktrees"

    @property
    def inflight(self) -> Path:
        """One directory an instance, holding what it has claimed."""
        return self.tasks / "inflight"

    def result(self, task_id: str) -> Path:
        """Return where the result of `task_id` is or will be."""
        return self.results / f"{task_id}.json"

    def task_file(self, task_id: str) -> Path:
        """Return where the body of an empty trigger `task-ID.trigger` lies."""
        return self.tasks / f"{task_id}{TASK_SUFFIX}"

    def event_journal(self, task_id: str) -> Path:
        """Return where the live events of `task_id` are."""
        return self.events / f"{task_id}.jsonl"

    def probe(self, instance: str) -> Path:
        """Return the hidden file by which an instance tries whether its wake-ups work."""
        return self.triggers / f".probe-{instance}"

    def heartbeat(self, worker: str) -> Path:
        """Return the heartbeat file of `worker`."""
        return self.heartbeats / f"{worker}-watcher.json"

    def log(self, worker: str) -> Path:
        """Return the log file of `worker`."""
        return self.logs / f"{worker}-watcher.log"

    def tool_use_log(self, worker: str) -> Path:
        """Return the log of the tools that the agents of `worker` used."""
        return self.logs / f"{worker}-tool-use.log"

    def control_pipe(self, worker: str) -> Path:
        """Return the pipe by which `worker` is told what to do."""
        return self.pipes / f"{worker}-control"

    def status_pipe(self, worker: str) -> Path:
        """Return the pipe on which `worker` answers and tells what happens."""
        return self.pipes / f"{worker}-status"


@lru_cache(maxsize=1024)
def _under(shared: Path, worker: str) -> WorkerLayout:
    # A dozen paths cost as much as a look at a file, and whoever serves a team asks for them with every result.
    return WorkerLayout._make(shared, worker)
