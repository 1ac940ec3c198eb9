"""The files that a worker needs: its directories, its hook rules and its log."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from agent_bus.hooks.rules import Places, check_rules
from agent_bus.layout import WorkerLayout
from orchestrator_service.field_check.subject import Subject
from orchestrator_service.findings import Finding, Grade

_LOG_TAIL_BYTES: Final = 1 << 20
_QUIET_LEVELS: Final = frozenset(("WARNING", "ERROR", "CRITICAL"))
_LONGEST_SHOWN: Final = 160


def check_directories(layout: WorkerLayout, *, has_pipes: bool) -> Iterator[Finding]:
    """Judge the directories: there, and writable."""
    needed = [layout.triggers, layout.tasks, layout.results, layout.heartbeats, layout.logs]
    needed += [layout.pipes] if has_pipes else []
    # These come with the first task; a worker makes them itself.
    later = [path for path in (layout.events, layout.gates, layout.orchestrator_triggers) if path.exists()]
    bad = False
    for path in (*needed, *later):
        if not path.is_dir():
            bad = True
            what = "is no directory" if path.exists() else "is not there"
            mend = f"`mkdir -p {path}`, for the user of the worker" if not path.exists() else "move it away"
            yield Finding("directories", Grade.BROKEN, f"{path} {what}", mend)
        elif not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            bad = True
            mend = f"mend its owner or mode, such as `chmod u+rwx {path}`"
            yield Finding("directories", Grade.BROKEN, f"{path} is not writable for user id {os.geteuid()}", mend)
    if not bad:
        yield Finding("directories", Grade.GOOD, f"{len(needed) + len(later)} below {layout.shared} can be written")


def check_hook_rules(subject: Subject, told: Path | None) -> Iterator[Finding]:
    """Judge the rules that a worker goes by: those of its environment, else those `told`, else the usual ones."""
    layout = subject.layout
    usual = told if told is not None else layout.hooks_config / f"{subject.name}-hooks.json"
    path = Path(subject.settings.get("HOOKS_CONFIG") or usual)
    problems = check_rules(path, Places(shared=layout.shared, logs=layout.logs))
    for problem in problems:
        mend = f"mend that, then `codehornets control {subject.name} reload`"
        yield Finding("hook rules", Grade.BROKEN, problem.rstrip("."), mend)
    if not problems:
        text = f"{path} is valid" if path.is_file() else f"there is no {path}: no hook event becomes a trigger"
        yield Finding("hook rules", Grade.GOOD, text)


def check_log(path: Path, subject: Subject) -> Finding:
    """Judge the log: there, JSON lines, written to since the start; errors in it are told, and are no failure."""
    level = subject.settings.get("LOG_LEVEL", "").upper()
    try:
        lines = _tail(path)
    except FileNotFoundError:
        if level in _QUIET_LEVELS:
            return Finding("log", Grade.NOTE, f"nothing was logged to {path} yet, with LOG_LEVEL={level}")
        return Finding("log", Grade.BROKEN, f"there is no {path}", "mend the owner or mode of its directory")
    except OSError as error:
        return Finding("log", Grade.BROKEN, f"{path} cannot be read: {error.strerror}", "mend its owner or mode")
    return judge_log(path, lines, subject.beat.instance)


def judge_log(path: Path, lines: list[bytes], instance: str) -> Finding:
    """Judge the last lines of a log; those of this start carry the instance, where the service writes one."""
    entries = [_entry(line) for line in lines]
    wrong = next((line for line, entry in zip(lines, entries, strict=True) if entry is None), None)
    if wrong is not None:
        shown = wrong[:_LONGEST_SHOWN].decode("utf-8", "replace")
        return Finding("log", Grade.BROKEN, f"{path} has a line that is no JSON: {shown}", "move the file away")
    known = [entry for entry in entries if entry is not None]
    starts = [number for number, entry in enumerate(known) if entry.get("action") == "ready"]
    if any("instance" in entry for entry in known):
        since = [entry for entry in known if entry.get("instance") == instance]
    else:
        since = known[starts[-1] :] if starts else known
    if not since:
        return Finding("log", Grade.NOTE, f"{path} has no line of this start", "LOG_LEVEL=INFO would give some")
    text = f"{path}, {len(since)} lines since the start, the latest {since[-1].get('timestamp')}"
    errors = [entry for entry in since if entry.get("level") in ("error", "critical")]
    if errors:
        latest = str(errors[-1].get("message"))[:_LONGEST_SHOWN]
        return Finding("log", Grade.NOTE, f"{text}; {len(errors)} of them errors, the latest: {latest}")
    return Finding("log", Grade.GOOD, text)


def _tail(path: Path) -> list[bytes]:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LOG_TAIL_BYTES))
        lines = file.read().split(b"\n")
    # The last one may be half written, and the first one cut in two.
    return [line for line in lines[1 if size > _LOG_TAIL_BYTES else 0 : -1] if line.strip()]


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
