"""A fourth worker, made as the compose file and the guide say."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.containers.conftest import remove
from tests.containers.engine import DEPLOY
from tests.containers.stack import Stack
from tests.integration.harness import REPOSITORY


def with_lea(compose: str) -> str:
    """Return the compose file with the lines of `lea` and her volumes."""
    _, line, rest = compose.partition("  # lea:\n")
    assert line, "the compose file no longer shows a fourth worker"
    lines, after = re.match(r"((?:  # [^\n]*\n)*)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    uncommented = "".join(f"  {text[4:]}" for text in (line + lines).splitlines(keepends=True))
    whole = compose.partition("  # lea:\n")[0] + uncommented + after
    return whole.replace(
        "\n  workspace-fabien: {}\n", "\n  workspace-fabien: {}\n  auth-lea: {}\n  workspace-lea: {}\n"
    )


def test_a_fourth_worker_is_a_few_lines(new_stack: Callable[..., Stack], team_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(DEPLOY, tmp_path / "deploy", ignore=shutil.ignore_patterns("secrets", ".env", "node_modules"))
    folder = tmp_path / "deploy" / "compose"
    (folder / "compose.yaml").write_text(with_lea((folder / "compose.yaml").read_text()))
    podman = folder / "podman.yaml"
    podman.write_text(podman.read_text() + "  lea: {depends_on: !reset {}}\n")
    team = tmp_path / "team"
    shutil.copytree(team_dir, team)
    with (team / "team.toml").open("a") as file:
        file.write('\n[workers.lea]\nrole = "translator"\nagent = "echo"\n')
    for place in (*tmp_path.parents, tmp_path):
        if place.stat().st_uid == os.geteuid() and "pytest" in place.name:
            place.chmod(0o755)
    settings = REPOSITORY / ".venv-containers" / "bin" / "podman-compose"
    own = {"PODMAN_COMPOSE": str(settings)} if settings.exists() and "PODMAN_COMPOSE" not in os.environ else {}
    stack = new_stack(TEAM_DIR=str(team), **own)
    stack.script = folder / "compose.sh"
    try:
        assert "lea" in stack.services()
        stack.up("lea", "orchestrator")
        assert "worker lea starts in mode polling" in stack.logs("lea")
        task = stack.submit(role="translator", description="Translate this.")
        assert stack.answer(task) == "Translate this."
        stack.drop("lea", "by-file", "and this")
        assert stack.result("lea", "by-file")["output"] == "and this"
    finally:
        remove(stack)
