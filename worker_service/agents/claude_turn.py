"""What the messages of one turn mean: live events, the outcome, and limits that are met on the way.

Facts about Claude Code's stream that this rests on (seen with 2.1.330): an API error ends a turn with subtype
`success` and `is_error` true; the CLI retries 429 by itself for up to three minutes and says so with `api_retry`
lines; a `retry-after` above a minute makes it give up at once; a subscription's limit comes as `rate_limit_event`;
a schema that the model ignored ends as a success without `structured_output`.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Any, Final

from claude_agent_sdk import (
    AssistantMessage,
    Message,
    RateLimitEvent,
    ResultMessage,
    SystemMessage,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
)

from agent_bus.messages import TaskStatus
from service_kit.claude_transcripts import TOKEN_KINDS, sum_tokens
from worker_service.agents.base import RateLimited, Run

_LONGEST_EVENT_TEXT: Final = 10_000
_RETRIES_LEFT_TO_CLI: Final = 3
"""A short burst of 429 is Claude Code's own business; after so many retries the gate is the better place to wait."""
_LONGEST_CLI_WAIT_S: Final = 10.0
_LOGIN_RETRIES: Final = 2
_UNKNOWN_RESET_S: Final = 60.0
"""How long a limit holds when nobody said for how long."""
_OVERLOADED_S: Final = 30.0
_RESET_IN_TEXT: Final = re.compile(r"limit reached\|(\d{10})")
_ERROR_KINDS: Final = {
    "error_max_turns": "max_turns",
    "error_max_budget_usd": "max_budget",
    "error_during_execution": "execution_error",
    "error_max_structured_output_retries": "no_structured_output",
}


class GaveUp(Exception):
    """The turn cannot come to a good end and is to be interrupted; `kind` and the text go into the result."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Turn:
    """Takes the messages of one turn into a run's outcome."""

    def __init__(self, run: Run, counted_usd: float) -> None:
        """Take into `run`. A result line tells what the whole conversation cost: `counted_usd` of it came before."""
        self._run = run
        self._counted_usd = counted_usd
        self._texts: list[str] = []
        self._usages: dict[str, dict[str, Any]] = {}

    def take(self, message: Message) -> None:
        """Take in one message.

        Raises:
            RateLimited: the credential's limit is met.
            GaveUp: going on makes no sense.
        """
        match message:
            case AssistantMessage():
                self._take_assistant(message)
            case UserMessage():
                self._take_user(message)
            case SystemMessage(subtype="api_retry"):
                self._take_retry(message.data)
            case SystemMessage(subtype="init"):
                data = message.data
                if isinstance(model := data.get("model"), str):
                    self._run.outcome.model = model
                self._run.emit("session", {key: data.get(key) for key in ("session_id", "model", "cwd")})
            case RateLimitEvent():
                self._take_limit(message)
            case ResultMessage():
                self._take_result(message)

    def _take_assistant(self, message: AssistantMessage) -> None:
        if message.usage and message.message_id:
            # Each line of a message has it anew; it is what there is when no result line comes.
            self._usages[message.message_id] = message.usage
            self._run.outcome.usage = sum_tokens(self._usages.values())
        for block in message.content:
            if isinstance(block, TextBlock):
                if message.parent_tool_use_id is None:
                    self._texts.append(block.text)
                    # What there is when the turn is cut short.
                    self._run.outcome.output = "\n".join(self._texts)
                self._run.emit("text", {"text": _short(block.text)})
            elif isinstance(block, ToolUseBlock):
                self._run.emit("tool_use", {"id": block.id, "name": block.name, "input": _short_fields(block.input)})

    def _take_user(self, message: UserMessage) -> None:
        if isinstance(message.content, str):
            return
        for block in message.content:
            if isinstance(block, ToolResultBlock):
                text = block.content if isinstance(block.content, str) else str(block.content)
                data = {"id": block.tool_use_id, "is_error": bool(block.is_error), "text": _short(text)}
                self._run.emit("tool_result", data)

    def _take_retry(self, data: dict[str, Any]) -> None:
        status, attempt = data.get("error_status"), int(data.get("attempt") or 1)
        wait_s = float(data.get("retry_delay_ms") or 0) / 1000
        self._run.emit("api_retry", {"status": status, "attempt": attempt, "wait_s": round(wait_s, 1)})
        if status == 429 and (wait_s > _LONGEST_CLI_WAIT_S or attempt >= _RETRIES_LEFT_TO_CLI):
            raise RateLimited("rate_limit", _moment(time.time() + wait_s), "the API asks to wait (HTTP 429)")
        if status in (401, 403) and attempt >= _LOGIN_RETRIES:
            raise GaveUp(
                "authentication_failed", f"The API refuses the credential (HTTP {status}); mend the login or key."
            )

    def _take_limit(self, event: RateLimitEvent) -> None:
        info = event.rate_limit_info
        kind = info.rate_limit_type or "usage_limit"
        self._run.emit("rate_limit", {"status": info.status, "kind": kind, "resets_at": info.resets_at})
        # With overage the account goes on beyond its limit, at a price that its owner has agreed to.
        if info.status == "rejected" and info.overage_status not in ("allowed", "allowed_warning"):
            resets_at = float(info.resets_at) if info.resets_at else time.time() + _UNKNOWN_RESET_S
            if resets_at > 1e11:  # milliseconds
                resets_at /= 1000
            raise RateLimited(kind, _moment(resets_at), f"the {kind.replace('_', ' ')} limit is used up")

    def take_costs(self, result: ResultMessage) -> None:
        """Take what a result line says about cost, whatever its verdict."""
        outcome = self._run.outcome
        outcome.session_id = result.session_id or outcome.session_id
        outcome.num_turns = result.num_turns
        # A turn that is interrupted in the middle of a message is told to have used nothing.
        if outcome.usage is None or any((result.usage or {}).get(kind) for kind in TOKEN_KINDS):
            outcome.usage = result.usage
        else:
            outcome.cost_is_partial = any(outcome.usage.get(kind) for kind in TOKEN_KINDS)
        if result.total_cost_usd is not None:
            outcome.cost_usd = max(0.0, result.total_cost_usd - self._counted_usd)

    def _take_result(self, result: ResultMessage) -> None:
        self.take_costs(result)
        outcome = self._run.outcome
        self._run.emit(
            "result",
            {
                "subtype": result.subtype,
                "is_error": result.is_error,
                "num_turns": result.num_turns,
                "cost_usd": outcome.cost_usd,
            },
        )
        if result.is_error:
            self._take_error(result)
            return
        outcome.status = TaskStatus.COMPLETED
        outcome.output = result.result if result.result is not None else outcome.output
        outcome.structured_output = result.structured_output
        outcome.exit_code = 0
        if self._run.task.output_schema is not None and result.structured_output is None:
            outcome.fail("no_structured_output", "Claude answered, but not in the shape of the task's output_schema.")

    def _take_error(self, result: ResultMessage) -> None:
        text = result.result or "; ".join(result.errors or []) or result.subtype
        status = result.api_error_status
        if (match := _RESET_IN_TEXT.search(text)) is not None:
            raise RateLimited("usage_limit", _moment(float(match[1])), "the usage limit is used up")
        if status == 429:
            raise RateLimited("rate_limit", _moment(time.time() + _UNKNOWN_RESET_S), _short(text, 200))
        if status == 529:
            raise RateLimited("overloaded", _moment(time.time() + _OVERLOADED_S), "the API is overloaded (HTTP 529)")
        if status in (401, 403):
            kind = "authentication_failed"
        elif status is not None or result.terminal_reason == "api_error":
            kind = "api_error"
        else:
            kind = _ERROR_KINDS.get(result.subtype, "execution_error")
        self._run.outcome.fail(kind, _short(text, 1000))


def _moment(epoch_s: float) -> datetime:
    return datetime.fromtimestamp(max(epoch_s, time.time() + 1.0), UTC)


def _short(text: str, longest: int = _LONGEST_EVENT_TEXT) -> str:
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text) - longest:,} more characters)"


def _short_fields(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: _short(value) if isinstance(value, str) else value for key, value in fields.items()}
