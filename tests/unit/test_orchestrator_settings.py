"""What the orchestrator is told from outside: a wrong value is one sentence, and no secret is ever in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator_service.settings import OrchestratorSettings, Role, read_settings
from service_kit.environment import SettingsError

SECRET = "a-secret-of-24-characters"


def read(shared: Path, **environ: str) -> OrchestratorSettings:
    return read_settings({"SHARED_DIR": str(shared), **environ})


def test_without_a_word_there_is_a_loopback_api_and_no_limit(shared: Path) -> None:
    settings = read(shared)
    assert (settings.api.host, settings.api.port, settings.api.tokens) == ("127.0.0.1", 8700, ())
    assert settings.ledger == shared / "orchestrator" / "ledger.sqlite3"
    assert (settings.budget.task_usd, settings.budget.day_usd, settings.max_in_flight) == (None, None, None)
    assert settings.silent_after_s == 60.0
    assert settings.api.cors_origins == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SHARED_DIR", "/nowhere"),
        ("TEAM_FILE", "/nowhere.yaml"),
        ("WORKERS", "marie,../anga"),
        ("REDIS_URL", "http://host"),
        ("HTTP_PORT", "65536"),
        ("HTTP_PORT", "-1"),
        ("HTTP_HOST", "0.0.0.0"),
        ("API_TOKEN", "short"),
        ("API_TOKENS", "marie:king:" + SECRET),
        ("API_TOKENS", SECRET),
        ("API_TOKENS", "marie:read"),
        ("API_TOKENS", f"a:read:{SECRET}\na:admin:{SECRET}"),
        ("MAX_REQUEST_BYTES", "1"),
        ("RATE_LIMIT", "-1"),
        ("RATE_LIMIT", "nan"),
        ("RATE_BURST", "0"),
        ("CORS_ORIGINS", "*"),
        ("TASK_BUDGET_USD", "0"),
        ("TASK_BUDGET_USD", "inf"),
        ("DAY_BUDGET_USD", "5"),
        ("WORKER_BUDGET_USD", "5"),
        ("BUDGET_TIMEZONE", "Mars"),
        ("BUDGET_TIMEZONE", "../../etc/passwd"),
        ("CLAUDE_CLI", "/nowhere"),
        ("GOAL_MODEL", "two words"),
        ("GOAL_MAX_TASKS", "0"),
        ("GOAL_MAX_DEPTH", "11"),
        ("GOAL_TIMEOUT", "soon"),
        ("GOAL_BUDGET_USD", "-1"),
        ("GOAL_MAX_RUNNING", "0"),
        ("WORKER_SILENT_AFTER", "0"),
        ("MAX_IN_FLIGHT", "0"),
        ("LEDGER_KEEP_DAYS", "-1"),
        ("CHECK_INTERVAL", "nan"),
        ("RESCAN_INTERVAL", "0"),
        ("HEARTBEAT_INTERVAL", "1e9"),
        ("LOG_LEVEL", "LOUD"),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_it(shared: Path, name: str, value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read(shared, **{name: value})
    sentence = str(refused.value)
    assert name in sentence
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert SECRET not in sentence


@pytest.mark.parametrize("name", ["DAY_BUDGET_USD", "WORKER_BUDGET_USD"])
def test_a_limit_of_a_day_needs_one_of_a_task(shared: Path, name: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read(shared, **{name: "5"})
    assert str(refused.value) == (
        f"{name} needs TASK_BUDGET_USD, which says what to reserve for a task that names no budget."
    )
    with pytest.raises(SettingsError, match=f"TASK_BUDGET_USD is 6 and {name} 5: no task could ever be sent"):
        read(shared, TASK_BUDGET_USD="6", **{name: "5"})
    assert read(shared, TASK_BUDGET_USD="5", **{name: "5"}).budget.task_usd == 5.0


def test_secrets_are_shown_nowhere(shared: Path, tmp_path: Path) -> None:
    told = tmp_path / "tokens"
    told.write_text(f"# people\nmarie:submit:{SECRET}\n\nanga:read:{SECRET}x\n")
    settings = read(
        shared, API_TOKENS_FILE=str(told), API_TOKEN=SECRET + "y", REDIS_URL="redis://:pass-of-redis@host/0"
    )
    assert [(token.name, token.role) for token in settings.api.tokens] == [
        ("marie", Role.SUBMIT),
        ("anga", Role.READ),
        ("admin", Role.ADMIN),
    ]
    for text in (repr(settings), str(settings), repr(settings.api), repr(settings.api.tokens)):
        assert SECRET not in text
        assert "pass-of-redis" not in text
    assert read(shared, HTTP_HOST="0.0.0.0", API_TOKEN=SECRET).api.host == "0.0.0.0"


def test_each_role_may_do_what_those_before_it_may() -> None:
    assert [[role.allows(needed) for needed in Role] for role in Role] == [
        [True, False, False, False],
        [True, True, False, False],
        [True, True, True, False],
        [True, True, True, True],
    ]
