"""What a worker in a container is told: the team file, the container's own word, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_bus.redis.url import parse_redis_url
from orchestrator_service.container.default_redis import with_default_redis
from orchestrator_service.container.refusal import Refused
from orchestrator_service.container.secret_files import without_empty_files
from orchestrator_service.container.start_line import woken_by
from orchestrator_service.container.worker import ToldWorker, start_worker, tell_worker
from orchestrator_service.team import TeamError
from service_kit.environment import Environment, SettingsError
from service_kit.modes import Mode, read_wake_ups

PASSWORD = "p@ss/w:rd %#?é"


def team_file(tmp_path: Path, text: str = "[workers.marie]\n") -> str:
    path = tmp_path / "team.toml"
    path.write_text(text)
    return str(path)


def told(shared: Path, name: str = "marie", **environ: str) -> ToldWorker:
    return tell_worker({"SHARED_DIR": str(shared), **environ}, name)


@pytest.fixture
def container(tmp_path: Path, shared: Path) -> dict[str, str]:
    """The environment of a container, whose places are there."""
    return {"SHARED_DIR": str(shared), "HOME": str(tmp_path / "home"), "WORKSPACE": str(tmp_path / "workspace")}


def test_without_a_word_a_container_polls_with_and_without_a_team(tmp_path: Path, shared: Path) -> None:
    assert told(shared).wake_ups.mode is Mode.POLLING
    worker = told(shared, TEAM_FILE=team_file(tmp_path))
    assert (worker.wake_ups.mode, worker.environ["WORKER_MODE"]) == (Mode.POLLING, "polling")


@pytest.mark.parametrize(
    ("environ", "mode"),
    [
        ({"ACTIVATION_WRAPPER": "1"}, "event-driven"),
        ({"HOOKS_MODE": "1"}, "hooks"),
        ({"ACTIVATION_WRAPPER": "1", "HOOKS_MODE": "1"}, "hybrid"),
        ({"ACTIVATION_WRAPPER": "1", "HOOKS_MODE": "0"}, "event-driven"),
        ({"ACTIVATION_WRAPPER": "", "HOOKS_MODE": ""}, "polling"),
        ({"WORKER_MODE": "hooks", "ACTIVATION_WRAPPER": "1"}, "hooks"),
    ],
)
def test_the_mode_is_what_the_variables_say(tmp_path: Path, shared: Path, environ: dict[str, str], mode: str) -> None:
    assert told(shared, **environ).environ["WORKER_MODE"] == mode
    assert told(shared, TEAM_FILE=team_file(tmp_path), **environ).environ["WORKER_MODE"] == mode


def test_a_mode_in_the_team_file_wins(tmp_path: Path, shared: Path) -> None:
    team = team_file(tmp_path, 'mode = "hooks"\n[workers.marie]\n')
    worker = told(shared, TEAM_FILE=team, ACTIVATION_WRAPPER="1", HOOKS_MODE="1", DEFAULT_REDIS_URL="redis://redis")
    assert worker.environ["WORKER_MODE"] == "hooks"
    assert "REDIS_URL" not in worker.environ


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"WORKER_MODE": "fast"}, "WORKER_MODE is 'fast'; allowed is polling, event-driven, hooks or hybrid."),
        ({"HOOKS_MODE": "perhaps"}, "HOOKS_MODE is 'perhaps'; allowed is 1 or 0."),
        (
            {"ACTIVATION_WRAPPER": "1", "ACTIVATION_MODE": "smoke"},
            "ACTIVATION_MODE is 'smoke'; allowed is inotify, redis or polling.",
        ),
        (
            {"ACTIVATION_WRAPPER": "1", "ACTIVATION_MODE": "redis"},
            "ACTIVATION_MODE is 'redis' and REDIS_URL is not set; say which Redis that is.",
        ),
    ],
)
def test_an_unknown_mode_is_one_sentence(shared: Path, environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        told(shared, **environ)
    assert str(refusal.value) == sentence


def test_where_it_listens_and_works_is_the_containers_own_matter(tmp_path: Path, shared: Path) -> None:
    given = {"HTTP_HOST": "0.0.0.0", "HTTP_PORT": "8080", "WORKSPACE": "/workspace", "LOG_DIR": "/logs"}
    worker = told(shared, TEAM_FILE=team_file(tmp_path, "[workers.marie]\nhttp_port = 9\n"), **given)
    assert {name: worker.environ[name] for name in given} == given


def test_a_host_in_the_environment_table_and_a_workspace_in_the_team_file_win(tmp_path: Path, shared: Path) -> None:
    team = team_file(tmp_path, '[workers.marie]\nworkspace = "w"\nenvironment = { HTTP_HOST = "127.0.0.2" }\n')
    worker = told(shared, TEAM_FILE=team, HTTP_HOST="0.0.0.0", WORKSPACE="/workspace")
    assert worker.environ["HTTP_HOST"] == "127.0.0.2"
    assert worker.environ["WORKSPACE"] == str(tmp_path / "w")


def test_a_workspace_of_the_team_file_that_is_missing_is_refused(tmp_path: Path, container: dict[str, str]) -> None:
    team = team_file(tmp_path, '[workers.marie]\nworkspace = "w"\n')
    with pytest.raises(TeamError, match=r"workers\.marie\.workspace is .*; allowed is a directory that exists"):
        start_worker({**container, "TEAM_FILE": team}, "marie")


def test_hook_rules_beside_the_team_file_are_used(tmp_path: Path, shared: Path) -> None:
    rules = tmp_path / "hooks-config" / "marie-hooks.json"
    rules.parent.mkdir()
    rules.write_text("[]")
    assert told(shared, TEAM_FILE=team_file(tmp_path)).environ["HOOKS_CONFIG"] == str(rules)


def test_hook_rules_that_are_named_must_be_there(container: dict[str, str]) -> None:
    environ = {**container, "HOOKS_CONFIG": "/nowhere.json"}
    with pytest.raises(Refused, match=r"HOOKS_CONFIG is '/nowhere.json', and there is no such file"):
        start_worker({**environ, "HOOKS_MODE": "1"}, "marie")
    assert start_worker(environ, "marie").environ["WORKER_MODE"] == "polling"


def test_a_worker_that_the_team_file_lacks_is_told_what_to_add(tmp_path: Path, shared: Path) -> None:
    team = team_file(tmp_path, "[workers.marie]\n[workers.anga]\n")
    with pytest.raises(Refused) as refusal:
        told(shared, "dora", TEAM_FILE=team)
    assert str(refusal.value) == (
        f"there is no worker 'dora' in {team}, it has marie, anga; add a table [workers.dora] to it, or name one of "
        "these."
    )


def test_a_team_file_that_is_named_must_be_there(shared: Path) -> None:
    with pytest.raises(Refused, match=r"TEAM_FILE is '/nowhere.toml', and there is no such file; mount"):
        told(shared, TEAM_FILE="/nowhere.toml")
    assert told(shared, TEAM_FILE="").team is None


def test_a_worker_needs_a_name(shared: Path) -> None:
    with pytest.raises(Refused, match="WORKER_NAME is not set"):
        tell_worker({"SHARED_DIR": str(shared)}, None)
    with pytest.raises(SettingsError, match=r"WORKER_NAME is '\.\./marie'; allowed is 1 to 63 letters"):
        told(shared, "../marie")
    assert tell_worker({"SHARED_DIR": str(shared), "WORKER_NAME": "anga"}, None).name == "anga"


# -- Redis


@pytest.mark.parametrize(
    "environ",
    [
        {"ACTIVATION_WRAPPER": "1", "HOOKS_MODE": "1"},
        {"ACTIVATION_WRAPPER": "1", "ACTIVATION_MODE": "redis"},
    ],
)
def test_a_mode_that_lives_by_redis_gets_the_default_one_with_its_password(
    tmp_path: Path, shared: Path, environ: dict[str, str]
) -> None:
    (tmp_path / "password").write_text("secret\n")
    given = {"DEFAULT_REDIS_URL": "redis://redis:6379/0", "REDIS_PASSWORD_FILE": str(tmp_path / "password")}
    worker = told(shared, **given, **environ)
    assert worker.environ["REDIS_URL"] == "redis://:secret@redis:6379/0"
    assert worker.wake_ups.redis
    assert told(shared, **given, **environ, REDIS_URL="redis://other").environ["REDIS_URL"] == "redis://other"


@pytest.mark.parametrize("environ", [{}, {"HOOKS_MODE": "1"}, {"ACTIVATION_WRAPPER": "1"}])
def test_other_modes_get_none(shared: Path, environ: dict[str, str]) -> None:
    assert "REDIS_URL" not in told(shared, DEFAULT_REDIS_URL="redis://redis", **environ).environ


def test_the_teams_own_redis_counts_as_named(tmp_path: Path, shared: Path) -> None:
    team = team_file(tmp_path, 'mode = "hybrid"\nredis_url = "redis://mine"\n[workers.marie]\n')
    assert told(shared, TEAM_FILE=team, DEFAULT_REDIS_URL="redis://redis").environ["REDIS_URL"] == "redis://mine"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://redis:6379/0", "redis://:p%40ss%2Fw%3Ard%20%25%23%3F%C3%A9@redis:6379/0"),
        ("redis://team@redis/1", "redis://team:p%40ss%2Fw%3Ard%20%25%23%3F%C3%A9@redis/1"),
        ("redis://team:own@redis/1", "redis://team:own@redis/1"),
    ],
)
def test_a_password_may_hold_any_character(tmp_path: Path, url: str, expected: str) -> None:
    (tmp_path / "password").write_text(PASSWORD, encoding="utf-8")
    environ = {"DEFAULT_REDIS_URL": url, "REDIS_PASSWORD_FILE": str(tmp_path / "password")}
    made = with_default_redis(environ, wanted=True)["REDIS_URL"]
    assert made == expected
    assert parse_redis_url(made).password in (PASSWORD, "own")


def test_no_password_is_right_where_the_file_is_empty(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(" \n")
    environ = {"DEFAULT_REDIS_URL": "redis://redis/0", "REDIS_PASSWORD_FILE": str(tmp_path / "password")}
    assert with_default_redis(environ, wanted=True)["REDIS_URL"] == "redis://redis/0"


def test_a_default_redis_that_cannot_be_used_is_one_sentence_without_its_password() -> None:
    with pytest.raises(Refused) as refusal:
        with_default_redis({"DEFAULT_REDIS_URL": "http://:hunter2@redis"}, wanted=True)
    assert "DEFAULT_REDIS_URL is 'http://:***@redis' and cannot be used" in str(refusal.value)
    assert "hunter2" not in str(refusal.value)
    environ = {"DEFAULT_REDIS_URL": "redis://redis", "REDIS_PASSWORD_FILE": "/nowhere"}
    with pytest.raises(Refused, match=r"REDIS_PASSWORD_FILE is '/nowhere', which cannot be read \(No such file"):
        with_default_redis(environ, wanted=True)


# -- secrets and agents


def test_an_empty_file_of_a_secret_does_not_count(tmp_path: Path) -> None:
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.write_text("\n")
    full.write_text("key")
    environ = {
        "ANTHROPIC_API_KEY_FILE": str(empty),
        "CLAUDE_CODE_OAUTH_TOKEN_FILE": str(full),
        "HOOK_TOKEN_FILE": "/nowhere",
        "API_TOKEN": "kept",
    }
    assert without_empty_files(environ) == {name: environ[name] for name in list(environ)[1:]}


@pytest.mark.parametrize("team", [True, False])
def test_claude_works_where_there_is_a_credential_and_echo_elsewhere(
    tmp_path: Path, container: dict[str, str], team: bool
) -> None:
    key = tmp_path / "key"
    key.write_text("")
    environ = {**container, "ANTHROPIC_API_KEY_FILE": str(key), "AGENT": "auto"}
    if team:
        environ["TEAM_FILE"] = team_file(tmp_path)
    start = start_worker(environ, "marie")
    assert start.environ["AGENT"] == "echo"
    assert "ANTHROPIC_API_KEY_FILE" not in start.environ
    key.write_text("sk-key")
    start = start_worker(environ, "marie")
    assert start.environ["AGENT"] == "claude"
    assert "sk-key" not in repr(start) + " ".join(start.environ.values())


def test_a_login_in_the_home_is_a_credential(container: dict[str, str]) -> None:
    login = Path(container["HOME"], ".claude", ".credentials.json")
    login.parent.mkdir(parents=True)
    login.write_text("{}")
    assert start_worker(container, "marie").environ["AGENT"] == "claude"


def test_claude_without_a_credential_is_refused_with_the_names_of_the_secrets(
    tmp_path: Path, container: dict[str, str]
) -> None:
    key = tmp_path / "anthropic_api_key"
    key.write_text("")
    with pytest.raises(Refused) as refusal:
        start_worker({**container, "AGENT": "claude", "ANTHROPIC_API_KEY_FILE": str(key)}, "marie")
    assert str(refusal.value) == (
        f"the agent is claude and there is no credential for it; put an API key into the secret file {key} "
        "(ANTHROPIC_API_KEY_FILE) or a token into /run/secrets/claude_code_oauth_token (CLAUDE_CODE_OAUTH_TOKEN_FILE), "
        f"log in once under HOME ({container['HOME']}), or set AGENT to auto or echo."
    )
    team = team_file(tmp_path, 'agent = "claude"\n[workers.marie]\n')
    with pytest.raises(Refused, match="the agent is claude and there is no credential"):
        start_worker({**container, "TEAM_FILE": team}, "marie")


def test_an_agent_that_does_not_exist_is_refused(container: dict[str, str]) -> None:
    with pytest.raises(Refused) as refusal:
        start_worker({**container, "AGENT": "gpt"}, "marie")
    assert str(refusal.value) == "AGENT is 'gpt'; allowed is auto, claude, command or echo."


def test_a_secret_file_that_is_missing_is_one_sentence(shared: Path) -> None:
    with pytest.raises(SettingsError, match=r"ANTHROPIC_API_KEY_FILE is '/nowhere', which cannot be read"):
        told(shared, ANTHROPIC_API_KEY_FILE="/nowhere")


# -- the line


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, "a timer"),
        ({"WORKER_MODE": "event-driven"}, "inotify"),
        ({"WORKER_MODE": "event-driven", "ACTIVATION_MODE": "redis", "REDIS_URL": "redis://r"}, "Redis"),
        ({"WORKER_MODE": "event-driven", "ACTIVATION_MODE": "polling"}, "a timer"),
        ({"WORKER_MODE": "hooks"}, "inotify, control pipe"),
        ({"WORKER_MODE": "hybrid", "REDIS_URL": "redis://r"}, "inotify, control pipe, Redis"),
    ],
)
def test_the_line_tells_what_wakes_the_worker(environ: dict[str, str], words: str) -> None:
    assert woken_by(read_wake_ups(Environment(environ), has_redis="REDIS_URL" in environ, has_files=True)) == words


def test_a_worker_on_redis_alone_has_no_shared_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, container: dict[str, str]
) -> None:
    monkeypatch.setattr("orchestrator_service.container.places.USUAL_SHARED_DIR", tmp_path / "not-there")
    del container["SHARED_DIR"]
    start = start_worker({**container, "REDIS_URL": "redis://r", "TEAM_FILE": team_file(tmp_path)}, "marie")
    assert "SHARED_DIR" not in start.environ
    assert start.line is not None
    assert start.line.endswith("no shared directory")
