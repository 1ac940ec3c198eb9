"""`codehornets doctor`: print what was checked, each line with its mend."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from orchestrator_service.checks import check_all
from orchestrator_service.cli.output import print_json
from orchestrator_service.cli.places import find_team
from orchestrator_service.cli.terminal import harmless
from orchestrator_service.findings import Finding, Grade
from orchestrator_service.team import EXAMPLE_TEAM, TeamError
from orchestrator_service.worker_environment import REDIS_VARIABLES, choose_shared_dir

_MARKS: Final = {Grade.GOOD: ("✓", "32"), Grade.NOTE: ("!", "33"), Grade.BROKEN: ("✗", "31")}


def doctor(team_file: Path | None, *, shared_dir: Path | None, redis: str | None, as_json: bool) -> int:
    """Check everything; 1 when something is broken."""
    team = None
    try:
        team = find_team(team_file)
        source = "the shipped example, there is no ./team.toml" if team.path == EXAMPLE_TEAM else str(team.path)
        findings = [Finding("team", Grade.GOOD, f"{', '.join(team.workers)} ({source})")]
    except TeamError as error:
        findings = [Finding("team", Grade.BROKEN, str(error), "mend that key")]
    environ = dict(os.environ)
    if redis is not None:
        environ = {name: value for name, value in environ.items() if name not in REDIS_VARIABLES} | {"REDIS_URL": redis}
    findings += check_all(team, choose_shared_dir(team, environ, shared_dir), environ)
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
