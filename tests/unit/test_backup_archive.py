"""What an archive may and may not hold, and what becomes of a broken or hostile one."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from agent_bus.layout import WorkerLayout
from orchestrator_service.backups.archive import ArchiveReader, ArchiveWriter
from orchestrator_service.backups.manifest import BackupError, Entry, Kind, read_manifest
from orchestrator_service.backups.restoring import RestorePlan, check_archive, restore
from orchestrator_service.backups.taking import BackupPlan, take_backup


def nothing(files: int, size: int) -> None:
    """Hear of progress."""


def entry(path: str, body: bytes = b"x", **fields: Any) -> dict[str, Any]:
    digest = hashlib.sha256(body).hexdigest()
    return {"path": path, "size": len(body), "sha256": digest, "mtime_ns": 1, "mode": 0o644, **fields}


def manifest(*entries: dict[str, Any], **fields: Any) -> bytes:
    said = {
        "format": 1,
        "product": "1",
        "created_at": "2026-01-01T00:00:00Z",
        "shared_dir": "/shared",
        "ledger": None,
        "also": {"home": "/home"},
        "entries": entries,
    }
    return json.dumps({**said, **fields}).encode()


def archive(first: bytes, *members: tuple[tarfile.TarInfo, bytes], name: str = "manifest.json") -> bytes:
    """Return an archive as an attacker would make it, with a library that makes anything."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.GNU_FORMAT) as tar:
        head = tarfile.TarInfo(name)
        head.size = len(first)
        tar.addfile(head, io.BytesIO(first))
        for info, body in members:
            info.size = len(body) or info.size
            tar.addfile(info, io.BytesIO(body))
    return packed.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def put_back(packed: bytes, place: Path) -> None:
    reader = ArchiveReader(io.BytesIO(packed))
    found = reader.manifest()
    restore(reader, found, RestorePlan.below(place, found, frozenset()), nothing)


def refusal(packed: bytes, tmp_path: Path) -> str:
    """Return why it is refused; nothing may be left behind, in the place or beside it."""
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(BackupError) as caught:
        put_back(packed, inside / "place")
    assert list(inside.rglob("*")) == []
    return str(caught.value)


def team(shared: Path) -> bytes:
    """Return the backup of a small team with a home."""
    marie = WorkerLayout.under(shared, "marie")
    for path, body in {
        marie.result("a"): b'{"task_id": "a"}',
        marie.triggers / "task-b.trigger": b'{"description": "b"}',
        marie.inflight / "host-1" / "2~u1~task-c.trigger": b'{"description": "c"}',
        marie.inflight / "host-1" / "u1.note": b'{"session_id": "s"}',
        marie.inflight / "host-1" / ".lock": b"",
        marie.released / "1~u2~task-d.trigger": b'{"description": "d"}',
        marie.sessions / "abc.json": b"{}",
        marie.sessions / "abc.lock": b"host-1",
        marie.triggers / ".probe-host-1": b"",
        marie.event_journal("a"): b'{"event": "one"}\n{"event": "tw',
        shared / "gates" / "key.json": b"{}",
        shared / "heartbeats" / "marie-watcher.json": b"{}",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    home = shared.parent / "home"
    (home / "empty").mkdir(parents=True)
    (home / "sub").mkdir(mode=0o700)
    (home / "sub" / "key").write_text("secret")
    (home / "sub" / "key").chmod(0o600)
    (home / "inside").symlink_to("sub/key")
    (home / "outside").symlink_to("/etc/passwd")
    (home / "above").symlink_to("sub/../../other")
    packed = io.BytesIO()
    plan = BackupPlan(shared=shared, ledger=None, scratch=shared.parent, also={"home": home})
    _, size = take_backup(plan, packed, nothing)
    assert size == len(packed.getvalue())
    return packed.getvalue()


def test_all_that_counts_comes_back_and_the_rest_does_not(shared: Path, tmp_path: Path) -> None:
    packed = team(shared)
    place = tmp_path / "place"
    put_back(packed, place)
    found = {f"{path.relative_to(place)}" for path in place.rglob("*") if not path.is_dir() or path.is_symlink()}
    assert found == {
        "shared/results/marie/a.json",
        "shared/triggers/marie/task-b.trigger",
        "shared/tasks/marie/inflight/host-1/2~u1~task-c.trigger",
        "shared/tasks/marie/inflight/host-1/u1.note",
        "shared/tasks/marie/released/1~u2~task-d.trigger",
        "shared/tasks/marie/sessions/abc.json",
        "shared/events/marie/a.jsonl",
        "shared/gates/key.json",
        "also/home/sub/key",
        "also/home/inside",
    }
    assert (place / "also/home/empty").is_dir()
    assert (place / "also/home/sub").stat().st_mode & 0o777 == 0o700
    assert (place / "also/home/sub/key").stat().st_mode & 0o777 == 0o600
    # A torn last line is left out, and the age of a task is what its turn and its id go by.
    assert (place / "shared/events/marie/a.jsonl").read_text() == '{"event": "one"}\n'
    trigger = Path("triggers/marie/task-b.trigger")
    assert (place / "shared" / trigger).stat().st_mtime_ns == (shared / trigger).stat().st_mtime_ns


def test_an_archive_tells_what_is_in_it_and_what_is_not(shared: Path) -> None:
    found = ArchiveReader(io.BytesIO(team(shared))).manifest()
    assert {name: count for name, count in found.counts.items() if count} == {
        "results": 1,
        "waiting": 1,
        "in_flight": 1,
        "released": 1,
        "sessions": 1,
        "journals": 1,
        "gates": 1,
        "home": 1,
    }
    assert found.left_out == {"links_out": 2}
    assert (found.shared_dir, found.ledger, set(found.also)) == (str(shared), None, {"home"})


def test_tar_can_read_it(shared: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(team(shared)), mode="r:gz") as tar:
        names = tar.getnames()
    assert names[0] == "manifest.json" and "shared/results/marie/a.json" in names


def test_a_long_name_comes_back(tmp_path: Path) -> None:
    path = f"shared/results/marie/{'n' * 200}/{'m' * 200}.json"
    writer = ArchiveWriter(tmp_path)
    writer.add(Entry(path=path, size=3), io.BytesIO(b"abc"))
    packed = io.BytesIO()
    writer.write_to(packed, read_manifest(manifest()).model_copy(update={"entries": writer.entries, "also": {}}))
    writer.close()
    put_back(packed.getvalue(), tmp_path / "place")
    assert (tmp_path / "place" / path).read_bytes() == b"abc"


@pytest.mark.parametrize("part", [0, 1, 10, 300, 0.5, 0.9, -1, -9])
def test_one_that_is_cut_short_leaves_nothing(shared: Path, tmp_path: Path, part: float) -> None:
    packed = team(shared)
    end = int(len(packed) * part) if isinstance(part, float) else part
    said = refusal(packed[:end], tmp_path)
    assert "cut short" in said or "no backup" in said


def test_any_byte_that_changed_is_found(shared: Path, tmp_path: Path) -> None:
    packed = team(shared)
    for number, position in enumerate(range(12, len(packed), max(1, len(packed) // 60))):
        changed = bytearray(packed)
        changed[position] ^= 0x55
        place = tmp_path / f"changed-{number}"
        try:
            put_back(bytes(changed), place)
        except BackupError:
            assert not place.exists()
        else:
            # A byte that says nothing: the name of the compressing system, say.
            assert (place / "shared/results/marie/a.json").read_bytes() == b'{"task_id": "a"}'


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "shared/../../etc/passwd",
        "shared/..",
        "..",
        "shared",
        "elsewhere/x",
        "state/other",
        "state/ledger.sqlite3/x",
        "also/unknown/x",
        "also/home",
        "shared//x",
        "shared/./x",
        "shared/a\0b",
        f"shared/{'x' * 256}",
        "",
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(path: str, tmp_path: Path) -> None:
    packed = archive(manifest(entry(path)), (member(path.replace("\0", "") or "x"), b"x"))
    assert "cannot be trusted" in refusal(packed, tmp_path)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("also/home/x", "/etc"),
        ("also/home/x", ".."),
        ("also/home/a/x", "../../y"),
        ("also/home/x", "a/../../y"),
        ("also/home/x", "a/.."),
        ("also/home/x", ""),
        ("shared/tasks/marie/x", "y"),
        ("state/events/x", "y"),
    ],
)
def test_a_link_that_leads_out_is_refused(path: str, target: str, tmp_path: Path) -> None:
    told = entry(path, b"", kind="link", target=target, sha256="")
    packed = archive(manifest(told), (member(path, tarfile.SYMTYPE, target), b""))
    assert "is a link" in refusal(packed, tmp_path)


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    link = entry("also/home/x", b"", kind="link", target="y", sha256="")
    packed = archive(
        manifest(link, entry("also/home/x/file")),
        (member("also/home/x", tarfile.SYMTYPE, "y"), b""),
        (member("also/home/x/file"), b"x"),
    )
    assert "no directory" in refusal(packed, tmp_path)


def test_the_same_path_twice_is_refused(tmp_path: Path) -> None:
    packed = archive(
        manifest(entry("shared/results/m/x"), entry("shared/results/m/x")),
        (member("shared/results/m/x"), b"x"),
        (member("shared/results/m/x"), b"x"),
    )
    assert "twice" in refusal(packed, tmp_path)


@pytest.mark.parametrize(
    "kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CONTTYPE]
)
def test_a_member_that_is_no_plain_file_is_refused(kind: bytes, tmp_path: Path) -> None:
    path = "shared/results/marie/x.json"
    packed = archive(manifest(entry(path, b"")), (member(path, kind, "/etc/passwd"), b""))
    assert "another thing" in refusal(packed, tmp_path)


@pytest.mark.parametrize("kind", ["device", "fifo", "socket", "hardlink"])
def test_a_manifest_knows_no_other_kinds(kind: str) -> None:
    with pytest.raises(BackupError, match="wrong at entries"):
        read_manifest(manifest(entry("shared/x", kind=kind)))


def test_a_member_of_another_name_or_size_is_refused(tmp_path: Path) -> None:
    path = "shared/results/marie/x.json"
    assert "another thing" in refusal(archive(manifest(entry(path)), (member("shared/y"), b"x")), tmp_path / "name")
    assert "another thing" in refusal(archive(manifest(entry(path)), (member(path), b"xy")), tmp_path / "size")
    assert "checksum" in refusal(archive(manifest(entry(path)), (member(path), b"y")), tmp_path / "content")
    more = archive(manifest(entry(path)), (member(path), b"x"), (member("shared/y"), b"x"))
    assert "more than" in refusal(more, tmp_path / "more")
    assert "cut short" in refusal(archive(manifest(entry(path), entry("shared/z"))), tmp_path / "less")


@pytest.fixture(autouse=True)
def places(tmp_path: Path) -> None:
    for name in ("name", "size", "content", "more", "less"):
        (tmp_path / name).mkdir()


def test_a_later_format_is_told(tmp_path: Path) -> None:
    packed = archive(json.dumps({"format": 2, "all": "else is different"}).encode())
    assert "is of format 2, and this program knows formats up to 1" in refusal(packed, tmp_path)


@pytest.mark.parametrize(
    "body", [b"", b"hello", b"\x1f\x8b", b"{}" * 1000, gzip.compress(b"hello", mtime=0), gzip.compress(b"", mtime=0)]
)
def test_what_is_no_archive_is_told(body: bytes, tmp_path: Path) -> None:
    said = refusal(body, tmp_path)
    assert "no backup" in said or "cut short" in said


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"format": 0}', b'{"format": "1"}', b"\xff", b'{"format": 1}'])
def test_a_manifest_that_is_none_is_told(body: bytes, tmp_path: Path) -> None:
    said = refusal(archive(body), tmp_path)
    assert "manifest" in said


def test_an_archive_without_a_manifest_is_told(tmp_path: Path) -> None:
    assert "does not begin with a manifest" in refusal(archive(b"x", name="shared/x"), tmp_path)


def test_a_name_that_would_take_the_memory_is_refused(tmp_path: Path) -> None:
    head = member("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    head.size = 2**33
    packed = gzip.compress(head.tobuf(tarfile.GNU_FORMAT) + bytes(2**20))
    assert "no backup" in refusal(packed, tmp_path)


def test_a_manifest_that_would_take_the_memory_is_refused(tmp_path: Path) -> None:
    head = member("manifest.json")
    head.size = 2**33
    assert "its manifest has 8,589,934,592 bytes" in refusal(
        gzip.compress(head.tobuf(tarfile.GNU_FORMAT) + bytes(2**20)), tmp_path
    )


def test_a_backup_that_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = "shared/results/marie/x.json"
    packed = archive(manifest(entry(path, size=2**50)), (member(path), b"x"))
    assert "make room" in refusal(packed, tmp_path)


def test_a_directory_must_be_a_plain_name() -> None:
    for name in ("../x", "a/b", "", ".", "..", "-x", ".hidden"):
        with pytest.raises(BackupError, match="no plain name"):
            read_manifest(manifest(also={name: "/x"}))


def test_checking_reads_all_and_writes_nothing(shared: Path) -> None:
    packed = team(shared)
    reader = ArchiveReader(io.BytesIO(packed))
    check_archive(reader, reader.manifest(), nothing)
    reader = ArchiveReader(io.BytesIO(packed[:-20]))
    found = reader.manifest()
    with pytest.raises(BackupError, match="cut short"):
        check_archive(reader, found, nothing)


def test_a_file_that_becomes_shorter_is_told(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path)
    assert writer.add(Entry(path="shared/x", size=3), io.BytesIO(b"abc"))
    assert not writer.add(Entry(path="shared/y", size=5), io.BytesIO(b"abc"))
    assert writer.entries[1].sha256 == hashlib.sha256(b"abc\0\0").hexdigest()
    assert writer.entries[0].kind is Kind.FILE
    writer.close()
