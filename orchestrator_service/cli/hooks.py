"""`codehornets hooks`: let a Claude session outside the pool report its hooks, and check files of hook rules."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from agent_bus.hooks.rules import Places, check_rules
from agent_bus.layout import WorkerLayout, is_worker_name
from orchestrator_service.cli.errors import UserError
from orchestrator_service.cli.output import print_json
from orchestrator_service.cli.places import find_team
from orchestrator_service.hook_installation import hook_command, install_hooks, uninstall_hooks
from orchestrator_service.team import TEAM_FILE_NAME, Team
from orchestrator_service.worker_environment import choose_shared_dir, hook_rules_of


def _program() -> list[str]:
    """Return how this very program is started, by absolute paths: a session may run anywhere."""
    own = Path(sys.argv[0])
    if own.name == "codehornets":
        found = own if own.is_file() and "/" in sys.argv[0] else shutil.which("codehornets")
        if found is not None:
            return [str(Path(found).absolute())]
    return [sys.executable, "-P", "-m", "orchestrator_service.cli"]


def _settings_file(given: Path | None) -> Path:
    if given is not None:
        return given
    folder = os.environ.get("CLAUDE_CONFIG_DIR")
    return Path(folder) / "settings.json" if folder else Path.home() / ".claude" / "settings.json"


def _team() -> Team | None:
    return find_team(None) if Path(TEAM_FILE_NAME).exists() else None


def _shared(given: Path | None) -> Path:
    return choose_shared_dir(_team(), os.environ, given)


def install(settings: Path | None, *, worker: str, shared_dir: Path | None, as_json: bool) -> int:
    """Write the hooks into a settings file."""
    if not is_worker_name(worker):
        raise UserError(f"--worker is {worker!r}; allowed are 1 to 63 letters, digits, dots, dashes or underscores.")
    path, shared = _settings_file(settings), _shared(shared_dir)
    team = _team()
    rules = None if team is None else hook_rules_of(team, worker)
    changed = install_hooks(path, hook_command(_program(), worker=worker, shared=shared, rules=rules))
    if as_json:
        print_json({"settings": path, "worker": worker, "shared_dir": shared, "changed": changed})
    else:
        print(f"{path}: the hooks report as {worker} to {shared}{'' if changed else ' already'}")
    return 0


def uninstall(settings: Path | None, *, as_json: bool) -> int:
    """Take the hooks out of a settings file."""
    path = _settings_file(settings)
    changed = uninstall_hooks(path)
    if as_json:
        print_json({"settings": path, "changed": changed})
    else:
        print(f"{path}: {'the hooks are taken out' if changed else 'there are none of our hooks'}")
    return 0


def check(files: list[Path], *, shared_dir: Path | None, as_json: bool) -> int:
    """Check hook rules, by default those of the shared directory and beside the team file; 1 if one is wrong."""
    shared = _shared(shared_dir)
    layout = WorkerLayout.under(shared, "orchestrator")
    logs = Path(os.environ.get("LOG_DIR") or layout.logs).absolute()
    team = _team()
    places = [layout.hooks_config] + ([] if team is None else [team.path.parent / layout.hooks_config.name])
    chosen = files or [path for place in places for path in sorted(place.glob("*-hooks.json"))]
    missing = next((path for path in files if not path.is_file()), None)
    if missing is not None:
        raise UserError(f"There is no file {missing}.")
    if not chosen and not as_json:
        print(f"no rules in {' or '.join(map(str, places))}")
    found = {path: check_rules(path, Places(shared=shared, logs=logs)) for path in chosen}
    if as_json:
        print_json([{"file": path, "problems": problems} for path, problems in found.items()])
    else:
        for path, problems in found.items():
            print("\n".join(problems) if problems else f"{path}: good")
    return int(any(found.values()))
