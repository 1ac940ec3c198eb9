"""What all tiers share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent_bus.layout import WorkerLayout
from tests.mounts import SmallDisk, mount_refusal

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files of other owners")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """An empty shared directory."""
    path = tmp_path / "shared"
    path.mkdir()
    return path


@pytest.fixture
def layout(shared: Path) -> WorkerLayout:
    """The directories of worker `marie`; none of them exists yet."""
    return WorkerLayout.under(shared, "marie")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[Path, int], SmallDisk]]:
    """Mounts file systems of a few kilobytes; skips the test where that is not allowed."""
    if refusal := mount_refusal(tmp_path):
        pytest.skip(refusal)
    mounted: list[SmallDisk] = []

    def mount(path: Path, size_bytes: int) -> SmallDisk:
        disk = SmallDisk(path, size_bytes)
        mounted.append(disk)
        return disk

    yield mount
    for disk in mounted:
        disk.unmount()
