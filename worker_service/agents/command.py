"""The command agent: any program that reads the prompt on its input and writes the answer to its output."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import anyio

from worker_service.agents.base import Run
from worker_service.agents.leashed_process import LeashedProcess, start_leashed

LARGEST_OUTPUT_BYTES: Final = 16 * 1024 * 1024
"""An answer beyond this is a run-away, not an answer."""

_POLITE_S: Final = 2.0


class CommandAgent:
    """Starts the program anew for each task; the prompt is its input, its output is the answer."""

    name = "command"

    def __init__(self, command: tuple[str, ...], *, environment: Mapping[str, str], workspace: Path) -> None:
        self._command = command
        self._environment = environment
        self._workspace = workspace
        self._busy: set[LeashedProcess] = set()

    async def serve_forever(self) -> None:
        """Wait; there is nothing to keep warm."""
        await anyio.sleep_forever()

    async def run(self, run: Run) -> None:
        """Run the program on the task's prompt."""
        directory = Path(run.task.workspace) if run.task.workspace else self._workspace
        environment = {**self._environment, "CODEHORNETS_TASK_ID": run.task.task_id, "PWD": str(directory)}
        try:
            process = await start_leashed(list(self._command), environment=environment, directory=directory)
        except OSError as error:
            run.outcome.fail(
                "agent_unavailable", f"{self._command[0]} cannot be started in {directory}: {error.strerror or error}."
            )
            return
        self._busy.add(process)
        output = bytearray()
        try:
            await self._converse(process, run, output)
        finally:
            # Before anything else: whoever stops the task gets what there is.
            run.outcome.output = output[:LARGEST_OUTPUT_BYTES].decode("utf-8", "replace")
            await process.aclose()
            self._busy.discard(process)
            run.outcome.stderr = process.stderr_tail
        self._judge(process, run, len(output))

    async def _converse(self, process: LeashedProcess, run: Run, output: bytearray) -> None:
        async with anyio.create_task_group() as streams:
            streams.start_soon(process.collect_stderr)
            streams.start_soon(self._send_prompt, process, run)
            with suppress(anyio.EndOfStream):
                while len(output) <= LARGEST_OUTPUT_BYTES:
                    chunk = await process.stdout.receive()
                    output += chunk
                    run.emit("output", {"text": chunk.decode("utf-8", "replace")})
            if len(output) > LARGEST_OUTPUT_BYTES:
                process.kill()
            await process.wait()

    @staticmethod
    async def _send_prompt(process: LeashedProcess, run: Run) -> None:
        # A program may well answer without reading its input.
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            run.prompt_handed()
            await process.stdin.send(run.task.description.encode())
            await process.stdin.aclose()

    def _judge(self, process: LeashedProcess, run: Run, size: int) -> None:
        run.outcome.exit_code = process.exit_code
        if size > LARGEST_OUTPUT_BYTES:
            run.outcome.fail(
                "output_too_large",
                f"{self._command[0]} wrote more than {LARGEST_OUTPUT_BYTES >> 20} MiB; it was ended.",
            )
        elif process.exit_code:
            code = process.exit_code
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            kind = "agent_died" if code < 0 else "exit_code"
            said = process.stderr_tail.strip().splitlines()
            run.outcome.fail(kind, f"{self._command[0]} {how}{': ' + said[-1][:300] if said else ''}.")

    async def aclose(self) -> None:
        """End every process."""
        for process in list(self._busy):
            await process.aclose()

    def processes(self) -> dict[str, int]:
        """Return how many programs run."""
        return {"busy": len(self._busy)}

    def statement(self) -> str | None:
        """Return that all is well; a program that is missing is told in the results."""
        return None
