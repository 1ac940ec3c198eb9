"""What a Claude process asks permission for, on its way to a person and back.

With `--permission-prompt-tool stdio` Claude Code sends each permission that its rules neither allow nor deny as a
control request `can_use_tool`, and waits for the answer for as long as it takes (seven minutes tried). Rules that
deny are obeyed without a question, and so is the mode `dontAsk`. Whatever is answered holds for that one call.
"""

from __future__ import annotations

from typing import Any, Final

from claude_agent_sdk import PermissionResultAllow, PermissionResultDeny, ToolPermissionContext

from worker_service.agents.base import Run, Verdict, Wish

_QUESTIONS_TO_PEOPLE: Final = "AskUserQuestion"
"""Not a permission but a question: it is answered with words."""
_LEAVES_PLAN_MODE: Final = "ExitPlanMode"


class SessionQuestions:
    """The permission callback of one process."""

    def __init__(self) -> None:
        self._run: Run | None = None
        self.left_plan_mode = False
        """Whether a person let it out of the plan mode: then it must not serve another task."""
        self.ended_by: Verdict | None = None
        """The verdict that is to be the end of the task, once there is one."""

    def begin(self, run: Run) -> None:
        """Ask for this run from now on."""
        self._run = run
        self.ended_by = None

    def end(self) -> None:
        """Ask for nobody."""
        self._run = None

    async def can_use_tool(
        self, tool: str, given: dict[str, Any], context: ToolPermissionContext
    ) -> PermissionResultAllow | PermissionResultDeny:
        """Answer one control request."""
        run = self._run
        if run is None or run.ask is None:
            return PermissionResultDeny(message=f"Permission to use {tool} was denied: nobody is there to be asked.")
        verdict = await run.ask(Wish(tool=tool, input=given, because=context.decision_reason))
        if not verdict.allowed:
            if verdict.ends_task:
                self.ended_by = verdict
            return PermissionResultDeny(message=verdict.message, interrupt=verdict.ends_task)
        if tool == _LEAVES_PLAN_MODE:
            self.left_plan_mode = True
        if tool == _QUESTIONS_TO_PEOPLE and verdict.message:
            return PermissionResultAllow(updated_input={**given, "answers": _answers(given, verdict.message)})
        return PermissionResultAllow()


def _answers(given: dict[str, Any], text: str) -> dict[str, str]:
    """Return the same words for each question that was asked."""
    asked = given.get("questions")
    texts = [each.get("question") for each in asked if isinstance(each, dict)] if isinstance(asked, list) else []
    return {question: text for question in texts if isinstance(question, str)}
