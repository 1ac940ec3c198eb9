"""The chart: what it refuses, and that it makes what kustomize makes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import CHART, CHART_CASES, OVERLAYS, Manifest, chart_text, overlay_text, parse
from tests.deploy.tools import REPOSITORY, TOOLS, run_tool, said

_PRODUCTION = ("--values", str(CHART / "values-production.yaml"))


def test_helm_finds_nothing_in_any_transport() -> None:
    assert (TOOLS / "bin" / "helm").exists(), f"helm is not in {TOOLS}; run `make checks`"
    result = subprocess.run(
        [CHART.parent / "lint.sh"],
        env={**os.environ, "CHECKS": str(TOOLS)},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert result.returncode == 0, said(result)
    assert result.stdout.count("helm lint") == 6


def test_helm_refuses_a_chart_with_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: broken\n")
    result = run_tool("helm", "lint", "--strict", tmp_path)
    assert result.returncode != 0
    assert "version is required" in said(result)


# -- wrong values

_REFUSED: list[tuple[tuple[str, ...], str]] = [
    (("--set", "moode=hooks"), "Additional property moode is not allowed"),
    (("--set", "images.worker.tagg=1"), "images.worker: Additional property tagg is not allowed"),
    (("--set", "workers[0].name=marie,workers[0].slots=3"), "workers.0: Additional property slots is not allowed"),
    (("--set", "worker.storage.home.sise=5Gi"), "worker.storage.home: Additional property sise is not allowed"),
    (("--set", "orchestrator.resources.limits.cpus=2"), "limits: Additional property cpus is not allowed"),
    (("--set", "mode=fast"), 'mode must be one of the following: "polling", "event-driven", "hooks", "hybrid"'),
    (("--set", "transport=kafka"), 'transport must be one of the following: "volume", "redis", "redis-only"'),
    (("--set", "agent=gpt"), 'agent must be one of the following: "auto", "claude", "command", "echo"'),
    (("--set", "model.credential=key"), 'model.credential must be one of the following: "none", "api-key"'),
    (("--set", "logLevel=loud"), "logLevel must be one of the following"),
    (("--set", "autoscaling.kind=vpa"), 'autoscaling.kind must be one of the following: "none", "hpa", "keda"'),
    (("--set", "workers=marie"), "workers: Invalid type. Expected: array, given: string"),
    (("--set", "workers[0].replicas=2"), "workers.0: name is required"),
    (("--set", "workers[0].name=Marie"), "workers.0.name: Does not match pattern"),
    (("--set", "workers[0].name=redis"), "workers.0.name: Must not validate"),
    (("--set-json-workers", "marie,marie"), "workers: marie is there twice"),
    (("--set", "worker.replicas=many"), "worker.replicas: Invalid type. Expected: integer, given: string"),
    (("--set-string", "prometheus.enabled=true"), "prometheus.enabled: Invalid type. Expected: boolean"),
    (("--set", "prometheus.labels.release=1"), "prometheus.labels.release: Invalid type. Expected: string"),
    (("--set", "prometheus.interval=15"), "prometheus.interval: Invalid type. Expected: string"),
    (("--set", "worker.storage.home.size=5"), "worker.storage.home.size: Invalid type. Expected: string"),
    (("--set", "worker.storage.home.accessMode=RWX"), "accessMode must be one of the following"),
    (("--set", "worker.environment.slots=3"), "worker.environment"),
    (
        ("--set", "worker.environment.MAX_CONCURRENT=3"),
        "MAX_CONCURRENT: Invalid type. Expected: string, given: integer",
    ),
    (("--set", "images.worker.digest=latest"), "images.worker.digest: Does not match pattern"),
    (("--set", "redis.url=redis://:secret@host:6379/0"), "redis.url: Does not match pattern"),
    (("--set", "transport=redis"), 'mode must be one of the following: "event-driven", "hybrid"'),
    (("--set", "autoscaling.kind=keda"), 'autoscaling.kind must be one of the following: "none", "hpa"'),
    ((*_PRODUCTION, "--set", "worker.replicas=2"), "worker.replicas: Must be less than or equal to 1"),
    ((*_PRODUCTION, "--set", "autoscaling.kind=hpa"), "autoscaling.kind does not match"),
    ((*_PRODUCTION, "--set", "redis.bundled=false"), "redis.url: String length must be greater than or equal to 1"),
    (
        (*_PRODUCTION, "--set", "redis.bundled=false,redis.url=redis://cache.example:6379"),
        "networkPolicies.redis.to: Array must have at least 1 items",
    ),
    (
        (*_PRODUCTION, "--set", "transport=redis-only,autoscaling.kind=keda"),
        'worker.storage.home.accessMode does not match: "ReadWriteMany"',
    ),
]


@pytest.mark.parametrize(("arguments", "sentence"), _REFUSED, ids=[" ".join(a[-2:]) for a, _ in _REFUSED])
def test_a_wrong_value_is_refused_by_name(arguments: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    if arguments[0] == "--set-json-workers":
        values = tmp_path / "values.yaml"
        values.write_text(yaml.safe_dump({"workers": [{"name": name} for name in arguments[1].split(",")]}))
        arguments = ("--values", str(values))
    result = run_tool("helm", "template", "team", CHART, *arguments)
    assert result.returncode != 0
    assert sentence in said(result)


def test_right_values_are_taken() -> None:
    digest = f"sha256:{'0' * 64}"
    text = chart_text(
        *_PRODUCTION,
        *("--set", f"transport=redis-only,worker.replicas=2,images.worker.digest={digest}"),
        *("--set", "worker.environment.MODEL=sonnet,orchestrator.environment.DAY_BUDGET_USD=5\\.0"),
        *("--set", "workers[0].name=lea,workers[0].environment.MODEL=opus,workers[0].resources.limits.memory=8Gi"),
        *("--set", "redis.bundled=false,redis.url=rediss://cache.example:6379/1,networkPolicies.redis.port=6379"),
        *("--set", "networkPolicies.redis.to[0].ipBlock.cidr=10.2.3.4/32,model.credential=oauth-token"),
        *("--set-string", "orchestrator.environment.MAX_IN_FLIGHT=8"),
    )
    objects = parse(text)
    (worker,) = (one for one in objects if one["kind"] == "Deployment" and one["metadata"]["name"] == "lea")
    (container,) = worker["spec"]["template"]["spec"]["containers"]
    assert worker["spec"]["replicas"] == 2
    assert container["image"] == f"codehornets-ai/worker@{digest}"
    assert {"name": "MODEL", "value": "opus"} in container["env"]
    assert container["resources"] == {
        "requests": {"cpu": "250m", "memory": "1Gi"},
        "limits": {"cpu": "2", "memory": "8Gi"},
    }
    settings = {one["metadata"]["name"]: one["data"] for one in objects if one["kind"] == "ConfigMap"}
    assert settings["worker-settings"]["MODEL"] == "sonnet"
    assert settings["worker-settings"]["DEFAULT_REDIS_URL"] == "rediss://cache.example:6379/1"
    assert settings["worker-settings"]["CLAUDE_CODE_OAUTH_TOKEN_FILE"] == "/run/secrets/model/claude_code_oauth_token"
    assert settings["orchestrator-settings"]["DAY_BUDGET_USD"] == "5.0"
    assert not [one for one in objects if one["metadata"]["name"] == "redis"]
    (policy,) = (one for one in objects if one["metadata"]["name"] == "to-redis")
    assert policy["spec"]["egress"][0]["to"] == [{"ipBlock": {"cidr": "10.2.3.4/32"}}]


def test_a_team_of_ones_own_takes_the_place_of_the_example(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    team = {"file": "[workers.lea]\n", "hookRules": {"lea-hooks.json": "[]"}, "outputStyles": {"lea.md": "Be brief.\n"}}
    values.write_text(yaml.safe_dump({"workers": [{"name": "lea"}], "team": team}))
    maps = {
        one["metadata"]["name"]: one["data"]
        for one in parse(chart_text("--values", str(values)))
        if one["kind"] == "ConfigMap"
    }
    assert maps["team"] == {"team.toml": "[workers.lea]\n"}
    assert maps["hook-rules"] == {"lea-hooks.json": "[]"}
    assert maps["output-styles"] == {"lea.md": "Be brief.\n"}


def test_pods_are_renewed_for_what_is_read_at_a_start_alone(tmp_path: Path) -> None:
    def checksum(team: dict[str, Any]) -> str:
        values = tmp_path / "values.yaml"
        values.write_text(yaml.safe_dump({"team": team}))
        result = run_tool("helm", "template", "team", CHART, "--values", values)
        assert result.returncode == 0, said(result)
        (found,) = set(re.findall(r"checksum/settings: ([0-9a-f]{64})", result.stdout))
        return found

    before = checksum({})
    assert checksum({"outputStyles": {"marie.md": "Be brief."}}) != before
    assert checksum({"hookRules": {"marie-hooks.json": "[]"}}) == before


def test_the_schema_names_every_key_and_allows_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    open_ones = {"environment", "contents"}

    def walk(place: str, part: object) -> None:
        if isinstance(part, dict):
            if "properties" in part and "allOf" not in place and place not in {"definitions.oneReplica"}:
                assert part.get("additionalProperties") is False, f"{place} takes any key"
            for key, inner in part.items():
                if key not in {"allOf", "oneReplica", *open_ones}:
                    walk(f"{place}.{key}".lstrip("."), inner)

    walk("", schema)
    assert set(values) | {"global"} == set(schema["properties"])


# -- the same as kustomize

DIFFERENCES = {
    "Namespace": "Helm makes no namespace that it would take away with the release; docs/kubernetes.md labels one",
    "test": "`helm test` has no twin: kustomize has nothing that runs on demand",
    "app.kubernetes.io/managed-by": "each names itself",
    "checksum/settings": "kustomize renews pods by a hash in the name of a ConfigMap, Helm by this annotation",
    "order": "volumes, mounts and variables are found by their names",
}
"""Where the two differ, and why."""

_HASHED = ("team", "output-styles", "worker-settings", "orchestrator-settings", "redis-script")
_HASH = re.compile(rf"^({'|'.join(_HASHED)})-[a-z0-9]{{10}}$")


def _plain(part: Any) -> Any:
    """Return it without the differences that are listed above."""
    if isinstance(part, dict):
        dropped = {"app.kubernetes.io/managed-by", "checksum/settings"}
        plain = {key: _plain(value) for key, value in part.items() if key not in dropped}
        return {key: value for key, value in plain.items() if not (key == "annotations" and not value)}
    if isinstance(part, list):
        items = [_plain(item) for item in part]
        return sorted(items, key=_sort_key) if all(isinstance(item, dict) for item in items) else items
    if isinstance(part, str):
        return _HASH.sub(r"\1", part)
    return part


def _sort_key(item: dict[str, Any]) -> str:
    return json.dumps([item.get("mountPath"), item.get("name"), item], sort_keys=True)


def _comparable(objects: list[Manifest]) -> dict[tuple[str, str], Any]:
    found = {}
    for one in objects:
        is_test = one["metadata"].get("annotations", {}).get("helm.sh/hook") == "test"
        if one["kind"] != "Namespace" and not is_test:
            plain = _plain(one)
            found[plain["kind"], plain["metadata"]["name"]] = plain
    return found


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_chart_makes_what_kustomize_makes(name: str) -> None:
    kustomize = _comparable(parse(overlay_text(name)))
    helm = _comparable(parse(chart_text(*CHART_CASES[name])))
    assert len(kustomize) > 30
    assert set(helm) == set(kustomize)
    for key, expected in kustomize.items():
        assert helm[key] == expected, key


def test_a_difference_is_found() -> None:
    kustomize = _comparable(parse(overlay_text("dev")))
    other = _comparable(parse(chart_text("--set", "worker.resources.limits.memory=5Gi")))
    assert {key for key in kustomize if kustomize[key] != other[key]} == {
        ("Deployment", name) for name in ("marie", "anga", "fabien")
    }


def test_the_notes_tell_the_next_step() -> None:
    # Only a cluster shows them; `helm lint` above has rendered them.
    notes = (CHART / "templates" / "NOTES.txt").read_text()
    for words in ("helm test", "codehornets submit", "api-token", "create secret generic"):
        assert words in notes


def test_helm_has_a_test_of_its_own() -> None:
    objects = parse(chart_text())
    tests = [one for one in objects if one["metadata"].get("annotations", {}).get("helm.sh/hook") == "test"]
    assert {one["kind"] for one in tests} == {"Pod", "NetworkPolicy"}
    (pod,) = (one for one in tests if one["kind"] == "Pod")
    (container,) = pod["spec"]["containers"]
    urls = [argument for argument in container["args"] if argument.startswith("http")]
    assert urls == [
        "http://orchestrator:8700/readyz",
        *(f"http://{name}:8080/readyz" for name in ("marie", "anga", "fabien")),
    ]
    assert container["command"][0].startswith("/opt/codehornets/bin/python")
    assert "/opt/codehornets/bin" in (REPOSITORY / "Dockerfile").read_text()


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/ready" else 503)
        self.end_headers()
        self.wfile.write(b"queue: it is draining")

    def log_message(self, *_: object) -> None:
        pass


def test_helms_test_fails_where_one_service_is_not_ready() -> None:
    (pod,) = (one for one in parse(chart_text()) if one["kind"] == "Pod")
    (container,) = pod["spec"]["containers"]
    script = container["args"][0]
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        good = subprocess.run([sys.executable, "-c", script, f"{url}/ready", f"{url}/ready"], check=False, timeout=30)
        bad = subprocess.run(
            [sys.executable, "-c", script, f"{url}/ready", f"{url}/not"],
            check=False,
            timeout=30,
            capture_output=True,
            text=True,
        )
        server.shutdown()
    silent = subprocess.run(
        [sys.executable, "-c", script, f"{url}/ready"], check=False, timeout=30, capture_output=True
    )
    assert good.returncode == 0
    assert bad.returncode == 1
    assert "it is draining" in bad.stdout
    assert silent.returncode == 1
