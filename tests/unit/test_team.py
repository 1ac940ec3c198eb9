from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator_service.orchestrator_environment import orchestrator_environment
from orchestrator_service.team import EXAMPLE_TEAM, Team, TeamError, read_team
from orchestrator_service.worker_environment import (
    choose_agent,
    choose_shared_dir,
    prepare_workspace,
    worker_command,
    worker_environment,
)


def team_of(tmp_path: Path, text: str) -> Team:
    path = tmp_path / "team.toml"
    path.write_text(text)
    return read_team(path)


def test_the_shipped_example_is_right_and_has_its_three_styles() -> None:
    team = read_team(EXAMPLE_TEAM)

    assert list(team.workers) == ["marie", "anga", "fabien"]
    assert team.mode is None
    for plan in team.workers.values():
        assert plan.output_style is not None
        head = plan.output_style.read_text().split("---")[1]
        assert f"name: {plan.name}\n" in head
        assert "description: " in head


def test_a_worker_takes_what_it_does_not_say_from_the_defaults(tmp_path: Path) -> None:
    team = team_of(
        tmp_path,
        """
        [defaults]
        slots = 3
        model = "sonnet"
        environment = { A = "1", B = "2" }
        [workers.ann]
        slots = 5
        environment = { B = "3" }
        [workers.bob]
        """,
    )

    assert (team.worker("ann").slots, team.worker("bob").slots) == (5, 3)
    assert team.worker("ann").model == "sonnet"
    assert team.worker("ann").environment == {"A": "1", "B": "3"}


def test_relative_paths_are_meant_from_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "style.md").write_text("be brief")
    team = team_of(tmp_path, 'shared_dir = "s"\n[workers.ann]\noutput_style = "style.md"\nworkspace = "w"')

    assert team.shared_dir == tmp_path / "s"
    assert team.worker("ann").output_style == tmp_path / "style.md"
    assert team.worker("ann").workspace == tmp_path / "w"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("moode = 'x'\n[workers.a]", "moode is 'x', and there is no such key"),
        ("mode = 'fast'\n[workers.a]", "mode is 'fast'; allowed is polling, event-driven, hooks or hybrid"),
        ("agent = 1\n[workers.a]", "agent is 1; allowed is auto, claude, command or echo"),
        ("[workers.a]\nslots = 0", "workers.a.slots is 0; allowed is a whole number from 1 to 1000"),
        ("[workers.a]\nslots = true", "workers.a.slots is True; allowed is a whole number"),
        ("[workers.a]\nslot = 1", "workers.a.slot is 1, and there is no such key"),
        ("[defaults]\nslots = '4'\n[workers.a]", "defaults.slots is '4'; allowed is a whole number"),
        ("[workers.a]\nstuck_action = 'kill'", "workers.a.stuck_action is 'kill'; allowed is end or tell"),
        ("[workers.a]\nstuck_after = -1", "workers.a.stuck_after is -1; allowed is seconds"),
        ("[workers.a]\ntask_timeout = nan", "workers.a.task_timeout is nan; allowed is seconds"),
        ("[workers.a]\nmax_budget_usd = -1", "workers.a.max_budget_usd is -1; allowed is a number above 0"),
        ("[workers.a]\nmodel = 'two words'", "workers.a.model is 'two words'; allowed is the name of a model"),
        ("[workers.a]\nskills = 'x'", "workers.a.skills is 'x'; allowed is a list of texts"),
        ("[workers.a]\noutput_style = 'none.md'", "workers.a.output_style is 'none.md'; allowed is the path"),
        (
            "[workers.a]\npermission_mode = 'yolo'",
            "workers.a.permission_mode is 'yolo'; allowed is default, acceptEdits",
        ),
        ("[workers.a.environment]\nSHARED_DIR = '/x'", "workers.a.environment is {'SHARED_DIR': '/x'}; allowed is"),
        ("[workers.a]\nhttp_port = 70000", "workers.a.http_port is 70000; allowed is a whole number from 0 to 65535"),
        ("[workers.'a/b']", "workers.'a/b' is no name for a worker"),
        ("workers = 3", "workers is 3; allowed is a table"),
        ("[workers]\na = 3", "workers.a is 3; allowed is a table [workers.a]"),
        ("mode = 'polling'", "names no worker"),
        ("[workers.a", "is not valid TOML"),
    ],
)
def test_a_mistake_is_one_sentence_with_file_key_value_and_what_is_allowed(
    tmp_path: Path, text: str, expected: str
) -> None:
    with pytest.raises(TeamError) as caught:
        team_of(tmp_path, text)

    sentence = str(caught.value)
    assert expected in sentence
    assert str(tmp_path / "team.toml") in sentence
    assert "\n" not in sentence


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(TeamError, match=r"cannot be read: No such file.*codehornets init"):
        read_team(tmp_path / "none.toml")
    (tmp_path / "team.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(TeamError, match="is not UTF-8"):
        read_team(tmp_path / "team.toml")


def test_an_unknown_worker_is_told_with_those_there_are() -> None:
    with pytest.raises(TeamError, match=r"No worker 'bob' in .*it has marie, anga, fabien"):
        read_team(EXAMPLE_TEAM).worker("bob")


def test_the_environment_says_all_that_the_team_says(tmp_path: Path) -> None:
    team = team_of(
        tmp_path,
        """
        [workers.ann]
        slots = 2
        warm_processes = 0
        task_timeout = 1234567
        allowed_tools = ["Read", "Bash(git log:*, git show:*)"]
        max_turns = 9
        max_budget_usd = 0.5
        stuck_after = 0.5
        stuck_linger = 0
        stuck_repeats = 4
        stuck_action = "tell"
        environment = { EXTRA = "yes" }
        """,
    )
    environ = {"PATH": "/bin", "TRIGGER_DIR": "/elsewhere", "MODEL": "haiku", "MAX_CONCURRENT": "7"}

    made = worker_environment(team, team.worker("ann"), environ, shared_dir=tmp_path / "s")

    assert made["WORKER_NAME"] == "ann"
    assert made["SHARED_DIR"] == str(tmp_path / "s")
    assert made["WORKSPACE"] == str(tmp_path / "s" / "workspaces" / "ann")
    assert made["WORKER_MODE"] == "event-driven"
    assert made["MAX_CONCURRENT"] == "2"
    assert made["WARM_PROCESSES"] == "0"
    assert float(made["TASK_TIMEOUT"]) == 1234567
    assert made["ALLOWED_TOOLS"] == "Read,Bash(git log:*, git show:*)"
    assert (made["MAX_TURNS"], made["MAX_BUDGET_USD"]) == ("9", "0.5")
    assert (float(made["STUCK_AFTER"]), float(made["STUCK_LINGER"])) == (0.5, 0)
    assert (made["STUCK_REPEATS"], made["STUCK_ACTION"]) == ("4", "tell")
    assert (made["HTTP_HOST"], made["HTTP_PORT"]) == ("127.0.0.1", "0")
    assert made["MODEL"] == "haiku"
    assert made["EXTRA"] == "yes"
    assert made["PATH"] == "/bin"
    # One worker's place, inherited by all, would make them take each other's tasks.
    assert "TRIGGER_DIR" not in made


@pytest.mark.parametrize(
    ("team_agent", "environ", "given", "expected"),
    [
        ("auto", {}, None, "echo"),
        ("auto", {"ANTHROPIC_API_KEY": "k"}, None, "claude"),
        ("auto", {"ANTHROPIC_API_KEY_FILE": "/run/key"}, None, "claude"),
        ("auto", {"ANTHROPIC_API_KEY": "k", "AGENT": "echo"}, None, "echo"),
        ("claude", {"AGENT": "echo"}, None, "claude"),
        ("claude", {}, "echo", "echo"),
        ("echo", {}, "auto", "echo"),
    ],
)
def test_the_agent_is_claude_where_it_can_log_in_and_nothing_else_is_said(
    tmp_path: Path, team_agent: str, environ: dict[str, str], given: str | None, expected: str
) -> None:
    team = team_of(tmp_path, f"agent = '{team_agent}'\n[workers.ann]")

    chosen = choose_agent(team, team.worker("ann"), {"HOME": str(tmp_path), **environ}, given)

    assert chosen == expected


def test_the_shared_directory_is_the_given_one_else_the_environment_else_the_team_else_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    team = team_of(tmp_path, 'shared_dir = "t"\n[workers.a]')

    assert choose_shared_dir(team, {"SHARED_DIR": "e"}, Path("g")) == tmp_path / "g"
    assert choose_shared_dir(team, {"SHARED_DIR": "e"}) == tmp_path / "e"
    assert choose_shared_dir(team, {}) == tmp_path / "t"
    assert choose_shared_dir(None, {}) == tmp_path / "shared"


def test_a_default_workspace_is_made_and_a_named_one_must_be_there(tmp_path: Path) -> None:
    team = team_of(tmp_path, '[workers.ann]\n[workers.bob]\nworkspace = "nowhere"')

    prepare_workspace(team, team.worker("ann"), tmp_path / "s")

    assert (tmp_path / "s" / "workspaces" / "ann").is_dir()
    with pytest.raises(TeamError, match=r"workers\.bob\.workspace is .*nowhere.*exists"):
        prepare_workspace(team, team.worker("bob"), tmp_path / "s")


def test_a_worker_does_not_import_what_lies_in_the_current_directory() -> None:
    assert worker_command("ann")[1:] == ["-P", "-m", "worker_service", "ann"]


def test_rules_beside_the_team_file_are_those_of_its_workers(tmp_path: Path) -> None:
    team = team_of(tmp_path, "[workers.ann]\n[workers.bob.environment]\nHOOKS_CONFIG = '/own.json'\n")
    for name in ("ann", "bob"):
        (tmp_path / "hooks-config").mkdir(exist_ok=True)
        (tmp_path / "hooks-config" / f"{name}-hooks.json").write_text("[]")
    made = [worker_environment(team, team.worker(name), {}, shared_dir=tmp_path / "s") for name in ("ann", "bob")]
    assert made[0]["HOOKS_CONFIG"] == str(tmp_path / "hooks-config" / "ann-hooks.json")
    assert made[1]["HOOKS_CONFIG"] == "/own.json"


def test_a_redis_of_the_team_gives_way_to_the_environment(tmp_path: Path) -> None:
    team = team_of(tmp_path, 'redis_url = "redis://h/0"\n[workers.ann]')
    ann = team.worker("ann")

    def of(**environ: str) -> dict[str, str]:
        made = worker_environment(team, ann, environ, shared_dir=tmp_path)
        return {name: value for name, value in made.items() if name.startswith("REDIS_")}

    assert of() == {"REDIS_URL": "redis://h/0"}
    assert of(REDIS_URL="redis://:pw@h/0") == {"REDIS_URL": "redis://:pw@h/0"}
    assert of(REDIS_URL_FILE="f") == {"REDIS_URL_FILE": "f"}


@pytest.mark.parametrize("url", ["redis://:hunter2@h", "redis://u:hunter2@h", "redis://h?password=hunter2"])
def test_a_password_in_a_team_file_is_refused_and_not_shown(tmp_path: Path, url: str) -> None:
    with pytest.raises(TeamError, match="REDIS_URL_FILE") as refusal:
        team_of(tmp_path, f'redis_url = "{url}"\n[workers.ann]')
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("text", ["redis_url = 5", 'redis_url = "http://h"', 'redis_url = "redis://h/x"'])
def test_a_wrong_redis_url_is_told_with_its_key(tmp_path: Path, text: str) -> None:
    with pytest.raises(TeamError, match="redis_url"):
        team_of(tmp_path, f"{text}\n[workers.ann]")


def test_the_orchestrator_has_a_table_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "team.toml").write_text(
        "[orchestrator]\nhttp_port = 0\nmax_in_flight = 3\nday_budget_usd = 5\ngoal_model = 'opus'\n"
        "[workers.ann]\nslots = 2\n"
    )
    team = read_team(tmp_path / "team.toml")
    environ = orchestrator_environment(
        team, {"MODEL": "sonnet", "DAY_BUDGET_USD": "9", "HTTP_HOST": "0.0.0.0", "API_TOKEN": "t"}, shared_dir=tmp_path
    )
    assert {name: environ.get(name) for name in ("HTTP_PORT", "MAX_IN_FLIGHT", "DAY_BUDGET_USD", "GOAL_MODEL")} == {
        "HTTP_PORT": "0",
        "MAX_IN_FLIGHT": "3",
        "DAY_BUDGET_USD": "5.0",
        "GOAL_MODEL": "opus",
    }
    assert (environ["TEAM_FILE"], environ["SHARED_DIR"]) == (str(team.path), str(tmp_path))
    assert (environ["HTTP_HOST"], environ["API_TOKEN"]) == ("127.0.0.1", "t")
    assert "MODEL" not in environ


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[orchestrator]\nport = 1\n[workers.ann]", "orchestrator.port is 1, and there is no such key"),
        ("[orchestrator]\nenabled = 1\n[workers.ann]", "orchestrator.enabled is 1; allowed is true or false"),
        ("orchestrator = 1\n[workers.ann]", "orchestrator is 1; allowed is a table"),
        ("[workers.orchestrator]", "workers.orchestrator is the orchestrator's own name"),
    ],
)
def test_what_is_wrong_with_it_is_told(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "team.toml").write_text(text)
    with pytest.raises(TeamError) as refusal:
        read_team(tmp_path / "team.toml")
    assert words in str(refusal.value)
