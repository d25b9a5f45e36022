"""Tables and text for a terminal, or the same in Markdown."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

WIDTH = 116


def print_table(header: list[str], rows: list[list[str]], left: int, markdown: bool) -> None:
    """All columns but one, `left`, are numbers."""
    if markdown:
        rules = [":--" if i == left else "--:" for i in range(len(header))]
        print("\n".join("| " + " | ".join(cells) + " |" for cells in (header, rules, *rows)) + "\n")
        return
    table = Table(*header)
    for i, column in enumerate(table.columns):
        column.justify, column.no_wrap = "left" if i == left else "right", True
    for row in rows:
        table.add_row(*row)
    _console().print(table)


def print_text(text: str, markdown: bool) -> None:
    """A paragraph, broken into lines for a terminal only."""
    if markdown:
        print(text + "\n")
    else:
        _console().print(text + "\n")


def _console() -> Console:
    return Console(width=WIDTH, highlight=False, markup=False, emoji=False)
