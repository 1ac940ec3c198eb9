"""What is read from a conversation's file, broken lines and all."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service_kit.claude_transcripts import carried_usd, find_transcript, tokens_of_conversation, tokens_since

BEGUN = datetime(2026, 3, 1, 12, tzinfo=UTC)


def said(name: str, second: int, **usage: Any) -> dict[str, Any]:
    return {
        "type": "assistant",
        "timestamp": f"2026-03-01T12:00:{second:02}.000Z",
        "message": {"id": name, "usage": usage},
    }


def write(path: Path, *lines: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [line if isinstance(line, str) else json.dumps(line, separators=(",", ":")) for line in lines]
    path.write_text("\n".join(texts))
    return path


def test_each_message_counts_once_with_what_it_said_last(tmp_path: Path) -> None:
    lines = (
        said("a", 1, input_tokens=10, output_tokens=1),
        said("a", 1, input_tokens=10, output_tokens=8, cache_read_input_tokens=3),
        said("b", 2, input_tokens=5, output_tokens=2, cache_creation_input_tokens=None),
    )
    told = tokens_since(write(tmp_path / "t.jsonl", *lines), BEGUN)
    assert (told["input_tokens"], told["output_tokens"], told["cache_read_input_tokens"]) == (15, 10, 3)
    assert told["cache_creation_input_tokens"] == 0


def test_what_was_before_the_moment_and_what_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    early = {**said("a", 1, input_tokens=10), "timestamp": "2026-03-01T11:59:59.000Z"}
    lines = (early, '{"type":"assistant","usage"', '{"usage":1}', '["usage"]', said("b", 2, input_tokens=5), '{"usage"')
    assert tokens_since(write(tmp_path / "t.jsonl", *lines), BEGUN)["input_tokens"] == 5


def test_the_last_word_on_what_is_carried_over_counts(tmp_path: Path) -> None:
    states = [{"type": "cost-state", "totalCostUSD": dollars} for dollars in (1.5, 4.0)]
    assert carried_usd(write(tmp_path / "t.jsonl", states[0], said("a", 1), states[1])) == 4.0
    assert carried_usd(write(tmp_path / "u.jsonl", said("a", 1))) == 0.0


def test_a_conversation_is_found_in_whatever_directory_it_began(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path)}
    assert find_transcript(environment, "x") is None and tokens_of_conversation(environment, "x", BEGUN) is None
    path = write(tmp_path / ".claude/projects/-somewhere/x.jsonl", said("a", 1, input_tokens=10))
    assert find_transcript(environment, "x") == path
    assert tokens_of_conversation(environment, "x", BEGUN) == tokens_since(path, BEGUN)
