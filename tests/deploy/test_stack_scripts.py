"""The scripts of the composed team, with an engine that only plays one: what they make of what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

ENGINE = r"""#!/bin/bash
# Plays docker: says what lies in its folder, and runs what is to be run in a container here, in that folder.
echo "$*" >> "$PLAY/calls"
case "$1" in
  info) [ ! -e "$PLAY/away" ] ;;
  ps) [ ! -e "$PLAY/rows" ] || echo ids ;;
  inspect) cat "$PLAY/rows" ;;
  exec) export NAME=$3; shift 3; exec "${@//\/shared/$PLAY/shared}" ;;
  image) [ -z "$NO_IMAGES" ] ;;
  build) echo built ;;
  logs) echo "the last words of ${!#}" ;;
  *) true ;;
esac
"""
IN_CONTAINER = r"""#!/bin/bash
# Stands in for every program of a container: the container's own answer, if it has one.
case "$*" in *healthcheck*|*readyz*|*redis.sh*) [ ! -e "$PLAY/$NAME.sick" ]; exit ;; esac
[ ! -e "$PLAY/$NAME.code" ] || code=$(cat "$PLAY/$NAME.code")
cat "$PLAY/$NAME.says" 2> /dev/null
exit "${code:-0}"
"""

ROWS = """\
marie /t_marie_1 running oneoff=False ["worker","marie"]
anga /t_anga_1 running oneoff=False ["worker","anga"]
orchestrator /t_orchestrator_1 running oneoff=False ["orchestrator"]
redis /t_redis_1 running oneoff= ["serve"]
maintenance /t_maintenance_run_1 running oneoff=True ["backup"]
"""
GOOD = "✓ PASS: {0}: heartbeat: fresh\n✓ PASS: {0}: log: there\nPassed: 2\nFailed: 0\n"


class Play:
    """A machine with an engine whose containers say what the test has written down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # A checkout without an environment of its own: its programs would be found before those that play here.
        self.checkout = folder / "checkout"
        shutil.copytree(REPOSITORY / "deploy", self.checkout / "deploy")
        (self.checkout / "agent_bus").mkdir()
        shutil.copy(REPOSITORY / "agent_bus" / "__init__.py", self.checkout / "agent_bus")
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in (
            "bash",
            "env",
            "dirname",
            "sort",
            "awk",
            "grep",
            "tr",
            "cat",
            "sleep",
            "find",
            "xargs",
            "sed",
            "rm",
        ):
            os.symlink(str(shutil.which(name)), self.bin / name)
        for name in ("cut", "paste", "uniq", "git"):
            os.symlink(str(shutil.which(name)), self.bin / name)
        self.program("docker", ENGINE)
        self.shared = folder / "shared"
        self.shared.mkdir()

    def program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def team(self, rows: str = ROWS) -> None:
        """Let this team run, with all well."""
        (self.folder / "rows").write_text(rows)
        for name in re.findall(r"/(t_\w+)", rows):
            (self.folder / f"{name}.says").write_text(GOOD.format(name.split("_")[1]))
        # In a container everything is played but the shell's own words.
        self.program("docker", ENGINE.replace('exec "${@', 'exec "$PLAY/inside" "${@'))
        inside = self.folder / "inside"
        inside.write_text(IN_CONTAINER)
        inside.chmod(0o755)

    def run(self, script: str, *arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        given = {"PATH": str(self.bin), "PLAY": str(self.folder), "CONTAINER_ENGINE": "docker", "HOME": "/"}
        return subprocess.run(
            ["bash", str(self.checkout / "deploy" / "compose" / script), *arguments],
            env=given | {"SHARED_DIR": str(self.shared), **environ},
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def calls(self, word: str) -> list[str]:
        return [line for line in (self.folder / "calls").read_text().splitlines() if line.startswith(word)]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return Play(tmp_path)


def test_the_field_check_has_one_count_for_all_containers(play: Play) -> None:
    play.team()
    said = play.run("field-check.sh", "--triggers", "3")
    lines = said.stdout.splitlines()
    assert said.returncode == 0, said
    # Two for each of four containers, and two from each of three services.
    assert lines[-2:] == ["Passed: 14", "Failed: 0"]
    assert sum("✓ PASS" in line for line in lines) == 14
    assert sum(line.startswith("Passed") for line in lines) == 1
    assert "maintenance" not in said.stdout
    assert all("--triggers 3" in call for call in play.calls("exec") if "codehornets check" in call)


def test_the_field_check_fails_with_what_is_broken(play: Play) -> None:
    play.team(ROWS.replace("/t_anga_1 running", "/t_anga_1 exited"))
    (play.folder / "t_marie_1.says").write_text(
        "✗ FAIL: marie: pipes: gone (mend)\n- LEFT OUT: marie: x: y\nFailed: 1\n"
    )
    (play.folder / "t_marie_1.code").write_text("1")
    (play.folder / "t_redis_1.sick").touch()
    (play.folder / "t_orchestrator_1.code").write_text("2")
    said = play.run("field-check.sh")
    assert said.returncode == 1
    assert [line for line in said.stdout.splitlines() if line.startswith("✗")] == [
        "✗ FAIL: anga: container: t_anga_1 is exited (see its log: deploy/compose/compose.sh logs anga)",
        "✗ FAIL: marie: pipes: gone (mend)",
        "✗ FAIL: orchestrator: check: codehornets check ended with 2 (what it says is above)",
        "✗ FAIL: redis: container: t_redis_1 is not healthy (see its log: deploy/compose/compose.sh logs redis)",
    ]
    assert said.stdout.splitlines()[-2:] == ["Failed: 4", "Left out: 1"]


def test_a_team_without_workers_is_no_team(play: Play) -> None:
    play.team(ROWS.splitlines()[2] + "\n")
    said = play.run("field-check.sh")
    assert said.returncode == 1
    assert "✗ FAIL: worker: container: there is none" in said.stdout


@pytest.mark.parametrize("engine", ["there", "away"])
def test_without_containers_the_team_of_this_machine_is_checked(play: Play, engine: str) -> None:
    if engine == "away":
        (play.folder / "away").touch()
    nothing = play.run("field-check.sh")
    assert nothing.returncode == 2
    assert nothing.stderr.startswith("Nothing runs, neither the composed team nor one on ")
    assert nothing.stderr.count("\n") == 1
    (play.shared / "heartbeats").mkdir()
    (play.shared / "heartbeats" / "marie-watcher.json").touch()
    play.program("codehornets", '#!/bin/bash\necho "✗ FAIL: marie: $*"\necho "Failed: 1"\nexit 1\n')
    said = play.run("field-check.sh", "--task")
    assert (said.returncode, said.stdout.splitlines()) == (
        1,
        [f"✗ FAIL: marie: check --shared-dir {play.shared} --task", "Passed: 0", "Failed: 1"],
    )


def trigger(play: Play, *names: str) -> list[Path]:
    paths = [play.shared / "triggers" / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def test_cleaning_counts_asks_and_leaves_the_rest_alone(play: Play) -> None:
    (play.folder / "away").touch()
    waiting = trigger(play, "marie/a.trigger", "marie/b c\nd.trigger", "anga/-rf.trigger")
    kept = trigger(play, "marie/.staged.tmp", "marie/note.txt", "../tasks/marie/dead-letter/x.trigger")
    kept += trigger(play, "../tasks/marie/inflight/i/1~2~y.trigger", "../results/marie/z.json")
    counted = play.run("triggers.sh", "count")
    assert counted.stdout.splitlines() == [f"Waiting triggers of {play.shared}: 3", "  anga: 1", "  marie: 2"]
    refused = play.run("triggers.sh", "clean", stdin="y\n")
    assert refused.returncode == 2
    assert "Nothing was deleted: nobody is there to be asked. YES=1" in refused.stderr
    assert all(path.exists() for path in waiting)
    done = play.run("triggers.sh", "clean", YES="1")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "Deleted: 3")
    assert not any(path.exists() for path in waiting)
    assert all(path.exists() for path in kept)
    assert play.run("triggers.sh", "clean").stdout == f"Waiting triggers of {play.shared}: 0\n"
    assert play.run("triggers.sh", "sweep").returncode == 2


def test_cleaning_works_in_a_container(play: Play) -> None:
    (play.folder / "rows").write_text(ROWS)
    (waiting,) = trigger(play, "marie/a.trigger")
    said = play.run("triggers.sh", "clean", YES="1", SHARED_DIR="/nowhere")
    assert said.stdout.splitlines() == ["Waiting triggers of the composed team: 1", "  marie: 1", "Deleted: 1"]
    assert not waiting.exists()


def test_a_rolling_restart_goes_on_only_when_the_one_before_is_ready(play: Play) -> None:
    play.team()
    said = play.run("rolling-restart.sh")
    assert said.returncode == 0, said
    restarted = [call.split()[-1] for call in play.calls("restart")]
    assert restarted == ["t_anga_1", "t_marie_1", "t_orchestrator_1"]
    (play.folder / "t_anga_1.sick").touch()
    (play.folder / "calls").unlink()
    said = play.run("rolling-restart.sh", START_TIMEOUT="0")
    assert said.returncode == 1
    assert [call.split()[-1] for call in play.calls("restart")] == ["t_anga_1"]
    assert said.stderr.splitlines() == [
        "t_anga_1 is not ready after 0 s; its last log lines:",
        "the last words of t_anga_1",
        "anga is not ready again; those after it were left alone.",
    ]
    assert "No service of the team is called nobody" in play.run("rolling-restart.sh", "nobody").stderr


def test_a_rolling_update_makes_each_container_anew_in_the_mode_it_had(play: Play) -> None:
    play.team()
    # The engine that plays here tells its containers and their variables in one breath.
    with (play.folder / "rows").open("a") as rows:
        rows.write("HOOKS_MODE=1\nACTIVATION_WRAPPER=0\nGOALS=1\nHOME=/elsewhere\n")
    play.program(
        "docker", (play.bin / "docker").read_text().replace("*) true", '*) echo "$HOOKS_MODE $HOME" >> "$PLAY/modes"')
    )
    said = play.run("rolling-restart.sh", "--update", HOOKS_MODE="0")
    assert said.returncode == 0, said
    made = [call.split()[-1] for call in play.calls("compose") if " up " in call]
    assert made == ["anga", "marie", "orchestrator"]
    assert all("-f goals.yaml" in call for call in play.calls("compose") if " up " in call)
    assert all("-d --no-deps --force-recreate" in call for call in play.calls("compose") if " up " in call)
    assert set((play.folder / "modes").read_text().splitlines()) == {"1 /"}
    assert not play.calls("restart")


@pytest.mark.parametrize(
    ("mode", "profile"), [("polling", ""), ("activated", "--profile activated "), ("hybrid", "--profile hybrid ")]
)
def test_starting_waits_and_says_what_comes_next(play: Play, mode: str, profile: str) -> None:
    play.team()
    said = play.run("start.sh", mode, ORCHESTRATOR_PORT="8799")
    assert said.returncode == 0, said
    assert play.calls("compose -f") == [f"compose -f compose.yaml {profile}up -d"]
    assert "The API is at http://127.0.0.1:8799" in said.stdout
    assert said.stdout.count(" is ready\n") == 4


def test_a_service_that_does_not_come_up_is_named_with_its_last_words(play: Play) -> None:
    play.team()
    (play.folder / "t_marie_1.sick").touch()
    said = play.run("start.sh", "hooks", START_TIMEOUT="0")
    assert said.returncode == 1
    assert "t_marie_1 is not ready after 0 s; its last log lines:" in said.stderr
    assert said.stderr.splitlines()[-1].startswith("marie is not ready: see above")
    assert "The API is at" not in said.stdout
    assert play.run("start.sh", "walking").returncode == 2


def test_stopping_names_the_profiles_of_what_runs(play: Play) -> None:
    assert "nothing to stop" in play.run("stop.sh").stdout
    play.team()
    assert play.run("stop.sh").returncode == 0
    assert play.calls("compose -f") == ["compose -f compose.yaml --profile redis down -t 60"]


def make(*arguments: str) -> str:
    """Return what make prints, as if nobody had called it by another make."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    run = ["make", *arguments]
    return subprocess.run(run, cwd=REPOSITORY, env=environ, capture_output=True, text=True, check=True).stdout


def test_make_help_lists_every_target_of_both_files() -> None:
    said = make("-s", "help")
    listed = set(re.findall(r"^  make (\S+) +\S", said, re.MULTILINE))
    text = (REPOSITORY / "Makefile").read_text() + (REPOSITORY / "deploy" / "compose" / "containers.mk").read_text()
    phony = {name for line in re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE) for name in line.split()}
    assert listed >= phony
    wanted = {"start", "start-activated", "start-hooks", "start-hybrid", "stop", "stop-hooks", "stop-hybrid"}
    wanted |= {"restart-hooks", "restart-hybrid", "rolling-restart", "logs-watcher-marie", "logs-watcher-anga"}
    wanted |= {
        "logs-watcher-fabien",
        "logs-watcher-%",
        "test-hooks",
        "hooks-status",
        "check-triggers",
        "clean-triggers",
    }
    wanted |= {"check-pipes", "build", "backup", "restore", "test-containers"}
    assert wanted <= listed
    assert max(map(len, said.splitlines())) <= 130


def test_the_log_of_any_service_can_be_followed() -> None:
    for name in ("marie", "lea"):
        assert make("-n", f"logs-watcher-{name}") == f"deploy/compose/compose.sh logs -f --tail=100 {name}\n"
