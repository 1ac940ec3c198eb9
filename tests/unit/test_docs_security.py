"""docs/security.md: nothing is said to be impossible without the test that shows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "security.md").read_text()
ATTACKERS = ("A prompt-injected agent", "A hostile trigger writer", "A network neighbour")
_PROOF = re.compile(r"\[`[^`\]]+\.py::\w+`\]\([^)\s]+\)")


def _rows(page: str, attacker: str) -> list[list[str]]:
    section = page.partition(f"## {attacker}\n")[2].partition("\n## ")[0]
    lines = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    assert lines and lines[0][0].strip() in ("It cannot", "They cannot"), attacker
    return lines[1:]


def unproven(page: str) -> list[str]:
    """Return each claim that names no mechanism or no test."""
    rows = [row for attacker in ATTACKERS for row in _rows(page, attacker)]
    return [row[0].strip() for row in rows if len(row) != 3 or not row[1].strip() or not _PROOF.search(row[2])]


@pytest.mark.parametrize("attacker", ATTACKERS)
def test_each_attacker_has_claims_and_what_they_can_do(attacker: str) -> None:
    assert len(_rows(PAGE, attacker)) >= 5
    section = PAGE.partition(f"## {attacker}\n")[2].partition("\n## ")[0]
    assert re.search(r"^\*\*(It|They) can", section, re.MULTILINE)


def test_each_claim_names_its_mechanism_and_its_test() -> None:
    assert unproven(PAGE) == []


def test_a_claim_without_a_test_is_found() -> None:
    assert len(unproven(_PROOF.sub("nothing", PAGE, count=1))) == 1


def test_it_says_how_to_report_a_weakness() -> None:
    policy = (REPOSITORY / "SECURITY.md").read_text()
    assert "security/advisories/new" in policy and "docs/security.md" in policy
    assert "(../SECURITY.md)" in PAGE
