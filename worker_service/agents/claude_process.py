"""One living Claude Code process: connect, take a turn, clear, interrupt, end."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path

import anyio
from anyio.abc import TaskGroup
from claude_agent_sdk import (
    ClaudeAgentOptions,
    ClaudeSDKClient,
    ClaudeSDKError,
    CLIConnectionError,
    Message,
    ResultMessage,
    SystemMessage,
)

from worker_service.agents.claude_command import Profile
from worker_service.agents.claude_hooks import SessionHooks
from worker_service.agents.claude_questions import SessionQuestions
from worker_service.agents.claude_transport import BadOutput, LeashedTransport
from worker_service.agents.leashed_process import LeashedProcess, start_leashed

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: float = 60.0
CLEAR_TIMEOUT_S: float = 10.0
INTERRUPT_TIMEOUT_S: float = 3.0
_MESSAGES_KEPT = 10_000


class ProcessGone(Exception):
    """The process ended, or printed what cannot be understood; `kind` is a stable word."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class NotResumable(ProcessGone):
    """There is no such conversation to go on in."""


class ClaudeProcess:
    """A Claude Code process with a conversation. Made by `start_claude`; ended by `aclose`."""

    def __init__(
        self,
        process: LeashedProcess,
        profile: Profile,
        session_id: str,
        hooks: SessionHooks | None = None,
        questions: SessionQuestions | None = None,
        carried_usd: float = 0.0,
    ) -> None:
        self.profile = profile
        self.session_id = session_id
        """The conversation it is in."""
        self.hooks = hooks
        """Tells of its hook events; None where nobody is told."""
        self.questions = questions
        """Carries its questions to people; None where nobody is asked."""
        self.turns = 0
        self.counted_usd = carried_usd
        """What it counted for its conversation before the turn that runs, in US dollars."""
        self._told_usd = carried_usd
        self.ended = anyio.Event()
        """Set when it can be used no more."""
        self._process = process
        self._transport = LeashedTransport(process)
        # Prompts are text: `verbatim_prompts` keeps `/words` and `@paths` in them from being acted on.
        options = ClaudeAgentOptions(
            verbatim_prompts=True,
            hooks=None if hooks is None else hooks.matchers(),
            can_use_tool=None if questions is None else questions.can_use_tool,
        )
        self._client = ClaudeSDKClient(options, transport=self._transport)
        self._to_reader, self._from_process = anyio.create_memory_object_stream[Message](_MESSAGES_KEPT)
        self._failure: ProcessGone | None = None
        self._agent: frozenset[int] = frozenset()
        self._family: frozenset[int] = frozenset()
        self._background_tasks = False

    @property
    def is_usable(self) -> bool:
        """Whether it lives and nothing has gone wrong."""
        return not self.ended.is_set() and self._process.exit_code is None

    @property
    def frozen(self) -> bool:
        """Whether it is stopped."""
        return self._process.frozen

    @property
    def heard_at(self) -> float:
        """When it last showed that it gets on."""
        return self._transport.heard_at

    @property
    def answered_at(self) -> float | None:
        """Since when its answer has been there without the end of its turn."""
        return self._transport.answered_at

    @property
    def hooked(self) -> bool:
        """Whether it tells of its hooks."""
        return self.hooks is not None

    @property
    def in_background(self) -> bool:
        """Whether it has commands in the background."""
        return self._background_tasks

    def work_seconds(self) -> float:
        """Return the CPU time of what it has started: what it uses itself is no sign that its task gets on."""
        return self._process.work_seconds(but_for=self._agent)

    def freeze(self) -> None:
        """Stop it from using any CPU while it waits."""
        self._process.freeze()

    def thaw(self) -> None:
        """Let it go on."""
        self._process.thaw()

    def kill(self) -> None:
        """End it without waiting."""
        self.ended.set()
        self._process.kill()

    async def open(self, tasks: TaskGroup) -> None:
        """Connect; the streams are read by `tasks`.

        Raises:
            ProcessGone: it ended or did not answer in time.
            NotResumable: it was to resume a conversation that it does not know.
        """
        tasks.start_soon(self._process.collect_stderr, name="claude stderr")
        try:
            with anyio.fail_after(CONNECT_TIMEOUT_S):
                await self._connect()
        except Exception as error:
            failure = await self._explain(error)
            await self.aclose()
            raise failure from error
        tasks.start_soon(self._pump, name="claude messages")
        self._agent = self._process.children()
        self._family = self._process.descendants()

    async def _connect(self) -> None:
        """Connect, or fail as soon as the process ends: the SDK would wait for the answer of one that is gone."""
        failure: Exception | None = CLIConnectionError("it ended before it answered")

        async def stop_when_gone(scope: anyio.CancelScope) -> None:
            await self._process.wait()
            scope.cancel()

        async with anyio.create_task_group() as race:
            race.start_soon(stop_when_gone, race.cancel_scope)
            try:
                await self._client.connect()
                failure = None
            except Exception as error:
                failure = error
            race.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _pump(self) -> None:
        """Read messages as long as the process lives: a turn that is cancelled must not end the reading."""
        try:
            async for message in self._client.receive_messages():
                if isinstance(message, SystemMessage) and message.subtype == "background_tasks_changed":
                    self._background_tasks = bool(message.data.get("tasks"))
                await self._to_reader.send(message)
            self._failure = await self._explain(None)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return
        except Exception as error:
            self._failure = await self._explain(error)
        finally:
            self.ended.set()
            self._to_reader.close()

    async def _explain(self, error: BaseException | None) -> ProcessGone:
        bad = error if isinstance(error, BadOutput) else getattr(error, "__cause__", None)
        if isinstance(bad, BadOutput):
            return ProcessGone(bad.kind, f"{bad}; it was ended.")
        if isinstance(error, TimeoutError):
            return ProcessGone(
                "agent_hangs", f"Claude Code did not answer within {CONNECT_TIMEOUT_S:g} s of its start."
            )
        # The output closes a moment before the process is gone.
        with anyio.move_on_after(2, shield=True):
            await self._process.wait()
        said = self._process.stderr_tail.strip()
        last = said.splitlines()[-1][:300] if said else ""
        if "No conversation found" in said:
            return NotResumable("not_resumable", last)
        code = self._process.exit_code
        if code is None and error is not None:
            return ProcessGone("protocol_error", f"Claude Code said what cannot be understood: {error}.")
        how = (
            "ended" if code is None else f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        )
        return ProcessGone("agent_died", f"The Claude process {how}{': ' + last if last else ''}.")

    async def begin(self, prompt: str) -> None:
        """Hand over the prompt of a turn.

        Raises:
            ProcessGone: it has ended.
        """
        self.turns += 1
        self.counted_usd = self._told_usd
        self._drop_stale()
        self._transport.begin_turn()
        try:
            await self._client.query(prompt)
        except ClaudeSDKError as error:
            raise await self._explain(error) from error

    def _drop_stale(self) -> None:
        with suppress(anyio.WouldBlock, anyio.EndOfStream):
            while True:
                self._from_process.receive_nowait()

    async def messages(self) -> AsyncIterator[Message]:
        """Yield what comes, up to and with the result of the turn.

        Raises:
            ProcessGone: the process ended before its result.
        """
        while True:
            try:
                message = await self._from_process.receive()
            except anyio.EndOfStream:
                raise self._failure or ProcessGone("agent_died", "The Claude process was ended.") from None
            if isinstance(message, ResultMessage):
                self._told_usd = message.total_cost_usd or 0.0
                yield message
                return
            yield message

    async def interrupt(self, within_s: float = INTERRUPT_TIMEOUT_S) -> ResultMessage | None:
        """End the turn that runs; returns its result line, or None when none came within so many seconds."""
        with anyio.move_on_after(within_s), suppress(Exception):
            await self._client.interrupt()
            async for message in self.messages():
                if isinstance(message, ResultMessage):
                    return message
        return None

    async def clear(self) -> bool:
        """Begin an empty conversation in the same process; False when it must not be used any more.

        A process is refused when something of the last task is still alive in it: a background command would report
        into the next conversation, and a detached one would go on working beside it.
        """
        if not self.is_usable or self._background_tasks or self._process.descendants() - self._family:
            return False
        self._drop_stale()
        message = {
            "type": "user",
            "message": {"role": "user", "content": "/clear"},
            "parent_tool_use_id": None,
            "session_id": "default",
        }
        with anyio.move_on_after(CLEAR_TIMEOUT_S), suppress(ProcessGone, ClaudeSDKError):
            await self._transport.write(json.dumps(message) + "\n")
            async for answer in self.messages():
                if isinstance(answer, ResultMessage):
                    changed = answer.session_id != self.session_id
                    self.session_id = answer.session_id
                    return changed and not self._background_tasks and not answer.is_error
        return False

    async def aclose(self) -> None:
        """End the process and all it started; nothing is left when this returns."""
        with anyio.CancelScope(shield=True):
            self.ended.set()
            self._process.kill()
            with anyio.move_on_after(10), suppress(Exception):
                await self._client.disconnect()
            await self._process.aclose()
            self._to_reader.close()
            self._from_process.close()


async def start_claude(
    command: list[str],
    *,
    environment: Mapping[str, str],
    profile: Profile,
    session_id: str,
    tasks: TaskGroup,
    hooks: SessionHooks | None = None,
    questions: SessionQuestions | None = None,
    carried_usd: float = 0.0,
) -> ClaudeProcess:
    """Start a process and connect to it; `carried_usd` is what it counts as spent before its first turn.

    Raises:
        ProcessGone: it could not be started, ended, or did not answer.
        NotResumable: there is no such conversation.
    """
    directory: Path = profile.workspace
    full_environment = {**environment, "CLAUDE_CODE_ENTRYPOINT": "sdk-py", "PWD": str(directory)}
    try:
        leashed = await start_leashed(command, environment=full_environment, directory=directory)
    except OSError as error:
        raise ProcessGone(
            "agent_unavailable", f"Claude Code cannot be started in {directory}: {error.strerror or error}."
        ) from error
    process = ClaudeProcess(leashed, profile, session_id, hooks, questions, carried_usd)
    try:
        await process.open(tasks)
    except BaseException:
        await process.aclose()
        raise
    return process
