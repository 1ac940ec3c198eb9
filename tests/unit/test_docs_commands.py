"""No command of the guides for containers goes untried: each block says who runs it, and that one is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs_blocks import Block, blocks_of

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "docs" / name for name in ("deployment.md", "quick-reference.md", "upgrading.md")]
RUN_BY_CONTAINER_TESTS = re.compile(r"composed(: .*)?")
RUN_WITHOUT_CONTAINERS = re.compile(r"example")
OF_CLUSTERS = re.compile(r"cluster|run")


def _shell_blocks(page: Path) -> list[Block]:
    return [block for block in blocks_of(page) if block.language in ("bash", "sh", "shell", "console")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_commands_says_who_runs_it(page: Path) -> None:
    blocks = _shell_blocks(page)
    assert blocks
    for block in blocks:
        ways = (RUN_BY_CONTAINER_TESTS, RUN_WITHOUT_CONTAINERS, OF_CLUSTERS)
        known = any(way.fullmatch(block.marker) for way in ways)
        assert known, f"{block}: mark it composed, example, run or cluster, so that a test runs it or looks at it"


def test_those_that_run_them_look_at_these_pages() -> None:
    from tests.integration import test_docs_examples

    container_tests = (REPOSITORY / "tests" / "containers" / "test_docs.py").read_text()
    cluster_tests = (REPOSITORY / "tests" / "deploy" / "test_kubernetes_guide.py").read_text()
    for page in PAGES:
        markers = {block.marker.partition(":")[0] for block in _shell_blocks(page)}
        assert "example" not in markers or f"docs/{page.name}" in test_docs_examples.PAGES
        assert "composed" not in markers or f'"{page.name}"' in container_tests
        assert not markers & {"cluster", "run"} or f'"{page.name}"' in cluster_tests


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_that_a_page_names_is_there(page: Path) -> None:
    makefiles = [REPOSITORY / "Makefile", *sorted((REPOSITORY / "deploy").rglob("*.mk"))]
    text = "\n".join(path.read_text() for path in makefiles)
    rules = {name for names in re.findall(r"^([\w% -]+):(?!=)", text, re.M) for name in names.split()}
    code = [block.text for block in _shell_blocks(page)] + re.findall(
        r"`((?:[A-Z_]+=\S+ )*make [^`\n]+)`", page.read_text()
    )
    named = {name for text in code for name in re.findall(r"\bmake (?:[A-Z_]+=\S+ )*([a-z][\w%-]*)", text)}
    assert named
    missing = {
        name
        for name in named
        if name not in rules and not (name.startswith("logs-watcher-") and "logs-watcher-%" in rules)
    }
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_variable_that_a_page_names_for_compose_can_be_set(page: Path) -> None:
    template = (REPOSITORY / "deploy" / "compose" / ".env.example").read_text()
    for variable in re.findall(r"echo ([A-Z_]+)=\S+ >> deploy/compose/\.env", page.read_text()):
        assert re.search(rf"^# {variable}=", template, re.M), variable
