"""The command agent: any program that reads the prompt on its input and writes the answer to its output."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import anyio

from worker_service.agents.base import Run, StopCause
from worker_service.agents.leashed_process import LeashedProcess, start_leashed

LARGEST_OUTPUT_BYTES: Final = 16 * 1024 * 1024
"""An answer beyond this is a run-away, not an answer."""

_ENDING_S: Final = 3.0
"""How long a program that is stuck may take to end when it is asked to, where nobody says."""
_RESULT: Final = re.compile(rb'"type": ?"result"')
_LONGEST_MARK: Final = 16


class _Signs:
    """What can be seen of a program at work (see `base.LifeSigns`)."""

    hooked = False
    in_background = False

    def __init__(self, process: LeashedProcess) -> None:
        self._process = process
        self.heard_at = time.monotonic()
        self.answered_at: float | None = None
        """Since when its output is closed, or has the last line of a Claude Code in print mode."""
        self.result_at = -1
        """Where in the output that line begins."""

    def work_seconds(self) -> float:
        """Return the CPU time of the program and of all that it has started."""
        return self._process.work_seconds()

    def heard(self, output: bytearray, new: int) -> None:
        """Take note of output, whose last `new` bytes have just come."""
        self.heard_at = time.monotonic()
        if self.result_at < 0:
            mark = _RESULT.search(output, max(0, len(output) - new - _LONGEST_MARK))
            begin = -1 if mark is None else output.rfind(b"\n", 0, mark.start()) + 1
            if mark is not None and output.startswith(b"{", begin):
                self.result_at = begin
        if self.result_at >= 0:
            self.answered_at = self.heard_at

    def says_success(self, output: bytearray) -> bool:
        """Tell whether the output has the result of a turn of Claude Code that went well."""
        if self.result_at < 0:
            return False
        try:
            result = json.loads(output[self.result_at :].splitlines()[0])
        except ValueError:
            return False
        return isinstance(result, dict) and result.get("type") == "result" and result.get("is_error") is False


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
        signs = _Signs(process)
        run.supervise(signs)
        try:
            await self._converse(process, run, output, signs)
        except anyio.get_cancelled_exc_class():
            if run.stop_cause is StopCause.STUCK:
                with anyio.CancelScope(shield=True):
                    await self._interrupt(process, run)
                run.answered = signs.says_success(output)
            raise
        finally:
            # Before anything else: whoever stops the task gets what there is.
            run.outcome.output = output[:LARGEST_OUTPUT_BYTES].decode("utf-8", "replace")
            await process.aclose()
            self._busy.discard(process)
            run.outcome.stderr = process.stderr_tail
        self._judge(process, run, len(output))

    @staticmethod
    async def _interrupt(process: LeashedProcess, run: Run) -> None:
        """Ask the program to end, as a terminal that is closed would."""
        process.terminate()
        with anyio.move_on_after(run.interrupt_s or _ENDING_S):
            await process.wait()
        orderly = process.exit_code is not None and process.exit_code != -signal.SIGKILL
        run.emit("interrupted", {"cause": StopCause.STUCK.value, "orderly": orderly})

    async def _converse(self, process: LeashedProcess, run: Run, output: bytearray, signs: _Signs) -> None:
        async with anyio.create_task_group() as streams:
            streams.start_soon(process.collect_stderr)
            streams.start_soon(self._send_prompt, process, run)
            with suppress(anyio.EndOfStream):
                while len(output) <= LARGEST_OUTPUT_BYTES:
                    chunk = await process.stdout.receive()
                    output += chunk
                    signs.heard(output, len(chunk))
                    run.emit("output", {"text": chunk.decode("utf-8", "replace")})
            if len(output) > LARGEST_OUTPUT_BYTES:
                process.kill()
            signs.answered_at = time.monotonic()
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
