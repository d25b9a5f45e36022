"""The outcome of a check as tables for a terminal, as Markdown, and as a page."""

from __future__ import annotations

import html
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tinypeft.budget.units import format_value
from tinypeft.claims.claim import SOURCES, Checked
from tinypeft.claims.judge import MEANINGS, Verdict
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


def stated_as(found: Checked) -> str:
    """What the document states; and what that is taken to mean, where it is no number that a computed one could equal."""
    entry = found.claim
    return f"{entry.stated} [holds if: {entry.holds_if}]" if entry.holds_if else entry.stated


def counts(results: Sequence[Checked]) -> Iterator[tuple[Verdict, list[str]]]:
    """Each verdict that occurs, with how many claims of each document have it, and of all."""
    for verdict in Verdict:
        found = Counter(result.claim.id[0] for result in results if result.verdict is verdict)
        if found:
            yield verdict, [*(str(found[letter]) for letter in SOURCES), str(found.total())]


def documents() -> str:
    """The documents' numbers with their titles, in a sentence."""
    return "Documents: " + "; ".join(f"{file[:3]} \"{title}\"" for file, title in SOURCES.values()) + "."


COUNTED = ("verdict", *(file[:3] for file, _ in SOURCES.values()), "all")


# ---- a terminal -----------------------------------------------------------------------------------------------------

NARROW = 110  # columns, below which five of a table are too many


def print_report(results: Sequence[Checked]) -> None:
    """A table for each document, or in a narrow terminal a list; and the counts."""
    console = Console(highlight=False, emoji=False, markup=False)
    for title, chosen in by_source(results):
        if console.width < NARROW:
            _print_list(console, title, chosen)
        else:
            _print_table(console, title, chosen)
    summary = Table(*COUNTED, title="verdicts", title_justify="left", title_style="bold")
    for column in summary.columns[1:]:
        column.justify = "right"
    for verdict, numbers in counts(results):
        summary.add_row(Text(verdict, STYLES[verdict]), *numbers)
    console.print(summary)
    for verdict, _ in counts(results):
        console.print(Text.assemble((verdict, STYLES[verdict]), f": {MEANINGS[verdict]}."))
    console.print(documents())
    console.print(basis(results))
    console.print("tinypeft check CLAIM shows one in full: what is stated, what is computed, how, and what would be right.")


def _print_table(console: Console, title: str, chosen: Sequence[Checked]) -> None:
    table = Table("claim", "what is claimed", "stated", "computed", "verdict", title=title, title_justify="left",
                  title_style="bold", padding=(0, 1), show_lines=True)
    table.columns[0].no_wrap = table.columns[4].no_wrap = True
    for column, ratio in zip(table.columns[1:4], (5, 3, 5), strict=True):
        column.ratio, column.overflow = ratio, "fold"
    for found in chosen:
        table.add_row(found.claim.id, found.claim.says, found.claim.stated, found.computed.replace("; ", "\n") or "-",
                      Text(verdict_label(found), STYLES[found.verdict]))
    console.print(table)


def _print_list(console: Console, title: str, chosen: Sequence[Checked]) -> None:
    console.print(Text(title, "bold"))
    for found in chosen:
        console.print(Text.assemble((found.claim.id, "bold"), "  ", (verdict_label(found), STYLES[found.verdict])))
        rows = Table.grid(padding=(0, 1, 0, 2))
        for name, text in (("claimed", found.claim.says), ("stated", found.claim.stated), ("computed", found.computed)):
            if text:
                rows.add_row(name, text)
        console.print(rows)
        console.print()


def print_claim(found: Checked) -> None:
    """One claim in full."""
    terminal, entry = Console(), found.claim
    width = min(WIDTH, terminal.width) if terminal.is_terminal else WIDTH
    console = Console(width=width, highlight=False, emoji=False, markup=False)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    rows = [("claim", f"{entry.id} ({entry.kind})"), ("document", f"{entry.source}: {SOURCES[entry.id[0]][1]}"),
            ("place", entry.place), ("claimed", entry.says), ("stated", entry.stated), ("holds if", entry.holds_if),
            ("computed", found.computed.replace("; ", "\n"))]
    for name, text in rows:
        if text:
            table.add_row(name, text)
    meaning = (f"within {format_value(found.within, '%')}, as \"about\", and not at the stated digits" if found.within
               else MEANINGS[found.verdict])
    table.add_row("verdict", Text.assemble((verdict_label(found), STYLES[found.verdict]), f": {meaning}"))
    for name, text in (("why", found.why), ("correct", found.correct), ("reference", entry.reference)):
        if text:
            table.add_row(name, text)
    console.print(table)
    if entry.compute:
        console.print(Text("how", "bold"))
        console.print(textwrap.indent(entry.how, "    "), soft_wrap=True)  # code keeps its lines
    console.print()


# ---- Markdown and a page ----------------------------------------------------------------------------------------------

HEADER = ("claim", "what is claimed", "stated", "computed", "verdict", "why, and what would be right")


def _cells(found: Checked) -> tuple[str, ...]:
    why = " ".join(filter(None, [found.why, found.correct and f"Right: {found.correct}"]))
    return found.claim.id, found.claim.says, stated_as(found), found.computed or "–", verdict_label(found), why


def markdown(results: Sequence[Checked]) -> str:
    """All claims as Markdown tables."""
    lines = ["# The claims, recomputed", "", basis(results), "", f"| {' | '.join(COUNTED)} |",
             "| :-- |" + " --: |" * (len(COUNTED) - 1), *(f"| {verdict} | {' | '.join(numbers)} |"
                                                         for verdict, numbers in counts(results)), "",
             *(f"- {verdict}: {MEANINGS[verdict]}." for verdict, _ in counts(results)), "", documents(), ""]
    for title, chosen in by_source(results):
        lines += [f"## {title}", "", f"| {' | '.join(HEADER)} |", "|" + " :-- |" * len(HEADER)]
        for found in chosen:
            cells = [cell.replace("|", "\\|") for cell in _cells(found)]
            cells[3] = cells[3].replace("; ", "<br>")
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem; color: #1a1a1a; }
table { border-collapse: collapse; margin-bottom: 2rem; }
table.claims { width: 100%; min-width: 60rem; table-layout: fixed; overflow-wrap: anywhere; }
table.claims th:nth-child(1) { width: 10%; } table.claims th:nth-child(2) { width: 15%; }
table.claims th:nth-child(3) { width: 12%; } table.claims th:nth-child(4) { width: 15%; }
table.claims th:nth-child(5) { width: 9%; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem; border-bottom: 1px solid #ddd; }
table.claims th { position: sticky; top: 0; background: #fff; }
table.claims td:first-child { font-family: ui-monospace, monospace; font-size: 14px; }
td.number { text-align: right; }
summary { cursor: pointer; } pre { overflow-x: auto; background: #f6f6f6; padding: .5rem; font-size: 13px; }
.verdict { font-weight: 600; }
@media (max-width: 60rem) {
  table.claims { min-width: 0; } table.claims thead { display: none; }
  table.claims tr, table.claims td { display: block; } table.claims tr { border-bottom: 2px solid #999; }
  table.claims td { border: 0; padding: .2rem 0; } table.claims td:first-child { font-weight: 600; }
}
"""


def html_page(results: Sequence[Checked]) -> str:
    """All claims as one HTML page that needs nothing else; the code that computes a claim unfolds below its reason."""
    parts = ["<!doctype html>", '<html lang="en"><head><meta charset="utf-8">',
             '<meta name="viewport" content="width=device-width, initial-scale=1">',
             f"<title>The claims, recomputed</title><style>{_STYLE}</style></head><body>",
             f"<h1>The claims, recomputed</h1><p>{html.escape(basis(results))}</p>",
             f"<table><thead><tr>{_head(COUNTED)}</tr></thead><tbody>"]
    for verdict, numbers in counts(results):
        cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
        parts.append(f"<tr>{_verdict_cell(verdict, verdict)}{cells}</tr>")
    parts.append("</tbody></table><ul>")
    parts += [f"<li>{verdict}: {html.escape(MEANINGS[verdict])}.</li>" for verdict, _ in counts(results)]
    parts.append(f"</ul><p>{html.escape(documents())}</p>")
    for title, chosen in by_source(results):
        parts += [f"<h2>{html.escape(title)}</h2>", f'<table class="claims"><thead><tr>{_head(HEADER)}</tr></thead><tbody>']
        parts += map(_row, chosen)
        parts.append("</tbody></table>")
    return "\n".join([*parts, "</body></html>", ""])


def _head(names: Sequence[str]) -> str:
    return "".join(f"<th>{name}</th>" for name in names)


def _verdict_cell(verdict: Verdict, label: str) -> str:
    return f'<td class="verdict" style="color: {COLOURS[verdict]}">{label}</td>'


def _row(found: Checked) -> str:
    id, says, stated, computed, verdict, why = map(html.escape, _cells(found))
    stated = stated.replace(" [holds if", "<br>[holds if")
    name = "how" if found.claim.compute else "reference"
    how = f"<details><summary>{name}</summary><pre>{html.escape(found.claim.how)}</pre></details>" if found.claim.how else ""
    computed = computed.replace("; ", "<br>") if found.claim.compute else computed
    return (f'<tr id="{id}"><td>{id}</td><td>{says}</td><td>{stated}</td><td>{computed}</td>'
            f"{_verdict_cell(found.verdict, verdict)}<td>{why}{how}</td></tr>")
