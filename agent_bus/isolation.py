"""Whether the shell commands of a model can run isolated here: tried out, not guessed.

Claude Code starts them in bubblewrap, without the credential in their environment and without sight of what its
permission rules deny, when it is started with `CLAUDE_CODE_SUBPROCESS_ENV_SCRUB=1`; without bubblewrap it then refuses
to start. Whether a container or pod grants the namespaces that bubblewrap needs is only known by making them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Final

SCRUB_VARIABLE: Final = "CLAUDE_CODE_SUBPROCESS_ENV_SCRUB"

_PATIENCE_S: Final = 10.0
_UNUSABLE_MODES: Final = ("plan", "auto", "bypassPermissions")
"""Permission modes that Claude Code gives up with isolation, and that no rule can stand in for."""


def isolation_trouble(path: str | None = None) -> str | None:
    """Return why shell commands cannot be isolated here, as one sentence with the mend; None when they can.

    Args:
        path: The PATH to look for `bwrap` on; None means this process's own.
    """
    program = shutil.which("bwrap", path=path)
    if program is None:
        return "bubblewrap is not installed; install the package bubblewrap."
    # What Claude Code itself asks of it: a root that is read-only, namespaces of its own, a fresh /proc and /dev.
    namespaces = ["--unshare-user", "--unshare-pid", "--proc", "/proc", "--dev", "/dev"]
    command = [program, "--new-session", "--die-with-parent", "--ro-bind", "/", "/", *namespaces, "/bin/true"]
    try:
        run = subprocess.run(
            command,
            env={"PATH": path or os.defpath},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{program} did not answer within {_PATIENCE_S:g} s."
    except OSError as error:
        return f"{program} cannot be started: {error.strerror}."
    if run.returncode == 0:
        return None
    said = run.stderr.decode("utf-8", "replace").strip().splitlines()
    reason = said[-1][:200] if said else f"exit code {run.returncode}"
    return (
        f"bubblewrap cannot make its namespaces ({reason}); allow user namespaces in the container or pod "
        "(seccomp and AppArmor profile, user.max_user_namespaces)."
    )


def mode_trouble(permission_mode: str) -> str | None:
    """Return why a permission mode and isolation do not go together, as one sentence; None when they do."""
    if permission_mode not in _UNUSABLE_MODES:
        return None
    return (
        f"PERMISSION_MODE is {permission_mode!r}, which Claude Code gives up for isolated shell commands; "
        "allowed with isolation are default, acceptEdits and dontAsk."
    )
