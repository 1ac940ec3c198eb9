"""The fenced blocks of a page, each with the comment before it that says who runs it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_BLOCK: Final = re.compile(
    r"^(?:<!-- (?P<marker>[^\n]*) -->\n)?(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.M | re.S
)


@dataclass
class Block:
    """A block, and what the page says that it prints."""

    page: str
    line: int
    """Of its first fence, counted from 1."""
    section: str
    """The heading of the second level above it."""
    marker: str
    """The comment directly before it; "" where there is none."""
    language: str
    text: str
    output: str | None = None
    """None where the page does not say."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(path: Path) -> list[Block]:
    """Return the blocks of a page; one that is marked `output` is none of its own, but belongs to the one before."""
    page = path.read_text(encoding="utf-8")
    found: list[Block] = []
    for match in _BLOCK.finditer(page):
        marker, text = match["marker"] or "", match["text"]
        line = page.count("\n", 0, match.start()) + 1 + bool(marker)
        if marker == "output":
            assert found and found[-1].output is None, f"{path.name}:{line}: an output without its example"
            found[-1].output = text
        else:
            headings = re.findall(r"^## (.*)$", page[: match.start()], re.M)
            found.append(Block(path.name, line, "".join(headings[-1:]), marker, match["language"], text))
    return found


def prints(output: str, printed: str) -> bool:
    """Tell whether a program has printed what a page says; … there stands for anything."""
    return re.fullmatch(".*".join(re.escape(part) for part in output.split("…")), printed, re.S) is not None
