from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent_bus.ownership import InstanceDirectory, dead_owners, is_alive, try_lock
from tests.waiting import wait_until

OWN_AND_WAIT = (
    "import sys, time; from pathlib import Path; from agent_bus.ownership import InstanceDirectory\n"
    "owner = InstanceDirectory(Path(sys.argv[1]), 'other'); print('owns', flush=True); time.sleep(60)"
)


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    first = try_lock(tmp_path / "lock")
    assert first is not None
    assert try_lock(tmp_path / "lock") is None
    os.close(first)
    second = try_lock(tmp_path / "lock")
    assert second is not None
    os.close(second)


def test_a_killed_owner_is_seen_as_dead_at_once(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWN_AND_WAIT, tmp_path], stdout=subprocess.PIPE)
    try:
        assert owner.stdout is not None
        owner.stdout.readline()
        (tmp_path / "other" / "claim").touch()
        assert is_alive(tmp_path, "other")
        assert list(dead_owners(tmp_path, "me")) == []
        owner.send_signal(signal.SIGSTOP)
        assert is_alive(tmp_path, "other"), "a stopped process is slow, not dead"
    finally:
        owner.kill()
        owner.communicate()
    assert not is_alive(tmp_path, "other")
    assert [path.name for path in dead_owners(tmp_path, "me")] == ["other"]
    assert (tmp_path / "other" / "claim").exists(), "what it held is not ours to delete"
    (tmp_path / "other" / "claim").unlink()
    assert list(dead_owners(tmp_path, "me"))
    assert not (tmp_path / "other").exists(), "an empty directory of the dead is removed"


def test_a_child_process_does_not_inherit_ownership(tmp_path: Path) -> None:
    owner = InstanceDirectory(tmp_path, "me")
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        (tmp_path / "me" / "claim").touch()
        owner.close()
        wait_until(lambda: not is_alive(tmp_path, "me"))
    finally:
        child.kill()
        child.wait()


def test_a_closed_owner_leaves_nothing(tmp_path: Path) -> None:
    owner = InstanceDirectory(tmp_path, "me")
    assert owner.still_there()
    owner.close()
    assert os.listdir(tmp_path) == []


def test_a_dead_owner_is_looked_at_by_one(tmp_path: Path) -> None:
    (tmp_path / "dead").mkdir()
    (tmp_path / "dead" / "claim").touch()
    turns = dead_owners(tmp_path, "me")
    assert next(turns).name == "dead"
    assert list(dead_owners(tmp_path, "you")) == []
    turns.close()  # type: ignore[attr-defined]
    assert [path.name for path in dead_owners(tmp_path, "you")] == ["dead"]


def test_an_owner_that_is_just_coming_is_left_alone_and_an_old_one_is_not(tmp_path: Path) -> None:
    newcomer = tmp_path / ".new-x"
    newcomer.mkdir()
    assert list(dead_owners(tmp_path, "me")) == []
    os.utime(newcomer, (1, 1))
    assert [path.name for path in dead_owners(tmp_path, "me")] == [".new-x"]


def test_no_directory_means_no_owners(tmp_path: Path) -> None:
    assert list(dead_owners(tmp_path / "nothing", "me")) == []
    assert not is_alive(tmp_path / "nothing", "x")


@pytest.mark.parametrize("change", ["removed", "replaced", "lock removed", "all removed"])
def test_an_owner_notices_that_its_directory_is_gone_and_has_it_again(tmp_path: Path, change: str) -> None:
    inflight = tmp_path / "inflight"
    owner = InstanceDirectory(inflight, "me")
    (inflight / "me" / "claim").touch()
    match change:
        case "lock removed":
            (inflight / "me" / ".lock").unlink()
        case "all removed":
            inflight.rename(tmp_path / "away")
        case _:
            (inflight / "me").rename(inflight / "away")
    if change == "replaced":
        (inflight / "me").mkdir()
        (inflight / "me" / ".lock").touch()
    assert not owner.still_there()
    for _ in range(2):
        owner.renew()
        assert owner.still_there()
        assert is_alive(inflight, "me")
    owner.close()
    assert not is_alive(inflight, "me")


def test_an_owner_that_cannot_have_its_directory_again_can_try_once_more(tmp_path: Path) -> None:
    inflight = tmp_path / "inflight"
    owner = InstanceDirectory(inflight, "me")
    inflight.rename(tmp_path / "away")
    inflight.write_bytes(b"in the way")
    with pytest.raises(OSError):
        owner.renew()
    assert not owner.still_there()
    inflight.unlink()
    owner.renew()
    assert owner.still_there()
    owner.close()
