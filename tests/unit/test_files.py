from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from agent_bus.errors import DeadLetterReason, TriggerRejected
from agent_bus.files import move, publish_once, read_untrusted, write_atomic, write_new
from tests.conftest import needs_root


def refusal_of(path: Path, *, max_bytes: int = 1000, owners: frozenset[int] | None = None) -> TriggerRejected:
    with pytest.raises(TriggerRejected) as caught:
        read_untrusted(str(path), max_bytes=max_bytes, owners=owners)
    return caught.value


@pytest.fixture
def other_mount(tmp_path: Path) -> Iterator[Path]:
    """A directory on another file system than `tmp_path`."""
    if not Path("/dev/shm").is_dir() or os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("there is no second file system here")
    with TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


def test_a_plain_file_is_read_with_its_times(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"hello")
    body, status = read_untrusted(str(path), max_bytes=5, owners=frozenset((os.geteuid(),)))
    assert (body, status.st_ino) == (b"hello", path.stat().st_ino)


def test_a_missing_file_is_told_apart_from_a_bad_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_untrusted(str(tmp_path / "a"), max_bytes=5, owners=None)


def test_a_symlink_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    refusal = refusal_of(tmp_path / "link")
    assert (refusal.reason, "symbolic link" in refusal.message) == (DeadLetterReason.NOT_A_FILE, True)


def test_a_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "a FIFO" in refusal_of(tmp_path / "pipe").message


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert "a directory" in refusal_of(tmp_path).message


def test_a_socket_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        assert "a socket" in refusal_of(tmp_path / "s").message


def test_a_device_is_refused() -> None:
    assert refusal_of(Path("/dev/null")).reason is DeadLetterReason.NOT_A_FILE


def test_too_large_is_refused_and_the_largest_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 1001)
    refusal = refusal_of(path, max_bytes=1000)
    assert refusal.reason is DeadLetterReason.TOO_LARGE
    assert "1,001" in refusal.message
    assert "MAX_TRIGGER_BYTES" in refusal.message
    path.write_bytes(b"x" * 1000)
    assert len(read_untrusted(str(path), max_bytes=1000, owners=None)[0]) == 1000


def test_a_sparse_terabyte_is_refused_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.touch()
    os.truncate(path, 2**40)
    assert refusal_of(path).reason is DeadLetterReason.TOO_LARGE


@needs_root
def test_a_file_of_another_owner_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")
    os.chown(path, 12345, 12345)
    refusal = refusal_of(path, owners=frozenset((0,)))
    assert refusal.reason is DeadLetterReason.FOREIGN_OWNER
    assert "12345" in refusal.message
    assert read_untrusted(str(path), max_bytes=5, owners=frozenset((12345,)))[0] == b"x"


@needs_root
def test_a_file_that_may_not_be_read_is_refused() -> None:
    program = (
        "import os, sys; from agent_bus.files import read_untrusted\n"
        "os.seteuid(12345)\n"
        "try: read_untrusted(sys.argv[1], max_bytes=9, owners=None)\n"
        "except Exception as error: print(error.reason.value, error)"
    )
    with TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        path = Path(folder, "a")
        path.write_bytes(b"x")
        path.chmod(0o600)
        said = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True).stdout
    assert said.startswith("unreadable")
    assert "12345" in said


def test_publish_once_never_overwrites(tmp_path: Path) -> None:
    target = str(tmp_path / "result")
    for number, expected in ((1, True), (2, False)):
        staged = str(tmp_path / f"staged{number}")
        write_new(staged, str(number).encode())
        assert publish_once(staged, target) is expected
        assert not os.path.lexists(staged)
    assert Path(target).read_bytes() == b"1"


def test_publish_once_works_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    target = str(tmp_path / "result")
    for number, expected in ((1, True), (2, False)):
        staged = str(tmp_path / f"staged{number}")
        write_new(staged, str(number).encode())
        assert publish_once(staged, target) is expected
        assert not os.path.lexists(staged)
    assert Path(target).read_bytes() == b"1"


def test_publish_once_passes_other_troubles_on(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        publish_once(str(tmp_path / "gone"), str(tmp_path / "result"))


def test_write_new_does_not_write_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "link").symlink_to("victim")
    with pytest.raises(OSError):
        write_new(str(tmp_path / "link"), b"x")
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_write_atomic_replaces_whole_and_leaves_nothing_beside(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"1" * 100)
    write_atomic(tmp_path / "a", b"2")
    assert (tmp_path / "a").read_bytes() == b"2"
    assert os.listdir(tmp_path) == ["a"]


def test_write_atomic_leaves_nothing_beside_when_it_fails(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError):
        write_atomic(tmp_path / "a", b"1")
    assert os.listdir(tmp_path) == ["a"]


def test_two_writers_with_one_process_number_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas in containers all have process number 1."""
    other_has_written: list[bool] = []
    really_rename = os.rename

    def rename(source: str, target: str) -> None:
        if not other_has_written:
            other_has_written.append(True)
            write_atomic(tmp_path / "a", b"other")
        really_rename(source, target)

    monkeypatch.setattr(os, "rename", rename)
    write_atomic(tmp_path / "a", b"mine")
    assert (tmp_path / "a").read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["a"]


def test_move_within_one_file_system(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    move(str(tmp_path / "a"), str(tmp_path / "b"), ".moving~")
    assert os.listdir(tmp_path) == ["b"]


def test_move_across_mounts_keeps_content_and_time(tmp_path: Path, other_mount: Path) -> None:
    source, target = other_mount / "a", tmp_path / "b"
    source.write_bytes(b"x" * 100_000)
    os.utime(source, ns=(1, 1_234_567_890_000_000))
    move(str(source), str(target), ".moving~")
    assert target.read_bytes() == b"x" * 100_000
    assert target.stat().st_mtime_ns == 1_234_567_890_000_000
    assert os.listdir(other_mount) == []
    assert os.listdir(tmp_path) == ["b"]


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_move_across_mounts_takes_anything(tmp_path: Path, other_mount: Path, kind: str) -> None:
    source = other_mount / "a"
    if kind == "link":
        source.symlink_to("/etc/passwd")
    elif kind == "fifo":
        os.mkfifo(source)
    else:
        source.mkdir()
        (source / "inner").write_bytes(b"x")
    move(str(source), str(tmp_path / "b"), ".moving~")
    assert os.listdir(other_mount) == []
    assert os.path.lexists(tmp_path / "b")
    assert (tmp_path / "b").is_symlink() == (kind == "link")


def test_move_across_mounts_gives_back_what_cannot_be_copied(tmp_path: Path, other_mount: Path) -> None:
    source = other_mount / "a"
    source.write_bytes(b"x")
    with pytest.raises(OSError):
        move(str(source), str(tmp_path / "no such folder" / "b"), ".moving~")
    assert source.read_bytes() == b"x"
    assert os.listdir(other_mount) == ["a"]


def test_a_moved_file_that_is_gone_is_told(tmp_path: Path, other_mount: Path) -> None:
    for target in (tmp_path / "b", other_mount / "b"):
        with pytest.raises(FileNotFoundError):
            move(str(other_mount / "a"), str(target), ".moving~")
