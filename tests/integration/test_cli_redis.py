"""The command line with a real Redis: beside a shared directory, and alone."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from agent_bus.redis.keys import WorkerKeys, result_by_id
from tests.integration.harness import ChildWorker, Shop, child_worker
from tests.integration.redis_harness import ring, submit, submit_raw
from tests.integration.test_cli_live import Team, team
from tests.redis_server import RedisServer, running_redis
from tests.waiting import wait_until

__all__ = ["team"]

pytestmark = pytest.mark.timeout(120)

PASSWORD = "hunter2"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path / "redis", password=PASSWORD, durable=True) as running:
        yield running


@pytest.fixture
def far(team: Team, server: RedisServer) -> Team:
    """The command on a host that has Redis, and no shared directory."""
    (team.folder / "team.toml").unlink()
    return replace(team, environ={**team.environ, "REDIS_URL": server.url})


@contextmanager
def worker_alone(tmp_path: Path, server: RedisServer, **environ: str) -> Iterator[ChildWorker]:
    """Run marie on Redis alone; her places are nobody's else."""
    home = tmp_path / "marie"
    with child_worker(home, REDIS_URL=server.url, WORKER_MODE="hybrid", **environ) as worker:
        yield worker


@pytest.fixture
def marie(tmp_path: Path, server: RedisServer) -> Iterator[ChildWorker]:
    """A worker on another host: it shares nothing with the command but Redis."""
    with worker_alone(tmp_path, server, HEARTBEAT_INTERVAL="1") as worker:
        worker.port()
        wait_until(lambda: beats(server), what="a heartbeat in Redis")
        yield worker


def beats(server: RedisServer) -> list[bytes]:
    with server.client() as client:
        found = client.keys("codehornets:heartbeat:marie:*")
        return [value for key in found if (value := client.get(key))]


def refused(said: CompletedProcess[str], *words: str) -> None:
    """Check that it was refused in one sentence, without the password."""
    assert said.returncode == 2, said
    assert said.stderr.count("\n") == 1, said.stderr
    assert "Traceback" not in said.stderr
    for word in words:
        assert word in said.stderr
    assert PASSWORD not in said.stdout + said.stderr


# -- handing in and waiting


def test_a_task_goes_to_another_host_and_its_result_comes_back(far: Team, marie: ChildWorker) -> None:
    waited = far.run("submit", "marie", "say this", "--wait")
    assert (waited.returncode, waited.stdout, waited.stderr) == (0, "say this\n", "")

    handed_in = json.loads(far.run("submit", "marie", "later", "--id", "t-1", "--json").stdout)
    assert handed_in == {"task_id": "t-1", "worker": "marie", "stream": "codehornets:tasks:marie"}
    assert far.run("result", "t-1", "--wait", "--wait-timeout", "20").stdout == "later\n"
    assert json.loads(far.run("result", "t-1", "--json").stdout)["status"] == "completed"
    refused(far.run("submit", "marie", "again", "--id", "t-1"), "Task t-1 has its result in Redis (completed)")
    refused(far.run("cancel", "t-1"), "Task t-1 has ended already (completed)")


def test_the_exit_codes_are_those_of_files(far: Team, tmp_path: Path, server: RedisServer) -> None:
    with worker_alone(tmp_path, server, AGENT="command", AGENT_COMMAND="sh -c 'read word; exec sleep $word'") as worker:
        worker.port()
        assert far.run("submit", "marie", "none", "--wait").returncode == 1
        assert far.run("submit", "marie", "60", "--timeout", "0.2", "--wait").returncode == 3
        assert far.run("submit", "marie", "60", "--id", "long", "--wait-timeout", "0.2").returncode == 5
        wait_until(lambda: "it is running at marie" in far.run("result", "long").stderr, 20)
        cancelled = far.run("cancel", "long")
        assert (cancelled.returncode, cancelled.stdout) == (0, "marie was told to cancel task long.\n")
        assert far.run("result", "long", "--wait").returncode == 4


def test_a_task_for_nobody_waits_and_says_so(far: Team, server: RedisServer) -> None:
    given = far.run("submit", "marie", "x", "--id", "t")
    assert given.returncode == 0
    assert given.stderr == (
        "codehornets: No worker 'marie' lives in Redis at "
        f"redis://:***@127.0.0.1:{server.port}/0; the task waits for one.\n"
    )
    refused(far.run("submit", "marie", "x", "--id", "t"), "Task t is waiting at marie already; take another --id.")
    waits = far.run("result", "t")
    assert (waits.returncode, waits.stdout) == (5, "")
    assert "it is waiting at marie" in waits.stderr
    assert far.run("result", "t", "--wait-timeout", "0.1").returncode == 5
    assert far.run("cancel", "t").stdout == "marie was told to cancel task t.\n"
    with server.client() as client:
        assert client.exists(WorkerKeys("marie").cancel("t"))


def test_cancel_of_an_unknown_task_needs_its_worker(far: Team, server: RedisServer) -> None:
    refused(far.run("cancel", "t"), "has a task t; name the worker with --worker")
    assert far.run("cancel", "t", "--worker", "marie").returncode == 0
    with server.client() as client:
        assert client.exists(WorkerKeys("marie").cancel("t"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("submit", "../x", "y"), "'../x' is no name for a worker"),
        (("submit", "marie", "y", "--priority", "soon"), "--priority is 'soon'"),
        (("submit", "marie", "y", "--timeout", "-1"), "The task is refused: field timeout is -1"),
        (("submit", "marie", "y", "--id", "a b"), "The task is refused: field task_id"),
        (("submit", "marie", "y", "--via", "pigeon"), "--via is 'pigeon'; allowed are api, file or redis."),
        (("submit", "marie", "y", "--via", "file"), "There is no shared directory"),
        (("result", "../x"), "is no task id"),
        (("result", "unknown"), "No task unknown in Redis at redis://:***@"),
        (("control", "marie", "status"), "No worker 'marie' listens in Redis at redis://:***@"),
        (("control", "all", "pause"), "No worker listens in Redis"),
        (("control", "marie", "dance"), "'dance' is no command"),
        (("watch", "a/b"), "'a/b' is no name for a worker"),
        (("dead-letters", "show", "x"), "No dead letter 'x' in Redis at redis://:***@"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(far: Team, arguments: tuple[str, ...], words: str) -> None:
    refused(far.run(*arguments), words)


def test_waiting_goes_on_when_redis_is_restarted(far: Team, server: RedisServer) -> None:
    with far.running("submit", "marie", "x", "--id", "t", "--wait") as waiting:
        wait_until(lambda: entries(server) == 1)
        server.kill()
        waiting.wait_for("trying again")
        server.start()
        waiting.wait_for("Redis is back.")
        assert entries(server) == 1
        with server.client() as client:
            done = {"task_id": "t", "worker": "marie", "instance": "i", "status": "completed", "output": "yes"}
            moment = "2026-01-01T00:00:00Z"
            client.set(result_by_id("t"), json.dumps({**done, "completed_at": moment, "timestamp": moment}))
            client.xadd("codehornets:results", {"result": "{}"})
        assert waiting.process.wait(20) == 0
    assert waiting.text.endswith("yes\n")
    assert waiting.text.count("trying again") == 1
    assert PASSWORD not in waiting.text


def entries(server: RedisServer) -> int:
    with server.client() as client:
        return int(client.xlen(WorkerKeys("marie").tasks))  # type: ignore[arg-type]


def test_a_result_that_cannot_be_understood_is_told(far: Team, server: RedisServer) -> None:
    with server.client() as client:
        client.set(result_by_id("t"), "nonsense")
    refused(far.run("result", "t"), "{codehornets:results}:by-id:t in Redis is no result")
    refused(far.run("result", "t", "--wait"), "{codehornets:results}:by-id:t in Redis is no result")


# -- both places


def test_the_way_is_chosen_where_both_are(team: Team, shop: Shop, shared: Path, server: RedisServer) -> None:
    team.environ.update(SHARED_DIR=str(shared), REDIS_URL=server.url)
    shop.layout.heartbeats.mkdir(parents=True, exist_ok=True)
    assert team.run("submit", "marie", "x", "--id", "by-file").returncode == 0
    assert (shop.layout.triggers / "task-by-file.trigger").exists()
    assert entries(server) == 0
    assert team.run("submit", "marie", "x", "--id", "by-redis", "--via", "redis").returncode == 0
    assert entries(server) == 1
    # Nobody of that name lives anywhere: the name is more likely wrong than the worker asleep.
    refused(team.run("submit", "mary", "x"), "No worker 'mary'")
    for task_id in ("by-file", "by-redis"):
        assert "it is waiting at marie" in team.run("result", task_id).stderr
        assert team.run("cancel", task_id).returncode == 0
    assert (shop.layout.tasks / "by-file.cancel").exists()
    assert not (shop.layout.tasks / "by-redis.cancel").exists()
    with server.client() as client:
        assert client.exists(WorkerKeys("marie").cancel("by-redis"))


def test_a_worker_that_is_known_to_redis_alone_is_reached_there(
    team: Team, marie: ChildWorker, server: RedisServer
) -> None:
    (team.folder / "shared").mkdir()
    assert team.run("submit", "marie", "hello", "--redis", server.url, "--wait").stdout == "hello\n"
    team.environ["REDIS_URL"] = server.url
    assert team.run("submit", "marie", "hello", "--wait").stdout == "hello\n"


def test_files_go_on_without_redis(team: Team, shop: Shop, shared: Path) -> None:
    team.environ.update(SHARED_DIR=str(shared), REDIS_URL=f"redis://:{PASSWORD}@127.0.0.1:1/0")
    assert team.run("submit", "marie", "x", "--id", "t").returncode == 0
    assert "it is waiting at marie" in team.run("result", "t").stderr
    for command in (("status", "--json"), ("dead-letters", "list", "--json")):
        said = team.run(*command)
        assert said.returncode == 0
        assert isinstance(json.loads(said.stdout), list)
        assert "Connection refused" in said.stderr
        assert PASSWORD not in said.stderr
    cancelled = team.run("cancel", "later", "--worker", "marie")
    assert (cancelled.returncode, "Connection refused" in cancelled.stderr) == (0, True)
    assert (shop.layout.tasks / "later.cancel").exists()
    shop.layout.result("t").write_text("{}")
    refused(team.run("result", "t"), "is no result that this version understands")


def test_result_waits_for_whichever_place_answers(team: Team, shop: Shop, shared: Path, server: RedisServer) -> None:
    team.environ.update(SHARED_DIR=str(shared), REDIS_URL=server.url)
    with child_worker(shared, REDIS_URL=server.url) as worker:
        worker.port()
        for way in ("file", "redis"):
            with team.running("result", f"by-{way}", "--wait") as waiting:
                wait_until(lambda: listens_for_results(server), 20)
                assert team.run("submit", "marie", f"by {way}", "--id", f"by-{way}", "--via", way).returncode == 0
                assert waiting.process.wait(30) == 0
            assert waiting.text == f"by {way}\n"


def listens_for_results(server: RedisServer) -> bool:
    with server.client() as client:
        return any(row["cmd"] == "xread" for row in client.client_list())


# -- how the workers are


def states(team: Team, *arguments: str) -> list[dict[str, Any]]:
    said = team.run("status", "--json", *arguments)
    assert said.returncode == 0, said.stderr
    found: list[dict[str, Any]] = json.loads(said.stdout)
    return found


def test_status_shows_each_instance_once(
    team: Team, shop: Shop, shared: Path, server: RedisServer, marie: ChildWorker
) -> None:
    team.environ.update(SHARED_DIR=str(shared), REDIS_URL=server.url)
    with child_worker(shared, REDIS_URL=server.url, WORKER_MODE="hybrid") as here:
        here.port()
        wait_until(lambda: len(beats(server)) == 2)
        rows = states(team)
        assert [row["worker"] for row in rows] == ["marie", "marie"]
        assert len({row["instance"] for row in rows}) == 2
        assert {row["status"] for row in rows} == {"idle"}
        table = team.run("status").stdout
        assert all(f"marie ({row['instance']})" in table for row in rows)
        assert here.process.pid in [row["pid"] for row in states(team)]
    assert [row["pid"] for row in states(team)] != []


def test_status_counts_what_waits_runs_and_was_set_aside(far: Team, tmp_path: Path, server: RedisServer) -> None:
    sleeping = {"AGENT": "command", "AGENT_COMMAND": "sleep 60", "MAX_CONCURRENT": "1", "HEARTBEAT_INTERVAL": "1"}
    with worker_alone(tmp_path, server, **sleeping) as worker:
        worker.port()
        submit_raw(server, "nonsense")
        submit(server, task_id="runs")
        ring(server)
        wait_until(lambda: states(far)[0]["current_tasks"] == ["runs"], 20)
        submit(server, task_id="waits")
        [row] = states(far)
        assert (row["status"], row["queue_depth"], row["dead_letters"]) == ("busy", 1, 1)
        assert row["mode"] == "hybrid"
        assert "runs" in far.run("status").stdout
    with server.client() as client:
        client.delete(*client.keys("codehornets:heartbeat:*"))
    [row] = states(far)
    assert (row["worker"], row["status"], row["dead_letters"]) == ("marie", "no heartbeat", 1)


def test_a_table_that_is_watched_outlives_redis(team: Team, shop: Shop, shared: Path, server: RedisServer) -> None:
    team.environ.update(SHARED_DIR=str(shared), REDIS_URL=server.url)
    submit(server, task_id="t")
    with team.running("status", "--watch") as watching:
        wait_until(lambda: server_has_client(server), 20)
        server.kill()
        watching.process.send_signal(signal.SIGINT)
        assert watching.process.wait(20) == 130


def server_has_client(server: RedisServer) -> bool:
    with server.client() as client:
        return len(client.client_list()) > 1


# -- dead letters


def test_dead_letters_of_both_places(team: Team, shop: Shop, shared: Path, server: RedisServer) -> None:
    team.environ.update(SHARED_DIR=str(shared), REDIS_URL=server.url)
    with child_worker(shared, REDIS_URL=server.url, WORKER_MODE="hybrid") as worker:
        worker.port()
        entry = submit(server, task_id="wrong", timeout=-1)
        ring(server)
        shop.drop("task-odd.trigger", b"nonsense")
        listed = wait_until(lambda: both(team), 20)
        assert {letter["name"] for letter in listed} == {"task-odd.trigger", listed_name(listed, "wrong")}
        shown = team.run("dead-letters", "show", "wrong").stdout
        assert "stream    codehornets:dead-letters:marie" in shown
        assert f"came as   {entry}" in shown
        assert '"timeout": -1' in shown
        assert "stream" in json.loads(team.run("dead-letters", "show", "wrong", "--json").stdout)
        assert "timeout" in team.run("dead-letters").stdout
        assert team.run("dead-letters", "drop", "task-odd.trigger").stdout == "task-odd.trigger is deleted\n"
        # Run anew it is refused anew.
        old = listed_name(listed, "wrong")
        replayed = team.run("dead-letters", "replay", "wrong")
        assert replayed.stdout.startswith(f"{old} goes back to codehornets:tasks:marie as ")
        again = wait_until(lambda: [each for each in letters(team) if each["name"] != old], 20)
        assert team.run("dead-letters", "drop", again[0]["name"]).returncode == 0
    assert letters(team) == []


def letters(team: Team) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(team.run("dead-letters", "list", "--json").stdout)
    return found


def both(team: Team) -> list[dict[str, Any]]:
    found = letters(team)
    return found if len(found) == 2 else []


def listed_name(listed: list[dict[str, Any]], task_id: str) -> str:
    return next(str(letter["name"]) for letter in listed if letter["task_id"] == task_id)


# -- control and watch


def test_control_by_redis_is_answered(far: Team, marie: ChildWorker) -> None:
    status = far.run("control", "marie", "status")
    assert (status.returncode, json.loads(status.stdout)["worker"]) == (0, "marie")
    assert far.run("control", "marie", "pause").stdout == "marie takes no new tasks until it is told to resume.\n"
    assert far.run("submit", "marie", "x", "--id", "t").returncode == 0
    assert far.run("control", "marie", "cancel", "t").stdout == "marie cancels task t, which was waiting.\n"
    told = json.loads(far.run("control", "marie", "resume", "--json").stdout)
    assert (told["by"], told["heard"], told["answer"]["ok"]) == ("redis", 1, True)
    assert [answer["worker"] for answer in told["answers"]] == ["marie"]
    assert far.run("result", "t", "--wait").returncode == 4
    assert far.run("control", "all", "shutdown").stdout.startswith("marie ends;")
    assert marie.wait() == 0


def test_all_replicas_answer(far: Team, tmp_path: Path, server: RedisServer, marie: ChildWorker) -> None:
    with child_worker(tmp_path / "other", REDIS_URL=server.url, WORKER_MODE="hybrid") as other:
        other.port()
        wait_until(lambda: len(beats(server)) == 2)
        for whom in ("marie", "all"):
            lines = far.run("control", whom, "wake").stdout.splitlines()
            assert lines == ["marie looks at its queues."] * 2 + ["2 workers heard it."]


def test_the_pipe_goes_first(team: Team, shop: Shop, shared: Path, server: RedisServer) -> None:
    team.environ.update(SHARED_DIR=str(shared), REDIS_URL=server.url)
    with child_worker(shared, REDIS_URL=server.url, WORKER_MODE="hybrid") as worker:
        worker.port()
        wait_until(lambda: len(beats(server)) == 1)
        assert json.loads(team.run("control", "marie", "wake", "--json").stdout)["by"] == "pipe"
        by_redis = ("--redis", server.url, "--json")
        assert json.loads(team.run("control", "marie", "wake", *by_redis).stdout)["by"] == "redis"
        del team.environ["REDIS_URL"]
        assert team.run("control", "all", "wake").stdout == "marie looks at its queues.\n"
    with child_worker(shared, REDIS_URL=server.url, WORKER_MODE="event-driven") as worker:
        worker.port()
        team.environ["REDIS_URL"] = server.url
        wait_until(lambda: listens(server))
        assert json.loads(team.run("control", "marie", "wake", "--json").stdout)["by"] == "redis"


def listens(server: RedisServer) -> bool:
    with server.client() as client:
        return client.pubsub_numsub("control:marie")[0][1] == 1


def test_watch_shows_events_and_comes_back_after_a_restart(far: Team, marie: ChildWorker, server: RedisServer) -> None:
    with far.running("watch") as watching:
        watching.wait_for("Watching all workers in Redis")
        assert far.run("submit", "marie", "the present", "--id", "t-1", "--wait").returncode == 0
        watching.wait_for("task ended completed")
        assert "marie    t-1          task started" in watching.text
        server.kill()
        watching.wait_for("trying again")
        server.start()
        watching.wait_for("Redis is back.")
        wait_until(lambda: listens(server))
        assert far.run("submit", "marie", "after it", "--id", "t-2", "--wait").returncode == 0
        watching.wait_for("marie    t-2          task ended")
        watching.process.send_signal(signal.SIGINT)
        assert watching.process.wait(20) == 130
    assert PASSWORD not in watching.text
    assert watching.text.count("trying again") == 1
    with far.running("watch", "marie", "--json") as watching:
        watching.wait_for("Watching marie")
        far.run("submit", "marie", "x", "--id", "t-3", "--wait")
        watching.wait_for("task_ended")
    events = [json.loads(line) for line in watching.text.splitlines() if line.startswith("{")]
    assert {event["worker"] for event in events} == {"marie"}
    assert "t-3" in {event["task_id"] for event in events}


def test_watch_notices_a_redis_that_is_stopped(far: Team, server: RedisServer) -> None:
    with far.running("watch") as watching:
        watching.wait_for("Watching all workers in Redis")
        server.pause()
        try:
            watching.wait_for("does not answer in time; trying again")
        finally:
            server.resume()
        watching.wait_for("Redis is back.")


# -- a Redis that cannot be used


@pytest.mark.parametrize(
    "command",
    [
        ("submit", "marie", "x"),
        ("result", "t"),
        ("result", "t", "--wait"),
        ("cancel", "t"),
        ("status",),
        ("status", "--json"),
        ("dead-letters",),
        ("dead-letters", "show", "x"),
        ("control", "marie", "status"),
        ("watch",),
    ],
    ids=" ".join,
)
def test_each_command_says_that_redis_cannot_be_used(far: Team, server: RedisServer, command: tuple[str, ...]) -> None:
    refuses = "cannot be used: it refuses the user name or the password (REDIS_URL names it"
    far.environ["REDIS_URL"] = f"redis://:{PASSWORD}-not@127.0.0.1:{server.port}/0"
    refused(far.run(*command), refuses)
    far.environ["REDIS_URL"] = f"redis://:{PASSWORD}@127.0.0.1:1/0"
    refused(far.run(*command), "Connection refused")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"http://:{PASSWORD}@h/0", "REDIS_URL cannot be used: it must begin with redis://"),
        (PASSWORD, "REDIS_URL cannot be used: it must begin with redis://"),
        (f"redis://:{PASSWORD}@h:port/0", "must name its host as HOST or HOST:PORT"),
        (f"redis://:{PASSWORD}/x@h/0", "REDIS_URL cannot be used"),
    ],
)
def test_a_wrong_url_is_told_without_its_password(far: Team, url: str, words: str) -> None:
    far.environ["REDIS_URL"] = url
    refused(far.run("status"), words)
    del far.environ["REDIS_URL"]
    refused(far.run("status", "--redis", url), words.replace("REDIS_URL", "--redis"))


def test_a_url_may_come_from_a_file(far: Team, server: RedisServer, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f"{server.url}\n")
    far.environ.update(REDIS_URL_FILE=str(secret), REDIS_URL="redis://127.0.0.1:1")
    assert far.run("submit", "marie", "x", "--id", "t").returncode == 0
    far.environ["REDIS_URL_FILE"] = str(tmp_path / "none")
    refused(far.run("submit", "marie", "x"), "REDIS_URL_FILE is", "which cannot be read (No such file or directory)")


def test_a_stopped_redis_is_told_and_nothing_hangs(far: Team, server: RedisServer) -> None:
    server.pause()
    try:
        refused(far.run("submit", "marie", "x"), "does not answer in time")
        refused(far.run("status"), "does not answer in time")
    finally:
        server.resume()


# -- the team and the doctor


def test_a_team_serves_redis_too(team: Team, server: RedisServer) -> None:
    team.environ["REDIS_URL"] = server.url
    with team.up():
        given = team.run("submit", "ann", "by redis", "--via", "redis", "--id", "t", "--wait")
        assert (given.stdout, given.stderr) == ("by redis\n", "")
    assert not (team.layout("ann").result("t")).exists()


def test_a_team_file_may_name_redis_but_not_its_password(team: Team, tmp_path: Path) -> None:
    with running_redis(tmp_path / "open") as server:
        (team.folder / "team.toml").write_text(f'redis_url = "{server.url}"\n[workers.ann]\n')
        with team.up():
            assert team.run("submit", "ann", "by redis", "--via", "redis", "--wait").stdout == "by redis\n"
    (team.folder / "team.toml").write_text(f'redis_url = "redis://:{PASSWORD}@h/0"\n[workers.ann]\n')
    refused(team.run("up"), "redis_url is redis://:***@h/0, with a password", "REDIS_URL_FILE")
    (team.folder / "team.toml").write_text(f'redis = "redis://:{PASSWORD}@h/0"\n[workers.ann]\n')
    refused(team.run("up"), "there is no such key")


def test_the_doctor_looks_at_redis(team: Team, server: RedisServer) -> None:
    team.environ.update(REDIS_URL=server.url, CLAUDE_CLI="/none")
    lines = doctor(team)
    assert lines[0]["grade"] == "good" and lines[0]["text"].startswith("Redis ")
    assert f"redis://:***@127.0.0.1:{server.port}/0 answers" in lines[0]["text"]
    assert [line["grade"] for line in lines] == ["good", "good", "good"]
    with server.client() as client:
        client.config_set("appendonly", "no")
        client.config_set("maxmemory-policy", "allkeys-lru")
    lines = doctor(team)
    assert [line["grade"] for line in lines] == ["good", "note", "note"]
    assert "appendonly is no" in lines[1]["text"] and lines[1]["mend"]
    assert "maxmemory-policy is allkeys-lru" in lines[2]["text"] and lines[2]["mend"]
    [line] = doctor(team, "--redis", f"redis+cluster://:{PASSWORD}@127.0.0.1:{server.port}")
    assert (line["grade"], "it is no cluster" in line["text"]) == ("broken", True)
    [line] = doctor(team, "--redis", f"redis+sentinel://127.0.0.1:1/mymaster?password={PASSWORD}")
    assert line["grade"] == "broken"


def doctor(team: Team, *arguments: str) -> list[dict[str, Any]]:
    said = team.run("doctor", "--json", *arguments)
    assert PASSWORD not in said.stdout + said.stderr
    return [line for line in json.loads(said.stdout) if line["subject"] == "redis"]


# -- following a task


def test_logs_follow_a_task_in_redis_until_it_has_ended(far: Team, tmp_path: Path, server: RedisServer) -> None:
    gate = tmp_path / "go"
    script = f"until [ -e {gate} ]; do sleep 0.05; done"
    with worker_alone(
        tmp_path, server, AGENT="command", AGENT_COMMAND=f"sh -c '{script}'", HEARTBEAT_INTERVAL="1"
    ) as worker:
        worker.port()
        wait_until(lambda: beats(server), what="a heartbeat in Redis")
        refused(far.run("logs", "--task", "t"), "There is no task t in Redis at")
        far.run("submit", "marie", "x", "--id", "t")
        wait_until(lambda: "running" in far.run("logs", "--task", "t").stderr, 20)
        refused(far.run("logs", "--task", "t"), "Task t is running at marie", "which keeps no events; -f shows")
        with far.running("logs", "--task", "t", "-f", "--json") as following:
            wait_until(lambda: server_hears_of(server, "hooks:marie"), 20, "it listens")
            gate.touch()
            assert following.process.wait(20) == 0
        events = [json.loads(line) for line in following.output.read_text().splitlines()]
        assert events[-1]["event"] == "task_ended"
        assert {event["task_id"] for event in events} == {"t"}
        refused(far.run("logs", "--task", "t", "-f"), "Task t has ended at marie (completed)")


def server_hears_of(server: RedisServer, channel: str) -> bool:
    with server.client() as client:
        (found,) = client.pubsub_numsub(channel)
        return int(found[1]) > 0


def test_logs_show_what_the_orchestrator_wrote_down(team: Team, server: RedisServer) -> None:
    submit(server, task_id="t")
    kept = team.shared / "orchestrator" / "events" / "t.jsonl"
    kept.parent.mkdir(parents=True)
    kept.write_text(
        '{"event": "text", "timestamp": "2026-01-01T00:00:00Z", "worker": "marie", "data": {"text": "hi"}}\n'
    )
    shown = team.run("logs", "--task", "t", "--redis", server.url)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "hi" in shown.stdout
