"""Secrets as files: which of them count, and whether Claude has one.

A deployment mounts the same files for everybody, filled in or not. So an empty one is no mistake: it is a secret that
nobody has given.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agent_bus.claude_credentials import find_credential
from orchestrator_service.container.refusal import Refused
from service_kit.environment import SECRET_VARIABLES, with_secrets_from_files

_CLAUDES: Final = {
    "ANTHROPIC_API_KEY_FILE": "/run/secrets/anthropic_api_key",
    "CLAUDE_CODE_OAUTH_TOKEN_FILE": "/run/secrets/claude_code_oauth_token",
}
"""Claude's secrets, and where they are usually mounted."""


def without_empty_files(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without each `X_FILE` of a secret that names an empty file."""
    empty = {f"{name}_FILE" for name in SECRET_VARIABLES if _is_empty(environ.get(f"{name}_FILE", ""))}
    return {name: value for name, value in environ.items() if name not in empty}


def need_credential(environ: Mapping[str, str], given: Mapping[str, str]) -> None:
    """Make sure that Claude can be reached.

    Args:
        environ: What the worker will see.
        given: What the container was given: it tells which files are to be filled in.

    Raises:
        Refused: there is no credential.
        service_kit.environment.SettingsError: a file of a secret cannot be read.
    """
    if find_credential(with_secrets_from_files(environ)) is not None:
        return
    key, token = (given.get(variable) or usual for variable, usual in _CLAUDES.items())
    raise Refused(
        "the agent is claude and there is no credential for it; put an API key into the secret file "
        f"{key} (ANTHROPIC_API_KEY_FILE) or a token into {token} (CLAUDE_CODE_OAUTH_TOKEN_FILE), log in once under "
        f"HOME ({environ.get('HOME') or '/'}), or set AGENT to auto or echo."
    )


def _is_empty(path: str) -> bool:
    if not path:
        return False
    try:
        status = Path(path).stat()
        # What comes through a pipe can be read once, and that is for the service.
        if stat.S_ISFIFO(status.st_mode):
            return False
        # The size is seen even where somebody else's file may not be read.
        return (stat.S_ISREG(status.st_mode) and status.st_size == 0) or not Path(path).read_bytes().strip()
    except OSError:
        # One that is missing was promised by somebody: that is told where the secret is wanted.
        return False
