"""The Claude agent: each task is a conversation of its own in a warm Claude Code process, resumed after a crash."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from claude_agent_sdk import ResultMessage

from agent_bus.isolation import SCRUB_VARIABLE
from service_kit.claude_transcripts import carried_usd, find_transcript
from worker_service.agents.base import RateLimited, Run, StopCause
from worker_service.agents.claude_command import (
    Profile,
    command_line,
    profile_of,
    style_flags,
    usual_profile,
)
from worker_service.agents.claude_hooks import SessionHooks
from worker_service.agents.claude_placeholders import Placeholders
from worker_service.agents.claude_pool import ClaudePool
from worker_service.agents.claude_process import ClaudeProcess, NotResumable, ProcessGone, start_claude
from worker_service.agents.claude_questions import SessionQuestions
from worker_service.agents.claude_settings import session_settings
from worker_service.agents.claude_turn import GaveUp, Turn
from worker_service.hooks.bridge import HookBridge
from worker_service.settings import WorkerSettings

log = logging.getLogger(__name__)

_RESUME_PROMPT: Final = (
    "You were interrupted while you worked on the task below, and this is the same conversation. Look at what you "
    "have done already, check whether the last step took effect, and go on from there; do not start over.\n\n"
    "The task:\n{description}"
)


_STUCK_BEFORE: Final = "\n\nWhy you were interrupted: {reason} Go about it in another way where that was your doing."


class ClaudeSessions:
    """Serves runs with the processes of a pool. `claude_agent.ClaudeAgent` loads it when the SDK is imported."""

    def __init__(
        self, settings: WorkerSettings, cli: Path, bridge: HookBridge | None = None, *, isolated: bool = False
    ) -> None:
        """Report hook events to `bridge`, if there is one; `isolated` says how shell commands run."""
        self._settings = settings
        self._cli = cli
        self._bridge = bridge
        self._isolated = isolated
        self._placeholders = Placeholders()
        self._environment = dict(settings.agent_environment)
        if bridge is not None:
            # The hooks of `codehornets hooks install`, should the user have them, then leave these sessions alone.
            self._environment["CODEHORNETS_WORKER"] = settings.worker
        if isolated:
            self._environment[SCRUB_VARIABLE] = "1"
        self._style = style_flags(settings.claude.output_style)
        self._usual = usual_profile(settings.claude, settings.workspace)
        self.pool = ClaudePool(
            self._start,
            self._usual,
            warm=settings.claude.warm_processes,
            slots=settings.slots,
            freeze=settings.claude.freeze,
        )

    async def _start(self, profile: Profile, resume: str | None, tasks: TaskGroup) -> ClaudeProcess:
        session_id = resume or str(uuid.uuid4())
        transcript = None if resume is None else find_transcript(self._environment, resume)
        carried = 0.0 if transcript is None else await anyio.to_thread.run_sync(carried_usd, transcript)
        command = command_line(
            self._cli,
            self._settings.claude,
            profile,
            session_id=session_id,
            resume=resume is not None,
            style=self._style,
            session_settings=session_settings(
                self._settings.layout,
                environment=self._environment,
                workspace=profile.workspace,
                hook_rules=self._settings.hooks_config,
                secrets=self._settings.secret_files,
                style=self._settings.claude.output_style,
            ),
            isolated=self._isolated,
            tells_progress=self._settings.supervision.after_s > 0,
            asks=self._settings.questions.on,
        )
        return await start_claude(
            command,
            environment=self._environment,
            profile=profile,
            session_id=session_id,
            tasks=tasks,
            hooks=None if self._bridge is None else SessionHooks(self._bridge, asks=self._settings.questions.on),
            questions=SessionQuestions() if self._settings.questions.on else None,
            carried_usd=carried,
        )

    async def run(self, run: Run) -> None:
        """Work on one task; see `base.Agent.run`."""
        profile = profile_of(run.task, self._usual, run.spent_usd)
        if profile.max_budget_usd is not None and profile.max_budget_usd <= 0:
            run.outcome.fail("max_budget", "What the task may cost was used up by its earlier attempts.")
            return
        workspace = profile.workspace
        if self._isolated:
            self._placeholders.begin(workspace)
        try:
            await self._converse(run, profile)
        finally:
            if self._isolated:
                self._placeholders.end(workspace)

    async def _converse(self, run: Run, profile: Profile) -> None:
        try:
            process, prompt = await self._open_conversation(run, profile)
        except ProcessGone as error:
            run.outcome.fail(error.kind, str(error))
            return
        reusable = False
        ending = "other"
        if process.hooks is not None:
            how = "resume" if process.session_id == run.session_id else "startup"
            process.hooks.begin(run, process.session_id, how)
        if process.questions is not None:
            process.questions.begin(run)
        try:
            reusable = await self._take_turn(process, prompt, run)
            if reusable:
                # A named session goes on with its next task.
                ending = "clear" if run.task.session is None else "kept"
        except ProcessGone as error:
            run.outcome.fail(error.kind, str(error))
        except GaveUp as error:
            await self._interrupt(process, run)
            run.outcome.fail(error.kind, str(error))
        except RateLimited:
            await self._interrupt(process, run)
            ending = "parked"
            raise
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._interrupt(process, run)
            ending = (run.stop_cause or StopCause.TIMEOUT).value
            raise
        finally:
            if process.questions is not None:
                process.questions.end()
                reusable = reusable and not process.questions.left_plan_mode
            if process.hooks is not None:
                process.hooks.end(ending)
            # What a worktree holds is committed next: nobody who could still write into it may be left.
            if reusable and (run.outcome.worktree is None or run.task.session is not None):
                self.pool.give_back(process, reusable=True, session=run.task.session)
            else:
                with anyio.CancelScope(shield=True):
                    await self.pool.discard(process)

    async def _open_conversation(self, run: Run, profile: Profile) -> tuple[ClaudeProcess, str]:
        """Return a process in the right conversation, and the prompt for it."""
        resume = run.session_id
        session = run.task.session
        prompt = run.task.description
        known = resume is not None and find_transcript(self._environment, resume) is not None
        if resume is not None and known:
            try:
                process = await self.pool.acquire(profile, session=session, resume=resume)
            except NotResumable as error:
                log.warning("the conversation cannot be resumed: %s", error, extra={"action": "not_resumable"})
            else:
                return process, _resume_prompt(run) if run.interrupted else prompt
        if resume is not None:
            run.emit("not_resumed", {"session_id": resume})
        return await self.pool.acquire(profile, session=session, resume=None), prompt

    async def _take_turn(self, process: ClaudeProcess, prompt: str, run: Run) -> bool:
        """Hand over the prompt and take in the answer; tells whether the process may serve another task."""
        run.outcome.session_id = process.session_id
        await run.remember(process.session_id)
        await process.begin(prompt)
        turn = Turn(run, process.counted_usd)
        run.supervise(process)
        run.prompt_handed()
        run.emit("prompt", {"session_id": process.session_id, "attempt": run.attempt, "resumed": run.interrupted})
        async for message in process.messages():
            if process.hooks is not None:
                process.hooks.observe(message)
            unanswered = None if process.questions is None else process.questions.ended_by
            if unanswered is not None:
                # Before the turn's own end, which only knows that it was interrupted: the first reason stays.
                run.outcome.fail("question_unanswered", unanswered.message)
            turn.take(message)
            if unanswered is not None:
                run.outcome.fail("question_unanswered", unanswered.message)
        return run.outcome.error is None

    async def _interrupt(self, process: ClaudeProcess, run: Run) -> None:
        """End the turn in good order, so that its cost is known and its transcript is whole."""
        cause = run.stop_cause or StopCause.TIMEOUT
        stuck = cause is StopCause.STUCK
        result = await (process.interrupt(run.interrupt_s) if stuck and run.interrupt_s else process.interrupt())
        if result is not None and stuck and _is_whole(result, run):
            # What held the turn up came after its answer (a Stop hook, say). The line itself may be empty then.
            said = run.outcome.output
            Turn(run, process.counted_usd).take(result)
            run.outcome.output = run.outcome.output or said
            run.answered = True
        elif result is not None:
            Turn(run, process.counted_usd).take_costs(result)
        run.emit("interrupted", {"cause": cause.value, "orderly": result is not None})


def _resume_prompt(run: Run) -> str:
    prompt = _RESUME_PROMPT.format(description=run.task.description)
    # A circle of tool calls would only go on if nobody said what was wrong with it.
    return prompt if run.stuck_before is None else prompt + _STUCK_BEFORE.format(reason=run.stuck_before)


def _is_whole(result: ResultMessage, run: Run) -> bool:
    """Tell whether a turn that was interrupted had come to its answer before."""
    return not result.is_error and (run.task.output_schema is None or result.structured_output is not None)
