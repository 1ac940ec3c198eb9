"""Whether a request comes from an agent of the team itself, as far as this machine can tell.

Without tokens everybody on this machine may do everything, and the programs that an agent starts are on this machine.
They may hand tasks in; they must not answer the question of whoever started them. The kernel knows which process has
the other end of a loopback connection, and who started that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from starlette.types import Scope

from orchestrator_service.api.problems import ProblemKind, RequestRefused

_PROC: Final = Path("/proc")
_WORKER: Final = b"worker_service"
"""What stands in the command line of every worker, as a word of its own."""
_DEEPEST: Final = 200


def refuse_own_agents(scope: Scope) -> None:
    """Refuse what comes from below a worker, or from where that cannot be seen; other systems than Linux tell nothing.

    Raises:
        RequestRefused: it does.
    """
    client, server = scope.get("client"), scope.get("server")
    if not client or not server or not (_PROC / "net" / "tcp").exists():
        return
    owners = list(_owners(client[1], server[1]))
    if not owners:
        raise RequestRefused(
            ProblemKind.FORBIDDEN,
            "It cannot be seen which process asks, and without tokens an agent could answer itself; set API_TOKEN.",
        )
    if any(_is_below_a_worker(pid) for pid in owners):
        raise RequestRefused(
            ProblemKind.FORBIDDEN, "An agent of the team cannot answer the questions of the team; a person must."
        )


def is_own_agent(scope: Scope) -> bool:
    """Tell whether it comes from there, or may."""
    try:
        refuse_own_agents(scope)
    except RequestRefused:
        return True
    return False


def _owners(client_port: int, server_port: int) -> Iterator[int]:
    """Yield the processes that have the client's end of a connection."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(client_port, server_port)}
    if not wanted:
        return
    for folder in os.listdir(_PROC):
        if folder.isdigit():
            with suppress(OSError):
                for descriptor in os.listdir(f"{_PROC}/{folder}/fd"):
                    with suppress(OSError):
                        if os.readlink(f"{_PROC}/{folder}/fd/{descriptor}") in wanted:
                            yield int(folder)
                            break


def _inodes(client_port: int, server_port: int) -> Iterator[str]:
    ends = f"{client_port:04X}", f"{server_port:04X}"
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (_PROC / "net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                if tuple(field.rpartition(":")[2] for field in fields[1:3]) == ends:
                    yield fields[9]


def _is_below_a_worker(pid: int) -> bool:
    # What an agent starts and leaves behind is handed to its leash, which the worker has started.
    for _ in range(_DEEPEST):
        try:
            if _WORKER in (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0"):
                return True
            # The name in parentheses may hold anything, a parenthesis as well.
            pid = int((_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return False
        if pid <= 1:
            return False
    return True
