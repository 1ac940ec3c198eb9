"""What Claude Code's isolation leaves in a workspace: empty files where there were none, to keep commands from
making them. An empty `package.json` breaks the tools of a project, so they are taken away when the last task ends.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Final

_FILES: Final = (
    ".env",
    ".env.development",
    ".env.development.local",
    ".env.local",
    ".env.production",
    ".env.production.local",
    ".env.test",
    ".env.test.local",
    ".gitmodules",
    ".npmrc",
    ".yarnrc",
    ".yarnrc.yml",
    "bunfig.toml",
    "package-lock.json",
    "package.json",
    "pnpm-lock.yaml",
    "yarn.lock",
)
_FOLDERS: Final = ("node_modules/.bin", "node_modules", ".claude/agents", ".claude/commands")


class Placeholders:
    """Knows what was there before the tasks in each workspace began, and takes away what is empty and was not."""

    def __init__(self) -> None:
        self._running: Counter[Path] = Counter()
        self._before: dict[Path, frozenset[str]] = {}

    def begin(self, workspace: Path) -> None:
        """Note what is there, before the first of several tasks."""
        if not self._running[workspace]:
            self._before[workspace] = frozenset(
                name for name in (*_FILES, *_FOLDERS) if (workspace / name).is_symlink() or (workspace / name).exists()
            )
        self._running[workspace] += 1

    def end(self, workspace: Path) -> None:
        """Take the placeholders away, after the last of several tasks."""
        self._running[workspace] -= 1
        if self._running[workspace]:
            return
        del self._running[workspace]
        before = self._before.pop(workspace)
        for name in _FILES:
            path = workspace / name
            with suppress(OSError):
                if name not in before and path.lstat().st_size == 0 and path.is_file():
                    path.unlink()
        for name in _FOLDERS:
            with suppress(OSError):
                if name not in before:
                    # Refused by the system unless it is empty.
                    (workspace / name).rmdir()
