from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent_bus.redis.url import parse_redis_url
from orchestrator_service import cli
from orchestrator_service.checks import check_all
from orchestrator_service.findings import Finding, Grade
from orchestrator_service.redis_checks import judge_server
from orchestrator_service.team import Team, read_team


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A stand-in for the Claude program; it tells what it sees of the environment."""
    path = tmp_path / "claude"
    path.write_text('#!/bin/sh\necho "1.2.3 key=$ANTHROPIC_API_KEY"\n')
    path.chmod(0o755)
    return path


def team_of(tmp_path: Path, text: str = "[workers.ann]") -> Team:
    path = tmp_path / "team.toml"
    path.write_text(text)
    return read_team(path)


def by_subject(findings: list[Finding], subject: str) -> list[Finding]:
    return [finding for finding in findings if finding.subject == subject]


def test_a_sound_place_is_all_good(tmp_path: Path, program: Path) -> None:
    shared = tmp_path / "shared"
    (shared / "triggers" / "ann").mkdir(parents=True)
    environ = {"CLAUDE_CLI": str(program), "ANTHROPIC_API_KEY": "secret", "HOME": str(tmp_path)}

    findings = check_all(team_of(tmp_path), shared, environ)

    for subject in ("directories", "inotify", "disk", "agents", "credentials", "claude"):
        assert [each.grade for each in by_subject(findings, subject)] == [Grade.GOOD], subject
    # The program is asked for its version without any of our secrets.
    assert by_subject(findings, "claude")[0].text.startswith("1.2.3 key= (")
    assert not any("secret" in f"{each.text}{each.mend}" for each in findings)
    assert list(shared.iterdir()) == [shared / "triggers"]


def test_missing_claude_is_broken_only_where_claude_is_wanted(tmp_path: Path) -> None:
    environ = {"CLAUDE_CLI": str(tmp_path / "none"), "HOME": str(tmp_path)}

    wanted = check_all(team_of(tmp_path, "agent = 'claude'\n[workers.a]"), tmp_path, environ)
    echo = check_all(team_of(tmp_path), tmp_path, environ)

    assert [each.grade for each in by_subject(wanted, "claude")] == [Grade.BROKEN]
    assert [each.grade for each in by_subject(wanted, "credentials")] == [Grade.BROKEN]
    assert [each.grade for each in by_subject(echo, "claude")] == [Grade.NOTE]
    assert "the echo agent stands in" in by_subject(echo, "credentials")[0].text


def test_redis_that_does_not_answer_is_told_without_its_password(tmp_path: Path, program: Path) -> None:
    environ = {"REDIS_URL": "redis://user:hunter2@127.0.0.1:1/0", "CLAUDE_CLI": str(program)}

    [finding] = by_subject(check_all(None, tmp_path, environ), "redis")

    assert finding.grade is Grade.BROKEN
    assert finding.text.startswith("Redis at redis://user:***@127.0.0.1:1/0 cannot be used: ")
    assert finding.text.endswith("Connection refused")
    assert "hunter2" not in f"{finding.text}{finding.mend}"


def test_a_redis_that_is_too_old_is_broken_and_says_what_to_do() -> None:
    address = parse_redis_url("redis://h")

    [finding] = judge_server({"redis_version": "6.0.16"}, address)

    assert (finding.grade, finding.text) == (Grade.BROKEN, "Redis 6.0.16 at redis://h is too old")
    assert "6.2" in finding.mend
    assert next(judge_server({"redis_version": "6.2.0"}, address)).grade is Grade.GOOD
    assert next(judge_server({"redis_version": "10.0"}, address)).grade is Grade.GOOD


@pytest.mark.parametrize("url", ["http://x", "redis://host:port", "nonsense"])
def test_what_is_no_redis_url_is_broken_and_never_an_exception(tmp_path: Path, program: Path, url: str) -> None:
    [finding] = by_subject(check_all(None, tmp_path, {"REDIS_URL": url, "CLAUDE_CLI": str(program)}), "redis")

    assert finding.grade is Grade.BROKEN


def test_a_missing_workspace_and_a_file_in_place_of_the_directory_are_broken(tmp_path: Path, program: Path) -> None:
    (tmp_path / "file").write_text("")
    team = team_of(tmp_path, '[workers.ann]\nworkspace = "nowhere"')

    findings = check_all(team, tmp_path / "file", {"CLAUDE_CLI": str(program)})

    assert [each.grade for each in by_subject(findings, "directories")] == [Grade.BROKEN]
    assert [each.grade for each in by_subject(findings, "workspaces")] == [Grade.BROKEN]


def test_every_finding_that_is_not_good_says_what_to_do(tmp_path: Path) -> None:
    team = team_of(tmp_path, 'agent = "claude"\n[workers.ann]\nworkspace = "nowhere"')

    findings = check_all(team, tmp_path / "new", {"CLAUDE_CLI": "/none", "REDIS_URL": "redis://127.0.0.1:1"})

    assert all(each.mend for each in findings if each.grade is not Grade.GOOD)


def test_the_exit_code_is_1_when_anything_is_broken(
    tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLAUDE_CLI", str(program))
    monkeypatch.setenv("AGENT", "echo")
    for variable in ("REDIS_URL", "REDIS_URL_FILE", "SHARED_DIR"):
        monkeypatch.delenv(variable, raising=False)

    assert cli.run(["doctor"]) == 0
    assert "✓ team          marie, anga, fabien (the shipped example" in capsys.readouterr().out
    (tmp_path / "team.toml").write_text("nonsense = 1\n[workers.a]")
    assert cli.run(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)[0]["grade"] == "broken"


def test_wrong_hook_rules_are_told_with_rule_and_field(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    (shared / "hooks-config").mkdir(parents=True)
    (shared / "hooks-config" / "orchestrator-hooks.json").write_text("[]")
    rules = tmp_path / "hooks-config" / "ann-hooks.json"
    rules.parent.mkdir()
    rules.write_text(json.dumps([{"name": "a", "event": "Boom"}]))

    found = by_subject(check_all(team_of(tmp_path), shared, {}), "hook rules")

    assert [each.grade for each in found] == [Grade.BROKEN, Grade.BROKEN, Grade.GOOD]
    assert found[0].text.startswith(f"{rules}: rule 'a', event is 'Boom'")
    assert "has no action" in found[1].text


def test_isolation_is_tried_out(tmp_path: Path) -> None:
    def isolation(**environ: str) -> list[Finding]:
        return by_subject(check_all(team_of(tmp_path), tmp_path, environ), "isolation")

    assert [each.grade for each in isolation(PATH="/nonexistent")] == [Grade.NOTE]
    assert [each.grade for each in isolation(PATH="/nonexistent", AGENT_ISOLATION="on")] == [Grade.BROKEN]
    assert "bubblewrap is not installed" in isolation(PATH="/nonexistent")[0].text
    assert isolation(AGENT_ISOLATION="off")[0].mend
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    found = isolation(PATH=str(tmp_path))[0]
    assert "No permissions to create new namespace" in found.text and "user namespaces" in found.mend
