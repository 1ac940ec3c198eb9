"""What the orchestrator in a container is told, and the API token that it makes for itself."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator_service.container import api_token
from orchestrator_service.container.orchestrator import start_command_line, start_orchestrator
from orchestrator_service.container.refusal import Refused


@pytest.fixture
def container(tmp_path: Path, shared: Path) -> dict[str, str]:
    """The environment of the orchestrator's container."""
    ledger = tmp_path / "state" / "ledger.sqlite3"
    return {"SHARED_DIR": str(shared), "LEDGER_PATH": str(ledger), "HTTP_HOST": "0.0.0.0", "HTTP_PORT": "8700"}


def test_it_makes_one_token_that_nobody_is_shown(tmp_path: Path, container: dict[str, str]) -> None:
    path = tmp_path / "state" / "api-token"
    start = start_orchestrator(container)
    token = path.read_text().strip()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(token) >= 43
    assert start.environ["API_TOKEN_FILE"] == str(path)
    assert start.line is not None
    assert str(path) in start.line
    assert token not in start.line + " ".join(start.environ.values())
    start_orchestrator(container)
    assert path.read_text().strip() == token
    assert [each.name for each in path.parent.iterdir()] == ["api-token"]


@pytest.mark.parametrize("variable", ["API_TOKEN", "API_TOKENS"])
def test_a_token_that_is_given_is_used_and_none_made(tmp_path: Path, container: dict[str, str], variable: str) -> None:
    start = start_orchestrator({**container, variable: "admin:admin:0123456789abcdef"})
    assert start.line is not None
    assert start.line.endswith(f"API tokens from {variable}")
    assert "0123456789abcdef" not in start.line
    assert not (tmp_path / "state" / "api-token").exists()
    given = tmp_path / "given"
    given.write_text("0123456789abcdef\n")
    start = start_orchestrator({**container, f"{variable}_FILE": str(given)})
    assert start.environ[f"{variable}_FILE"] == str(given)
    assert not (tmp_path / "state" / "api-token").exists()


def test_an_empty_file_of_a_token_is_none(tmp_path: Path, container: dict[str, str]) -> None:
    (tmp_path / "given").write_text("\n")
    start = start_orchestrator({**container, "API_TOKEN_FILE": str(tmp_path / "given")})
    assert start.environ["API_TOKEN_FILE"] == str(tmp_path / "state" / "api-token")


def test_an_empty_token_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "api-token"
    path.write_text("")
    assert api_token.need_token(tmp_path) == path
    assert len(path.read_text()) > 40
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_of_many_that_start_at_once_one_makes_the_token(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(lambda _: api_token.need_token(tmp_path).read_text(), range(32)))
    assert len(found) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["api-token"]


def test_a_token_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "api-token").mkdir()
    with pytest.raises(Refused, match=r"the API token .*/api-token cannot be made or read by user \d+ \(Is a direct"):
        api_token.need_token(tmp_path)


def test_the_command_line_finds_the_token_and_makes_none(tmp_path: Path, container: dict[str, str]) -> None:
    start = start_command_line(container, ["tasks", "--json"])
    assert "API_TOKEN_FILE" not in start.environ
    assert not (tmp_path / "state").exists()
    assert start.line is None
    start_orchestrator(container)
    start = start_command_line(container, ["tasks", "--json"])
    assert start.environ["API_TOKEN_FILE"] == str(tmp_path / "state" / "api-token")
    assert start.command[1:] == ["-P", "-m", "orchestrator_service.cli", "tasks", "--json"]
    start = start_command_line({**container, "API_TOKEN": "mine"}, [])
    assert "API_TOKEN_FILE" not in start.environ


def test_the_command_line_reaches_the_redis_of_its_container(container: dict[str, str]) -> None:
    given = {**container, "DEFAULT_REDIS_URL": "redis://redis:6379/0"}
    assert "REDIS_URL" not in start_command_line(given, []).environ
    given |= {"ACTIVATION_WRAPPER": "1", "ACTIVATION_MODE": "redis"}
    assert start_command_line(given, []).environ["REDIS_URL"] == "redis://redis:6379/0"


def test_it_listens_where_the_container_says(tmp_path: Path, container: dict[str, str]) -> None:
    team = tmp_path / "team.toml"
    team.write_text("[workers.marie]\n[orchestrator]\nhttp_port = 9\nmax_in_flight = 3\n")
    told = start_orchestrator({**container, "TEAM_FILE": str(team)}).environ
    assert (told["HTTP_HOST"], told["HTTP_PORT"]) == ("0.0.0.0", "8700")
    assert (told["TEAM_FILE"], told["MAX_IN_FLIGHT"]) == (str(team), "3")


@pytest.mark.parametrize(
    ("environ", "team_mode", "has_redis"),
    [
        ({"ACTIVATION_WRAPPER": "1", "HOOKS_MODE": "1"}, None, True),
        ({"ACTIVATION_WRAPPER": "1", "ACTIVATION_MODE": "redis"}, None, True),
        ({}, "hybrid", True),
        ({"ACTIVATION_WRAPPER": "1", "HOOKS_MODE": "1"}, "hooks", False),
        ({}, None, False),
    ],
)
def test_it_has_the_redis_that_its_workers_have(
    tmp_path: Path, container: dict[str, str], environ: dict[str, str], team_mode: str | None, has_redis: bool
) -> None:
    if team_mode is not None:
        team = tmp_path / "team.toml"
        team.write_text(f'mode = "{team_mode}"\n[workers.marie]\n')
        container["TEAM_FILE"] = str(team)
    start = start_orchestrator({**container, **environ, "DEFAULT_REDIS_URL": "redis://redis"})
    assert start.environ.get("REDIS_URL") == ("redis://redis" if has_redis else None)
    assert start.line is not None
    assert (", Redis," in start.line, ", no Redis," in start.line) == (has_redis, not has_redis)
