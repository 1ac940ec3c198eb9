"""What a run of the container tests tells: shown while it runs, and kept in a file where one is named."""

from __future__ import annotations

import os
import platform
import re
import shlex
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.integration.harness import REPOSITORY

FORGOTTEN = "…"

_OF_THE_TESTS = re.compile(rf"{re.escape(tempfile.gettempdir())}/pytest-of-[^/\s]+/pytest-\d+")


class Transcript:
    """Lines for people: what was done, what came of it and how long it took. Nothing of the machine's own names."""

    def __init__(self, show: Callable[[str], None]) -> None:
        """`show` gets each line at once."""
        self._show = show
        self._lines: list[str] = []
        self._hidden: dict[str, str] = {str(REPOSITORY): ".", str(Path.home()): "~", platform.node(): "host"}

    def hide(self, text: str, shown_as: str = FORGOTTEN) -> None:
        """Show something else instead of this text from here on."""
        self._hidden[text] = shown_as

    def say(self, line: str) -> None:
        """Tell one line."""
        for text in sorted(filter(None, self._hidden), key=len, reverse=True):
            if len(text) > 3:
                line = line.replace(text, self._hidden[text])
        line = _OF_THE_TESTS.sub(FORGOTTEN, line)
        self._lines.append(line)
        self._show(line)

    def command(self, arguments: Sequence[str], environ: dict[str, str] | None = None) -> None:
        """Tell a command as it would be typed."""
        variables = [f"{name}={shlex.quote(value)}" for name, value in (environ or {}).items()]
        self.say(" ".join(["$", *variables, *(shlex.quote(argument) for argument in arguments)]))

    def write(self, path: Path, title: str, introduction: str) -> None:
        """Write all of it to a file in Markdown."""
        text = "\n".join([f"# {title}", "", introduction, "", "```text", *self._lines, "```", ""])
        path.write_text(text, encoding="utf-8")


def machine() -> str:
    """Return what kind of machine this is, without its name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} CPUs, {memory:.0f} GiB of memory, {platform.system()} {platform.machine()}"
