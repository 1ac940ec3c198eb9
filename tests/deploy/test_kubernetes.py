"""kustomize's overlays and the chart: what they make is what a cluster takes, keeps its rules, and hangs together."""

from __future__ import annotations

import copy
import difflib
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from agent_bus import VERSION
from orchestrator_service.container.worker import tell_worker
from tests.deploy.manifests import (
    CHART,
    CHART_CASES,
    CHART_MODES,
    CUSTOM_KINDS,
    KUSTOMIZE,
    OVERLAYS,
    RENDERS,
    Manifest,
    chart_text,
    containers,
    every_object,
    matches,
    named,
    of_kind,
    overlay_text,
    parse,
    pods,
    render,
    run_kubectl,
)
from tests.deploy.tools import REPOSITORY, run_tool, said
from worker_service.settings import read_settings

SNAPSHOTS = REPOSITORY / "tests" / "deploy" / "snapshots"
EXAMPLE_TEAM = REPOSITORY / "orchestrator_service" / "example_team"

# -- what is rendered, first of all from what


def test_the_charts_files_are_copies_of_what_the_others_use() -> None:
    copies = CHART / "files"
    pairs = {copies / "redis" / "redis.sh": REPOSITORY / "deploy" / "compose" / "redis.sh"}
    for folder in ("hooks-config", "output-styles"):
        for path in (EXAMPLE_TEAM / folder).iterdir():
            pairs[copies / "team" / folder / path.name] = path
    pairs[copies / "team" / "team.toml"] = EXAMPLE_TEAM / "team.toml"
    monitoring = REPOSITORY / "deploy" / "monitoring"
    pairs[copies / "prometheus" / "prometheusrule.yaml"] = monitoring / "prometheusrule.yaml"
    for path in (monitoring / "grafana" / "dashboards").glob("*.json"):
        pairs[copies / "prometheus" / "boards" / path.name] = path
    if os.environ.get("UPDATE_SNAPSHOTS"):
        for copied, original in pairs.items():
            copied.write_bytes(original.read_bytes())
    there = {path for path in copies.rglob("*") if path.is_file() and path.suffix != ".yaml"}
    assert there == {path for path in pairs if path.suffix != ".yaml"}
    for copied, original in pairs.items():
        assert copied.read_bytes() == original.read_bytes(), f"{copied} differs; `make snapshots` copies it"
    listed = "".join(path.read_text() for path in copies.rglob("kustomization.yaml"))
    assert all(f"{path.parent.name}/{path.name}" in listed for path in there if path.parent.name != "redis")


def check_snapshot(name: str, text: str) -> None:
    """Compare with what was kept; UPDATE_SNAPSHOTS=1 keeps what is there now."""
    path = SNAPSHOTS / name
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(text)
    kept = path.read_text() if path.exists() else ""
    difference = difflib.unified_diff(kept.splitlines(), text.splitlines(), str(name), "rendered now", lineterm="")
    assert kept == text, "\n".join([*difference, "`make snapshots` keeps this"])


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_rendered_as_it_was_kept(name: str) -> None:
    check_snapshot(f"kustomize-{name}.yaml", overlay_text(name))


@pytest.mark.parametrize("name", CHART_CASES)
def test_the_chart_is_rendered_as_it_was_kept(name: str) -> None:
    check_snapshot(f"helm-{name}.yaml", chart_text(*CHART_CASES[name]))


@pytest.mark.parametrize("name", CHART_MODES)
def test_a_mode_changes_what_was_kept(name: str) -> None:
    case, change = CHART_MODES[name]
    before = chart_text(*CHART_CASES[case]).splitlines()
    after = chart_text(*CHART_CASES[case], *change).splitlines()
    lines = difflib.unified_diff(before, after, f"helm-{case}.yaml", f"helm-{name}.yaml", lineterm="", n=1)
    check_snapshot(f"helm-{name}.diff", "\n".join(lines) + "\n")


def test_nothing_is_kept_that_nobody_renders() -> None:
    wanted = {f"kustomize-{name}.yaml" for name in OVERLAYS} | {f"helm-{name}.yaml" for name in CHART_CASES}
    assert {path.name for path in SNAPSHOTS.iterdir()} == wanted | {f"helm-{name}.diff" for name in CHART_MODES}


def test_kustomize_refuses_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [gone.yaml]\n")
    result = run_kubectl("kustomize", tmp_path)
    assert result.returncode != 0
    assert "gone.yaml" in said(result)


# -- what an API server would take


@pytest.fixture(scope="module")
def newest_versions() -> list[str]:
    code = "import kubernetes_validate.utils as u; print(*dict.fromkeys(u.all_versions()))"
    result = run_tool("python", "-c", code)
    assert result.returncode == 0, said(result)
    return result.stdout.split()[-3:]


@pytest.mark.timeout(180)
def test_the_three_newest_versions_of_kubernetes_know_every_field(tmp_path: Path, newest_versions: list[str]) -> None:
    objects = every_object()
    assert {one["kind"] for one in objects if "." in one["apiVersion"].split("/")[0]} - CUSTOM_KINDS <= {
        "NetworkPolicy"
    }
    path = tmp_path / "objects.yaml"
    path.write_text(yaml.safe_dump_all([one for one in objects if one["kind"] not in CUSTOM_KINDS]))
    assert len(newest_versions) == 3
    for version in newest_versions:
        result = run_tool("kubernetes-validate", "-k", version, "--strict", path, timeout_s=120)
        assert result.returncode == 0, said(result)
        assert "WARN" not in said(result)
        assert "ERROR" not in said(result)


def test_a_field_that_does_not_exist_is_refused(tmp_path: Path, newest_versions: list[str]) -> None:
    deployment = copy.deepcopy(named(render("kustomize-dev"), "Deployment", "marie"))
    deployment["spec"]["template"]["spec"]["terminationGraceSeconds"] = 60
    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump(deployment))
    result = run_tool("kubernetes-validate", "-k", newest_versions[-1], "--strict", path)
    assert result.returncode != 0
    assert "terminationGraceSeconds" in said(result)


# -- Pod Security `restricted`, rule by rule

_ALLOWED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def restricted_violations(pod: Manifest) -> set[str]:
    """Return what Pod Security `restricted` has against a pod, and what this project asks beyond it."""
    spec = pod["spec"]
    found = {key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)}
    if spec.get("automountServiceAccountToken") is not False:
        found.add("automountServiceAccountToken")
    for volume in spec.get("volumes", []):
        found |= {f"volume {kind}" for kind in volume if kind != "name" and kind not in _ALLOWED_VOLUMES}
    whole = spec.get("securityContext", {})
    for container in containers(pod):
        own = {**whole, **container.get("securityContext", {})}
        capabilities = own.get("capabilities", {})
        rules = {
            "privileged": not own.get("privileged"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "drop": capabilities.get("drop") == ["ALL"] and not capabilities.get("add"),
            "runAsNonRoot": own.get("runAsNonRoot") is True and own.get("runAsUser") != 0,
            "seccompProfile": own.get("seccompProfile", {}).get("type") in {"RuntimeDefault", "Localhost"},
            "procMount": own.get("procMount", "Default") == "Default",
            "hostPort": not any(port.get("hostPort") for port in container.get("ports", [])),
            "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
            "requests": {"cpu", "memory"} <= set(container.get("resources", {}).get("requests", {})),
            "limits": {"cpu", "memory"} <= set(container.get("resources", {}).get("limits", {})),
        }
        found |= {f"{container['name']}: {rule}" for rule, kept in rules.items() if not kept}
    return found


@pytest.mark.parametrize("name", RENDERS)
def test_every_pod_is_restricted(name: str) -> None:
    found = {pod_name: restricted_violations(pod) for pod_name, pod in pods(render(name))}
    assert len(found) >= 4
    assert not any(found.values()), found


def test_a_pod_that_is_not_restricted_is_found_out() -> None:
    pod = named(render("kustomize-production"), "Deployment", "marie")["spec"]["template"]
    pod["spec"]["hostNetwork"] = True
    pod["spec"]["volumes"].append({"name": "host", "hostPath": {"path": "/"}})
    pod["spec"]["initContainers"][0]["securityContext"]["capabilities"] = {"drop": ["ALL"], "add": ["NET_ADMIN"]}
    del pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"]
    assert restricted_violations(pod) == {
        "hostNetwork",
        "volume hostPath",
        "prepare: drop",
        "worker: allowPrivilegeEscalation",
    }


def test_the_namespace_enforces_it() -> None:
    for overlay in OVERLAYS:
        labels = named(render(f"kustomize-{overlay}"), "Namespace", "codehornets")["metadata"]["labels"]
        assert {labels[f"pod-security.kubernetes.io/{way}"] for way in ("enforce", "audit", "warn")} == {"restricted"}


# -- what refers to what


def _references(pod: Manifest) -> set[tuple[str, str]]:
    spec = pod["spec"]
    found = {("ServiceAccount", spec["serviceAccountName"])} if "serviceAccountName" in spec else set()
    for volume in spec.get("volumes", []):
        if "configMap" in volume:
            found.add(("ConfigMap", volume["configMap"]["name"]))
        if "secret" in volume:
            found.add(("Secret", volume["secret"]["secretName"]))
        if "persistentVolumeClaim" in volume:
            found.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
    for container in containers(pod):
        found |= {("ConfigMap", source["configMapRef"]["name"]) for source in container.get("envFrom", [])}
    return found


@pytest.mark.parametrize("name", RENDERS)
def test_what_a_pod_refers_to_is_there_and_nothing_is_left_over(name: str) -> None:
    objects = render(name)
    wanted = {reference for _, pod in pods(objects) for reference in _references(pod)}
    there = {(one["kind"], one["metadata"]["name"]) for one in objects}
    secrets = {("Secret", one["metadata"]["name"]) for one in parse((KUSTOMIZE / "secrets.example.yaml").read_text())}
    assert wanted - there == wanted & secrets
    kinds = {"ConfigMap", "PersistentVolumeClaim", "ServiceAccount"}
    # Boards are for Grafana.
    boards = {
        ("ConfigMap", one["metadata"]["name"]) for one in objects if "grafana_dashboard" in one["metadata"]["labels"]
    }
    assert {one for one in there - boards if one[0] in kinds} <= wanted


@pytest.mark.parametrize("name", RENDERS)
def test_mounts_and_volumes_belong_together(name: str) -> None:
    for pod_name, pod in pods(render(name)):
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
        mounted = {mount["name"] for one in containers(pod) for mount in one.get("volumeMounts", [])}
        assert mounted == volumes, pod_name
        for container in containers(pod):
            places = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            assert len(places) == len(set(places)), pod_name


@pytest.mark.parametrize("name", RENDERS)
def test_no_budget_holds_a_node(name: str) -> None:
    budgets = of_kind(render(name), "PodDisruptionBudget")
    assert len(budgets) == 4
    for one in budgets:
        assert one["spec"]["maxUnavailable"] == 1
        # A limit of the model makes every replica not ready; without this none of them could be moved then.
        assert one["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@pytest.mark.parametrize("name", RENDERS)
def test_selectors_find_their_pods_and_no_others(name: str) -> None:
    objects = render(name)
    labels = {pod_name: pod["metadata"]["labels"] for pod_name, pod in pods(objects)}
    for one in of_kind(objects, "Deployment", "StatefulSet", "PodDisruptionBudget"):
        found = [pod_name for pod_name, own in labels.items() if matches(one["spec"]["selector"], own)]
        assert [pod_name.partition("/")[2] for pod_name in found] == [one["metadata"]["name"]]
    for one in of_kind(objects, "Service"):
        found = [pod_name for pod_name, own in labels.items() if matches({"matchLabels": one["spec"]["selector"]}, own)]
        assert [pod_name.partition("/")[2] for pod_name in found] == [one["metadata"]["name"]]
        (pod,) = (pod for pod_name, pod in pods(objects) if pod_name in found)
        ports = {port["name"]: port["containerPort"] for one in containers(pod) for port in one.get("ports", [])}
        for port in one["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]


@pytest.mark.parametrize("name", RENDERS)
def test_every_service_is_probed_at_a_port_that_it_has(name: str) -> None:
    for pod_name, pod in pods(render(name)):
        if pod_name == "Pod/ready":
            continue
        (container,) = pod["spec"]["containers"]
        ports = {port["name"] for port in container["ports"]}
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = container[kind]
            if "exec" not in probe:
                assert (probe.get("httpGet") or probe["tcpSocket"])["port"] in ports, pod_name
        if container["name"] != "redis":
            paths = [container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")]
            assert paths == ["/healthz", "/healthz", "/readyz"]


@pytest.mark.parametrize("name", RENDERS)
def test_monitors_and_autoscalers_find_what_they_name(name: str) -> None:
    objects = render(name)
    deployments = {one["metadata"]["name"] for one in of_kind(objects, "Deployment")}
    for one in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject"):
        assert one["spec"]["scaleTargetRef"]["name"] == one["metadata"]["name"]
        assert one["metadata"]["name"] in deployments
        assert "replicas" not in named(objects, "Deployment", one["metadata"]["name"])["spec"]
    for one in of_kind(objects, "ServiceMonitor"):
        found = [
            service
            for service in of_kind(objects, "Service")
            if matches(one["spec"]["selector"], service["metadata"]["labels"])
        ]
        assert len(found) == (3 if one["metadata"]["name"] == "codehornets-workers" else 1)
        (endpoint,) = one["spec"]["endpoints"]
        assert all(endpoint["port"] in {port["name"] for port in service["spec"]["ports"]} for service in found)


# -- what the services are told


def _environment(objects: list[Manifest], container: Manifest) -> dict[str, str]:
    told: dict[str, str] = {}
    for source in container.get("envFrom", []):
        told |= named(objects, "ConfigMap", source["configMapRef"]["name"]).get("data", {})
    return told | {one["name"]: one.get("value", "") for one in container.get("env", [])}


def _documented() -> set[str]:
    pages = [(REPOSITORY / "docs" / page).read_text() for page in ("settings.md", "orchestrator.md")]
    return {name for page in pages for name in re.findall(r"^\| `([A-Z][A-Z0-9_]+)` \|", page, re.MULTILINE)}


@pytest.mark.parametrize("name", RENDERS)
def test_every_variable_is_one_that_the_services_know(name: str) -> None:
    objects = render(name)
    known = _documented()
    assert {"WORKER_MODE", "DEFAULT_REDIS_URL", "ANTHROPIC_API_KEY_FILE", "LEDGER_PATH"} <= known
    for pod_name, pod in pods(objects):
        for container in containers(pod):
            told = set(_environment(objects, container))
            if container["name"] == "redis":
                assert told == {"REDIS_SECRET"}
                assert "${REDIS_SECRET:-" in (CHART / "files" / "redis" / "redis.sh").read_text()
            else:
                assert told <= known, pod_name


@pytest.mark.parametrize("name", RENDERS)
def test_a_worker_takes_what_it_is_told_and_stops_in_time(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment and the files of the pod are handed to the code that reads them in the container."""
    objects = render(name)
    pod = named(objects, "Deployment", "marie")["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    places: dict[str, Path] = {}
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    for mount in container["volumeMounts"]:
        place = places[mount["mountPath"]] = tmp_path / mount["mountPath"].lstrip("/")
        volume = volumes[mount["name"]]
        if "configMap" in volume:
            data = named(objects, "ConfigMap", volume["configMap"]["name"])["data"]
            files = {place: data[mount["subPath"]]} if "subPath" in mount else {place / key: data[key] for key in data}
        elif "secret" in volume:
            files = {place / key: "sk-of-a-test" for key in ("anthropic_api_key", "password")}
        else:
            files = {place / ".keep": ""}
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    image = {"HOME": "/home/codehornets", "SHARED_DIR": "/shared", "TEAM_FILE": "/etc/codehornets/team.toml"}
    given = {**image, "WORKSPACE": "/workspace", "HTTP_HOST": "0.0.0.0", "HTTP_PORT": "8080"}
    given |= _environment(objects, container)
    assert [one["args"] for one in containers(pod)] == [["prepare", "marie"], ["worker", "marie"]]
    given = {key: f"{tmp_path}{value}" if value.startswith("/") else value for key, value in given.items() if value}
    monkeypatch.setattr("service_kit.places.USUAL_SHARED_DIR", tmp_path / "shared")

    worker = tell_worker(given, "marie")
    settings = read_settings({**worker.environ, "AGENT": "echo"})
    has_redis = "volume" not in name and "dev" not in name
    assert (settings.redis_url == "redis://:sk-of-a-test@redis:6379/0") == has_redis
    assert settings.serves_files == ("redis-only" not in name)
    assert (worker.shared is None) == ("redis-only" in name)
    assert settings.hooks_config == tmp_path / "etc/codehornets/hooks-config/marie-hooks.json"
    assert settings.slots == 4
    # What still runs after the grace is interrupted, which may take 15 s; then it must be over.
    assert settings.shutdown_grace_s + 15 < pod["spec"]["terminationGracePeriodSeconds"]
    on_memory = {places[mount["mountPath"]] for mount in container["volumeMounts"] if _in_memory(volumes, mount)}
    assert any(settings.layout.pipes.is_relative_to(place) for place in on_memory)
    # Triggers of other pods come on the volume alone; elsewhere they stay in the pod.
    assert any(settings.layout.triggers.is_relative_to(place) for place in on_memory) == (
        name.removeprefix("kustomize-").removeprefix("helm-").startswith("production")
    )


def _in_memory(volumes: dict[str, Manifest], mount: Manifest) -> bool:
    return volumes[mount["name"]].get("emptyDir", {}).get("medium") == "Memory"


@pytest.mark.parametrize("name", RENDERS)
def test_no_two_pods_of_a_workload_ever_run_at_once_in_a_rollout(name: str) -> None:
    objects = render(name)
    for one in of_kind(objects, "Deployment"):
        if one["metadata"]["name"] == "orchestrator":
            assert (one["spec"]["replicas"], one["spec"]["strategy"]) == (1, {"type": "Recreate"})
        else:
            assert one["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


# -- one version


def test_there_is_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)
    release = yaml.safe_load((KUSTOMIZE / "components" / "release" / "kustomization.yaml").read_text())
    assert {image["newTag"] for image in release["images"]} == {VERSION}
    assert release["labels"][0]["pairs"]["app.kubernetes.io/version"] == VERSION


@pytest.mark.parametrize("name", RENDERS)
def test_a_pod_tells_where_its_metrics_are(name: str) -> None:
    for pod_name, pod in pods(render(name)):
        annotations = pod["metadata"].get("annotations", {})
        if pod_name in {"StatefulSet/redis", "Pod/ready"}:
            assert "prometheus.io/scrape" not in annotations
        else:
            (port,) = (port["containerPort"] for one in containers(pod) for port in one.get("ports", []))
            assert (annotations["prometheus.io/scrape"], annotations["prometheus.io/port"]) == ("true", str(port))


@pytest.mark.parametrize("arguments", [["apply"], ["apply", "prod"], ["remove", "dev"], []])
def test_a_wrong_overlay_or_action_is_refused_by_name(arguments: list[str]) -> None:
    result = _overlay(*arguments, kubectl="/bin/false")
    assert result.returncode == 2
    assert (arguments[-1] if len(arguments) == 2 and arguments[0] == "apply" else "") in result.stderr
    assert result.stderr.startswith("overlay.sh")


def test_apply_and_diff_go_to_kubectl(tmp_path: Path) -> None:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text('#!/bin/sh\necho "$@"\nexit ${CODE:-0}\n')
    kubectl.chmod(0o755)
    where = str(KUSTOMIZE / "overlays" / "dev")
    assert _overlay("apply", "dev", kubectl=str(kubectl)).stdout == f"apply -k {where} --dry-run=server\n"
    assert _overlay("diff", "dev", kubectl=str(kubectl)).stdout == f"diff -k {where} --dry-run=server\n"
    # kubectl diff: 1 is a difference, more is a failure.
    assert _overlay("diff", "dev", kubectl=str(kubectl), code="1").returncode == 0
    assert _overlay("diff", "dev", kubectl=str(kubectl), code="2").returncode == 2
    assert _overlay("apply", "dev", kubectl=str(kubectl), code="1").returncode == 1


def _overlay(*arguments: str, kubectl: str, code: str = "0") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [KUSTOMIZE / "overlay.sh", *arguments],
        env={**os.environ, "KUBECTL": kubectl, "K8S_ARGS": "--dry-run=server", "CODE": code},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )


@pytest.mark.parametrize("name", RENDERS)
def test_only_what_says_so_needs_the_kinds_of_an_operator(name: str) -> None:
    """A cluster refuses kinds that it does not know, and Helm then installs nothing at all."""
    found = {one["kind"] for one in of_kind(render(name), *CUSTOM_KINDS)}
    expected: set[str] = set()
    if name.endswith("prometheus"):
        expected = {"ServiceMonitor", "PrometheusRule"}
    elif name.endswith("keda"):
        expected = {"ScaledObject", "TriggerAuthentication"}
    assert found == expected
