"""Tables for people: on a terminal as wide as it is, in a pipe as wide as they need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from orchestrator_service.cli.terminal import harmless

if TYPE_CHECKING:
    from rich.table import Table

_PIPE_WIDTH: Final = 200

STATE_COLOURS: Final = {
    "blocked": "dim",
    "scheduled": "dim",
    "ready": "yellow",
    "sent": "cyan",
    "running": "cyan",
    "waiting": "yellow",
    "completed": "green",
    "failed": "red",
    "timed_out": "red",
    "cancelled": "magenta",
    "up": "green",
    "paused": "yellow",
    "down": "red",
}


def table_of(headings: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> Table:
    """Return a table; a heading that ends in `>` is aligned to the right, one that ends in `*` may be cut or folded."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="bold")
    for heading in headings:
        table.add_column(
            heading.rstrip(">*"),
            justify="right" if heading.endswith(">") else "left",
            overflow="ellipsis" if heading.endswith("*") else "fold",
            no_wrap=True,
            ratio=1 if heading.endswith("*") else None,
        )
    for row in rows:
        # What a model wrote may hold control characters and line ends.
        cells = [Text(" ".join(harmless(cell).split())) for cell in row]
        for cell in cells:
            if (colour := STATE_COLOURS.get(cell.plain.replace(" ", "_"))) is not None:
                cell.stylize(colour)
        table.add_row(*cells)
    return table


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    console.print(table_of(headings, rows))
