from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_bus.claim_names import ClaimName, original_name, parse_claim_name

names = st.text(st.characters(blacklist_characters="/\0"), min_size=1, max_size=60)


@given(st.integers(0, 999_999_999), st.from_regex(r"[0-9a-z]{1,40}", fullmatch=True), names)
def test_a_claim_name_can_be_read_back(attempt: int, uid: str, name: str) -> None:
    claim = ClaimName(attempt, uid, name)
    assert parse_claim_name(str(claim)) == claim
    assert original_name(str(claim)) == name


@given(st.text())
def test_any_name_is_a_claim_or_its_own_original(text: str) -> None:
    parsed = parse_claim_name(text)
    assert (original_name(text) == text) if parsed is None else (str(parsed).endswith(parsed.name))


@pytest.mark.parametrize("text", ["", "a", "1~x", "1~~a", "~x~a", "x~1~a", "1~X~a", "1~x~", ".lock", "x.note"])
def test_other_names_are_no_claims(text: str) -> None:
    assert parse_claim_name(text) is None


def test_a_note_is_named_by_the_uid_alone_so_that_it_outlives_attempts() -> None:
    assert ClaimName(1, "u", "a").note == ClaimName(2, "u", "a").note == "u.note"
