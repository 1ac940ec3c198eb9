"""docs/troubleshooting.md: the commands that need no container and no cluster, run beside a living team."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs_blocks import Block, blocks_of
from tests.integration.harness import REPOSITORY
from tests.integration.orchestrator_process import Processes, WorkerProcess, processes

pytestmark = pytest.mark.timeout(120)

PAGE = REPOSITORY / "docs" / "troubleshooting.md"
BLOCKS = blocks_of(PAGE)
ELSEWHERE = {"needs containers": r"deploy/compose/|make |docker ", "needs a cluster": "kubectl "}
EXAMPLES = [block for block in BLOCKS if block.marker == "example"]

_BROKEN = re.compile(r"^(codehornets: |.*command not found|.*Traceback|Usage: )", re.M)


@dataclass
class Place:
    """A folder in which a team runs, for somebody who has read the page."""

    folder: Path
    team: Processes
    environ: dict[str, str]
    workers: dict[str, WorkerProcess]

    def revive(self) -> None:
        """Start the workers that the block before has ended."""
        for name in ("marie", "anga"):
            if name not in self.workers or self.workers[name].process.poll() is not None:
                self.workers[name] = self.team.worker(name, WORKER_MODE="hooks", LOG_LEVEL="INFO")
        for worker in self.workers.values():
            worker.ready()

    def run(self, block: Block) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", block.text],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
            check=False,
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("team")
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    command = programs / "codehornets"
    command.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from orchestrator_service.cli import main\nmain()\n"
    )
    command.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name in ("LANG", "HOME")}
    environ = {**kept, "PATH": f"{programs}:{os.environ['PATH']}"}
    (folder / "shared").mkdir()
    with processes(folder / "shared") as team:
        found = Place(folder, team, environ, {})
        found.revive()
        with team.orchestrator(LOG_LEVEL="INFO").client():
            yield found


def test_every_block_says_who_runs_it() -> None:
    assert len(EXAMPLES) >= 25
    for block in BLOCKS:
        assert block.marker == "example" or block.marker in ELSEWHERE, f"{block}: {block.marker!r}"
        if block.marker in ELSEWHERE:
            first, *commands = block.text.splitlines()
            assert first == f"# {block.marker}", str(block)
            assert all(re.match(rf"(\w+=\S+ )*({ELSEWHERE[block.marker]})", line) for line in commands), str(block)


def test_there_are_symptoms_enough_each_with_diagnosis_cause_and_mend() -> None:
    symptoms = re.split(r"^### ", PAGE.read_text().split("## Emergency stop")[0], flags=re.M)[1:]
    assert len(symptoms) >= 20
    for symptom in symptoms:
        name = symptom.splitlines()[0]
        assert "<!-- example -->" in symptom, name
        assert re.search(r"^\| (Cause|Invariant)[^|]*\| Mend \|$", symptom, re.M), name


def test_what_the_page_links_to_is_there() -> None:
    for page, anchor in re.findall(r"\]\(([\w-]*\.md)?#([\w-]+)\)", PAGE.read_text()):
        target = PAGE.with_name(page) if page else PAGE
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
        anchors = {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
        assert anchor in anchors, f"{page}#{anchor}"


@pytest.mark.parametrize("block", EXAMPLES, ids=str)
def test_a_block_runs_as_it_stands(place: Place, block: Block) -> None:
    place.revive()
    ran = place.run(block)
    assert ran.returncode == 0, ran.stdout
    expected_to_fail = "result runbook-2 --wait ||" in block.text or "cancel runbook-2 ||" in block.text
    assert expected_to_fail or not _BROKEN.search(ran.stdout), ran.stdout


def test_a_command_that_does_not_exist_would_be_seen(place: Place) -> None:
    for text in ("codehornets statsu", "codehornets doctor --nonsense || true"):
        ran = place.run(Block("page", 1, "", "example", "bash", text))
        assert ran.returncode != 0 or _BROKEN.search(ran.stdout)
