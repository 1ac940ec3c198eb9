"""checkov: what is known to be unsafe in the Dockerfile and the workflows, and secrets that lie about."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.deploy.tools import REPOSITORY, run_tool, said

# It loads a thousand rules, and the first time it compiles them too.
pytestmark = pytest.mark.timeout(180)

_FRAMEWORKS = ["dockerfile", "github_actions", "secrets"]
# Taken apart, so that nobody who looks for secrets here finds this one.
_BROKEN = {
    "deploy/broken/Dockerfile": "FROM debian\nRUN true\n",
    "deploy/broken/settings.sh": f'export AWS_ACCESS_KEY_ID="{"AKIA"}{"Z7QXW3M5R2T9K4LB"}"\n',
    ".github/workflows/broken.yml": "on: push\njobs: {a: {steps: [{run: 'echo ${{ github.head_ref }}'}]}}\n",
}


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    """What checkov has against our files and three broken ones beside them, as (check, file).

    One run for both, because checkov needs seconds to start. Nothing is asked of or sent to anybody.
    """
    copy = tmp_path_factory.mktemp("checkov")
    for name in (".ci", ".github", "deploy"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("secrets"))
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


def test_checkov_refuses_a_root_user_an_injection_and_a_secret(findings: set[tuple[str, str]]) -> None:
    dockerfile, settings, workflow = _BROKEN
    assert {("CKV_DOCKER_3", dockerfile), ("CKV_SECRET_2", settings), ("CKV_GHA_2", workflow)} <= findings
