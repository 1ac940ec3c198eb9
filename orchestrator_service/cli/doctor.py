"""`codehornets doctor`: print what was checked, each line with its mend."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator_service.checks import check_all
from orchestrator_service.cli.api_place import find_api
from orchestrator_service.cli.errors import UserError
from orchestrator_service.cli.output import print_json
from orchestrator_service.cli.places import find_team
from orchestrator_service.cli.terminal import harmless
from orchestrator_service.cli.where import Where
from orchestrator_service.findings import Finding, Grade
from orchestrator_service.team import EXAMPLE_TEAM, TeamError
from orchestrator_service.worker_environment import REDIS_VARIABLES, choose_shared_dir

if TYPE_CHECKING:
    from orchestrator_service.records import Invariant

_MARKS: Final = {
    Grade.GOOD: ("✓", "32"),
    Grade.NOTE: ("!", "33"),
    Grade.BROKEN: ("✗", "31"),
    Grade.LEFT_OUT: ("-", "2"),
}


def doctor(team_file: Path | None, *, where: Where, as_json: bool) -> int:
    """Check everything; 1 when something is broken."""
    team = None
    try:
        team = find_team(team_file)
        source = "the shipped example, there is no ./team.toml" if team.path == EXAMPLE_TEAM else str(team.path)
        findings = [Finding("team", Grade.GOOD, f"{', '.join(team.workers)} ({source})")]
    except TeamError as error:
        findings = [Finding("team", Grade.BROKEN, str(error), "mend that key")]
    environ = dict(os.environ)
    if where.redis is not None:
        dropped = {name: value for name, value in environ.items() if name not in REDIS_VARIABLES}
        environ = dropped | {"REDIS_URL": where.redis}
    findings += check_all(team, choose_shared_dir(team, environ, where.shared_dir), environ)
    findings += _orchestrator(where)
    broken = any(finding.grade is Grade.BROKEN for finding in findings)
    if as_json:
        print_json([finding.as_json() for finding in findings])
        return int(broken)
    coloured = sys.stdout.isatty()
    for finding in findings:
        mark, colour = _MARKS[finding.grade]
        if coloured:
            mark = f"\x1b[{colour}m{mark}\x1b[0m"
        print(f"{mark} {finding.subject:<13} {harmless(finding.text)}")
        if finding.mend:
            print(f"  {'':<13} → {harmless(finding.mend)}")
    return int(broken)


def _orchestrator(where: Where) -> list[Finding]:
    """Return what the orchestrator says of itself, where there is one: that it answers, and its rules."""
    # Redis is looked at beside the orchestrator here, not instead of it.
    where = replace(where, redis=None)
    try:
        place = find_api(where)
    except (UserError, TeamError) as error:
        return [Finding("orchestrator", Grade.BROKEN, str(error))]
    if place is None:
        return []
    from orchestrator_service.client import calls as api_calls

    try:
        rules = api_calls.ask(place, api_calls.invariants())
    except api_calls.ApiError as error:
        mend = "codehornets up" if place.discovered else f"mend {place.source}, or start it there"
        return [Finding("orchestrator", Grade.BROKEN, str(error), mend)]
    unchecked = [rule for rule in rules if rule.checked_at is None]
    text = f"answers at {place.url}" + (f"; {len(unchecked)} rules are still to be checked" if unchecked else "")
    return [Finding("orchestrator", Grade.GOOD, text), *map(_rule, rules)]


def _rule(rule: Invariant) -> Finding:
    name = rule.name.replace("_", " ")
    if rule.holds:
        return Finding("rule", Grade.GOOD, f"{name}: holds")
    examples = "; ".join(rule.examples[:3])
    mend = "`codehornets logs orchestrator` tells more; what is named is the orchestrator's to mend at its next check"
    return Finding("rule", Grade.BROKEN, f"{name}: broken {rule.violations} times: {examples}", mend)
