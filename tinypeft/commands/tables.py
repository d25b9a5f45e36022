"""Tables and text for a terminal, or the same in Markdown."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 116  # columns, of what is not narrower: longer lines are hard to read


def print_table(header: list[str], rows: list[list[str]], left: int | Collection[int], markdown: bool, width: int | None = None,
                broken: Collection[int] = ()) -> None:
    """All columns but those in `left` are numbers. Where `width` leaves too little room, `broken` ones take several lines."""
    texts = {left} if isinstance(left, int) else set(left)
    if markdown:
        rules = [":--" if i in texts else "--:" for i in range(len(header))]
        print("\n".join("| " + " | ".join(cells) + " |" for cells in (header, rules, *rows)) + "\n")
        return
    from rich.table import Table

    table = Table(*header)
    for i, column in enumerate(table.columns):
        column.justify, column.no_wrap = "left" if i in texts else "right", i not in broken
    for row in rows:
        table.add_row(*row)
    _console(width).print(table)


def print_text(text: str, markdown: bool) -> None:
    """A paragraph, broken into lines for a terminal only."""
    if markdown:
        print(text + "\n")
    else:
        _console(terminal_width()).print(text + "\n")


def terminal_width() -> int:
    """Columns of the terminal, up to WIDTH."""
    return max(40, min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns))


def _console(width: int | None = None) -> Console:
    from rich.console import Console

    return Console(width=width or WIDTH, highlight=False, markup=False, emoji=False)
