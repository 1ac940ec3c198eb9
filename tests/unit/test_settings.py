from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from service_kit.agent_environment import agent_environment
from service_kit.environment import SettingsError
from service_kit.modes import Activation, Mode
from service_kit.places import has_shared_directory
from worker_service.settings import AgentKind, Isolation, StuckAction, WorkerSettings, read_settings


def read(**environ: str) -> WorkerSettings:
    return read_settings({"WORKER_NAME": "marie", **environ})


GOOD: list[tuple[str, str, Callable[[WorkerSettings], object], object]] = [
    ("WORKER_NAME", "anga", lambda s: s.worker, "anga"),
    ("SHARED_DIR", "/x", lambda s: s.layout.triggers, Path("/x/triggers/marie")),
    ("TASK_DIR", "/x", lambda s: s.layout.dead_letters, Path("/x/dead-letter")),
    ("RESULT_DIR", "/x", lambda s: s.layout.results, Path("/x")),
    ("TRIGGER_DIR", "/x", lambda s: s.layout.triggers, Path("/x")),
    ("HEARTBEAT_DIR", "/x", lambda s: s.layout.heartbeat("a"), Path("/x/a-watcher.json")),
    ("LOG_DIR", "/x", lambda s: s.layout.log("a"), Path("/x/a-watcher.log")),
    ("WORKER_MODE", "event-driven", lambda s: (s.mode, s.slots), (Mode.EVENT_DRIVEN, 10)),
    ("WORKER_MODE", "polling", lambda s: (s.mode, s.slots), (Mode.POLLING, 1)),
    ("ACTIVATION_WRAPPER", "1", lambda s: (s.mode, s.slots), (Mode.EVENT_DRIVEN, 10)),
    ("ACTIVATION_WRAPPER", "off", lambda s: s.mode, Mode.POLLING),
    ("HOOKS_MODE", "1", lambda s: (s.mode, s.slots), (Mode.HOOKS, 5)),
    ("WORKER_MODE", "hooks", lambda s: (s.mode, s.slots), (Mode.HOOKS, 5)),
    ("WORKER_MODE", "hybrid", lambda s: (s.mode, s.slots), (Mode.HYBRID, 10)),
    ("PIPE_DIR", "/x", lambda s: s.layout.control_pipe("a"), Path("/x/a-control")),
    ("HOOKS_CONFIG", "/x.json", lambda s: s.hooks_config, Path("/x.json")),
    ("HOOK_TOKEN", "t", lambda s: s.hook_token, "t"),
    ("HOOK_TIMEOUT", "2", lambda s: s.hook_timeout_s, 2.0),
    ("STUCK_AFTER", "0.25", lambda s: s.supervision.after_s, 0.25),
    ("STUCK_LINGER", "0", lambda s: s.supervision.linger_s, 0.0),
    ("STUCK_REPEATS", "3", lambda s: s.supervision.repeats, 3),
    ("STUCK_IDLE_CPU", "0.1", lambda s: s.supervision.idle_cpu, 0.1),
    ("STUCK_ACTION", "tell", lambda s: s.supervision.action, StuckAction.TELL),
    ("STUCK_INTERRUPT_AFTER", "0", lambda s: s.supervision.interrupt_after_s, 0.0),
    ("STUCK_KILL_AFTER", "0.5", lambda s: s.supervision.kill_after_s, 0.5),
    ("AGENT_ISOLATION", "off", lambda s: s.claude.isolation, Isolation.OFF),
    ("REDIS_LEASE", "5", lambda s: s.redis_lease_s, 5.0),
    ("AGENT", "echo", lambda s: s.agent, AgentKind.ECHO),
    ("AGENT_COMMAND", "tr 'a b' x", lambda s: s.command, ("tr", "a b", "x")),
    ("MAX_CONCURRENT", "7", lambda s: s.slots, 7),
    ("TASK_TIMEOUT", "1.5", lambda s: s.task_timeout_s, 1.5),
    ("MAX_ATTEMPTS", "9", lambda s: s.max_attempts, 9),
    ("SHUTDOWN_GRACE", "0", lambda s: s.shutdown_grace_s, 0.0),
    ("POLL_INTERVAL", "0.01", lambda s: s.poll_interval_s, 0.01),
    ("RESCAN_INTERVAL", "5", lambda s: s.rescan_interval_s, 5.0),
    ("HEARTBEAT_INTERVAL", "5", lambda s: s.heartbeat_interval_s, 5.0),
    ("PROBE_INTERVAL", "5", lambda s: s.probe_interval_s, 5.0),
    ("MAX_TRIGGER_BYTES", "1024", lambda s: s.max_trigger_bytes, 1024),
    ("SETTLE_TIME", "0", lambda s: s.settle_s, 0.0),
    ("TRIGGER_OWNERS", "any", lambda s: s.trigger_owners, None),
    ("TRIGGER_OWNERS", "5,6", lambda s: s.trigger_owners, frozenset((0, os.geteuid(), 5, 6))),
    ("SYNC_RESULTS", "0", lambda s: s.sync_results, False),
    ("HTTP_HOST", "0.0.0.0", lambda s: s.http_host, "0.0.0.0"),
    ("HTTP_PORT", "0", lambda s: s.http_port, 0),
    ("REDIS_URL", "redis://h/0", lambda s: s.redis_url, "redis://h/0"),
    ("LOG_LEVEL", "debug", lambda s: s.log_level, "DEBUG"),
    ("WORKSPACE", "/", lambda s: s.workspace, Path("/")),
    ("CLAUDE_CLI", "/bin/sh", lambda s: s.claude.cli, Path("/bin/sh")),
    ("WARM_PROCESSES", "0", lambda s: s.claude.warm_processes, 0),
    ("FREEZE_IDLE", "no", lambda s: s.claude.freeze, False),
    ("MODEL", "opus", lambda s: s.claude.model, "opus"),
    ("OUTPUT_STYLE", "x.md", lambda s: s.claude.output_style, "x.md"),
    (
        "ALLOWED_TOOLS",
        "Read, Bash(git a:*, git b:*)",
        lambda s: s.claude.allowed_tools,
        ("Read", "Bash(git a:*, git b:*)"),
    ),
    ("PERMISSION_MODE", "plan", lambda s: s.claude.permission_mode, "plan"),
    ("MAX_TURNS", "3", lambda s: s.claude.max_turns, 3),
    ("MAX_BUDGET_USD", "0.5", lambda s: s.claude.max_budget_usd, 0.5),
    ("PARK_ON_LIMIT", "0", lambda s: s.claude.park_on_limit, False),
]

BAD = [
    ("WORKER_NAME", "../x"),
    ("WORKER_NAME", "a b"),
    ("WORKER_NAME", "x" * 64),
    ("WORKER_NAME", "marie\n"),
    ("WORKER_MODE", "fast"),
    ("HOOKS_MODE", "maybe"),
    ("ACTIVATION_WRAPPER", "2"),
    ("REDIS_LEASE", "0"),
    ("HOOK_TIMEOUT", "0"),
    ("STUCK_AFTER", "-1"),
    ("STUCK_AFTER", "soon"),
    ("STUCK_REPEATS", "1.5"),
    ("STUCK_IDLE_CPU", "0"),
    ("STUCK_ACTION", "kill"),
    ("STUCK_KILL_AFTER", "0"),
    ("AGENT_ISOLATION", "maybe"),
    ("AGENT", "gpt"),
    ("AGENT", "command"),
    ("AGENT_COMMAND", "echo 'x"),
    ("MAX_CONCURRENT", "0"),
    ("MAX_CONCURRENT", "1001"),
    ("MAX_CONCURRENT", "many"),
    ("TASK_TIMEOUT", "0"),
    ("TASK_TIMEOUT", "nan"),
    ("TASK_TIMEOUT", "inf"),
    ("TASK_TIMEOUT", "-1"),
    ("MAX_ATTEMPTS", "1.5"),
    ("SHUTDOWN_GRACE", "-1"),
    ("POLL_INTERVAL", "0"),
    ("RESCAN_INTERVAL", "x"),
    ("HEARTBEAT_INTERVAL", "0"),
    ("PROBE_INTERVAL", "0"),
    ("MAX_TRIGGER_BYTES", "10"),
    ("MAX_TRIGGER_BYTES", "9" * 5000),
    ("SETTLE_TIME", "-1"),
    ("TRIGGER_OWNERS", "root"),
    ("SYNC_RESULTS", "2"),
    ("HTTP_PORT", "65536"),
    ("HTTP_PORT", "http"),
    ("REDIS_URL", "http://x"),
    ("LOG_LEVEL", "loud"),
    ("WORKSPACE", "/nowhere"),
    ("CLAUDE_CLI", "/nowhere"),
    ("WARM_PROCESSES", "-1"),
    ("FREEZE_IDLE", "cold"),
    ("MODEL", "-x"),
    ("MODEL", "a b"),
    ("PERMISSION_MODE", "yolo"),
    ("MAX_TURNS", "0"),
    ("MAX_BUDGET_USD", "0"),
    ("PARK_ON_LIMIT", "x"),
]


@pytest.mark.parametrize(("variable", "text", "get", "value"), GOOD)
def test_a_good_value_is_read(variable: str, text: str, get: Callable[[WorkerSettings], object], value: object) -> None:
    assert get(read(**{variable: text})) == value


@pytest.mark.parametrize(("variable", "text"), BAD)
def test_a_bad_value_gives_one_sentence_that_names_it(variable: str, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(**{variable: text})
    sentence = str(caught.value)
    assert sentence.startswith(f"{variable} is ")
    assert "\n" not in sentence
    assert len(sentence) < 400
    if variable != "REDIS_URL":
        assert repr(text)[:60].rstrip("'") in sentence


def test_an_empty_variable_means_the_default() -> None:
    names = {variable for variable, _, _, _ in GOOD} - {"WORKER_NAME"}
    assert read(**dict.fromkeys(names, "")).slots == 1


def test_a_name_must_be_given_and_the_argument_wins() -> None:
    with pytest.raises(SettingsError, match="WORKER_NAME is not set"):
        read_settings({})
    assert read_settings({"WORKER_NAME": "marie"}, "anga").worker == "anga"


def test_the_activation_mode_counts_only_with_the_wrapper() -> None:
    by_timer = read(ACTIVATION_WRAPPER="1", ACTIVATION_MODE="polling")
    assert (by_timer.mode, by_timer.slots) == (Mode.EVENT_DRIVEN, 10)
    assert by_timer.wake_ups.activation is Activation.POLLING
    assert read(ACTIVATION_MODE="inotify").mode is Mode.POLLING
    assert read(WORKER_MODE="polling", ACTIVATION_WRAPPER="1").mode is Mode.POLLING
    with pytest.raises(SettingsError, match=r"^ACTIVATION_MODE is 'x'"):
        read(ACTIVATION_WRAPPER="1", ACTIVATION_MODE="x")


WAKE_UPS = [
    ({}, Mode.POLLING, Activation.POLLING, False, False, False),
    ({"ACTIVATION_WRAPPER": "1"}, Mode.EVENT_DRIVEN, Activation.INOTIFY, False, True, False),
    ({"ACTIVATION_WRAPPER": "1", "ACTIVATION_MODE": "redis"}, Mode.EVENT_DRIVEN, Activation.REDIS, False, True, False),
    (
        {"ACTIVATION_WRAPPER": "1", "ACTIVATION_MODE": "polling"},
        Mode.EVENT_DRIVEN,
        Activation.POLLING,
        False,
        False,
        False,
    ),
    ({"HOOKS_MODE": "1"}, Mode.HOOKS, Activation.INOTIFY, True, True, True),
    ({"HOOKS_MODE": "1", "ACTIVATION_WRAPPER": "1"}, Mode.HYBRID, Activation.INOTIFY, True, True, True),
    ({"WORKER_MODE": "polling", "HOOKS_MODE": "1"}, Mode.POLLING, Activation.POLLING, False, False, False),
    ({"WORKER_MODE": "event-driven", "HOOKS_MODE": "1"}, Mode.EVENT_DRIVEN, Activation.INOTIFY, False, True, False),
]


@pytest.mark.parametrize(("environ", "mode", "activation", "pipes", "redis", "bridges"), WAKE_UPS)
def test_each_mode_has_the_sources_of_its_row(
    environ: dict[str, str], mode: Mode, activation: Activation, pipes: bool, redis: bool, bridges: bool
) -> None:
    found = read(**environ, SHARED_DIR="/x", REDIS_URL="redis://h").wake_ups
    assert (found.mode, found.activation, found.pipes, found.redis) == (mode, activation, pipes, redis)
    assert found.bridges_hooks is bridges
    if activation is not Activation.REDIS:
        assert not read(**environ).wake_ups.redis


def test_a_bell_on_redis_needs_a_redis() -> None:
    with pytest.raises(SettingsError, match=r"^ACTIVATION_MODE is 'redis' and REDIS_URL is not set"):
        read(ACTIVATION_WRAPPER="1", ACTIVATION_MODE="redis")


def test_with_redis_and_no_shared_directory_the_worker_lives_on_redis_alone() -> None:
    settings = read(WORKER_MODE="event-driven", REDIS_URL="redis://h")
    assert not settings.serves_files
    assert settings.wake_ups.activation is Activation.REDIS
    assert not settings.layout.triggers.is_relative_to("/shared")
    assert read(WORKER_MODE="event-driven", REDIS_URL="redis://h", SHARED_DIR="/x").serves_files
    assert read(WORKER_MODE="event-driven").serves_files


def test_a_shared_directory_that_nobody_can_write_to_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service_kit.places.USUAL_SHARED_DIR", tmp_path)
    assert has_shared_directory({})
    flags = SimpleNamespace(f_flag=os.ST_RDONLY | os.ST_NOSUID)
    monkeypatch.setattr("service_kit.places.os.statvfs", lambda path: flags)
    assert not has_shared_directory({})
    assert has_shared_directory({"SHARED_DIR": str(tmp_path)})


def test_a_secret_shows_in_no_text_of_the_settings() -> None:
    assert "hunter2" not in repr(read(REDIS_URL="redis://:hunter2@h", HOOK_TOKEN="hunter2"))


def test_an_instance_name_is_never_used_again() -> None:
    assert len({read().instance for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "variable", ["REDIS_URL", "HOOK_TOKEN", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"]
)
def test_a_secret_may_come_from_a_file(tmp_path: Path, variable: str) -> None:
    path = tmp_path / "secret"
    path.write_text("redis://:pw@h\n")
    settings = read(**{f"{variable}_FILE": str(path)})
    if variable == "REDIS_URL":
        assert settings.redis_url == "redis://:pw@h"
    elif variable == "HOOK_TOKEN":
        assert settings.hook_token == "redis://:pw@h"
    else:
        assert settings.agent_environment == {variable: "redis://:pw@h"}


def test_a_secret_file_that_cannot_be_read_is_told_and_no_secret_is_shown(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^REDIS_URL_FILE is '/nowhere'"):
        read(REDIS_URL_FILE="/nowhere")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="not text"):
        read(REDIS_URL_FILE=str(tmp_path / "binary"))
    with pytest.raises(SettingsError) as caught:
        read(REDIS_URL="hunter2")
    assert "hunter2" not in str(caught.value)


def test_an_agent_sees_the_allow_list_and_what_is_named() -> None:
    environ = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "ANTHROPIC_API_KEY": "k",
        "CLAUDE_CONFIG_DIR": "/c",
        "AWS_REGION": "r",
        "https_proxy": "p",
        "MY_TOOL": "x",
        "SECRET": "s",
        "REDIS_URL": "redis://h",
        "API_TOKEN": "t",
        "API_TOKEN_FILE": "/t",
        "HOOK_TOKEN": "h",
        "CLAUDE_CLI": "/bin/claude",
        "WORKER_NAME": "marie",
        "LD_PRELOAD": "evil.so",
    }
    seen = agent_environment(environ, ("MY_TOOL", "REDIS_URL", "API_TOKEN_FILE"))
    assert set(seen) == {
        "PATH",
        "LC_ALL",
        "ANTHROPIC_API_KEY",
        "CLAUDE_CONFIG_DIR",
        "AWS_REGION",
        "https_proxy",
        "MY_TOOL",
    }
    assert read(AGENT_ENV="MY_TOOL", MY_TOOL="x").agent_environment == {"MY_TOOL": "x"}


def test_what_a_claude_session_tells_its_shell_is_not_passed_on() -> None:
    told = {"CLAUDE_PID": "1", "CLAUDE_CODE_SESSION_ID": "x", "CLAUDE_CODE_MESSAGING_TOKEN": "t"}
    assert agent_environment({**told, "CLAUDE_CODE_MAX_RETRIES": "2"}) == {"CLAUDE_CODE_MAX_RETRIES": "2"}
