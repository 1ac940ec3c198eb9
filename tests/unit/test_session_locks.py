from __future__ import annotations

import os
from pathlib import Path

from agent_bus.session_locks import SessionStore


def test_a_session_is_held_by_one_and_others_are_free(tmp_path: Path) -> None:
    mine, theirs = SessionStore(tmp_path / "sessions"), SessionStore(tmp_path / "sessions")
    lock = mine.lock("../any text\n")
    assert lock is not None
    assert theirs.lock("../any text\n") is None
    other = theirs.lock("other")
    assert other is not None
    SessionStore.unlock(other)
    SessionStore.unlock(lock)
    again = theirs.lock("../any text\n")
    assert again is not None
    SessionStore.unlock(again)


def test_the_conversation_is_remembered(tmp_path: Path) -> None:
    store = SessionStore(tmp_path)
    assert store.conversation("a") is None
    store.remember("a", "c1")
    store.remember("a", "c2")
    assert SessionStore(tmp_path).conversation("a") == "c2"
    assert store.conversation("b") is None


def test_a_broken_memory_is_a_fresh_start(tmp_path: Path) -> None:
    store = SessionStore(tmp_path)
    store.remember("a", "c1")
    for body in (b"", b"{", b"[]", b"{}"):
        path = next(tmp_path.glob("*.json"))
        path.write_bytes(body)
        assert store.conversation("a") is None
    assert os.listdir(tmp_path)
