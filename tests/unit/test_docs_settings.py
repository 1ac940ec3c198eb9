"""docs/settings.md says what the code does: every variable and key, its default and what is allowed."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator_service.container.entry import ROLES
from orchestrator_service.team import TeamError, read_team
from service_kit.environment import SECRET_VARIABLES
from service_kit.places import PLACE_VARIABLES

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "settings.md"
ORCHESTRATORS_PAGE = REPOSITORY / "docs" / "orchestrator.md"
SOURCES = {
    PAGE: [REPOSITORY / "worker_service" / "settings.py", REPOSITORY / "service_kit" / "modes.py"],
    ORCHESTRATORS_PAGE: [REPOSITORY / "orchestrator_service" / "settings.py"],
}
ORCHESTRATORS_SECRETS = {"API_TOKEN", "API_TOKENS"}
each_page = pytest.mark.parametrize("page", [PAGE, ORCHESTRATORS_PAGE], ids=lambda page: page.stem)


def _rows(heading: str, page: Path = PAGE) -> dict[str, list[str]]:
    """Return the rows of all tables whose first column is headed so, by the name in that column."""
    rows: dict[str, list[str]] = {}
    inside = False
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells[0] == heading:
            inside = True
        elif inside and not cells[0].startswith("---"):
            name = cells[0].strip("`")
            assert name not in rows, f"{name} is described twice"
            rows[name] = cells
    return rows


def _calls(page: Path) -> dict[str, ast.Call]:
    """Return the calls that read a variable, the last one of each."""
    calls: dict[str, ast.Call] = {}
    for node in (node for source in SOURCES[page] for node in ast.walk(ast.parse(source.read_text()))):
        if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        name = node.args[0].value
        if called in ("value", "seconds") and isinstance(name, str):
            calls[name] = node
    return calls


def _literal(node: ast.expr) -> Any:
    """Return what a literal or a product of literals stands for; None where it is neither."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return _literal(node.left) * _literal(node.right)
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


@each_page
def test_every_variable_is_described_and_none_that_does_not_exist(page: Path) -> None:
    own = ORCHESTRATORS_SECRETS if page == ORCHESTRATORS_PAGE else set(SECRET_VARIABLES) - ORCHESTRATORS_SECRETS
    secrets = {f"{name}_FILE" for name in own}
    places = set() if page == ORCHESTRATORS_PAGE else set(PLACE_VARIABLES)
    assert set(_rows("Variable", page)) == set(_calls(page)) | secrets | places


@each_page
def test_defaults_and_what_is_allowed_are_those_of_the_code(page: Path) -> None:
    rows = _rows("Variable", page)
    for name, call in _calls(page).items():
        called = call.func.attr if isinstance(call.func, ast.Attribute) else "place"
        if called == "place":
            continue
        default_at = 1 if called == "seconds" else 3
        default, shown = _literal(call.args[default_at]), rows[name][3].strip("`")
        if isinstance(default, bool):
            assert shown == str(int(default)), name
        elif isinstance(default, int | float | str):
            assert shown == (f"{default:.10g}" if not isinstance(default, str) else default), name
        if called == "seconds":
            bounds = {keyword.arg: _literal(keyword.value) for keyword in call.keywords}
            least, most = bounds.get("at_least", 0.001), bounds.get("at_most", 7 * 86_400.0)
            assert rows[name][4] == f"{least:.10g} to {most:.10g}", name
        elif allowed := _literal(call.args[2]):
            assert rows[name][4] == allowed, name


@pytest.mark.parametrize(
    ("heading", "text"),
    [
        ("Key at the top", "nonsense = 1\n[workers.ann]\n"),
        ("Key of a worker, or in `defaults`", "defaults.nonsense = 1\n"),
        ("Key of `orchestrator`", "orchestrator.nonsense = 1\n"),
    ],
)
def test_the_keys_of_a_team_file_are_those_of_the_code(tmp_path: Path, heading: str, text: str) -> None:
    (tmp_path / "team.toml").write_text(text)
    with pytest.raises(TeamError) as refusal:
        read_team(tmp_path / "team.toml")
    allowed = re.search(r"allowed are (.*)\.$", str(refusal.value))
    assert allowed is not None
    assert set(_rows(heading)) == set(allowed[1].split(", "))


def test_the_variables_of_a_container_are_those_of_the_code() -> None:
    code = "".join(path.read_text() for path in (REPOSITORY / "orchestrator_service" / "container").glob("*.py"))
    rows = _rows("In a container")
    assert set(rows) == {"TEAM_FILE", "AGENT", "DEFAULT_REDIS_URL", "REDIS_PASSWORD_FILE"}
    assert all(f'"{name}"' in code for name in rows)
    named = set(re.findall(r'(?:environ|told|seen|given)(?:\.get\(|\[)"([A-Z_]+)"', code))
    page = PAGE.read_text() + ORCHESTRATORS_PAGE.read_text()
    assert len(named) > 8
    assert not {name for name in named if f"`{name}`" not in page}


def test_the_roles_of_a_container_are_those_of_the_code() -> None:
    assert set(_rows("Role")) == set(ROLES)
