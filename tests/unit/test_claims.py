"""Every test that the documentation names as a proof exists, in the file that it links to."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]

_PROOF = re.compile(r"\[`([^`\]]+\.py)::(\w+)`\]\(([^)\s]+)\)")
_ANY = re.compile(r"\w+\.py::\w+")


def _functions(path: Path) -> set[str]:
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, definitions)}


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_named_test_exists(page: Path) -> None:
    text = page.read_text()
    proofs = _PROOF.findall(text)
    assert len(proofs) == len(_ANY.findall(text)), "a test is named in another form than [`file.py::test`](path)"
    for file, test, target in proofs:
        path = (page.parent / target).resolve()
        assert path.name == file, f"{file}::{test} links to {target}"
        assert path.is_file(), f"{target} does not exist"
        assert test.startswith("test_") and test in _functions(path), f"{target} has no {test}"


def test_every_promise_has_a_proof() -> None:
    table = (REPOSITORY / "docs" / "reliability.md").read_text().partition("## Promises and their tests")[2]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert rows
    assert [row for row in rows if not _PROOF.search(row)] == []
