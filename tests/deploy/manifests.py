"""What kustomize and Helm make of deploy/: rendered by the real tools, and taken apart."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.tools import REPOSITORY, run_tool, said

Manifest = dict[str, Any]

CHART = REPOSITORY / "deploy" / "helm" / "codehornets-ai"
KUSTOMIZE = REPOSITORY / "deploy" / "k8s"
NAMESPACE = "codehornets"

OVERLAYS = ("dev", "production", "redis-only", "dev-hpa", "production-prometheus", "redis-only-keda")

_PRODUCTION = ("--values", str(CHART / "values-production.yaml"))
_REDIS_ONLY = (*_PRODUCTION, "--set", "transport=redis-only")
_MANY_NODES = "worker.storage.home.accessMode=ReadWriteMany,worker.storage.workspace.accessMode=ReadWriteMany"

CHART_CASES: dict[str, tuple[str, ...]] = {
    "dev": (),
    "production": _PRODUCTION,
    "redis-only": _REDIS_ONLY,
    "dev-hpa": ("--set", "autoscaling.kind=hpa"),
    "production-prometheus": (*_PRODUCTION, "--set", "prometheus.enabled=true"),
    "redis-only-keda": (*_REDIS_ONLY, "--set", f"autoscaling.kind=keda,{_MANY_NODES}"),
}
"""The values that mean the same as the overlay of that name."""

CHART_MODES: dict[str, tuple[str, tuple[str, ...]]] = {
    "dev-polling": ("dev", ("--set", "mode=polling")),
    "dev-event-driven": ("dev", ("--set", "mode=event-driven")),
    "dev-hybrid": ("dev", ("--set", "mode=hybrid")),
    "production-event-driven": ("production", ("--set", "mode=event-driven")),
    "redis-only-event-driven": ("redis-only", ("--set", "mode=event-driven")),
}
"""Each further mode: the case that it is a change of, and the change."""

CUSTOM_KINDS = {"ServiceMonitor", "PrometheusRule", "ScaledObject", "TriggerAuthentication"}
"""Kinds that operators bring; nobody here has their schemas."""


def run_kubectl(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run kubectl to its end. Fails the test where there is none."""
    program = os.environ.get("KUBECTL") or shutil.which("kubectl")
    assert program, "kubectl is not on the PATH; install it, or say where it is in KUBECTL"
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, timeout=50, stdin=subprocess.DEVNULL
    )


@cache
def overlay_text(name: str) -> str:
    """Return what `kubectl kustomize` makes of an overlay."""
    result = run_kubectl("kustomize", KUSTOMIZE / "overlays" / name)
    assert result.returncode == 0, said(result)
    return result.stdout


@cache
def chart_text(*arguments: str) -> str:
    """Return what `helm template` makes of the chart with these arguments."""
    result = run_tool("helm", "template", "team", CHART, "--namespace", NAMESPACE, *arguments)
    assert result.returncode == 0, said(result)
    return result.stdout


def parse(text: str) -> list[Manifest]:
    """Return the objects of a stream of YAML."""
    return [document for document in yaml.load_all(text, yaml.CSafeLoader) if document]


def render(name: str) -> list[Manifest]:
    """Return one of them."""
    tool, _, case = name.partition("-")
    if tool == "kustomize":
        return parse(overlay_text(case))
    base, change = CHART_MODES.get(case, (case, ()))
    return parse(chart_text(*CHART_CASES[base], *change))


RENDERS = [
    *(f"kustomize-{name}" for name in OVERLAYS),
    *(f"helm-{name}" for name in (*CHART_CASES, *CHART_MODES)),
]


def every_object() -> list[Manifest]:
    """Return every object of every overlay, each content once, and what the chart alone makes.

    The chart's others are the same: test_helm.py compares them.
    """
    rendered = [one for name in OVERLAYS for one in parse(overlay_text(name))]
    rendered += [one for one in parse(chart_text()) if "helm.sh/hook" in one["metadata"].get("annotations", {})]
    found = {json.dumps(one, sort_keys=True): one for one in rendered}
    return list(found.values())


def of_kind(objects: list[Manifest], *kinds: str) -> list[Manifest]:
    """Return the objects of these kinds."""
    return [one for one in objects if one["kind"] in kinds]


def named(objects: list[Manifest], kind: str, name: str) -> Manifest:
    """Return one object; it must be there, once."""
    (found,) = (one for one in of_kind(objects, kind) if one["metadata"]["name"] == name)
    return found


def pods(objects: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Yield a name, and what makes a pod (`metadata` and `spec`), for everything that makes pods."""
    for one in objects:
        name = f"{one['kind']}/{one['metadata']['name']}"
        if one["kind"] in {"Deployment", "StatefulSet"}:
            yield name, one["spec"]["template"]
        elif one["kind"] == "Pod":
            yield name, one


def containers(pod: Manifest) -> list[Manifest]:
    """Return all containers of a pod, those that run before the others too."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def matches(selector: Manifest, labels: dict[str, str]) -> bool:
    """Tell whether a label selector matches."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for one in selector.get("matchExpressions", []):
        assert one["operator"] == "In", "these manifests use no other operator"
        if labels.get(one["key"]) not in one["values"]:
            return False
    return True
