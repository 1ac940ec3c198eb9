"""Puts the reporting hooks into a Claude settings file, and takes them out again; all else in it stays as it is."""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from agent_bus.errors import BusError
from agent_bus.hooks.events import HOOKS

_WAITED_FOR: Final = ("Stop", "SubagentStop", "SessionStart", "SessionEnd")
"""Claude Code does not wait for the others (`async`), and kills what still runs when it ends; these are the last."""
_TIMEOUT_S: Final = 10
_OURS: Final = re.compile(r"codehornets\S*\s+hook\s+--worker\s|orchestrator_service\.cli\s+hook\s+--worker\s")
_INDENT: Final = re.compile(r"\A\s*\{\s*?\n([ \t]+)\S")


class SettingsFileError(BusError):
    """The settings file cannot be used; it is left as it was."""


def hook_command(program: list[str], *, worker: str, shared: Path, rules: Path | None = None) -> str:
    """Return the shell command that reports an event; `rules` where they are not those of the shared directory."""
    named = [] if rules is None else ["--rules", str(rules)]
    return shlex.join([*program, "hook", "--worker", worker, "--shared-dir", str(shared), *named])


def install_hooks(path: Path, command: str) -> bool:
    """Let every hook run `command` as well; what an earlier installation put there is replaced.

    Returns whether the file was changed.

    Raises:
        SettingsFileError: it cannot be read or written, or is not the JSON object that it must be.
    """
    text, settings = _read(path)
    before = json.dumps(settings)
    hooks = settings.setdefault("hooks", {})
    if not isinstance(hooks, dict):
        raise SettingsFileError(f"{path}: hooks is {_shown(hooks)}; it must be an object. Nothing was changed.")
    for name in HOOKS:
        groups = hooks.setdefault(name, [])
        if not isinstance(groups, list):
            raise SettingsFileError(
                f"{path}: hooks.{name} is {_shown(groups)}; it must be a list. Nothing was changed."
            )
        entry: dict[str, Any] = {"type": "command", "command": command, "timeout": _TIMEOUT_S}
        if name not in _WAITED_FOR:
            entry["async"] = True
        if {"hooks": [entry]} in groups and len(_ours_in(groups)) == 1:
            continue
        hooks[name] = [*_without_ours(groups), {"hooks": [entry]}]
    if json.dumps(settings) == before:
        return False
    _write(path, text, settings)
    return True


def uninstall_hooks(path: Path) -> bool:
    """Take out what `install_hooks` put in; returns whether there was anything.

    Raises:
        SettingsFileError: the file cannot be read or written, or is not the JSON object that it must be.
    """
    if not path.exists():
        return False
    text, settings = _read(path)
    hooks = settings.get("hooks")
    if not isinstance(hooks, dict):
        return False
    changed = False
    for name, groups in list(hooks.items()):
        if isinstance(groups, list) and _ours_in(groups):
            changed = True
            hooks[name] = _without_ours(groups)
            if not hooks[name]:
                del hooks[name]
    if not changed:
        return False
    if not hooks:
        del settings["hooks"]
    _write(path, text, settings)
    return True


def _is_ours(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("command"), str) and bool(_OURS.search(entry["command"]))


def _ours_in(groups: list[Any]) -> list[Any]:
    return [
        entry
        for group in groups
        if isinstance(group, dict) and isinstance(group.get("hooks"), list)
        for entry in group["hooks"]
        if _is_ours(entry)
    ]


def _without_ours(groups: list[Any]) -> list[Any]:
    kept: list[Any] = []
    for group in groups:
        if not isinstance(group, dict) or not isinstance(group.get("hooks"), list) or not _ours_in([group]):
            kept.append(group)
        elif others := [entry for entry in group["hooks"] if not _is_ours(entry)]:
            kept.append({**group, "hooks": others})
    return kept


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key is there twice")
    return dict(pairs)


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return "", {}
    except OSError as error:
        raise SettingsFileError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise SettingsFileError(f"{path} is not UTF-8 text (byte {error.start}); nothing was changed.") from error
    if not text.strip():
        return "", {}
    try:
        settings = json.loads(text, object_pairs_hook=_no_doubles)
    except (ValueError, RecursionError) as error:
        raise SettingsFileError(f"{path} is not valid JSON ({error}); mend it first, nothing was changed.") from error
    if not isinstance(settings, dict):
        raise SettingsFileError(f"{path} is not a JSON object; nothing was changed.")
    return text, settings


def _write(path: Path, old: str, settings: dict[str, Any]) -> None:
    # Many keep this file in a repository of their own and link to it: the link stays.
    real = Path(os.path.realpath(path))
    found = _INDENT.match(old)
    indent = found[1] if found else None if old and "\n" not in old.strip() else "  "
    end = "\n" if not old or old.endswith("\n") else ""
    body = (json.dumps(settings, indent=indent, ensure_ascii=False) + end).encode("utf-8", "surrogatepass")
    staged = real.with_name(f".{real.name}.{os.urandom(6).hex()}.tmp")
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        mode = stat.S_IMODE(real.stat().st_mode) if real.exists() else 0o600
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.rename(staged, real)
    except OSError as error:
        with suppress(OSError):
            staged.unlink()
        raise SettingsFileError(f"{path} cannot be written: {error.strerror}; it is as it was.") from error


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
