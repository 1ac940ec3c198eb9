"""Where Redis may be: TLS, a Unix socket, another database, behind sentinels, in a cluster."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from agent_bus.errors import DeadLetterReason
from agent_bus.messages import Event, TaskStatus, encode_event, utc_now
from agent_bus.redis.client import RedisClient
from agent_bus.redis.url import parse_redis_url
from orchestrator_service.transports.base import Place
from orchestrator_service.transports.redis import RedisTransport
from tests.integration.redis_harness import answer, replica, submit
from tests.integration.transport_harness import KeepingEars, dispatch, made_beat
from tests.ports import free_port
from tests.redis_server import RedisServer, running_redis
from tests.waiting import async_wait_until, wait_until
from worker_service.wakeups.pubsub import LinkListener, RedisLink


async def go_round(url: str) -> None:
    """Let a task, a session, a release, a refusal and a bell go through the Redis of this URL."""
    client = RedisClient(parse_redis_url(url))
    heard: list[bytes] = []
    link = RedisLink(parse_redis_url(url), worker="marie", listener=LinkListener(on_activate=heard.append))
    life = asyncio.create_task(link.run_forever())
    try:
        async with replica(url) as one:
            await async_wait_until(lambda: link.connected, what=f"{link.trouble}")
            client.submit("marie", {"task_id": "bad"})
            client.submit("marie", {"task_id": "a", "description": "x", "session": "talk"})
            client.submit("marie", {"task_id": "b", "description": "x", "priority": "urgent"})
            claim = await one.next()
            assert claim.task.task_id == "b", one.queue.trouble
            assert await one.queue.complete(claim, answer(claim))
            claim = await one.next()
            await one.queue.remember(claim, session_id="conversation")
            await one.queue.release(claim, spend_attempt=True)
            claim = await one.next()
            assert (claim.task.task_id, claim.attempt, claim.session_id) == ("a", 2, "conversation")
            failed = answer(claim, status=TaskStatus.FAILED)
            await one.queue.bury(claim, DeadLetterReason.ATTEMPTS_EXHAUSTED, "it never ended", failed)
            client.submit("marie", {"task_id": "b", "description": "x"})
            assert await one.none_left()
            await async_wait_until(lambda: len(client.dead_letters("marie")) == 3)
            await one.queue.leases.tend()
            await one.queue.leases.reclaim()
            assert await one.queue.enqueue_activated(b'{"task_id": "c", "description": "x"}', "c")
            claim = await one.next()
            assert await one.queue.complete(claim, answer(claim))
            assert one.queue.depth() == 0
            await async_wait_until(lambda: heard)
            link.publish("hooks:marie", b"x")
        for task_id, status in (("a", TaskStatus.FAILED), ("b", TaskStatus.COMPLETED), ("bad", TaskStatus.FAILED)):
            result = client.result(task_id)
            assert result is not None and result.status is status
    finally:
        life.cancel()
        with suppress(asyncio.CancelledError):
            await life
        client.close()


async def go_out_and_back(url: str, journals: Path) -> None:
    """Let a task of the orchestrator go through the Redis of this URL, and its news come back."""
    ears = KeepingEars()
    transport = RedisTransport(
        parse_redis_url(url),
        journals=journals,
        known=lambda: ["marie"],
        poll_s=0.05,
        position=None,
        open_runs=lambda: [("marie", "one")],
    )
    async with transport.open(ears), replica(url) as worker:
        assert transport.connected, transport.findings()
        assert await transport.send([dispatch("one"), dispatch("two")]) == []
        claim = await worker.next()
        assert await transport.locate("marie", "one") is Place.TAKEN
        assert list(await transport.running()) == ["one"]
        assert await transport.withdraw("marie", "two")
        assert not await transport.withdraw("marie", "one")
        await transport.cancel("marie", "one")
        await worker.queue.beat(made_beat(instance=worker.queue.instance))
        assert await worker.queue.complete(claim, answer(claim))
        await ears.result("one")
        assert await transport.locate("marie", "one") is Place.ENDED
        await async_wait_until(lambda: ears.beats, what="the heartbeat is told")
        client = worker.queue.caller
        event = Event(event="text", timestamp=utc_now(), worker="marie", task_id="one")
        await client.command("PUBLISH", "hooks:marie", encode_event(event))
        await async_wait_until(lambda: ears.events, what="the event is told")
        assert transport.connected, transport.findings()


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A certificate authority and a certificate for 127.0.0.1, made for this test."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path / "tls"
    folder.mkdir()

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=30)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(*("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=Test CA"))
    openssl(*("req", *key, "-keyout", "redis.key", "-out", "redis.csr", "-subj", "/CN=redis"))
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
    signing = ("x509", "-req", "-in", "redis.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial")
    openssl(*signing, "-out", "redis.crt", "-days", "2", "-extfile", "names")
    return folder


async def test_tls_with_a_certificate_authority_of_its_own(tmp_path: Path, certificates: Path) -> None:
    port = free_port()
    options = ["--tls-port", str(port), "--tls-auth-clients", "no"]
    options += ["--tls-cert-file", f"{certificates}/redis.crt", "--tls-key-file", f"{certificates}/redis.key"]
    options += ["--tls-ca-cert-file", f"{certificates}/ca.crt"]
    with running_redis(tmp_path / "redis", *options, password="sesam"):
        await go_round(f"rediss://:sesam@127.0.0.1:{port}/0?ssl_ca_certs={certificates}/ca.crt")
        async with replica(f"rediss://:sesam@127.0.0.1:{port}/0") as distrustful:
            assert await distrustful.none_left()
            trouble = distrustful.queue.trouble or ""
            assert "certificate" in trouble.lower() and "sesam" not in trouble


async def test_a_unix_socket_and_another_database(tmp_path: Path) -> None:
    with running_redis(tmp_path / "redis", "--unixsocket", str(tmp_path / "s"), password="sesam") as server:
        await go_round(f"unix://{tmp_path}/s?db=3&password=sesam")
        with server.client() as client:
            assert client.dbsize() == 0


@pytest.fixture
def watched_master(tmp_path: Path) -> Iterator[tuple[RedisServer, int]]:
    """A master and the port of a sentinel that watches it."""
    with running_redis(tmp_path / "master", password="sesam") as master:
        port = free_port()
        conf = tmp_path / "sentinel.conf"
        conf.write_text(
            f"bind 127.0.0.1\nport {port}\ndir {tmp_path}\n"
            f"sentinel monitor main 127.0.0.1 {master.port} 1\nsentinel auth-pass main sesam\n"
        )
        program = shutil.which("redis-sentinel") or shutil.which("redis-server") or "redis-server"
        with (tmp_path / "sentinel.log").open("wb") as log:
            process = subprocess.Popen([program, str(conf), "--sentinel"], stdout=log, stderr=log)
        try:
            yield master, port
        finally:
            process.kill()
            process.wait()


async def test_the_master_is_found_through_a_sentinel(watched_master: tuple[RedisServer, int], tmp_path: Path) -> None:
    _, port = watched_master
    await go_round(f"redis+sentinel://:sesam@127.0.0.1:{port}/main/2")
    await go_out_and_back(f"redis+sentinel://:sesam@127.0.0.1:{port}/main/2", tmp_path)


async def test_a_fail_over_is_followed(watched_master: tuple[RedisServer, int], tmp_path: Path) -> None:
    master, port = watched_master
    options = ["--replicaof", "127.0.0.1", str(master.port), "--masterauth", "sesam", "--repl-diskless-sync-delay", "0"]
    with running_redis(tmp_path / "replica", *options, password="sesam") as other, redis.Redis(port=port) as sentinel:
        with master.client() as client:
            client.config_set("masterauth", "sesam")
            # A hand-over that is asked for waits until the replica has everything.
            await asyncio.to_thread(wait_until, lambda: client.wait(1, 100))
        async with replica(f"redis+sentinel://:sesam@127.0.0.1:{port}/main") as one:
            submit(master, task_id="before")
            claim = await one.next()
            assert await one.queue.complete(claim, answer(claim))

            # What a fail-over comes to, without the half minute that sentinels take for one.
            with master.client() as old, other.client() as new:
                new.replicaof("NO", "ONE")
                sentinel.execute_command("SENTINEL", "REMOVE", "main")
                sentinel.execute_command("SENTINEL", "MONITOR", "main", "127.0.0.1", other.port, 1)
                sentinel.execute_command("SENTINEL", "SET", "main", "auth-pass", "sesam")
                old.replicaof("127.0.0.1", str(other.port))
            submit(other, task_id="after")
            claim = await one.next(timeout=15)
            assert claim.task.task_id == "after"
            assert await one.queue.complete(claim, answer(claim))


async def test_a_cluster_keeps_the_indexes_beside_their_stream(tmp_path: Path) -> None:
    with running_redis(tmp_path / "redis", "--cluster-enabled", "yes") as server:
        with server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            wait_until(lambda: client.cluster("INFO")["cluster_state"] == "ok")
        await go_round(f"redis+cluster://127.0.0.1:{server.port}")
        await go_out_and_back(f"redis+cluster://127.0.0.1:{server.port}", tmp_path)
    with running_redis(tmp_path / "single") as single:
        async with replica(f"redis+cluster://127.0.0.1:{single.port}") as one:
            assert await one.none_left()
            assert "no cluster" in (one.queue.trouble or "")


def documented_rights() -> list[str]:
    page = Path(__file__).resolve().parents[2] / "docs" / "redis.md"
    patterns, _, rest = page.read_text().partition("list needs `")[2].partition("`")
    return [*patterns.split(), *rest.partition("`")[2].partition("`")[0].split()]


async def test_a_user_with_the_documented_rights_suffices(tmp_path: Path) -> None:
    with running_redis(tmp_path / "redis") as server:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "worker", "on", ">sesam", *documented_rights())
        await go_round(f"redis://worker:sesam@127.0.0.1:{server.port}")
        await go_out_and_back(f"redis://worker:sesam@127.0.0.1:{server.port}", tmp_path)
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "nobody", "on", ">sesam", "~other:*", "+@all")
        async with replica(f"redis://nobody:sesam@127.0.0.1:{server.port}") as one:
            assert await one.none_left()
            assert "access list" in (one.queue.trouble or "")
