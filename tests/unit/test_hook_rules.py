"""Hook rules: what loads, what is refused and how, and what they do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent_bus.hooks.actions import RuleBook
from agent_bus.hooks.bounded_pattern import BoundedPattern, PatternTooSlow
from agent_bus.hooks.events import HOOKS, HookEvent, HookPayloadError, hook_named, read_hook
from agent_bus.hooks.placeholders import fill, fill_line, fill_path
from agent_bus.hooks.rules import Places, RuleError, check_rules, load_rules
from orchestrator_service.team import EXAMPLE_TEAM

TRIGGER = {"type": "trigger", "path": "/shared/triggers/orchestrator/x.trigger"}
SLOW = "(a+)+$"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "shared").mkdir()
    (tmp_path / "logs").mkdir()
    return Places(shared=tmp_path / "shared", logs=tmp_path / "logs")


def file_of(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "marie-hooks.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def book_of(tmp_path: Path, places: Places, *rules: dict[str, Any]) -> RuleBook:
    book = RuleBook(file_of(tmp_path, list(rules)), places)
    book.reload()
    return book


def event_of(hook: str = "PreToolUse", **fields: Any) -> HookEvent:
    return HookEvent(hook=hook, worker="marie", **fields)


# -- files


@pytest.mark.parametrize("wrap", [False, True])
def test_both_shapes_of_a_file_load(tmp_path: Path, places: Places, wrap: bool) -> None:
    rules = [{"name": "a", "description": "d", "event": "Stop", "action": TRIGGER}]
    assert [rule.name for rule in load_rules(file_of(tmp_path, {"hooks": rules} if wrap else rules), places)] == ["a"]


def test_a_file_that_is_not_there_has_no_rules(tmp_path: Path, places: Places) -> None:
    assert load_rules(tmp_path / "none.json", places) == []


@pytest.mark.parametrize(
    "condition",
    [
        {"type": "pattern", "pattern": "danger|fire"},
        {"type": "pattern", "value": "fire"},
        {"type": "regex", "regex": "f.re"},
        {"pattern": "fire"},
        {"type": "pattern", "pattern": "FIRE", "ignore_case": True},
        {"type": "tool_name", "value": "Bash"},
        {"type": "tool_name", "tool_name": "Bash"},
        {"type": "tool_name", "pattern": "Write|Bash"},
        {"type": "tool_name", "tools": ["Write", "Bash"]},
        {"type": "tool_name", "value": "B*"},
        {"tool": "Bash"},
        {},
        None,
    ],
)
def test_every_spelling_of_a_condition_that_older_files_have(tmp_path: Path, places: Places, condition: Any) -> None:
    entry = {"name": "a", "event": "PreToolUse", "condition": condition, "action": TRIGGER}
    rule = load_rules(file_of(tmp_path, [entry]), places)[0]
    assert rule.applies_to(event_of(tool_name="Bash", tool_input={"command": "set fire"}))
    if condition:
        assert not rule.applies_to(event_of(tool_name="Read", tool_input={"file_path": "/x"}))
    assert not rule.applies_to(event_of("Stop"))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        *((hook, hook) for hook in HOOKS),
        ("OnError", "OnError"),
        ("on_error", "OnError"),
        ("OnToolUse", "PostToolUse"),
        ("pre_tool_use", "PreToolUse"),
        ("onStop", "Stop"),
        ("Nonsense", None),
    ],
)
def test_names_of_hooks_older_ones_too(written: str, meant: str | None) -> None:
    assert hook_named(written) == meant


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"event": "Explosion"}, ["rule 'a', event is 'Explosion'", "UserPromptSubmit"]),
        ({"event": None}, ["rule 'a' has no event"]),
        ({"event": 7}, ["event is 7"]),
        ({"condition": {"type": "pattern", "pattern": "(unclosed"}}, ["condition.pattern is '(unclosed'", "position"]),
        ({"condition": {"type": "pattern"}}, ["has no condition.pattern"]),
        ({"condition": {"type": "moon"}}, ["condition.type is 'moon'"]),
        ({"condition": "x"}, ["condition is 'x'"]),
        ({"condition": {"type": "tool_name", "value": 3}}, ["condition.value is 3"]),
        ({"action": None}, ["has no action"]),
        ({"action": {"type": "shout", "path": "/shared/x"}}, ["action.type is 'shout'"]),
        ({"action": {"type": "log"}}, ["has no action.path"]),
        ({"action": {"type": "log", "path": "/etc/passwd"}}, ["action.path is '/etc/passwd'", "SHARED_DIR"]),
        ({"action": {"type": "log", "path": "/shared/../x"}}, ["action.path is '/shared/../x'"]),
        ({"action": {"type": "log", "path": "/var/log/../../x"}}, ["action.path"]),
        ({"action": {"type": "log", "path": "/shared/"}}, ["action.path"]),
        ({"action": {"type": "log", "path": "/shared/x", "format": "${nope}"}}, ["action.format is '${nope}'"]),
        ({"action": {**TRIGGER, "payload": {"a": ["${nope}"]}}}, ["action.payload is '${nope}'", "${tool_name}"]),
        ({"action": {**TRIGGER, "payload": 7}}, ["action.payload is 7"]),
        ({"name": 7}, ["name is 7"]),
    ],
)
def test_what_is_wrong_is_told_with_file_rule_and_field(
    tmp_path: Path, places: Places, change: dict[str, Any], words: list[str]
) -> None:
    path = file_of(tmp_path, [{"name": "a", "event": "Stop", "action": TRIGGER, **change}])
    with pytest.raises(RuleError) as refusal:
        load_rules(path, places)
    assert len(refusal.value.problems) == 1
    assert str(refusal.value).startswith(f"{path}: rule ")
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.parametrize("body", ["", "{", "7", '"x"', "{}", '{"hooks": {"Stop": []}}', "[7]", "[[", "\xff"])
def test_a_file_that_is_none_is_refused_in_one_sentence(tmp_path: Path, places: Places, body: str) -> None:
    problems = check_rules(file_of(tmp_path, body), places)
    assert len(problems) == 1 and "\n" not in problems[0] and "marie-hooks.json" in problems[0]


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path, places: Places) -> None:
    rules = [{"name": "a", "event": "X", "action": {"type": "y"}}, {"name": "b", "event": "Stop", "action": TRIGGER}, 7]
    assert len(check_rules(file_of(tmp_path, rules), places)) == 3


def test_a_reload_of_a_broken_file_keeps_the_old_rules(tmp_path: Path, places: Places) -> None:
    book = book_of(tmp_path, places, {"name": "a", "event": "Stop", "action": TRIGGER})
    file_of(tmp_path, "{")
    with pytest.raises(RuleError):
        book.reload()
    assert book.names == ["a"]


@pytest.mark.parametrize("name", ["marie", "anga", "fabien", "orchestrator"])
def test_the_shipped_rules_load(places: Places, name: str) -> None:
    assert load_rules(EXAMPLE_TEAM.parent / "hooks-config" / f"{name}-hooks.json", places)


# -- placeholders


@given(st.text(), st.text(), st.dictionaries(st.text(), st.text()))
def test_a_payload_stays_what_it_is_whatever_the_values(error: str, tool: str, arguments: dict[str, str]) -> None:
    template = {"a": "${error}", "b": ["x ${tool_name} y", {"c": "${tool_args}"}], "n": 1}
    event = event_of(error=error, tool_name=tool, tool_input=arguments)
    filled = json.loads(json.dumps(fill(template, event)))
    assert filled["a"] == error[:10_000] and filled["b"][0] == f"x {tool} y" and filled["n"] == 1


@given(st.text(min_size=1))
@example("0..0")
@example("../../etc/passwd")
def test_a_path_with_values_leads_nowhere_else(value: str) -> None:
    filled = fill_path("/shared/a-${prompt}.trigger", event_of("UserPromptSubmit", prompt=value))
    assert filled.startswith("/shared/a-") and filled.count("/") == 2 and "\0" not in filled
    # Two dots inside a name are but dots.
    assert ".." not in filled.split("/")


@given(st.text())
def test_a_line_stays_one_line(value: str) -> None:
    line = fill_line("x ${prompt}", event_of("UserPromptSubmit", prompt=value))
    assert len(line.splitlines()) == 1 and "\x1b" not in line


def test_every_placeholder_has_its_value() -> None:
    event = event_of(
        "PostToolUseFailure",
        tool_name="Write",
        tool_input={"file_path": "/a", "content": "b"},
        error="no",
        task_id="7",
        session_id="s",
    )
    line = fill_line("${worker} ${event} ${tool_name} ${file_path} ${error} ${task_id} ${session_id}", event)
    assert line == "marie PostToolUseFailure Write /a no 7 s"
    assert fill("${tool_args}", event) == '{"file_path": "/a", "content": "b"}'
    assert fill("${timestamp}", event).endswith("Z")


# -- what rules do


def test_a_trigger_and_a_line_are_written(tmp_path: Path, places: Places) -> None:
    book = book_of(
        tmp_path,
        places,
        {"name": "a", "event": "OnError", "action": {**TRIGGER, "payload": '{"why": "${error}"}'}},
        {"name": "b", "event": "OnError", "action": {"type": "log", "path": "/var/log/x.log", "format": "${error}"}},
        {"name": "c", "event": "Stop", "action": {"type": "log", "path": "/var/log/y.log"}},
    )
    assert book.apply(event_of("PostToolUseFailure", error='quo"te\nline')) == 2
    assert json.loads((places.shared / "triggers/orchestrator/x.trigger").read_text()) == {"why": 'quo"te\nline'}
    assert (places.logs / "x.log").read_text() == 'quo"te\\nline\n'
    assert not (places.logs / "y.log").exists()


def test_a_trigger_without_payload_holds_the_event(tmp_path: Path, places: Places) -> None:
    book = book_of(tmp_path, places, {"name": "a", "event": "Stop", "action": TRIGGER})
    book.apply(event_of("Stop", task_id="7", message="\ud800 done"))
    written = json.loads((places.shared / "triggers/orchestrator/x.trigger").read_text())
    assert (written["event"], written["rule"], written["task_id"]) == ("Stop", "a", "7")


def test_a_rule_that_fails_is_told_and_the_next_one_works(tmp_path: Path, places: Places) -> None:
    rules = [
        {"name": "bad", "event": "Stop", "action": {"type": "trigger", "path": "/shared/file/x.trigger"}},
        {"name": "good", "event": "Stop", "action": TRIGGER},
    ]
    (places.shared / "file").write_text("no directory")
    failed: list[str] = []
    book = RuleBook(file_of(tmp_path, rules), places, on_failure=failed.append)
    book.reload()
    assert book.apply(event_of("Stop")) == 1
    assert failed == ["bad"]


def test_a_link_that_leads_out_is_seen_when_the_rule_is_done(tmp_path: Path, places: Places) -> None:
    rule = {"name": "a", "event": "Stop", "action": {"type": "trigger", "path": "/shared/out/x.trigger"}}
    failed: list[str] = []
    book = RuleBook(file_of(tmp_path, [rule]), places, on_failure=failed.append)
    book.reload()
    (tmp_path / "elsewhere").mkdir()
    (places.shared / "out").symlink_to(tmp_path / "elsewhere")
    assert book.apply(event_of("Stop")) == 0
    assert failed == ["a"] and list((tmp_path / "elsewhere").iterdir()) == []
    assert len(check_rules(file_of(tmp_path, [rule]), places)) == 1


def test_a_pattern_that_would_take_for_ever_is_cut_short_and_set_aside(tmp_path: Path, places: Places) -> None:
    rules = [
        {"name": "slow", "event": "PreToolUse", "condition": {"pattern": SLOW}, "action": TRIGGER},
        {"name": "good", "event": "PreToolUse", "action": {"type": "log", "path": "/var/log/x.log"}},
    ]
    failed: list[str] = []
    book = RuleBook(file_of(tmp_path, rules), places, on_failure=failed.append)
    book.reload()
    for _ in range(5):
        assert book.apply(event_of(tool_input={"command": "a" * 5000 + "!"})) == 1
    assert failed == ["slow"] * 3


def test_the_bound_holds_and_leaves_nothing_behind() -> None:
    slow, quick = BoundedPattern(SLOW), BoundedPattern("needle$")
    with pytest.raises(PatternTooSlow):
        slow.is_found_in("a" * 5000 + "!")
    assert quick.is_found_in("a needle") and not quick.is_found_in("x" * 10_000 + " needle")


# -- payloads


@pytest.mark.parametrize("payload", [None, 7, [], {}, {"hook_event_name": "Boom"}, {"hook_event_name": ["Stop"]}])
def test_what_is_no_hooks_input_is_refused(payload: object) -> None:
    with pytest.raises(HookPayloadError):
        read_hook(payload, worker="marie")


@given(
    st.recursive(
        st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_any_input_of_a_tool_is_taken(value: object) -> None:
    payload = {"hook_event_name": "PostToolUse", "tool_input": value, "tool_response": value, "error": value}
    event = read_hook(payload, worker="marie")
    json.dumps(event.data())
    assert isinstance(event.text, str) and isinstance(event.tool_args, str)


def test_long_values_are_shortened() -> None:
    data = event_of(tool_input={"content": "x" * 100_000, "deep": {"a": ["y" * 5000]}}).data()
    assert len(json.dumps(data)) < 10_000
