"""The examples of the documentation, run as they stand against a worker with the echo agent."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs_blocks import blocks_of, prints
from tests.integration.harness import REPOSITORY, child_worker
from tests.redis_server import RedisServer, running_redis
from tests.waiting import wait_until

PAGES = ("README.md", "docs/tasks.md", "docs/hooks.md", "docs/redis.md", "docs/quick-reference.md", "docs/upgrading.md")
FAR_PAGES = ("docs/redis.md",)
"""Their reader sits on a host that has Redis and no shared directory."""


@dataclass
class Example:
    """A block to run, and what it is said to print; None where the page does not say."""

    name: str
    language: str
    text: str
    output: str | None = None


def _examples(page: str) -> list[Example]:
    blocks = [block for block in blocks_of(REPOSITORY / page) if block.marker == "example"]
    return [
        Example(f"{page}-{number}", block.language, block.text, block.output)
        for number, block in enumerate(blocks, start=1)
    ]


EXAMPLES = [example for page in PAGES for example in _examples(page)]


@dataclass(frozen=True)
class Place:
    """A folder like a newcomer's clone: the command, and a shared directory with a worker."""

    folder: Path
    environ: dict[str, str]
    far_folder: Path
    """A folder on another host, where the worker is reached by Redis alone."""
    redis_url: str

    def run(self, example: Example) -> str:
        interpreter = {"bash": ["bash", "-eu", "-o", "pipefail", "-c"], "python": [sys.executable, "-c"]}
        far = example.name.startswith(FAR_PAGES)
        ran = subprocess.run(
            [*interpreter[example.language], example.text],
            cwd=self.far_folder if far else self.folder,
            env={**self.environ, "REDIS_URL": self.redis_url} if far else self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=40,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout
        return ran.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("clone")
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
    far_folder = tmp_path_factory.mktemp("far")
    with (
        running_redis(tmp_path_factory.mktemp("redis")) as redis,
        child_worker(folder / "shared", REDIS_URL=redis.url) as worker,
    ):
        worker.port()
        wait_until(lambda: _listens(redis), what="the worker listens on Redis")
        yield Place(folder, environ, far_folder, redis.url)


def _listens(server: RedisServer) -> bool:
    with server.client() as client:
        return client.pubsub_numsub("control:marie")[0][1] == 1


def test_there_are_examples_on_every_page() -> None:
    for page in PAGES:
        assert _examples(page), page


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.name for example in EXAMPLES])
def test_an_example_does_what_the_page_says(place: Place, example: Example) -> None:
    printed = place.run(example)
    if example.output is not None:
        assert prints(example.output, printed), f"printed:\n{printed}\nthe page says:\n{example.output}"
