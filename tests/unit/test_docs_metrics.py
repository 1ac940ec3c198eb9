"""The tables of metrics in the documentation name what the services export, each with its labels, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from orchestrator_service.metrics import OrchestratorMetrics
from worker_service.metrics import Metrics

DOCS = Path(__file__).resolve().parents[2] / "docs"


def _exported(registry: CollectorRegistry) -> dict[str, set[str]]:
    """Return the labels of each family, by the name under which its samples are found."""
    found: dict[str, set[str]] = {}
    for collector in registry._collector_to_names:
        name = getattr(collector, "_name", "")
        if name.startswith("codehornets_"):
            suffix = "_total" if collector._type == "counter" else ""  # type: ignore[attr-defined]
            found[name + suffix] = set(collector._labelnames)  # type: ignore[attr-defined]
    return found


def _told(page: str, prefix: str) -> dict[str, set[str]]:
    """Return the labels of each metric in the first column of a table headed `Metric`."""
    found: dict[str, set[str]] = {}
    text = (DOCS / page).read_text()
    for table in re.findall(r"^\| Metric \|.*\n\|[-| ]+\n((?:\|.*\n)+)", text, re.M):
        for row in table.splitlines():
            for name, labels in re.findall(r"`(\w+)(?:\{([\w,]+)\})?`", row.split("|")[1]):
                full = name if name.startswith("codehornets_") else f"{prefix}{name}"
                assert full not in found, f"{full} is told twice"
                found[full] = set(labels.split(",")) if labels else set()
    return found


def test_a_workers_metrics_are_told() -> None:
    exported = {name: labels - {"worker"} for name, labels in _exported(Metrics("marie").registry).items()}
    assert _told("reliability.md", "codehornets_") == exported


@pytest.mark.parametrize("page", ["orchestrator.md", "api.md"])
def test_the_orchestrators_metrics_are_told(page: str) -> None:
    assert _told(page, "codehornets_orchestrator_") == _exported(OrchestratorMetrics().registry)
