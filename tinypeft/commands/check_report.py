"""The outcome of a check as tables for a terminal, as Markdown, and as a page."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tinypeft.claims.claim import SOURCES, Checked
from tinypeft.claims.judge import Verdict
from tinypeft.commands.tables import WIDTH

STYLES = {Verdict.CONFIRMED: "green", Verdict.ROUNDED: "green", Verdict.CORRECTED: "bold red", Verdict.DEPENDS: "yellow",
          Verdict.NOT_REPRODUCIBLE: "magenta", Verdict.MEANINGLESS: "magenta"}
COLOURS = {Verdict.CONFIRMED: "#007a5a", Verdict.ROUNDED: "#007a5a", Verdict.CORRECTED: "#b03a00", Verdict.DEPENDS: "#8a6100",
           Verdict.NOT_REPRODUCIBLE: "#8f4475", Verdict.MEANINGLESS: "#8f4475"}
RECORDED = "*"  # behind the verdict of what was not computed now


def by_source(results: Sequence[Checked]) -> Iterator[tuple[str, list[Checked]]]:
    """(title of the document, its claims), for those that have any."""
    for letter, (file, title) in SOURCES.items():
        if chosen := [found for found in results if found.claim.id[0] == letter]:
            yield f"{file[:3]}  {title}", chosen


def basis(results: Sequence[Checked]) -> str:
    """What the verdicts rest on, in a sentence or two.

    "233 claims: computed 200, editorial 33. Of the computed, 6 are shown as recorded (*): --slow computes them again."
    """
    computed = [found for found in results if found.claim.compute]
    stale = sum(not found.fresh for found in computed)
    editorial = len(results) - len(computed)
    text = f"{len(results)} claims: computed {len(computed)}, editorial {editorial} (in brackets: no computation decides)."
    if stale:
        text += f" Of the computed, {stale} are shown as recorded ({RECORDED}): --slow computes them again."
    return text


def verdict_label(found: Checked) -> str:
    """The verdict, marked where it was not computed now; editorial ones in brackets."""
    if found.claim.compute is None:
        return f"({found.verdict})"
    return str(found.verdict) if found.fresh else f"{found.verdict}{RECORDED}"


# ---- a terminal -----------------------------------------------------------------------------------------------------

def print_report(results: Sequence[Checked]) -> None:
    """A table for each document, and the counts."""
    console = Console(highlight=False, emoji=False)
    for title, chosen in by_source(results):
        table = Table("claim", "what is claimed", "stated", "computed", "verdict", title=title, title_justify="left",
                      title_style="bold", padding=(0, 1), show_lines=False)
        table.columns[0].no_wrap = table.columns[4].no_wrap = True
        for column, ratio in zip(table.columns[1:4], (5, 3, 4), strict=True):
            column.ratio = ratio
        for found in chosen:
            table.add_row(found.claim.id, Text(found.claim.says), Text(found.claim.stated), Text(found.computed or "-"),
                          Text(verdict_label(found), STYLES[found.verdict]))
        console.print(table)
    summary = Table("", *(file[:3] for file, _ in SOURCES.values()), "all", title="verdicts", title_justify="left",
                    title_style="bold")
    for column in summary.columns[1:]:
        column.justify = "right"
    for verdict in Verdict:
        counts = Counter(found.claim.id[0] for found in results if found.verdict is verdict)
        summary.add_row(Text(verdict, STYLES[verdict]), *(str(counts[letter]) for letter in SOURCES), str(counts.total()))
    console.print(summary)
    console.print(Text(basis(results)))
    console.print("tinypeft check CLAIM shows one in full: what is stated, what is computed, how, and what would be right.")


def print_claim(found: Checked) -> None:
    """One claim in full."""
    console, entry = Console(width=WIDTH, highlight=False, emoji=False), found.claim
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    rows = [("claim", f"{entry.id} ({entry.kind})"), ("document", f"{entry.source}: {SOURCES[entry.id[0]][1]}"),
            ("place", entry.place), ("claimed", entry.says), ("stated", entry.stated), ("computed", found.computed)]
    for name, text in rows:
        if text:
            table.add_row(name, Text(text))
    table.add_row("verdict", Text(verdict_label(found), STYLES[found.verdict]))
    for name, text in (("why", found.why), ("correct", found.correct), ("how" if entry.compute else "reference", entry.how)):
        if text:
            table.add_row(name, Text(text))
    console.print(table)
    console.print()


# ---- Markdown and a page ----------------------------------------------------------------------------------------------

HEADER = ("claim", "what is claimed", "stated", "computed", "verdict", "why, and what would be right")


def _cells(found: Checked) -> tuple[str, ...]:
    entry = found.claim
    why = " ".join(filter(None, [found.why, found.correct and f"Right: {found.correct}"]))
    return entry.id, entry.says, entry.stated, found.computed or "–", verdict_label(found), why


def markdown(results: Sequence[Checked]) -> str:
    """All claims as Markdown tables."""
    lines = ["# The claims, recomputed", "", basis(results), ""]
    for title, chosen in by_source(results):
        lines += [f"## {title}", "", f"| {' | '.join(HEADER)} |", "|" + " :-- |" * len(HEADER)]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(found)) + " |" for found in chosen]
        lines.append("")
    return "\n".join(lines)


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #1a1a1a; }
table { border-collapse: collapse; width: 100%; margin-bottom: 2rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem; border-bottom: 1px solid #ddd; }
th { position: sticky; top: 0; background: #fff; }
td:first-child { font-family: ui-monospace, monospace; white-space: nowrap; }
summary { cursor: pointer; } pre { overflow-x: auto; background: #f6f6f6; padding: .5rem; font-size: 13px; }
.verdict { font-weight: 600; white-space: nowrap; }
"""


def html_page(results: Sequence[Checked]) -> str:
    """All claims as one HTML page that needs nothing else; the code that computes a claim unfolds below its reason."""
    parts = ["<!doctype html>", '<html lang="en"><head><meta charset="utf-8">',
             '<meta name="viewport" content="width=device-width, initial-scale=1">',
             f"<title>The claims, recomputed</title><style>{_STYLE}</style></head><body>",
             f"<h1>The claims, recomputed</h1><p>{html.escape(basis(results))}</p>"]
    for title, chosen in by_source(results):
        head = "".join(f"<th>{name}</th>" for name in HEADER)
        parts += [f"<h2>{html.escape(title)}</h2>", f"<table><thead><tr>{head}</tr></thead><tbody>"]
        parts += map(_row, chosen)
        parts.append("</tbody></table>")
    return "\n".join([*parts, "</body></html>", ""])


def _row(found: Checked) -> str:
    id, says, stated, computed, verdict, why = map(html.escape, _cells(found))
    name = "how" if found.claim.compute else "reference"
    how = f"<details><summary>{name}</summary><pre>{html.escape(found.claim.how)}</pre></details>" if found.claim.how else ""
    return (f'<tr id="{id}"><td>{id}</td><td>{says}</td><td>{stated}</td><td>{computed}</td>'
            f'<td class="verdict" style="color: {COLOURS[found.verdict]}">{verdict}</td><td>{why}{how}</td></tr>')
