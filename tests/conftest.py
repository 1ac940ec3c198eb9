"""What all tiers share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from agent_bus.layout import WorkerLayout
from tests.machine import turn
from tests.mounts import SmallDisk, mount_refusal

# How long an example takes says something about the machine only.
loaded_machine = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples each time, so that a run tells of the change that it is of; `EXPLORE=1` looks for new ones.
settings.register_profile("the same", loaded_machine, derandomize=True)
settings.register_profile("new ones", loaded_machine)
settings.load_profile("new ones" if os.environ.get("EXPLORE") else "the same")

# A script ignores these in what it starts with `&`, and what is ignored stays so in all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files of other owners")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let a test that changes the machine for everybody run while no other does; its time begins only then."""
    with turn(alone=item.get_closest_marker("alone") is not None):
        return (yield)


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
