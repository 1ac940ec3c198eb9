from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_bus.redis.connection import explain, make_blocking_client, make_client
from agent_bus.redis.url import RedisKind, parse_redis_url, redact


def test_the_forms_of_redis_py() -> None:
    address = parse_redis_url("rediss://user:p%40ss@h:6380/3?ssl_cert_reqs=none&socket_timeout=1.5")
    assert (address.hosts, address.db, address.tls) == ((("h", 6380),), 3, True)
    assert (address.username, address.password) == ("user", "p@ss")
    assert address.options == {"ssl_cert_reqs": "none", "socket_timeout": 1.5}
    assert parse_redis_url("redis://").hosts == (("localhost", 6379),)
    assert parse_redis_url("redis://[::1]:7000?db=4").hosts == (("::1", 7000),)
    socket = parse_redis_url("unix:///run/redis.sock?db=2&password=zz")
    assert (socket.path, socket.db, socket.password) == ("/run/redis.sock", 2, "zz")


def test_sentinels_and_clusters() -> None:
    address = parse_redis_url("redis+sentinel://u:pw@a:1,b/main/2?sentinel_password=other")
    assert (address.kind, address.master, address.db) == (RedisKind.SENTINEL, "main", 2)
    assert address.hosts == (("a", 1), ("b", 26379))
    assert address.secrets == ["other", "pw"]
    address = parse_redis_url("rediss+cluster://a:1,b:2")
    assert (address.kind, address.hosts, address.tls) == (RedisKind.CLUSTER, (("a", 1), ("b", 2)), True)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://h", "must begin with redis://"),
        ("localhost:6379", "must begin with redis://"),
        ("redis+other://h", "must begin with"),
        ("redis://u:sesam@h:99999", "port"),
        ("redis://u:sesam@h/name", "number of the database"),
        ("redis://u:sesam@h/0/1", "number of the database"),
        ("redis://u:sesam@a,b", "several hosts"),
        ("redis://u:sesam@h?colour=red", "'colour' is not known"),
        ("redis://u:sesam@h?socket_timeout=60", "socket_timeout"),
        ("redis://u:sesam@h?db=x", "whole number"),
        ("redis://u:ses#am@h", "%23"),
        ("redis://u:ses[am@h", "%5B"),
        ("redis+cluster://u:sesam@h/1", "number 0"),
        ("redis+sentinel://u:sesam@h", "name the master"),
        ("unix://run/redis.sock", "whole path"),
    ],
)
def test_what_is_wrong_is_said_without_the_password(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_redis_url(url)
    assert says in str(caught.value)
    assert "sesam" not in str(caught.value)


@given(st.text(alphabet="abc:/@?#%&=é []℀", min_size=6).map(lambda text: f"SeCrEt{text}TeRcEs"))
def test_no_password_however_odd_is_shown(password: str) -> None:
    for url in (f"redis://user:{password}@host:1/0", f"redis+sentinel://:{password}@host/main"):
        assert "SeCrEt" not in redact(url) and "TeRcEs" not in redact(url)
        try:
            address = parse_redis_url(url)
        except ValueError as error:
            assert "SeCrEt" not in str(error) and "TeRcEs" not in str(error)
        else:
            assert "SeCrEt" not in repr(address) + str(address)


def test_clients_and_errors_show_no_password() -> None:
    for url in (
        "redis://u:sesam@h:1/3",
        "rediss://u:sesam@h",
        "redis+sentinel://:sesam@a:1/m",
        "unix:///s?password=sesam",
    ):
        address = parse_redis_url(url)
        assert "sesam" not in repr(make_client(address)) + repr(make_blocking_client(address)) + repr(address)
        assert "sesam" not in explain(ValueError("bad url redis://u:sesam@h and sesam"), address)


def test_reading_the_url_does_not_load_the_library() -> None:
    program = "import sys, agent_bus.redis.url, agent_bus.redis.connection; print('redis' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "option",
    [
        "client_name=me",
        "health_check_interval=5",
        "max_connections=9",
        "protocol=3",
        "require_full_coverage=no",
        "socket_connect_timeout=1",
        "socket_keepalive=yes",
        "socket_read_size=4096",
        "sentinel_password=x&sentinel_username=y",
        "ssl_ca_certs=a&ssl_ca_path=b&ssl_ca_data=c&ssl_cert_reqs=none&ssl_check_hostname=no",
        "ssl_certfile=a&ssl_keyfile=b&ssl_password=c&ssl_ciphers=d&ssl_min_version=771",
    ],
)
@pytest.mark.parametrize("place", ["rediss://h", "rediss+sentinel://h/main"])
def test_every_option_is_one_that_the_library_takes(place: str, option: str) -> None:
    address = parse_redis_url(f"{place}?{option}")
    for client in (make_client(address), make_blocking_client(address)):
        assert client.connection_pool.make_connection() is not None  # type: ignore[union-attr]
