"""Repositories to test with: made by the real git, with nothing of the configuration of whoever runs the tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from service_kit.git.command import Git, find_git


class TestRepository:
    """A repository and the plain git beside the product's: what a person does, and what a test believes."""

    __test__ = False

    def __init__(self, top: Path, home: Path) -> None:
        self.top = top
        home.mkdir(parents=True, exist_ok=True)
        self.environ = {"PATH": os.environ["PATH"], "HOME": str(home)}

    @property
    def common(self) -> Path:
        return self.top / ".git"

    @property
    def safe(self) -> Git:
        """The product's own git."""
        program = find_git(self.environ)
        assert program is not None
        return Git(program, self.environ)

    def git(self, *arguments: str, at: Path | None = None, ok: bool = True) -> str:
        run = subprocess.run(
            ["git", "-c", "user.name=Person", "-c", "user.email=person@example.org", *arguments],
            cwd=at or self.top,
            env={**self.environ, "LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert not ok or run.returncode == 0, (arguments, run.stderr)
        return run.stdout.strip()

    def commit(self, message: str, *, at: Path | None = None, **files: str) -> str:
        for name, text in files.items():
            path = (at or self.top) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.git("add", "--all", at=at)
        self.git("commit", "--quiet", "--no-verify", "--allow-empty", "-m", message, at=at)
        return self.git("rev-parse", "HEAD", at=at)

    def branches(self) -> set[str]:
        return set(self.git("for-each-ref", "--format=%(refname:short)", "refs/heads").split())

    def worktrees(self) -> int:
        return self.git("worktree", "list", "--porcelain").count("worktree ")


def make_repository(top: Path, home: Path, **files: str) -> TestRepository:
    """Make a repository with one commit on the branch main."""
    top.mkdir(parents=True, exist_ok=True)
    repository = TestRepository(top, home)
    repository.git("init", "--quiet", "-b", "main")
    repository.commit("first", **(files or {"README": "hello\n", "src/code.py": "print(1)\n"}))
    return repository
