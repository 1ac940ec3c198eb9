"""Programs that tests need and PyPI does not have: found on the PATH, or installed where that is possible."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache

from tests.machine import machine_lock


@cache
def find_program(name: str, package: str) -> str | None:
    """Return the path of a program; as root its Debian package is installed where it is missing."""
    program = shutil.which(name)
    if program is not None or os.geteuid() != 0 or (apt := shutil.which("apt-get")) is None:
        return program
    # The processes of a run look for it at the same time, and only one of them may install.
    with machine_lock("packages"):
        if shutil.which(name) is None:
            _install(apt, package)
    return shutil.which(name)


def _install(apt: str, package: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", package]):
        subprocess.run(
            [apt, *arguments],
            check=False,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=300,
        )
