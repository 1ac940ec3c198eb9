"""checkov: what is known to be unsafe in the Dockerfile, the workflows and a cluster, and secrets that lie about."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.deploy.manifests import every_object
from tests.deploy.tools import REPOSITORY, run_tool, said

# It loads a thousand rules, and the first time it compiles them too.
pytestmark = pytest.mark.timeout(180)

_FRAMEWORKS = ["dockerfile", "github_actions", "kubernetes", "secrets"]
# Taken apart, so that nobody who looks for secrets here finds this one.
_BROKEN = {
    "deploy/broken/Dockerfile": "FROM debian\nRUN true\n",
    "deploy/broken/settings.sh": f'export AWS_ACCESS_KEY_ID="{"AKIA"}{"Z7QXW3M5R2T9K4LB"}"\n',
    "rendered/broken.yaml": yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "broken", "namespace": "codehornets"},
            "spec": {"containers": [{"name": "a", "image": "a", "securityContext": {"privileged": True}}]},
        }
    ),
    ".github/workflows/broken.yml": "on: push\njobs: {a: {steps: [{run: 'echo ${{ github.head_ref }}'}]}}\n",
}


def _copy(source: str, target: str) -> None:
    """Copy a file; parts of manifests get a name by which they are looked through for secrets alone."""
    is_part = any(part in Path(source).parts for part in ("k8s", "helm"))
    shutil.copy(source, f"{target}.part" if is_part else target)


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    """What checkov has against our files and three broken ones beside them, as (check, file).

    One run for both, because checkov needs seconds to start. Nothing is asked of or sent to anybody.
    """
    copy = tmp_path_factory.mktemp("checkov")
    for name in (".ci", ".github", "deploy"):
        ignored = shutil.ignore_patterns("secrets")
        shutil.copytree(REPOSITORY / name, copy / name, ignore=ignored, copy_function=_copy)
    # What is applied counts, not the parts that it is made of.
    (copy / "rendered").mkdir()
    (copy / "rendered" / "all.yaml").write_text(yaml.safe_dump_all(every_object()))
    shutil.copy(REPOSITORY / "Dockerfile", copy)
    for name, text in _BROKEN.items():
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text(text)
    where = ["--skip-download", "--enable-secret-scan-all-files", "--framework", *_FRAMEWORKS, "--directory", str(copy)]
    result = run_tool("checkov", "--output=json", *where, timeout_s=170)
    assert result.stdout.strip(), said(result)
    reports = json.loads(result.stdout)
    assert sum(report["summary"]["parsing_errors"] for report in reports) == 0
    failed = [check for report in reports for check in report["results"]["failed_checks"]]
    return {(check["check_id"], check["file_path"].lstrip("/")) for check in failed}


def test_checkov_finds_nothing(findings: set[tuple[str, str]]) -> None:
    assert {finding for finding in findings if finding[1] not in _BROKEN} == set()


def test_checkov_refuses_a_root_user_an_injection_a_secret_and_a_privileged_pod(findings: set[tuple[str, str]]) -> None:
    dockerfile, settings, pod, workflow = _BROKEN
    assert {("CKV_DOCKER_3", dockerfile), ("CKV_SECRET_2", settings), ("CKV_GHA_2", workflow)} <= findings
    assert ("CKV_K8S_16", pod) in findings
