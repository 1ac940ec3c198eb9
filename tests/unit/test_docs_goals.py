"""docs/goals.md names what there is: tools, fields, states and events."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator_service.orders import GoalOrder
from orchestrator_service.records import GoalState
from orchestrator_service.team_tools.tools import TOOLS

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "goals.md").read_text()


def _first_column(heading: str) -> list[str]:
    table = PAGE.partition(f"| {heading} |")[2].partition("\n\n")[0]
    return re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)


def test_tools_fields_and_states() -> None:
    assert _first_column("Tool") == [tool.name for tool in TOOLS]
    assert _first_column("Field") == list(GoalOrder.model_fields)
    assert _first_column("State") == [state.value for state in GoalState]


def test_events() -> None:
    sources = [REPOSITORY / "orchestrator_service" / "goals" / name for name in ("service.py", "run.py")]
    told = {name for path in sources for name in re.findall(r'"(goal_[a-z]+)", (?!extra)', path.read_text())}
    assert set(_first_column("Event")) == told


def test_kinds_of_errors() -> None:
    sources = [REPOSITORY / "orchestrator_service" / "goals" / name for name in ("agent.py", "run.py")]
    found = r'_failed\("(\w+)"|kind="(\w+)"|"(max_budget|authentication_failed|api_error|execution_error)"'
    kinds = {kind for path in sources for match in re.findall(found, path.read_text()) for kind in match if kind}
    section = PAGE.partition("`error.kind` is")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", section)) == kinds
