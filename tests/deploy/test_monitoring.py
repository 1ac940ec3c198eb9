"""deploy/monitoring by Prometheus' own tools: rules, their tests, the routing of alerts, scraping, boards."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import parse, run_kubectl
from tests.monitoring_files import BOARD_FILES, MONITORING, RULE_FILES, alerts, rules, run
from tests.promql import asked_for

REPOSITORY = MONITORING.parents[1]
RUNBOOK = REPOSITORY / "docs" / "troubleshooting.md"
TESTS = sorted((MONITORING / "tests").glob("*.yaml"))
ALERTS = alerts()
_PAGE = "https://github.com/codehornets/codehornets-ai/blob/main/docs/troubleshooting.md#"


def said(result: subprocess.CompletedProcess[str]) -> str:
    return result.stdout + result.stderr


def module(path: Path) -> ModuleType:
    """Load one of the programs that write files."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name.
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


# -- rules


def test_promtool_accepts_the_rules() -> None:
    result = run("promtool", "check", "rules", *RULE_FILES)
    assert result.returncode == 0, said(result)
    assert "FAILED" not in said(result)


def test_promtool_refuses_a_rule_that_is_wrong(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("groups: [{name: a, rules: [{alert: A, expr: 'sum(codehornets_ready'}]}]")
    assert run("promtool", "check", "rules", broken).returncode != 0


@pytest.mark.parametrize("path", TESTS, ids=[path.stem for path in TESTS])
def test_the_rules_do_what_their_tests_say(path: Path) -> None:
    result = run("promtool", "test", "rules", path)
    assert result.returncode == 0, said(result)


def _cases(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return what a file of tests expects of alerts, by the alert's name."""
    found = []
    for case in yaml.safe_load(path.read_text())["tests"]:
        for asked in case["promql_expr_test"]:
            match = re.search(r'alertname="(\w+)"', asked["expr"])
            assert match is not None, asked
            found.append((match[1], asked))
    return found


CASES = [case for path in TESTS for case in _cases(path)]


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_case_in_which_it_fires_and_one_in_which_it_must_not(name: str) -> None:
    expected = [bool(asked["exp_samples"]) for alert, asked in CASES if alert == name]
    assert set(expected) == {True, False}


@pytest.mark.parametrize(
    ("change", "fires"), [({"expr": "vector(1) > 2"}, True), ({"expr": "vector(1)", "for": "0s"}, False)]
)
def test_alerts_that_never_or_always_fire_fail_their_tests(change: dict[str, str], fires: bool, tmp_path: Path) -> None:
    for kind in ("rules", "tests"):
        shutil.copytree(MONITORING / kind, tmp_path / kind)
    rule_file = tmp_path / "rules" / "money.yaml"
    told = yaml.safe_load(rule_file.read_text())
    for rule in told["groups"][0]["rules"]:
        rule.update(change)
    rule_file.write_text(yaml.safe_dump(told))
    result = run("promtool", "test", "rules", tmp_path / "tests" / "money.yaml")
    assert result.returncode != 0
    for name, asked in _cases(MONITORING / "tests" / "money.yaml"):
        if bool(asked["exp_samples"]) is fires:
            expected = "exp: {" if fires else "exp: nil"
            assert re.search(rf'alertname=\\"{name}\\".*\n\s+{expected}', said(result)), said(result)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_whoever_is_called_needs_to_know(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"].keys() == {"severity", "team"}
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert alert["labels"]["team"] in ("platform", "agents")
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}


@pytest.mark.parametrize("name", ALERTS)
def test_what_an_alert_fills_in_is_there_when_it_fires(name: str) -> None:
    used = set(re.findall(r"(?<!with )\$labels\.(\w+)", " ".join(ALERTS[name]["annotations"].values())))
    for alert, asked in CASES:
        if alert == name and asked["exp_samples"]:
            (selector,) = asked_for(asked["exp_samples"][0]["labels"]).selectors
            assert used <= {label for label, _, _ in selector.matchers}


def _anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", ALERTS)
def test_the_runbook_has_what_an_alert_links_to(name: str) -> None:
    url = ALERTS[name]["annotations"]["runbook_url"]
    assert url.startswith(_PAGE)
    assert url.removeprefix(_PAGE) in _anchors(RUNBOOK)


def test_the_runbook_names_each_alert_at_its_symptom_and_no_other() -> None:
    told: dict[str, str] = {}
    for section in re.split(r"^(?=### )", RUNBOOK.read_text(), flags=re.M)[1:]:
        heading = section.splitlines()[0].removeprefix("### ")
        anchor = re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")
        for line in re.findall(r"^\*\*Alert:\*\* (.*)$", section, re.M):
            told |= dict.fromkeys(re.findall(r"`(Codehornets\w+)`", line), anchor)
    assert told == {name: alert["annotations"]["runbook_url"].removeprefix(_PAGE) for name, alert in ALERTS.items()}


def test_whatever_is_recorded_is_asked_for() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    queries = [rule["expr"] for rule in rules()]
    queries += [target["expr"] for path in BOARD_FILES for panel in _panels(path) for target in panel["targets"]]
    assert recorded <= {selector.metric for query in queries for selector in asked_for(query).selectors}
    assert all(re.fullmatch(r"(team|worker|instance|job):[a-z_]+:[a-z0-9_]+", name) for name in recorded)


# -- Alertmanager


def test_amtool_accepts_the_configuration() -> None:
    result = run("amtool", "check-config", "alertmanager.yml")
    assert result.returncode == 0, said(result)


def test_amtool_refuses_a_receiver_that_does_not_exist(tmp_path: Path) -> None:
    broken = tmp_path / "alertmanager.yml"
    text = (MONITORING / "alertmanager.yml").read_text()
    broken.write_text(text.replace("name: platform-slack", "name: platform-slak"))
    assert run("amtool", "check-config", broken).returncode != 0


ROUTES = {
    ("critical", "platform"): "platform-pagerduty,platform-slack",
    ("critical", "agents"): "agents-opsgenie,agents-teams",
    ("warning", "platform"): "platform-slack",
    ("warning", "agents"): "agents-teams",
    ("info", "platform"): "platform-slack",
    ("info", "agents"): "platform-slack",
}


def _route(receivers: str, **labels: str) -> int:
    """Return amtool's exit code: 0 when these receivers, and no others, are told of an alert with these labels."""
    given = [f"{label}={value}" for label, value in labels.items()]
    verify = f"--verify.receivers={receivers}"
    return run("amtool", "config", "routes", "test", "--config.file=alertmanager.yml", verify, *given).returncode


@pytest.mark.parametrize(("severity", "team"), ROUTES)
def test_an_alert_reaches_those_whom_it_concerns(severity: str, team: str) -> None:
    assert _route(ROUTES[severity, team], alertname="Any", severity=severity, team=team) == 0


def test_a_wrong_receiver_would_be_seen() -> None:
    assert _route("platform-slack", alertname="Any", severity="critical", team="platform") == 1


def test_every_receiver_hears_of_some_alert() -> None:
    config = yaml.safe_load((MONITORING / "alertmanager.yml").read_text())
    told = {(alert["labels"]["severity"], alert["labels"]["team"]) for alert in ALERTS.values()}
    reached = {receiver for kind in told for receiver in ROUTES[kind].split(",")}
    assert reached == {receiver["name"] for receiver in config["receivers"]}


def test_no_secret_stands_in_the_configuration() -> None:
    text = (MONITORING / "alertmanager.yml").read_text()
    config = re.sub(r"^ *#.*\n", "", text, flags=re.M)
    named = {Path(name).name for name in re.findall(r"_file: (.*)$", config, re.M)}
    assert {path.name for path in (MONITORING / "no-secrets").iterdir()} == named
    assert all(path.stat().st_size == 0 for path in (MONITORING / "no-secrets").iterdir())
    assert re.findall(r"^\s*-? ?\w*(?:key|secret|token|password|api_url): ", config, re.M) == []


def test_what_is_inhibited_exists() -> None:
    config = yaml.safe_load((MONITORING / "alertmanager.yml").read_text())
    for rule in config["inhibit_rules"]:
        for matcher in rule["source_matchers"] + rule["target_matchers"]:
            match = re.fullmatch(r'alertname (=~?) "?([\w()|]+)"?', matcher)
            if match is None:
                assert matcher == "job = codehornets-orchestrator"
                continue
            prefix, _, options = match[2].partition("(")
            names = {f"{prefix}{option}" for option in options.rstrip(")").split("|")}
            assert names <= set(ALERTS), names - set(ALERTS)


# -- what is scraped


def test_promtool_accepts_what_is_scraped() -> None:
    result = run("promtool", "check", "config", "prometheus.yml")
    assert result.returncode == 0, said(result)


def test_promtool_refuses_rules_that_are_not_there(tmp_path: Path) -> None:
    shutil.copy(MONITORING / "prometheus.yml", tmp_path)
    text = (tmp_path / "prometheus.yml").read_text().replace("rules/*.yaml", "rules/none.yaml")
    (tmp_path / "prometheus.yml").write_text(text)
    assert run("promtool", "check", "config", "prometheus.yml", cwd=tmp_path).returncode != 0


def _pod(component: str, **labels: str) -> dict[str, str]:
    given = {
        "__meta_kubernetes_pod_label_app_kubernetes_io_component": component,
        "__meta_kubernetes_pod_annotation_prometheus_io_scrape": "true",
        "__meta_kubernetes_pod_annotation_prometheus_io_port": "8080",
        "__meta_kubernetes_pod_ip": "10.0.0.7",
        "__meta_kubernetes_pod_name": f"{component}-0",
        "__meta_kubernetes_pod_phase": "Running",
    }
    return given | {f"__meta_kubernetes_pod_{label}": value for label, value in labels.items()}


def test_in_a_cluster_living_pods_that_want_it_are_scraped_at_their_port(tmp_path: Path) -> None:
    # Debian's build knows no Kubernetes: the pods that it would find are given to it in a file, and the rest is real.
    config = yaml.safe_load((MONITORING / "prometheus-kubernetes.yml").read_text())
    pods = [
        _pod("worker", name="marie-0"),
        _pod("worker", name="unwilling", annotation_prometheus_io_scrape="false"),
        _pod("worker", name="ended", phase="Succeeded"),
        _pod("orchestrator", annotation_prometheus_io_port="8700"),
        _pod("redis"),
    ]
    (tmp_path / "pods.json").write_text(json.dumps([{"targets": ["10.0.0.7:1"], "labels": pod} for pod in pods]))
    for job in config["scrape_configs"]:
        assert job.pop("kubernetes_sd_configs")[0]["role"] == "pod"
        job["file_sd_configs"] = [{"files": [str(tmp_path / "pods.json")]}]
    del config["rule_files"]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    found = {}
    for job in ("codehornets-workers", "codehornets-orchestrator"):
        result = run("promtool", "check", "service-discovery", "--timeout=2s", tmp_path / "prometheus.yml", job)
        assert result.returncode == 0, said(result)
        told = json.loads(result.stdout)
        found[job] = [(pod["labels"]["__address__"], pod["labels"]["instance"]) for pod in told if pod.get("labels")]
    assert found == {
        "codehornets-workers": [("10.0.0.7:8080", "marie-0")],
        "codehornets-orchestrator": [("10.0.0.7:8700", "orchestrator-0")],
    }


def test_compose_scrapes_the_services_that_it_starts() -> None:
    compose = yaml.safe_load((REPOSITORY / "deploy" / "compose" / "compose.yaml").read_text())
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    scraped = {
        target for job in config["scrape_configs"] for each in job["static_configs"] for target in each["targets"]
    }
    services = {"worker": "8080", "orchestrator": "8700"}
    assert scraped == {
        f"{name}:{services[service['command'][0]]}"
        for name, service in compose["services"].items()
        if service["command"][0] in services
    }
    for volume in compose["services"]["prometheus"]["volumes"] + compose["services"]["alertmanager"]["volumes"]:
        source = re.sub(r"^\$\{\w+:-(.*?)\}", r"\1", volume).split(":")[0]
        if source.startswith("."):
            assert (REPOSITORY / "deploy" / "compose" / source).exists(), volume


# -- for Kubernetes


def test_the_operators_rules_are_made_of_the_same_files() -> None:
    assert (MONITORING / "prometheusrule.yaml").read_text() == module(MONITORING / "prometheusrule.py").render()
    resource = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())
    told = [rule for group in resource["spec"]["groups"] for rule in group["rules"]]
    assert told == rules()


def test_promtool_accepts_them_in_that_form_too(tmp_path: Path) -> None:
    resource = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(resource["spec"]))
    assert run("promtool", "check", "rules", tmp_path / "rules.yaml").returncode == 0


@pytest.mark.parametrize("name", ["monitoring", "helm/codehornets-ai/files/prometheus"])
def test_each_board_has_a_config_map_that_grafana_finds_and_kubectl_can_apply(name: str) -> None:
    objects = parse(run_kubectl("kustomize", REPOSITORY / "deploy" / name).stdout)
    maps = [one for one in objects if one["kind"] == "ConfigMap"]
    assert {file: text for one in maps for file, text in one["data"].items()} == {
        path.name: path.read_text() for path in BOARD_FILES
    }
    for one in maps:
        assert one["metadata"]["labels"] == {"grafana_dashboard": "1"}
        # `kubectl apply` keeps the object in an annotation of itself, which may have 256 KiB.
        assert len(json.dumps(one)) < 200_000


# -- boards. Grafana itself is not here: what it would refuse or misdraw is looked for in the JSON.


def _panels(path: Path) -> list[dict[str, Any]]:
    return [panel for panel in json.loads(path.read_text())["panels"] if panel["type"] != "row"]


def test_the_boards_are_what_their_source_makes() -> None:
    made = module(MONITORING / "grafana" / "boards.py").files()
    assert {path: path.read_text() for path in BOARD_FILES} == made


def find_faults(board: dict[str, Any]) -> list[str]:
    """Return what Grafana would stumble over."""
    faults: list[str] = []
    for name, kind in {
        "uid": str,
        "title": str,
        "schemaVersion": int,
        "panels": list,
        "templating": dict,
        "time": dict,
    }.items():
        if not isinstance(board.get(name), kind):
            faults.append(f"{name} is {board.get(name)!r}")
    ids = [panel["id"] for panel in board["panels"]]
    if len(ids) != len(set(ids)):
        faults.append("two panels have the same id")
    variables = {variable["name"] for variable in board["templating"]["list"]}
    taken: dict[tuple[int, int], str] = {}
    for panel in board["panels"]:
        place = panel["gridPos"]
        if place["x"] + place["w"] > 24:
            faults.append(f"{panel['title']} is wider than the board")
        for cell in (
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ):
            if cell in taken:
                faults.append(f"{panel['title']} lies on {taken[cell]}")
                break
            taken[cell] = panel["title"]
        if panel["type"] == "row":
            continue
        if panel["type"] not in ("stat", "timeseries", "table", "state-timeline", "bargauge"):
            faults.append(f"{panel['title']} is a {panel['type']}")
        references = [target["refId"] for target in panel["targets"]]
        if not references or len(references) != len(set(references)):
            faults.append(f"{panel['title']} has targets {references}")
        for text in [panel["datasource"]["uid"], *(target["expr"] for target in panel["targets"])]:
            used = set(re.findall(r"\$\{?(\w+)\}?", text)) - {"__rate_interval", "__range"}
            faults += [f"{panel['title']} uses ${name}" for name in used - variables]
        values = [step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]
        if values[0] is not None or values[1:] != sorted(values[1:]):
            faults.append(f"{panel['title']} has thresholds {values}")
    return faults


@pytest.mark.parametrize("path", BOARD_FILES, ids=[path.stem for path in BOARD_FILES])
def test_a_board_has_nothing_to_stumble_over(path: Path) -> None:
    board = json.loads(path.read_text())
    assert find_faults(board) == []
    assert board["uid"] == path.stem


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("gridPos", {"x": 20, "y": 100, "w": 8, "h": 4}, "is wider than the board"),
        ("gridPos", {"x": 0, "y": 0, "w": 8, "h": 4}, "lies on"),
        ("id", 1, "the same id"),
        ("type", "graph", "is a graph"),
        ("datasource", {"uid": "$nothing"}, "uses $nothing"),
    ],
)
def test_what_it_would_stumble_over_is_found(key: str, value: object, fault: str) -> None:
    board = json.loads(BOARD_FILES[0].read_text())
    board["panels"][1][key] = value
    assert any(fault in found for found in find_faults(board))


def test_what_provisions_grafana_names_the_boards_and_their_source() -> None:
    sources = yaml.safe_load((MONITORING / "grafana" / "provisioning" / "datasources" / "prometheus.yaml").read_text())
    providers = yaml.safe_load(
        (MONITORING / "grafana" / "provisioning" / "dashboards" / "codehornets.yaml").read_text()
    )
    assert (sources["apiVersion"], providers["apiVersion"]) == (1, 1)
    assert sources["datasources"][0]["type"] == "prometheus"
    scraped = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert sources["datasources"][0]["jsonData"]["timeInterval"] == scraped
    assert providers["providers"][0]["options"]["path"]
