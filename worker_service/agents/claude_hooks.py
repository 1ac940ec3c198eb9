"""The hooks of one Claude process: which of its events belong to a task, and what no hook told.

They come as the SDK's callbacks over the process's own pipes: half as dear as http hooks to the worker's port, with
no port and no token to guard, and it is known from which process they come (docs/hooks.md has the figures). Claude
Code runs no SessionStart for a process that starts, and no SessionEnd for one that is ended; and the pool's own
`/clear` between tasks runs both at a time when they are nobody's. So both are told from here, by what the pool knows:
a task's conversation starts when its process is handed over, and ends when it is given back.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from claude_agent_sdk import AssistantMessage, Message, ResultMessage, SystemMessage, ToolUseBlock, UserMessage
from claude_agent_sdk.types import (
    HookCallback,
    HookContext,
    HookInput,
    HookJSONOutput,
    HookMatcher,
    ToolResultBlock,
)
from claude_agent_sdk.types import (
    HookEvent as SdkHook,
)

from agent_bus.hooks.events import TOOL_HOOKS, HookEvent, HookPayloadError, Source, read_hook
from worker_service.agents.base import Run
from worker_service.hooks.bridge import HookBridge

log = logging.getLogger(__name__)

_ASKED_FOR: Final[tuple[SdkHook, ...]] = (
    "UserPromptSubmit",
    "PreToolUse",
    "PostToolUse",
    "PostToolUseFailure",
    "Notification",
    "Stop",
    "SubagentStop",
    "PermissionRequest",
)
"""PermissionRequest stands in for the Notification that a person at a terminal would get: with nobody there, Claude
Code asks nobody and notifies nobody."""

_WAITED_FOR: Final = ("UserPromptSubmit", "PreToolUse")
_LONG_TIMEOUT_S: Final = 600.0
"""Claude Code gives up a callback that is late and goes on, but for these two: it refuses the prompt or the tool call
whose callback is late. No callback here waits for anything, so only a worker that stands still can be late, and then
nobody reads what its agents say either; that shall cost time, not a task."""


class SessionHooks:
    """Takes the hook events of one process."""

    def __init__(self, bridge: HookBridge, *, asks: bool = False) -> None:
        """Report to `bridge`; `asks` says whether a person is asked for permissions."""
        self._bridge = bridge
        self._asks = asks
        self._run: Run | None = None
        self._session_id: str | None = None
        self._told: set[tuple[str, str]] = set()
        """Hook and tool call, for each event of a tool that was told."""
        self._calls: dict[str, ToolUseBlock] = {}
        self._prompted = False
        self._stopped = False

    def matchers(self) -> dict[SdkHook, list[HookMatcher]]:
        """Return what Claude Code is asked to tell, and how long it may wait for the answer."""
        callback: HookCallback = self._callback
        return {
            hook: [
                HookMatcher(
                    hooks=[callback], timeout=_LONG_TIMEOUT_S if hook in _WAITED_FOR else self._bridge.timeout_s
                )
            ]
            for hook in _ASKED_FOR
        }

    async def _callback(self, payload: HookInput, tool_use_id: str | None, context: HookContext) -> HookJSONOutput:
        """Take note and have no opinion: the session goes on as if there were no hook."""
        try:
            self._take(dict(payload))
        except Exception:
            log.exception("a hook event is lost", extra={"action": "hook_failed"})
        return {}

    def _take(self, payload: dict[str, Any]) -> None:
        if self._run is None:
            # The pool's own housekeeping, which is no task's.
            return
        hook, source = payload.get("hook_event_name"), Source.HOOK
        if hook == "PermissionRequest":
            tool = payload.get("tool_name")
            who = "a person is asked" if self._asks else "nobody is there to give it"
            payload = {**payload, "message": f"Claude needs permission to use {tool}, and {who}."}
            hook, source = "Notification", Source.STREAM
        try:
            event = read_hook(
                payload,
                worker=self._bridge.worker,
                task_id=self._run.task.task_id,
                hook=None if hook is None else str(hook),
                source=source,
            )
        except HookPayloadError:
            return
        self._tell(event)

    def _tell(self, event: HookEvent) -> None:
        """Tell of an event once, whoever knew of it first."""
        if event.hook in TOOL_HOOKS and event.tool_use_id is not None:
            key = ("Post" if event.hook.startswith("Post") else "Pre", event.tool_use_id)
            if key in self._told:
                return
            self._told.add(key)
        self._prompted |= event.hook == "UserPromptSubmit"
        self._stopped = event.hook == "Stop" or (self._stopped and event.hook != "UserPromptSubmit")
        self._bridge.take(event, None if self._run is None else self._run.emit)

    def _fill_in(self, hook: str, **fields: Any) -> None:
        assert self._run is not None
        self._tell(
            HookEvent(
                hook=hook,
                worker=self._bridge.worker,
                task_id=self._run.task.task_id,
                session_id=self._session_id,
                source=Source.STREAM,
                **fields,
            )
        )

    def begin(self, run: Run, session_id: str, reason: str) -> None:
        """Begin to tell of a task's events; `reason` says how its conversation came about."""
        self._run = run
        self._session_id = session_id
        self._told.clear()
        self._calls.clear()
        self._prompted = self._stopped = False
        self._fill_in("SessionStart", reason=reason)

    def observe(self, message: Message) -> None:
        """Look at a message of the stream, and tell of what a hook should have told by now.

        Claude Code waits for the answer to a hook before it goes on, so whatever has no hook here has none at all.
        """
        if self._run is None:
            return
        if isinstance(message, AssistantMessage):
            self._calls.update({block.id: block for block in message.content if isinstance(block, ToolUseBlock)})
        elif isinstance(message, UserMessage) and not isinstance(message.content, str):
            for block in message.content:
                if isinstance(block, ToolResultBlock):
                    self._take_result(block)
        elif isinstance(message, SystemMessage) and message.subtype == "task_notification":
            self._fill_in("Notification", message=str(message.data.get("summary") or message.data.get("status") or ""))
        elif isinstance(message, ResultMessage):
            if not self._prompted:
                self._fill_in("UserPromptSubmit", prompt=self._run.task.description)
            if not self._stopped and not message.is_error:
                self._fill_in("Stop", message=message.result or "")

    def _take_result(self, result: ToolResultBlock) -> None:
        call = self._calls.pop(result.tool_use_id, None)
        if call is None:
            return
        known: dict[str, Any] = {"tool_name": call.name, "tool_use_id": call.id, "tool_input": call.input}
        self._fill_in("PreToolUse", **known)
        text = result.content if isinstance(result.content, str) else str(result.content or "")
        if result.is_error:
            self._fill_in("PostToolUseFailure", **known, error=text)
        else:
            self._fill_in("PostToolUse", **known, tool_output=text)

    def end(self, reason: str) -> None:
        """Tell of the end of the task's conversation, and of nothing more until the next `begin`."""
        if self._run is None:
            return
        self._fill_in("SessionEnd", reason=reason)
        self._run = None
