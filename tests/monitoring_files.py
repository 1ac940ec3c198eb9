"""The files of deploy/monitoring: rules, boards and the tools that check them."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.system_packages import find_program

MONITORING = Path(__file__).resolve().parents[1] / "deploy" / "monitoring"
RULE_FILES = sorted((MONITORING / "rules").glob("*.yaml"))
BOARD_FILES = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))

_PACKAGES = {
    "promtool": "prometheus",
    "prometheus": "prometheus",
    "amtool": "prometheus-alertmanager",
    "prometheus-alertmanager": "prometheus-alertmanager",
}


def program(name: str) -> str:
    """Return the path of one of Prometheus' programs."""
    found = find_program(name, _PACKAGES[name])
    assert found is not None, (
        f"{name} is not on the PATH; install it (on Debian and Ubuntu: apt install {_PACKAGES[name]})"
    )
    return found


def run(name: str, *arguments: str | Path, cwd: Path = MONITORING) -> subprocess.CompletedProcess[str]:
    """Run one of them to its end."""
    return subprocess.run([program(name), *arguments], capture_output=True, text=True, check=False, cwd=cwd, timeout=50)


def rules() -> list[dict[str, Any]]:
    """Return all rules, alerts and recorded ones."""
    return [
        rule for path in RULE_FILES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]
    ]


def alerts() -> dict[str, dict[str, Any]]:
    """Return the alerts by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


@dataclass(frozen=True)
class BoardQuery:
    """One query of one panel."""

    where: str
    query: str
    legend_labels: frozenset[str]


def board_queries() -> list[BoardQuery]:
    """Return every query of every board, with its variables as Grafana would fill them in."""
    found = []
    for path in BOARD_FILES:
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                query = target["expr"]
                for name, value in {"worker": "marie|anga", "__rate_interval": "1m", "__range": "10m"}.items():
                    query = re.sub(rf"\$(?:{name}\b|{{{name}}})", value, query)
                legend = frozenset(re.findall(r"{{\s*(\w+)\s*}}", target["legendFormat"]))
                found.append(BoardQuery(f"{path.name}: {panel['title']}", query, legend))
    return found
