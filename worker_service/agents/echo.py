"""The echo agent: answers with the prompt. For trying things out, and for measuring everything but the agent."""

from __future__ import annotations

import anyio

from worker_service.agents.base import Run


class EchoAgent:
    """Returns the prompt as the output, at once."""

    name = "echo"

    async def serve_forever(self) -> None:
        """Wait; there is nothing to keep warm."""
        await anyio.sleep_forever()

    async def run(self, run: Run) -> None:
        """Answer with the prompt."""
        run.prompt_handed()
        run.outcome.output = run.task.description

    async def aclose(self) -> None:
        """Do nothing; there are no processes."""

    def processes(self) -> dict[str, int]:
        """Return that there are none."""
        return {}

    def statement(self) -> str | None:
        """Return that all is well."""
        return None
