"""Clients for a Redis address, and what their errors mean to a person.

The library is loaded when the first client is made: a worker without Redis pays neither time nor memory for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent_bus.redis.url import COMMAND_TIMEOUT_S, RedisAddress, RedisKind

if TYPE_CHECKING:
    import redis
    import redis.asyncio

_SINGLE_ONLY = ("require_full_coverage",)
_MEANINGS = (
    ("AUTH <password> called without any password", "it has no password set, and one was given"),
    ("Authentication required", "it asks for a password, and none was given"),
    ("unauthenticated", "it asks for a password, and none was given"),
    ("NOAUTH", "it asks for a password, and none was given"),
    ("AuthenticationError", "it refuses the user name or the password"),
    ("WRONGPASS", "it refuses the user name or the password"),
    ("NoPermissionError", "its access list forbids this user a command or key that is needed"),
    ("NOPERM", "its access list forbids this user a command or key that is needed"),
    ("ReadOnlyError", "it is a read-only replica; name its master, or a sentinel URL that finds it"),
    ("READONLY", "it is a read-only replica; name its master, or a sentinel URL that finds it"),
    ("WRONGTYPE", "one of the keys that begin with codehornets: is of another type; delete or rename it"),
    ("OutOfMemoryError", "its memory is full (maxmemory); make room, or allow it more"),
    ("OOM ", "its memory is full (maxmemory); make room, or allow it more"),
    ("MISCONF", "it cannot write its data to the disk and so takes no changes; mend its disk"),
    ("LOADING ", "it is loading its data and not ready yet"),
    ("MASTERDOWN", "it is a replica that has lost its master"),
    ("BusyLoadingError", "it is loading its data and not ready yet"),
    ("BUSY ", "it is busy with a long script"),
    ("MasterDownError", "it is a replica that has lost its master"),
    ("ClusterDownError", "its cluster is down: not all slots are served"),
    ("CLUSTERDOWN", "its cluster is down: not all slots are served"),
    ("cluster support disabled", "it is no cluster; use redis:// instead of redis+cluster://"),
    ("Cluster mode is not enabled", "it is no cluster; use redis:// instead of redis+cluster://"),
    ("No master found", "its sentinels know no master of that name that is up"),
    ("DB index is out of range", "it has no database of that number"),
)


def make_client(address: RedisAddress) -> redis.asyncio.Redis | redis.asyncio.RedisCluster:
    """Return an asyncio client; it connects with its first command. Answers are bytes, commands are not repeated."""
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    from agent_bus.redis.cancellation import Client, ClusterClient

    retry = Retry(NoBackoff(), 0)
    common = _common(address)
    match address.kind:
        case RedisKind.CLUSTER:
            from redis.asyncio.cluster import ClusterNode

            nodes = [_untyped(ClusterNode)(host, port) for host, port in address.hosts]
            return ClusterClient(startup_nodes=nodes, retry=retry, **_tls(address), **common)
        case RedisKind.SENTINEL:
            from redis.asyncio.sentinel import Sentinel

            sentinel: Any = _untyped(Sentinel)(
                list(address.hosts),
                sentinel_kwargs={**_sentinel_options(common), **_tls(address), "retry": retry},
                db=address.db,
                retry=retry,
                **_tls(address),
                **common,
            )
            master: redis.asyncio.Redis = sentinel.master_for(address.master or "", redis_class=Client)
            return master
        case RedisKind.SINGLE:
            return Client(**_place(address), db=address.db, retry=retry, **_tls(address), **common)


def make_pubsub_client(address: RedisAddress) -> redis.asyncio.Redis:
    """Return a client for one subscription; in a cluster every node passes on every message, so any one will do.

    The first host of a cluster's URL that answers to a TCP connection is not known before the first command: use
    `make_pubsub_clients` to try them in turn.
    """
    return make_pubsub_clients(address)[0]


def make_pubsub_clients(address: RedisAddress) -> list[redis.asyncio.Redis]:
    """Return clients to try in turn for a subscription; more than one only for a cluster."""
    import redis.asyncio
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    from agent_bus.redis.cancellation import Client

    if address.kind is not RedisKind.CLUSTER:
        client = make_client(address)
        assert isinstance(client, redis.asyncio.Redis)
        return [client]
    retry = Retry(NoBackoff(), 0)
    return [
        Client(host=host, port=port, retry=retry, **_tls(address), **_common(address)) for host, port in address.hosts
    ]


def make_blocking_client(address: RedisAddress) -> redis.Redis | redis.RedisCluster:
    """Return a client without asyncio, for programs that only hand something in or ask for something."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    retry = Retry(NoBackoff(), 0)
    common = _common(address)
    match address.kind:
        case RedisKind.CLUSTER:
            from redis.cluster import ClusterNode

            nodes = [_untyped(ClusterNode)(host, port) for host, port in address.hosts]
            return redis.RedisCluster(startup_nodes=nodes, retry=retry, **_tls(address), **common)
        case RedisKind.SENTINEL:
            from redis.sentinel import Sentinel

            sentinel: Any = _untyped(Sentinel)(
                list(address.hosts),
                sentinel_kwargs={**_sentinel_options(common), **_tls(address), "retry": retry},
                db=address.db,
                retry=retry,
                **_tls(address),
                **common,
            )
            master: redis.Redis = sentinel.master_for(address.master or "")
            return master
        case RedisKind.SINGLE:
            return redis.Redis(**_place(address), db=address.db, retry=retry, **_tls(address), **common)


async def close_client(client: Any) -> None:
    """Close all connections: those to the sentinels too, and those of a cluster that could not be used."""
    await client.aclose()
    nodes = getattr(client, "nodes_manager", None)
    for node in [*nodes.startup_nodes.values(), *nodes.nodes_cache.values()] if nodes is not None else ():
        await node.disconnect()
    manager = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    for sentinel in manager.sentinels if manager is not None else ():
        await sentinel.aclose()


def explain(error: BaseException, address: RedisAddress) -> str:
    """Say in one sentence, without a password, what is wrong with this Redis."""
    text = " ".join(str(error).split())
    signs = f"{type(error).__name__} {text}"
    for sign, meaning in _MEANINGS:
        if sign in signs:
            return f"Redis at {address.shown} cannot be used: {meaning}"
    if "timeout" in type(error).__name__.lower() or isinstance(error, TimeoutError):
        return f"Redis at {address.shown} does not answer in time"
    shown = address.without_secrets(text).rstrip(".") or type(error).__name__
    return f"Redis at {address.shown} cannot be used: {shown[:300]}"


def failures() -> tuple[type[BaseException], ...]:
    """Return what a command may raise when Redis is away or refuses it."""
    import redis.exceptions

    # The clusters' errors are no RedisError.
    return redis.exceptions.RedisError, redis.exceptions.RedisClusterException, OSError, TimeoutError


def _untyped(made: Any) -> Any:
    """Return a class of the library that has no type hints."""
    return made


def _place(address: RedisAddress) -> dict[str, Any]:
    if address.path is not None:
        return {"unix_socket_path": address.path}
    host, port = address.hosts[0]
    return {"host": host, "port": port}


def _common(address: RedisAddress) -> dict[str, Any]:
    options: dict[str, Any] = {
        "socket_timeout": COMMAND_TIMEOUT_S,
        "socket_connect_timeout": COMMAND_TIMEOUT_S,
        "protocol": 2,
        "username": address.username,
        "password": address.password,
    }
    options.update(
        (name, value) for name, value in address.options.items() if not name.startswith(("ssl_", "sentinel_"))
    )
    if address.kind is not RedisKind.CLUSTER:
        for name in _SINGLE_ONLY:
            options.pop(name, None)
    if address.kind is RedisKind.SENTINEL:
        options["sentinel_auth"] = (
            address.options.get("sentinel_username"),
            address.options.get("sentinel_password"),
        )
    return options


def _sentinel_options(common: dict[str, Any]) -> dict[str, Any]:
    # The sentinels have users of their own, or none.
    username, password = common.pop("sentinel_auth")
    options = {name: common[name] for name in ("socket_timeout", "socket_connect_timeout", "protocol")}
    if password:
        options["password"] = password
    if username:
        options["username"] = username
    return options


def _tls(address: RedisAddress) -> dict[str, Any]:
    if not address.tls:
        return {}
    return {"ssl": True, **{name: value for name, value in address.options.items() if name.startswith("ssl_")}}
