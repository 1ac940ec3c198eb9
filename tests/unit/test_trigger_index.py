from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent_bus.trigger_index import Entry, Source, TriggerIndex


def entry(name: str, *, rank: int = 50, at: int = 0, session: str = "", source: Source = Source.TRIGGERS) -> Entry:
    return Entry(-rank, at, name, source, session)


def drained(index: TriggerIndex) -> list[str]:
    names = []
    while (found := index.pop()) is not None:
        names.append(found.name)
    return names


def test_priority_goes_before_age_and_age_before_name() -> None:
    index = TriggerIndex()
    for each in (entry("c", at=1), entry("b", at=2), entry("a", at=2), entry("z", rank=99, at=9)):
        index.add(each)
    assert drained(index) == ["z", "c", "a", "b"]


def test_adding_twice_changes_nothing() -> None:
    index = TriggerIndex()
    index.add(entry("a"))
    index.add(entry("a", at=5))
    assert len(index) == 1
    assert drained(index) == ["a"]
    assert len(index) == 0


def test_the_same_name_may_wait_in_two_directories() -> None:
    index = TriggerIndex()
    index.add(entry("a"))
    index.add(entry("a", source=Source.TASKS))
    assert len(index) == 2
    assert drained(index) == ["a", "a"]


def test_of_a_session_only_the_oldest_is_on_offer() -> None:
    index = TriggerIndex()
    index.add(entry("second", rank=99, at=2, session="s"))
    index.add(entry("first", at=1, session="s"))
    assert drained(index) == ["first"]
    index.end_session("s")
    assert drained(index) == ["second"]


def test_an_older_task_that_comes_late_still_goes_first() -> None:
    index = TriggerIndex()
    index.add(entry("two", at=2, session="s"))
    index.add(entry("one", at=1, session="s"))
    index.add(entry("other", at=3))
    assert drained(index) == ["one", "other"]


class IndexMachine(RuleBasedStateMachine):
    """The index against a list that is searched from end to end."""

    def __init__(self) -> None:
        super().__init__()
        self.index = TriggerIndex()
        self.waiting: list[Entry] = []
        self.busy: set[str] = set()

    @rule(
        name=st.sampled_from("abcdefgh"),
        rank=st.sampled_from([1, 2, 3]),
        at=st.integers(0, 5),
        session=st.sampled_from(["", "", "s", "t"]),
        source=st.sampled_from(list(Source)),
    )
    def add(self, name: str, rank: int, at: int, session: str, source: Source) -> None:
        new = Entry(-rank, at, name, source, session)
        if not any((known.source, known.name) == (source, name) for known in self.waiting):
            self.waiting.append(new)
        self.index.add(new)

    @rule()
    def pop(self) -> None:
        offered = [
            each
            for each in self.waiting
            if not each.session
            or (
                each.session not in self.busy
                and each == min((e for e in self.waiting if e.session == each.session), key=lambda e: (e[1], e[2], e))
            )
        ]
        expected = min(offered, default=None)
        got = self.index.pop()
        assert got == expected
        if got is not None:
            self.waiting.remove(got)
            if got.session:
                self.busy.add(got.session)

    @rule()
    def pop_and_put_back(self) -> None:
        got = self.index.pop()
        if got is not None:
            if got.session:
                self.busy.add(got.session)
            self.index.put_back(got)

    @rule(session=st.sampled_from(["s", "t", "never seen", ""]))
    def end_session(self, session: str) -> None:
        self.busy.discard(session)
        self.index.end_session(session)

    @invariant()
    def knows_what_waits(self) -> None:
        assert len(self.index) == len(self.waiting)
        assert all(self.index.knows(each.source, each.name) for each in self.waiting)


TestIndexMachine = IndexMachine.TestCase
TestIndexMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
