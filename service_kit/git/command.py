"""Running git in a repository whose configuration an agent may have written.

Git runs programs that the configuration names: hooks, the file system monitor, filters, signing, transports. An agent
that may write `.git/config` must not get a program of its choice run by the service, which is not isolated. So these
commands run with all of that turned off, with the agent's environment and with no `GIT_*` variable of anybody's.
"""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

PATIENCE_S: Final = 300.0
"""The longest that one command may take; a checkout of a huge repository takes minutes."""

_SAFE: Final = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "",
    "core.untrackedCache": "false",
    "core.ignoreStat": "false",
    "core.checkStat": "default",
    "core.trustctime": "true",
    "core.sshCommand": "false",
    "core.askPass": "",
    "core.editor": "false",
    "core.pager": "cat",
    "commit.gpgSign": "false",
    "commit.template": "",
    "credential.helper": "",
    "diff.external": "",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "protocol.allow": "never",
    "status.showUntrackedFiles": "all",
    "submodule.recurse": "false",
    "advice.addEmbeddedRepo": "false",
    "branch.autoSetupMerge": "false",
}
_FILTER: Final = re.compile(r"filter\.(.*)\.(?:clean|smudge|process|required)", re.DOTALL | re.IGNORECASE)
_LOCKED: Final = re.compile(r"\.lock'?: File exists|Unable to create '[^']*\.lock'|could not lock config file")
_LOCK_TRIES: Final = 8


class GitError(Exception):
    """A git command failed; the text is its last line, fit for a sentence."""

    def __init__(self, command: str, code: int, said: str) -> None:
        """Tell of `git COMMAND` that ended with `code` and printed `said` on its error stream."""
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        telling = next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[-1] if lines else "")
        reason = telling.removeprefix("fatal: ").removeprefix("error: ")[:300] or f"exit code {code}"
        super().__init__(f"git {command}: {reason}")
        self.code = code
        self.said = said
        self.reason = reason


def find_git(environment: Mapping[str, str]) -> str | None:
    """Return the path of git, or None where there is none."""
    return shutil.which("git", path=environment.get("PATH", os.defpath))


@dataclass(frozen=True)
class Git:
    """Runs git commands in one place, with nothing of that place's configuration acted on."""

    program: str
    environment: Mapping[str, str] = field(repr=False)
    """The agent's; what git needs of it is taken."""
    directory: Path | None = None
    """Where to look for a repository; or, with a `git_dir`, where to work."""
    git_dir: Path | None = None
    """The administrative directory, where that is known: a `.git` file may have been changed."""
    filters: tuple[str, ...] = ()
    """Filter drivers to be turned off, by `without_filters`."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Further configuration for these commands."""

    def at(self, git_dir: Path, work_tree: Path | None = None) -> Git:
        """Return the same for one working tree, or for a repository without one."""
        return replace(self, git_dir=git_dir, directory=work_tree, filters=())

    def without_filters(self) -> Git:
        """Return the same with every filter turned off that the configuration names now.

        They cannot be turned off as a whole, and each is a command line. It is the caller's to see that no file is
        stored whose content a filter should have changed.
        """
        names = self.run("config", "--list", "-z", "--name-only").split("\0")
        found = dict.fromkeys(match[1] for name in names if (match := _FILTER.fullmatch(name)))
        return replace(self, filters=tuple(found))

    def run(self, *arguments: str, stdin: str | None = None) -> str:
        """Run a command and return what it prints.

        Raises:
            GitError: it failed.
            OSError: the disk is full, or no process can be made.
        """
        for attempt in range(_LOCK_TRIES):
            try:
                return self._run_once(arguments, stdin)
            except GitError as error:
                if attempt + 1 == _LOCK_TRIES or not _LOCKED.search(error.said):
                    raise
            # Somebody else's git holds a lock for a moment; of two that wait one shall be first.
            time.sleep(random.uniform(0.5, 1.0) * 0.02 * 2**attempt)
        raise AssertionError("unreachable")

    def succeeds(self, *arguments: str) -> bool:
        """Tell whether a command that answers by its exit code says yes.

        Raises:
            GitError: it says neither yes nor no.
            OSError: no process can be made.
        """
        try:
            self.run(*arguments)
        except GitError as error:
            if error.code != 1:
                raise
            return False
        return True

    def _run_once(self, arguments: tuple[str, ...], stdin: str | None) -> str:
        place = [] if self.git_dir is None else [f"--git-dir={self.git_dir}"]
        if self.git_dir is not None and self.directory is not None:
            place.append(f"--work-tree={self.directory}")
        try:
            run = subprocess.run(
                [self.program, *place, *arguments],
                cwd=self.directory or self.git_dir,
                env=self._environment(),
                # Names of files are bytes: what is no UTF-8 must come back as it was.
                input=None if stdin is None else os.fsencode(stdin),
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                timeout=PATIENCE_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise GitError(arguments[0], 124, f"it did not end within {PATIENCE_S:g} s") from error
        if run.returncode == 0:
            return os.fsdecode(run.stdout)
        said = run.stderr.decode("utf-8", "replace")
        if "No space left on device" in said or "Disk quota exceeded" in said:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.directory or self.git_dir))
        raise GitError(arguments[0], run.returncode, said)

    def _environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name in ("PATH", "HOME", "TMPDIR", "XDG_CONFIG_HOME")
            if (value := self.environment.get(name))
        }
        settings = {**self.settings, **_SAFE}
        for name in self.filters:
            for part, value in (("clean", ""), ("smudge", ""), ("process", ""), ("required", "false")):
                settings[f"filter.{name}.{part}"] = value
        pairs = {
            f"GIT_CONFIG_{part}_{number}": text
            for number, pair in enumerate(settings.items())
            for part, text in zip(("KEY", "VALUE"), pair, strict=True)
        }
        return {
            **kept,
            **pairs,
            "GIT_CONFIG_COUNT": str(len(settings)),
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "LC_ALL": "C",
        }
