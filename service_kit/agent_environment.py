"""What an agent's process sees of this one's environment: an allow-list, so that no secret of the service gets out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_AGENT_ENV_WORDS: Final = (
    "PATH HOME USER LOGNAME SHELL LANG LANGUAGE TZ TERM TMPDIR XDG_CONFIG_HOME XDG_CACHE_HOME XDG_DATA_HOME",
    "HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY http_proxy https_proxy no_proxy all_proxy",
    "SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE NODE_EXTRA_CA_CERTS GIT_SSL_CAINFO",
    "DISABLE_AUTOUPDATER DISABLE_TELEMETRY DISABLE_ERROR_REPORTING API_TIMEOUT_MS BASH_DEFAULT_TIMEOUT_MS",
)

AGENT_ENV_EXACT: Final = frozenset(" ".join(_AGENT_ENV_WORDS).split())
"""System basics, proxies and certificates."""

AGENT_ENV_PREFIXES: Final = ("LC_", "ANTHROPIC_", "CLAUDE_", "AWS_", "GOOGLE_", "GCLOUD_", "CLOUD_ML_", "AZURE_")
"""Claude's own variables and those of the cloud providers that serve it."""

_NEVER_TO_AGENTS: Final = frozenset(("REDIS_URL", "API_TOKEN", "API_TOKENS", "HOOK_TOKEN"))
_OWN_CLAUDE_VARIABLES: Final = frozenset(("CLAUDE_CLI",))

_OF_ANOTHER_SESSION: Final = (
    "CLAUDE_PID",
    "CLAUDE_CODE_SESSION_ID",
    "CLAUDE_CODE_CHILD_SESSION",
    "CLAUDE_CODE_MESSAGING_",
    "CLAUDE_CODE_ENTRYPOINT",
    "CLAUDE_CODE_SSE_PORT",
)
"""What Claude Code tells the shell commands it runs: a worker that is started by one must not pass it on."""


def agent_environment(environ: Mapping[str, str], named: tuple[str, ...] = ()) -> dict[str, str]:
    """Return what of `environ` an agent may see: the allow-list and what `AGENT_ENV` names, never our own secrets."""

    def allowed(name: str) -> bool:
        if name in _NEVER_TO_AGENTS or name in _OWN_CLAUDE_VARIABLES or name.removesuffix("_FILE") in _NEVER_TO_AGENTS:
            return False
        if name.startswith(_OF_ANOTHER_SESSION):
            return False
        return name in named or name in AGENT_ENV_EXACT or name.startswith(AGENT_ENV_PREFIXES)

    return {name: value for name, value in environ.items() if allowed(name)}
