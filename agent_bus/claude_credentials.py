"""Whether Claude could be reached from an environment, and by which credential; no secret is ever returned."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SUBSCRIPTION_VARIABLE: Final = "CLAUDE_CODE_OAUTH_TOKEN"
_KEY_VARIABLES: Final = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", _SUBSCRIPTION_VARIABLE)
_CLOUD_VARIABLES: Final = ("CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY")


@dataclass(frozen=True)
class Credential:
    """How Claude is logged in."""

    source: str
    """Where it was found, for people: a variable's name or a path."""
    fingerprint: str
    """The same text for the same credential on every worker; the key cannot be told from it."""
    is_subscription: bool
    """Whether its use is paid for by the month: the dollars that Claude Code tells are notional then."""


def find_credential(environ: Mapping[str, str]) -> Credential | None:
    """Return the credential that Claude Code would use with this environment, or None."""
    for variable in _KEY_VARIABLES:
        if value := environ.get(variable):
            return Credential(variable, _fingerprint(value), is_subscription=variable == _SUBSCRIPTION_VARIABLE)
    for variable in _CLOUD_VARIABLES:
        if environ.get(variable, "0") not in ("", "0", "false"):
            return Credential(variable, _fingerprint(variable), is_subscription=False)
    home = Path(environ.get("HOME") or "/")
    folder = Path(environ.get("CLAUDE_CONFIG_DIR") or home / ".claude")
    login = folder / ".credentials.json"
    if login.is_file():
        # A login refreshes its tokens, so the place is what stays the same.
        return Credential(str(login), _fingerprint(str(login)), is_subscription=True)
    return None


def _fingerprint(text: str) -> str:
    return hashlib.sha256(b"codehornets gate\0" + text.encode()).hexdigest()[:16]
