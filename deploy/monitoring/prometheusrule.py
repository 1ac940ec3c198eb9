"""Writes prometheusrule.yaml, the rules as the Prometheus operator takes them.

`python deploy/monitoring/prometheusrule.py`. Kustomize cannot put one YAML file into another; a test compares.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

FOLDER: Final = Path(__file__).resolve().parent
TARGET: Final = FOLDER / "prometheusrule.yaml"

_HEAD: Final = "# Made of rules/*.yaml by prometheusrule.py: change those.\n"


class _Dumper(yaml.SafeDumper):
    """Writes what spans lines as it would be written by hand."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent lists below their key, as yamllint wants it."""
        super().increase_indent(flow, False)


def render() -> str:
    """Return the resource."""
    groups: list[Any] = []
    for path in sorted((FOLDER / "rules").glob("*.yaml")):
        groups += yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": "codehornets",
            "labels": {"app.kubernetes.io/name": "codehornets-ai", "app.kubernetes.io/part-of": "codehornets"},
        },
        "spec": {"groups": groups},
    }
    return _HEAD + yaml.dump(resource, Dumper=_Dumper, sort_keys=False, width=90, allow_unicode=True)


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(TARGET)
