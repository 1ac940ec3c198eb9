"""What workers need of a machine, looked at one by one: the body of `codehornets doctor`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent_bus.claude_credentials import find_credential
from agent_bus.hooks.rules import Places, check_rules
from agent_bus.isolation import isolation_trouble, mode_trouble
from agent_bus.layout import ORCHESTRATOR, WorkerLayout
from orchestrator_service.findings import Finding, Grade
from orchestrator_service.redis_checks import check_redis
from orchestrator_service.team import Team
from orchestrator_service.worker_environment import choose_agent, hook_rules_of, workspace_of
from orchestrator_service.worktree_checks import check_worktrees

_CLI_PATIENCE_S: Final = 30.0
_EVENT_PATIENCE_S: Final = 2.0
_FEW_INSTANCES: Final = 64
_FEW_WATCHES: Final = 4096
_LITTLE_DISK_BYTES: Final = 1 << 30
_TOO_LITTLE_DISK_BYTES: Final = 50 << 20


def check_all(team: Team | None, shared: Path, environ: Mapping[str, str]) -> list[Finding]:
    """Look at everything; what depends on a missing directory is left out.

    Args:
        team: The team, or None when its file is wrong.
        shared: The shared directory, absolute.
        environ: The environment that workers would be started with.
    """
    findings = list(_check_shared(team, shared))
    if shared.is_dir():
        findings += [*_check_events(shared), *_check_disk(shared)]
    findings += [*_check_limits(), *_check_workspaces(team, shared), *_check_claude(team, environ)]
    findings += check_redis(team, environ)
    findings += check_worktrees(team, shared, environ)
    findings += [*_check_isolation(team, environ), *_check_hook_rules(team, shared, environ)]
    return findings


def _check_shared(team: Team | None, shared: Path) -> Iterator[Finding]:
    subject = "directories"
    if not shared.is_dir():
        parent = next(path for path in shared.parents if path.exists())
        if shared.exists() or not os.access(parent, os.W_OK | os.X_OK):
            yield Finding(
                subject,
                Grade.BROKEN,
                f"{shared} is not there and cannot be made in {parent}",
                "name another place with --shared-dir or SHARED_DIR, or mend the owner or mode",
            )
        else:
            yield Finding(subject, Grade.NOTE, f"{shared} is not there yet", "`codehornets up` makes it")
        return
    locked = [path for path in _existing_places(team, shared) if not os.access(path, os.R_OK | os.W_OK | os.X_OK)]
    for path in locked:
        yield Finding(
            subject,
            Grade.BROKEN,
            f"{path} is not writable for user id {os.geteuid()}",
            f"chown or chmod it, such as `chmod u+rwx {path}`",
        )
    if not locked:
        yield Finding(subject, Grade.GOOD, f"{shared} and what is below can be read and written")
    for name in team.workers if team is not None else ():
        layout = WorkerLayout.under(shared, name)
        devices = {path.stat().st_dev for path in (layout.triggers, layout.tasks, layout.results) if path.is_dir()}
        if len(devices) > 1:
            yield Finding(
                "mounts",
                Grade.NOTE,
                f"the triggers, tasks and results of {name} lie on several file systems: a claim is a copy",
                f"mount {shared} as a whole",
            )


def _existing_places(team: Team | None, shared: Path) -> Iterator[Path]:
    yield shared
    for name in team.workers if team is not None else ():
        layout = WorkerLayout.under(shared, name)
        places = (layout.triggers, layout.tasks, layout.results, layout.heartbeats, layout.logs, layout.events)
        yield from (path for path in places if path.is_dir())


def _check_events(shared: Path) -> Iterator[Finding]:
    """Write a probe file and see whether the kernel tells of it."""
    from asyncinotify import Inotify, Mask

    subject = "inotify"
    probe = shared / f".doctor-{os.getpid()}"
    try:
        with Inotify(sync_timeout=_EVENT_PATIENCE_S) as inotify:
            inotify.add_watch(shared, Mask.CREATE | Mask.CLOSE_WRITE)
            probe.write_bytes(b"")
            seen = False
            while not seen and (event := inotify.sync_get()) is not None:
                seen = str(event.name) == probe.name
    except OSError as error:
        mends = {24: "raise fs.inotify.max_user_instances", 28: "raise fs.inotify.max_user_watches"}
        mend = mends.get(error.errno or 0, "see the directory's line")
        yield Finding(subject, Grade.NOTE, f"cannot be used ({error.strerror}); workers poll instead", mend)
        return
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    if seen:
        yield Finding(subject, Grade.GOOD, f"events arrive in {shared}")
    else:
        yield Finding(
            subject,
            Grade.NOTE,
            f"no event arrives in {shared}, as on network and desktop bind mounts; workers poll instead",
            "put the shared directory on a local file system",
        )


def _check_disk(shared: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(shared).free
    inodes = os.statvfs(shared)
    text = f"{free / (1 << 30):.1f} GiB free in {shared}"
    if free < _TOO_LITTLE_DISK_BYTES:
        yield Finding("disk", Grade.BROKEN, text, "make room: results could not be written")
    elif free < _LITTLE_DISK_BYTES:
        yield Finding("disk", Grade.NOTE, text, "make room soon")
    elif inodes.f_files and inodes.f_favail < 10_000:
        yield Finding("disk", Grade.NOTE, f"{inodes.f_favail:,} inodes free in {shared}", "delete old files soon")
    else:
        yield Finding("disk", Grade.GOOD, text)


def _check_limits() -> Iterator[Finding]:
    for name, few in (("max_user_instances", _FEW_INSTANCES), ("max_user_watches", _FEW_WATCHES)):
        try:
            limit = int(Path(f"/proc/sys/fs/inotify/{name}").read_text())
        except (OSError, ValueError):
            continue
        mend = f"sysctl fs.inotify.{name}={few * 8}" if limit < few else ""
        grade = Grade.NOTE if limit < few else Grade.GOOD
        yield Finding(
            "limits", grade, f"fs.inotify.{name} is {limit:,}{' and shared by all of a user' if mend else ''}", mend
        )


def _check_workspaces(team: Team | None, shared: Path) -> Iterator[Finding]:
    for plan in team.workers.values() if team is not None else ():
        workspace = workspace_of(plan, shared)
        if plan.workspace is not None and not workspace.is_dir():
            yield Finding(
                "workspaces", Grade.BROKEN, f"{workspace} of {plan.name} is not there", "make it, or name another one"
            )
        elif workspace.is_dir() and not os.access(workspace, os.R_OK | os.W_OK | os.X_OK):
            yield Finding(
                "workspaces", Grade.NOTE, f"{workspace} of {plan.name} is not writable", "mend its owner or mode"
            )


def _check_claude(team: Team | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    agents = {name: choose_agent(team, plan, environ) for name, plan in team.workers.items()} if team else {}
    wanted = not agents or "claude" in agents.values()
    worst = Grade.BROKEN if "claude" in agents.values() else Grade.NOTE
    if agents:
        words = ", ".join(f"{name} {agent}" for name, agent in agents.items())
        yield Finding("agents", Grade.GOOD, words)
    credential = find_credential(environ)
    if credential is not None:
        yield Finding("credentials", Grade.GOOD, f"from {credential.source}")
    else:
        stand_in = "" if wanted else "; the echo agent stands in for Claude"
        yield Finding(
            "credentials",
            worst,
            f"none for Claude{stand_in}",
            "set ANTHROPIC_API_KEY or CLAUDE_CODE_OAUTH_TOKEN, or log in with `claude`",
        )
    program = find_claude(environ)
    if program is None:
        yield Finding(
            "claude", worst, "no Claude Code program", "install claude-agent-sdk, which brings it, or set CLAUDE_CLI"
        )
        return
    version, trouble = _claude_version(program)
    if trouble:
        yield Finding("claude", worst, f"{program} does not run: {trouble}", "install it anew, or set CLAUDE_CLI")
    else:
        yield Finding("claude", Grade.GOOD, f"{version} ({program})")


def find_claude(environ: Mapping[str, str]) -> Path | None:
    """Return the program that workers would start: CLAUDE_CLI, else the SDK's own, else the one on the PATH."""
    if environ.get("CLAUDE_CLI"):
        return Path(environ["CLAUDE_CLI"])
    # Found, not imported: the import takes half a second.
    spec = importlib.util.find_spec("claude_agent_sdk")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "_bundled" / "claude"
        if bundled.is_file():
            return bundled
    on_path = shutil.which("claude", path=environ.get("PATH"))
    return None if on_path is None else Path(on_path)


def _claude_version(program: Path) -> tuple[str, str]:
    """Return the version and what is wrong with it; one of the two is empty."""
    with tempfile.TemporaryDirectory() as home:
        clean = {"PATH": os.defpath, "HOME": home, "DISABLE_AUTOUPDATER": "1"}
        try:
            run = subprocess.run(
                [program, "--version"],
                env=clean,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_CLI_PATIENCE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "", f"no answer within {_CLI_PATIENCE_S:g} s"
        except OSError as error:
            return "", error.strerror or str(error)
    if run.returncode != 0:
        said = run.stderr.decode("utf-8", "replace").strip().splitlines()
        return "", f"exit code {run.returncode}{': ' + said[-1][:200] if said else ''}"
    return run.stdout.decode("utf-8", "replace").strip()[:100], ""


def _check_isolation(team: Team | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Try out what `AGENT_ISOLATION` needs, as a worker does at its start."""
    subject = "isolation"
    wanted = (environ.get("AGENT_ISOLATION") or "auto").lower()
    if wanted == "off":
        yield Finding(
            subject, Grade.NOTE, "turned off: the shell commands of agents see the key", "AGENT_ISOLATION=auto"
        )
        return
    trouble = isolation_trouble(environ.get("PATH"))
    if trouble is not None:
        grade = Grade.BROKEN if wanted == "on" else Grade.NOTE
        what, _, mend = trouble.rstrip(".").partition("; ")
        yield Finding(subject, grade, f"the shell commands of agents see the key: {what}", mend)
        return
    yield Finding(subject, Grade.GOOD, "bubblewrap works: the shell commands of agents run without the key")
    for plan in team.workers.values() if team is not None else ():
        if plan.permission_mode is not None and (clash := mode_trouble(plan.permission_mode)) is not None:
            yield Finding(subject, Grade.BROKEN if wanted == "on" else Grade.NOTE, f"not for {plan.name}: {clash}")


def _check_hook_rules(team: Team | None, shared: Path, environ: Mapping[str, str]) -> Iterator[Finding]:
    subject = "hook rules"
    if team is None:
        return
    for name in (*team.workers, ORCHESTRATOR):
        path = hook_rules_of(team, name) or shared / "hooks-config" / f"{name}-hooks.json"
        logs = Path(environ.get("LOG_DIR") or WorkerLayout.under(shared, name).logs)
        problems = check_rules(path, Places(shared=shared, logs=logs))
        for problem in problems:
            yield Finding(subject, Grade.BROKEN, problem, "mend that field; a worker in hooks mode does not start")
        if not problems and path.is_file():
            yield Finding(subject, Grade.GOOD, str(path))
