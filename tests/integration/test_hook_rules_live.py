"""Hook rules in a running worker: read at its start and when told; a broken file costs nothing that works."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent_bus.events import read_events
from agent_bus.hooks.events import HookEvent
from agent_bus.hooks.rules import RuleError
from tests.integration.harness import ObedientAgent, Shop, child_worker, fetch, quick_settings
from worker_service.service import open_worker


def rule(name: str, trigger: str) -> dict[str, object]:
    return {"name": name, "event": "Stop", "action": {"type": "trigger", "path": f"/shared/{trigger}"}}


def write(path: Path, *rules: dict[str, object]) -> None:
    path.write_text(json.dumps(rules))


@pytest.fixture
def rules(shared: Path) -> Path:
    (shared / "hooks-config").mkdir()
    return shared / "hooks-config" / "marie-hooks.json"


async def test_a_reload_takes_new_rules_and_refuses_broken_ones(shared: Path, rules: Path) -> None:
    write(rules, rule("one", "one.trigger"))
    async with open_worker(quick_settings(shared, WORKER_MODE="hooks"), ObedientAgent()) as worker:
        assert worker.hooks is not None and worker.hooks.rules.names == ["one"]
        write(rules, rule("one", "/etc/one.trigger"))
        with pytest.raises(RuleError, match=r"rule 'one', action\.path"):
            worker.reload()
        assert worker.hooks.rules.names == ["one"]
        write(rules, rule("two", "two.trigger"))
        assert worker.reload() == {"hook_rules": ["two"]}
        worker.hooks.take(HookEvent(hook="Stop", worker="marie"))
    # What was told before the end is done by the end.
    assert (shared / "two.trigger").exists() and not (shared / "one.trigger").exists()


async def test_a_rule_that_fails_is_counted(shared: Path, rules: Path) -> None:
    (shared / "file").write_text("no directory")
    write(rules, rule("bad", "file/x.trigger"), rule("good", "good.trigger"))
    async with open_worker(quick_settings(shared, WORKER_MODE="hybrid"), ObedientAgent()) as worker:
        assert worker.hooks is not None
        worker.hooks.take(HookEvent(hook="Stop", worker="marie"))
        worker.hooks.flush()
        assert (shared / "good.trigger").exists()
        _, metrics = await fetch(worker.http_port, "/metrics")
    assert 'hook_rule_failures_total{rule="bad",worker="marie"} 1.0' in metrics


def test_a_worker_does_not_start_with_broken_rules(shared: Path, rules: Path) -> None:
    rules.write_text(json.dumps([{"name": "a", "event": "Boom", "action": {"type": "log", "path": "/shared/x"}}]))
    with child_worker(shared, WORKER_MODE="hooks") as child:
        assert child.wait() == 2
        said = child.output()
    assert "rule 'a', event is 'Boom'; allowed is" in said and "Traceback" not in said


def test_other_modes_do_not_look_at_the_rules(shared: Path, rules: Path) -> None:
    rules.write_text("{")
    with child_worker(shared) as child:
        assert child.port()


@pytest.mark.parametrize(("prompt", "kind"), [("fail badly", "agent_error"), ("sleep 600", "timeout")])
async def test_a_failure_of_any_agent_is_an_error(
    shared: Path, shop: Shop, rules: Path, prompt: str, kind: str
) -> None:
    path = "/shared/triggers/orchestrator/${worker}-failed.trigger"
    action = {"type": "trigger", "path": path, "payload": {"task": "${task_id}", "error": "${error}"}}
    write(rules, {"name": "tell", "event": "OnError", "action": action})
    async with open_worker(quick_settings(shared, WORKER_MODE="hooks"), ObedientAgent()):
        shop.submit("good", "x")
        shop.submit("bad", prompt, timeout=0.2)
        result = await shop.async_result("bad")
        await shop.async_result("good")
    trigger = json.loads((shop.layout.orchestrator_triggers / "marie-failed.trigger").read_bytes())
    assert result.error is not None
    assert trigger == {"task": "bad", "error": result.error.message}
    told = [event.data for event in read_events(shop.layout.event_journal("bad")) if event.event == "hook"]
    assert [(data["hook"], data["reason"]) for data in told] == [("OnError", kind)]
