"""The tools that look at deploy files, and the files that they look at."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TOOLS = Path(os.environ.get("CHECKS", REPOSITORY / ".venv-checks"))
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))

_WITH_FILES = [".ci", ".github", "deploy"]


def tracked(*patterns: str) -> list[Path]:
    """Return the files of these names in what is deployed or runs in CI, the Dockerfile among them."""
    found = {path for pattern in patterns for path in REPOSITORY.glob(pattern)}
    for directory in _WITH_FILES:
        found |= {path for pattern in patterns for path in (REPOSITORY / directory).rglob(pattern)}
    return sorted(path for path in found if path.is_file())


def shell_scripts() -> list[Path]:
    """Return what bash or sh would run, whatever its name."""
    named = set(tracked("*.sh"))
    for path in tracked("*"):
        with path.open("rb") as file:
            first = file.readline()
        if first.startswith(b"#!") and first.split()[-1].endswith(b"sh"):
            named.add(path)
    return sorted(named)


def run_tool(
    name: str, *arguments: str | Path, stdin: str | None = None, timeout_s: float = 50
) -> subprocess.CompletedProcess[str]:
    """Run a tool to its end. Fails the test where it is not installed: a check that is left out must be seen."""
    program = TOOLS / "bin" / name
    assert program.exists(), f"{name} is not in {TOOLS}; run `make checks`"
    environment = {**os.environ, "NO_COLOR": "1", "NODE_PATH": str(TOOLS / "node_modules")}
    return subprocess.run(
        [program, *arguments],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env=environment,
        timeout=timeout_s,
    )


def said(result: subprocess.CompletedProcess[str]) -> str:
    """Return all that a tool printed."""
    return result.stdout + result.stderr
