"""Small disks that can really be full."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def mount_refusal(scratch: Path) -> str | None:
    """Say why nothing can be mounted here, or return None."""
    if os.geteuid() != 0:
        return "needs root: mounts a small disk"
    try:
        trial = SmallDisk(scratch / "trial-mount", 65_536)
    except subprocess.CalledProcessError as error:
        return f"mounting is refused here: {error.stderr.strip()}"
    trial.unmount()
    return None


class SmallDisk:
    """A tmpfs of fixed size at `path`."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._filler = path / ".filler"
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=755", "tmpfs", str(path)]
        subprocess.run(command, check=True, capture_output=True, text=True)

    def fill(self) -> None:
        """Leave no room at all."""
        descriptor = os.open(self._filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            for size in (4096, 1):
                while True:
                    try:
                        os.write(descriptor, b"x" * size)
                    except OSError:
                        break
        finally:
            os.close(descriptor)

    def make_room(self) -> None:
        """Take the filling away."""
        self._filler.unlink(missing_ok=True)

    def unmount(self) -> None:
        """Give it back; lazily, since a worker that a failed test left may still have files open."""
        subprocess.run(["umount", "-l", str(self.path)], check=False, capture_output=True)
