"""A composed team that can be given goals: the orchestrator runs Claude Code itself, and its agent delegates."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.containers.conftest import remove
from tests.containers.stack import Stack
from tests.standin.messages_api import MessagesApi, Seen, reply, tool_use
from tests.waiting import wait_until

pytestmark = [pytest.mark.claude]

GOAL = "make the composed team dance"


@pytest.fixture
def stack(
    new_stack: Callable[..., Stack], api: MessagesApi, team_dir: Path, secrets_dir: Path, tmp_path: Path, engine: Any
) -> Iterator[Stack]:
    files: tuple[Path, ...] = ()
    if engine.program != "podman":
        reaching = tmp_path / "host.yaml"
        reaching.write_text("services:\n  orchestrator:\n    extra_hosts: ['host.containers.internal:host-gateway']\n")
        files = (reaching,)
    stack = new_stack(
        {"GOALS": "1"},
        (),
        files,
        TEAM_DIR=str(team_dir),
        SECRETS_DIR=str(secrets_dir),
        ANTHROPIC_BASE_URL=api.url.replace("0.0.0.0", "host.containers.internal"),
    )
    stack.up()
    yield stack
    remove(stack)


def _results(seen: Seen) -> list[Any]:
    blocks = [
        block
        for message in seen.body["messages"]
        if message["role"] == "user" and isinstance(message["content"], list)
        for block in message["content"]
    ]
    return [block for block in blocks if block.get("type") == "tool_result"]


def test_a_goal_is_reached_in_containers(stack: Stack, api: MessagesApi) -> None:
    waited: dict[str, Any] = {"timeout_seconds": 60}

    def is_at(number: int) -> Callable[[Seen], bool]:
        def here(seen: Seen) -> bool:
            if GOAL not in json.dumps(seen.body["messages"]) or len(_results(seen)) != number:
                return False
            if number == 1:
                content = _results(seen)[-1]["content"]
                text = content if isinstance(content, str) else "".join(part["text"] for part in content)
                waited["task_ids"] = [json.loads(text)["task_id"]]
            return True

        return here

    steps = (
        tool_use("mcp__team__submit_task", {"description": "a step to the left", "role": "marketing", "title": "Step"}),
        tool_use("mcp__team__wait_for_tasks", waited),
        reply("It danced."),
    )
    for number, step in enumerate(steps):
        api.when(is_at(number), step)
    created = stack.call("POST", "/goals", json={"goal": GOAL})
    assert created.status_code in (200, 201, 202), created.text

    def ended() -> Any:
        goal = stack.call("GET", f"/goals/{created.json()['goal_id']}").json()
        return goal if goal["state"] != "running" else None

    goal = wait_until(ended, 90)
    assert (goal["state"], goal["output"]) == ("completed", "It danced."), goal
    assert stack.result("fabien", goal["task_ids"][0])["output"] == "a step to the left"
    # The model's key reached neither the environment that the API tells of, nor the log.
    assert "sk-dummy-for-tests" not in stack.logs("orchestrator")
