"""The whole worker with a real Redis: beside files and alone, through losses of every kind."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_bus.gates import GateNotice, after_seconds
from agent_bus.layout import WorkerLayout
from agent_bus.messages import Result, TaskStatus
from agent_bus.redis.client import RedisClient
from agent_bus.redis.keys import result_by_id
from agent_bus.redis.url import parse_redis_url
from tests.integration.harness import QUICK, ObedientAgent, Shop, child_worker, fetch, fetch_now, quick_settings
from tests.redis_server import RedisServer, running_redis
from tests.waiting import async_wait_until, wait_until
from worker_service.service import Worker, open_worker
from worker_service.settings import WorkerSettings, read_settings

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that keeps what it has said yes to."""
    with running_redis(tmp_path / "redis", durable=True) as running:
        yield running


@pytest.fixture
def client(server: RedisServer) -> Iterator[RedisClient]:
    made = RedisClient(parse_redis_url(server.url))
    yield made
    made.close()


def alone(server: RedisServer, tmp_path: Path, **environ: str) -> WorkerSettings:
    """Return the settings of a worker that has Redis and no shared directory."""
    usual = {**QUICK, "REDIS_URL": server.url, "LOG_DIR": str(tmp_path / "log"), "REDIS_LEASE": "1"}
    return read_settings({**usual, **environ})


def result_of(server: RedisServer, task_id: str) -> Result | None:
    """Return the result, asked for with a connection of its own: the server may have been restarted."""
    with server.client() as asking:
        body = asking.get(result_by_id(task_id))
    return None if body is None else Result.model_validate_json(body)  # type: ignore[arg-type]


async def answer(server: RedisServer, task_id: str, timeout: float = 15.0) -> Result:
    return await async_wait_until(lambda: result_of(server, task_id), timeout, f"result of {task_id}")


class Subscriber:
    """Hears a channel in a thread of its own."""

    def __init__(self, server: RedisServer, channel: str) -> None:
        self.messages: list[Any] = []
        self._client = server.client()
        self._pubsub = self._client.pubsub()
        self._pubsub.subscribe(channel)
        # The first word is that it is subscribed: from then on nothing is missed.
        first = self._pubsub.get_message(timeout=5)
        assert first is not None
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._stop = threading.Event()
        self._thread.start()

    def _hear(self) -> None:
        while not self._stop.is_set():
            message = self._pubsub.get_message(timeout=0.05)
            if message is not None and message["type"] == "message":
                self.messages.append(json.loads(message["data"]))

    def events(self, name: str) -> list[dict[str, Any]]:
        return [message["data"] for message in list(self.messages) if message["event"] == name]

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._pubsub.close()
        self._client.close()


@pytest.fixture
def subscribe(server: RedisServer) -> Iterator[Callable[[str], Subscriber]]:
    made: list[Subscriber] = []

    def make(channel: str) -> Subscriber:
        made.append(Subscriber(server, channel))
        return made[-1]

    yield make
    for subscriber in made:
        subscriber.close()


def listening(worker: Worker) -> bool:
    return worker.redis is not None and worker.redis.connected and worker.redis.queue.connected


# -- where tasks come from


async def test_both_transports_are_served_and_each_is_answered_where_it_came_from(
    shared: Path, shop: Shop, server: RedisServer, client: RedisClient
) -> None:
    async with open_worker(
        quick_settings(shared, REDIS_URL=server.url, WORKER_MODE="hybrid"), ObedientAgent()
    ) as worker:
        await async_wait_until(lambda: listening(worker))
        assert worker.bells == ["inotify", "interval", "redis", "pipe"]
        shop.submit("by-file")
        client.submit("marie", {"task_id": "by-redis", "description": "hello"})
        assert (await shop.async_result("by-file")).status is TaskStatus.COMPLETED
        assert (await answer(server, "by-redis")).output == "hello"
        notice = shop.layout.orchestrator_triggers / "result-by-redis.trigger"
        await async_wait_until(notice.exists)
    assert shop.result("by-redis") is None
    assert result_of(server, "by-file") is None
    assert json.loads(notice.read_bytes())["path"] == result_by_id("by-redis")
    assert shop.layout.event_journal("by-redis").exists()


@pytest.mark.parametrize("mode", ["polling", "event-driven", "hybrid"])
async def test_redis_alone_is_enough(server: RedisServer, client: RedisClient, tmp_path: Path, mode: str) -> None:
    settings = alone(server, tmp_path, WORKER_MODE=mode, POLL_INTERVAL="0.05", PIPE_DIR=str(tmp_path / "pipes"))
    assert not settings.serves_files
    async with open_worker(settings, ObedientAgent()) as worker:
        await async_wait_until(lambda: worker.redis is not None and worker.redis.queue.connected)
        client.submit("marie", {"task_id": "7", "description": "hello"})
        assert (await answer(server, "7")).output == "hello"
        assert (await fetch(worker.http_port, "/readyz"))[0] == 200
        beat = await async_wait_until(lambda: client.heartbeats())
        assert [(each.worker, each.mode) for each in beat] == [("marie", mode)]
        assert worker.bells[0] == ("interval" if mode == "polling" else "redis")
    assert client.heartbeats() == []


async def test_all_forms_of_an_activation_wake_it(
    shared: Path, shop: Shop, server: RedisServer, client: RedisClient
) -> None:
    environ = {"ACTIVATION_WRAPPER": "1", "ACTIVATION_MODE": "redis", "WORKER_MODE": "", "RESCAN_INTERVAL": "600"}
    async with open_worker(quick_settings(shared, REDIS_URL=server.url, **environ), ObedientAgent()) as worker:
        await async_wait_until(lambda: listening(worker) and worker.probe_age_s() is not None)
        assert worker.bells == ["interval", "redis"]
        with server.client() as sending:
            shop.submit("by-nothing")
            sending.publish("activate:marie", b"")
            await shop.async_result("by-nothing")
            path = shop.submit("by-path")
            sending.publish("activate:marie", str(path))
            await shop.async_result("by-path")
            shop.task_file("by-id")
            sending.publish("activate:marie", b"by-id")
            await shop.async_result("by-id")
            sending.publish("activate:marie", json.dumps({"task_id": "by-body", "description": "whole"}))
            assert (await answer(server, "by-body")).output == "whole"


async def test_a_probe_goes_round_through_redis_where_redis_is_the_bell(
    shared: Path, shop: Shop, server: RedisServer
) -> None:
    environ = {"ACTIVATION_MODE": "redis", "RESCAN_INTERVAL": "600", "PROBE_INTERVAL": "0.1"}
    async with open_worker(quick_settings(shared, REDIS_URL=server.url, **environ), ObedientAgent()) as worker:
        await async_wait_until(lambda: worker.files is not None and worker.files.probe_age_s is not None)
        assert (await fetch(worker.http_port, "/healthz"))[0] == 200


BAD_MESSAGES = [
    (b"\xff\xfe", "is not UTF-8"),
    (b'["7"]', "dropped"),
    (b'{"description"', "dropped"),
    (b"two words", "is no task as JSON, no path and no task id"),
    (b"/etc/passwd", "lies in no directory of this worker"),
]


@pytest.mark.parametrize(("message", "words"), BAD_MESSAGES)
async def test_a_bad_activation_is_told_and_the_next_good_one_works(
    shared: Path, shop: Shop, server: RedisServer, subscribe: Callable[[str], Subscriber], message: bytes, words: str
) -> None:
    async with open_worker(quick_settings(shared, REDIS_URL=server.url), ObedientAgent()) as worker:
        await async_wait_until(lambda: listening(worker))
        heard = subscribe("hooks:marie")
        with server.client() as sending:
            sending.publish("activate:marie", message)
            await async_wait_until(lambda: any(words in data["message"] for data in heard.events("error")))
            sending.publish("activate:marie", b'{"task_id": "good", "description": "x"}')
        await answer(server, "good")
    assert len(heard.events("error")) == 1


# -- control and events


async def test_commands_by_redis_are_answered_there(
    shared: Path, shop: Shop, server: RedisServer, subscribe: Callable[[str], Subscriber]
) -> None:
    agent = ObedientAgent()
    async with open_worker(quick_settings(shared, REDIS_URL=server.url), agent) as worker:
        await async_wait_until(lambda: listening(worker))
        heard = subscribe("hooks:marie")
        with server.client() as sending:
            sending.publish("control:all", b"pause")
            await async_wait_until(lambda: worker.dispatcher.paused)
            sending.publish("control:marie", b'{"command": "resume", "id": "mine"}')
            sending.publish("control:marie", b"dance")
            shop.submit("7", "hold")
            await async_wait_until(lambda: agent.started == ["7"])
            sending.publish("control:marie", b"cancel 7")
            assert (await shop.async_result("7")).status is TaskStatus.CANCELLED
        await async_wait_until(lambda: heard.events("task_ended"))
    answers = {data["command"]: data for data in heard.events("answer")}
    assert answers["pause"]["ok"]
    assert answers["resume"]["id"] == "mine"
    assert (answers["cancel"]["found"], answers["cancel"]["source"]) == ("running", "redis")
    assert "'dance' is no command" in heard.events("error")[0]["message"]
    assert [message["event"] for message in heard.messages if message["task_id"] == "7"] == [
        "task_started",
        "prompt",
        "task_ended",
    ]


async def test_a_flood_of_commands_leaves_the_worker_to_its_tasks(
    shared: Path, shop: Shop, server: RedisServer
) -> None:
    async with open_worker(quick_settings(shared, REDIS_URL=server.url), ObedientAgent()) as worker:
        await async_wait_until(lambda: listening(worker))

        def flood() -> None:
            with server.client() as sending:
                for _ in range(50):
                    with sending.pipeline(transaction=False) as pipe:
                        for _ in range(1000):
                            pipe.publish("control:marie", b"wake")
                            pipe.publish("control:all", b"nonsense")
                        pipe.execute()

        flooding = asyncio.create_task(asyncio.to_thread(flood))
        await async_wait_until(lambda: worker.redis and worker.redis._commands.is_behind)
        shop.submit("7")
        await shop.async_result("7")
        assert (await fetch(worker.http_port, "/healthz"))[0] == 200
        await asyncio.wait_for(flooding, 60)
        await async_wait_until(lambda: worker.redis and not worker.redis._commands.is_behind, 30)
        with server.client() as sending:
            sending.publish("control:marie", b"pause")
            await async_wait_until(lambda: worker.dispatcher.paused)


async def test_a_waiting_task_on_redis_is_cancelled(server: RedisServer, client: RedisClient, tmp_path: Path) -> None:
    agent = ObedientAgent()
    async with open_worker(alone(server, tmp_path, MAX_CONCURRENT="1"), agent) as worker:
        await async_wait_until(lambda: listening(worker))
        client.submit("marie", {"task_id": "first", "description": "hold"})
        await async_wait_until(lambda: agent.started == ["first"])
        client.submit("marie", {"task_id": "second", "description": "x"})
        client.cancel("marie", "second")
        agent.let_go()
        assert (await answer(server, "second")).status is TaskStatus.CANCELLED
    assert agent.started == ["first"]


async def test_a_limit_met_on_one_host_holds_back_another(
    server: RedisServer, client: RedisClient, tmp_path: Path, shared: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    claude = {"AGENT": "claude", "ANTHROPIC_API_KEY": "sk-dummy-for-tests", "HOME": str(home), "PATH": "/bin"}
    here = quick_settings(shared, REDIS_URL=server.url, **claude)
    there = alone(server, tmp_path, WORKER_NAME="anga", **claude)
    async with open_worker(here, ObedientAgent()) as one, open_worker(there, ObedientAgent()) as other:
        await async_wait_until(lambda: listening(one) and listening(other))
        assert one.runner.gate is not None
        notice = GateNotice(kind="five_hour", until=after_seconds(60), message="used up", worker="marie")
        one.runner.gate.close_until(notice)
        await async_wait_until(lambda: other.dispatcher.parked() is not None)
        status, text = await fetch(other.http_port, "/readyz")
        assert (status, "used up" in text) == (503, True)
    async with open_worker(alone(server, tmp_path, WORKER_NAME="fabien", **claude), ObedientAgent()) as late:
        await async_wait_until(lambda: late.dispatcher.parked() is not None)


# -- losing it


LOSSES = ["kill", "pause"]


def lose(server: RedisServer, how: str) -> Callable[[], None]:
    """Take Redis away; returns how it comes back."""
    if how == "pause":
        server.pause()
        return server.resume
    server.kill()
    return server.start


@pytest.mark.parametrize("how", LOSSES)
async def test_files_go_on_while_redis_is_away_and_what_was_running_is_stored_once_it_is_back(
    shared: Path, shop: Shop, server: RedisServer, client: RedisClient, how: str
) -> None:
    agent = ObedientAgent()
    settings = quick_settings(shared, REDIS_URL=server.url, WORKER_MODE="hybrid", MAX_CONCURRENT="2")
    async with open_worker(settings, agent) as worker:
        await async_wait_until(lambda: listening(worker))
        client.submit("marie", {"task_id": "running", "description": "hold"})
        await async_wait_until(lambda: agent.started == ["running"])
        back = lose(server, how)
        try:
            agent.let_go("running")
            # The subscription of a Redis that was stopped is not broken: the command that is not answered tells.
            await async_wait_until(lambda: "running" in worker.runner.settlement.troubles, 20)
            for number in range(5):
                shop.submit(f"file-{number}")
                assert (await shop.async_result(f"file-{number}")).status is TaskStatus.COMPLETED
            status, text = await fetch(worker.http_port, "/healthz")
            assert status == 200, text
            status, text = await fetch(worker.http_port, "/readyz")
            assert status == 200, text
            if how == "kill":
                await async_wait_until(lambda: not listening(worker))
                assert "redis: away, files go on" in (await fetch(worker.http_port, "/readyz"))[1]
                _, metrics = await fetch(worker.http_port, "/metrics")
                assert 'codehornets_redis_connected{worker="marie"} 0.0' in metrics
                assert worker.bells == ["inotify", "interval", "pipe"]
        finally:
            back()
        assert (await answer(server, "running")).attempts == 1
        await async_wait_until(lambda: listening(worker), 20)
        with server.client() as sending:
            sending.xadd("codehornets:tasks:marie", {"task": json.dumps({"task_id": "next", "description": "x"})})
            await async_wait_until(lambda: sending.publish("activate:marie", b"") and result_of(server, "next"))
        _, metrics = await fetch(worker.http_port, "/metrics")
        assert 'codehornets_redis_connected{worker="marie"} 1.0' in metrics
    assert agent.started.count("running") == 1
    with server.client() as asking:
        stored = [json.loads(fields[b"result"])["task_id"] for _, fields in asking.xrange("codehornets:results")]
    assert sorted(stored) == ["next", "running"]


async def test_alone_it_is_alive_but_not_ready_while_redis_is_away(
    server: RedisServer, client: RedisClient, tmp_path: Path
) -> None:
    async with open_worker(alone(server, tmp_path), ObedientAgent()) as worker:
        await async_wait_until(lambda: listening(worker))
        server.kill()
        await async_wait_until(lambda: not listening(worker))
        status, text = await fetch(worker.http_port, "/readyz")
        assert (status, "FAIL redis: Redis at redis://127.0.0.1" in text) == (503, True)
        assert (await fetch(worker.http_port, "/healthz"))[0] == 200
        server.start()
        await async_wait_until(lambda: listening(worker))
        assert (await fetch(worker.http_port, "/readyz"))[0] == 200


async def test_a_worker_that_starts_before_its_redis_serves_it_when_it_comes(
    server: RedisServer, tmp_path: Path
) -> None:
    server.kill()
    async with open_worker(alone(server, tmp_path), ObedientAgent()) as worker:
        assert (await fetch(worker.http_port, "/readyz"))[0] == 503
        server.start()
        await async_wait_until(lambda: listening(worker))
        with server.client() as sending:
            sending.xadd("codehornets:tasks:marie", {"task": json.dumps({"task_id": "7", "description": "x"})})
            sending.publish("activate:marie", b"")
        await answer(server, "7")


async def test_the_bell_falls_back_to_the_timer_and_returns(shared: Path, shop: Shop, server: RedisServer) -> None:
    environ = {"ACTIVATION_MODE": "redis", "RESCAN_INTERVAL": "600", "POLL_INTERVAL": "0.05"}
    async with open_worker(quick_settings(shared, REDIS_URL=server.url, **environ), ObedientAgent()) as worker:
        assert worker.files is not None
        await async_wait_until(lambda: listening(worker))
        server.kill()
        await async_wait_until(lambda: worker.files and worker.files.watcher.fallback_reason is not None)
        shop.submit("7")
        await shop.async_result("7")
        _, metrics = await fetch(worker.http_port, "/metrics")
        assert 'codehornets_fallbacks_total{from="redis",to="polling",worker="marie"} 1.0' in metrics
        server.start()
        await async_wait_until(lambda: worker.files and worker.files.watcher.fallback_reason is None)


# -- replicas


def test_a_replica_that_is_killed_loses_nothing_to_the_other_one(
    server: RedisServer, client: RedisClient, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    started.mkdir()
    # It notes that it has begun and then waits until it is told to go on.
    script = f"sh -c 'touch {started}/$CODEHORNETS_TASK_ID-$$; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; cat'"
    environ = {
        "REDIS_URL": server.url,
        "REDIS_LEASE": "1",
        "AGENT": "command",
        "AGENT_COMMAND": script,
        "SHARED_DIR": "",
        "MAX_CONCURRENT": "3",
        "LOG_DIR": str(tmp_path / "log"),
        "HEARTBEAT_DIR": str(tmp_path / "shared" / "heartbeats"),
    }
    with child_worker(tmp_path / "shared", **environ) as first:
        first.port()
        for number in range(3):
            client.submit("marie", {"task_id": f"t{number}", "description": f"task {number}"})
        wait_until(lambda: len(list(started.iterdir())) == 3)
        other = {**environ, "HEARTBEAT_DIR": str(tmp_path / "other"), "LOG_DIR": str(tmp_path / "other-log")}
        with child_worker(tmp_path / "shared", **other) as second:
            wait_until(lambda: len(client.heartbeats()) == 2)
            first.send(signal.SIGKILL)
            first.wait()
            wait_until(lambda: len(list(started.iterdir())) == 6, 20)
            (tmp_path / "go").touch()
            for number in range(3):
                result = client.result(f"t{number}", wait_s=20)
                assert result is not None
                assert (result.output, result.attempts) == (f"task {number}", 2)
            second.send(signal.SIGTERM)
            assert second.wait() == 0
    with server.client() as asking:
        assert asking.xlen("codehornets:tasks:marie") == 0
        assert asking.xlen("codehornets:results") == 3


async def test_a_worker_that_leaves_hands_its_task_to_another_with_no_attempt_spent(
    server: RedisServer, client: RedisClient, tmp_path: Path
) -> None:
    leaving, staying = ObedientAgent(), ObedientAgent()
    settings = alone(server, tmp_path, SHUTDOWN_GRACE="0")
    async with open_worker(
        alone(server, tmp_path, LOG_DIR=str(tmp_path / "other"), MAX_CONCURRENT="1"), staying
    ) as other:
        await async_wait_until(lambda: listening(other))
        other.dispatcher.pause()
        async with open_worker(settings, leaving) as worker:
            await async_wait_until(lambda: listening(worker))
            client.submit("marie", {"task_id": "7", "description": "remember talk-1"})
            await async_wait_until(lambda: leaving.started == ["7"])
        other.dispatcher.resume()
        await async_wait_until(lambda: staying.started == ["7"])
        assert staying.runs[0].session_id == "talk-1"
        assert staying.runs[0].attempt == 1
        staying.let_go()
        assert (await answer(server, "7")).attempts == 1


def test_no_text_shows_the_password(tmp_path: Path, layout: WorkerLayout, shared: Path) -> None:
    with running_redis(tmp_path / "redis", password="hunter2") as server:
        with child_worker(shared, REDIS_URL=server.url, LOG_LEVEL="DEBUG") as worker:
            port = worker.port()
            wait_until(lambda: "redis: redis://" in fetch_now(port, "/readyz")[1])
            texts = [fetch_now(port, path)[1] for path in ("/readyz", "/healthz", "/metrics")]
            server.kill()
            wait_until(lambda: "away, files go on" in fetch_now(port, "/readyz")[1])
            texts.append(fetch_now(port, "/readyz")[1])
            worker.send(signal.SIGTERM)
            assert worker.wait() == 0
        texts += [worker.output(), layout.log("marie").read_text()]
    assert "hunter2" not in "".join(texts)
    assert "***" in "".join(texts)


async def test_a_wrong_password_is_told_and_stops_nothing(shared: Path, shop: Shop, tmp_path: Path) -> None:
    with running_redis(tmp_path / "redis", password="right") as server:
        url = server.url.replace("right", "wrong")
        async with open_worker(quick_settings(shared, REDIS_URL=url), ObedientAgent()) as worker:
            await async_wait_until(lambda: worker.redis and "refuses the user name" in worker.redis.readiness()[0].text)
            shop.submit("7")
            await shop.async_result("7")
