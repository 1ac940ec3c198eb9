"""Commands for a cluster in the guides: what needs none is run, and what needs one names only what is there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from agent_bus import VERSION
from tests.deploy.manifests import KUSTOMIZE, OVERLAYS, named, of_kind, parse, render, run_kubectl
from tests.deploy.tools import REPOSITORY, TOOLS, said
from tests.docs_blocks import Block, blocks_of, prints

PAGE = REPOSITORY / "docs" / "kubernetes.md"
_OTHER_PAGES = ("deployment.md", "quick-reference.md", "upgrading.md", "troubleshooting.md")
"""They have commands of this kind among others; their own tests see to it that each block says who runs it."""
_MARKERS = {"cluster", "needs a cluster", "run", "run: refused"}
_OWN = [block for block in blocks_of(PAGE) if block.language == "bash"]
_SHELL = [
    *_OWN,
    *(block for name in _OTHER_PAGES for block in blocks_of(PAGE.with_name(name)) if block.marker in _MARKERS),
]
_OF_CLUSTERS = [block for block in _SHELL if block.marker.endswith("cluster")]


def test_every_block_of_commands_says_who_runs_it() -> None:
    assert {block.marker for block in _OWN} == {"cluster", "run", "run: refused"}
    assert {block.page for block in _OF_CLUSTERS} == {PAGE.name, *_OTHER_PAGES}


@pytest.mark.parametrize("block", [block for block in _SHELL if block.marker.startswith("run")], ids=str)
def test_what_needs_no_cluster_is_run(block: Block) -> None:
    script = re.sub(r"^make helm-lint$", "deploy/helm/lint.sh", block.text, flags=re.M)
    result = subprocess.run(
        ["bash", "-euc", script],
        cwd=REPOSITORY,
        env={**os.environ, "PATH": f"{TOOLS / 'bin'}:{os.environ['PATH']}", "CHECKS": str(TOOLS)},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert (result.returncode != 0) == (block.marker == "run: refused"), said(result)
    if block.output is not None:
        assert prints(block.output.strip("\n"), said(result)), said(result)


@pytest.mark.parametrize("block", _OF_CLUSTERS, ids=str)
def test_what_needs_a_cluster_names_what_is_there(block: Block) -> None:
    checked = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False, timeout=20)
    assert checked.returncode == 0, checked.stderr
    assert set(re.findall(r"OVERLAY=(\S+)", block.text)) <= set(OVERLAYS)
    deployments = {one["metadata"]["name"] for one in of_kind(render("kustomize-production"), "Deployment")}
    assert set(re.findall(r"\bdeploy(?:ment)?/([a-z][\w-]*)(?= )", block.text)) - {"helm"} <= deployments
    for path in re.findall(r"\bdeploy/(?:helm|k8s)/\S+", block.text):
        there = REPOSITORY / path
        assert there.exists() or there.parent.is_dir(), path
    manifests = yaml.safe_dump_all(render("kustomize-redis-only-keda"))
    for label in re.findall(r"codehornets\.ai/[\w-]+", block.text):
        assert label in manifests
    assert set(re.findall(r"secret generic (\w+)", block.text)) <= {"model", "redis"}
    assert set(re.findall(r"codehornets-ai/\w+:([\w.]+)", block.text)) <= {VERSION}
    for key, value in re.findall(r"-l ([\w./-]+)=([\w-]+)", block.text):
        assert f"{key}: {value}\n" in manifests, f"nothing has the label {key}={value}"


def test_the_overlay_of_the_page_can_be_rendered(tmp_path: Path) -> None:
    (block,) = (block for block in blocks_of(PAGE) if block.marker == "overlay")
    shutil.copytree(REPOSITORY / "deploy", tmp_path / "deploy", ignore=shutil.ignore_patterns("secrets"))
    own = tmp_path / "deploy" / "k8s" / "overlays" / "own"
    own.mkdir()
    (own / "kustomization.yaml").write_text(block.text)
    result = run_kubectl("kustomize", own)
    assert result.returncode == 0, said(result)
    objects = parse(result.stdout)
    marie = named(objects, "Deployment", "marie")["spec"]["template"]["spec"]
    assert {one["image"] for one in (*marie["initContainers"], *marie["containers"])} == {
        "registry.example/codehornets-ai/worker:0.1.0"
    }
    settings = {one["metadata"]["name"].rpartition("-")[0]: one["data"] for one in of_kind(objects, "ConfigMap")}
    assert settings["worker-settings"]["MODEL"] == "sonnet"
    assert settings["orchestrator-settings"]["DAY_BUDGET_USD"] == "50"
    assert {one["spec"]["storageClassName"] for one in of_kind(objects, "PersistentVolumeClaim")} == {"fast"}


def test_the_other_snippets_are_whole() -> None:
    for block in blocks_of(PAGE):
        if block.language == "yaml":
            assert yaml.safe_load(block.text)["kind"]


def test_the_secrets_of_the_page_are_those_of_the_example() -> None:
    example = {one["metadata"]["name"]: set(one["stringData"]) for one in parse(_example())}
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", PAGE.read_text(), re.M)
    assert {(name, key) for name, keys in example.items() for key in keys} == set(rows)


def _example() -> str:
    return (KUSTOMIZE / "secrets.example.yaml").read_text()


def test_every_sentence_of_a_start_that_fails_is_one_that_is_said() -> None:
    text = PAGE.read_text()
    sources = "".join(path.read_text() for path in (REPOSITORY / "orchestrator_service" / "container").glob("*.py"))
    sources += (REPOSITORY / "service_kit" / "environment.py").read_text()
    for words in ("which cannot be read", "is not writable by user", "there is no worker"):
        assert words in text
        assert words in sources
