"""`tinypeft example`: the documents' worked examples, step by step beside ours, with the step marked where the two part."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from tinypeft.claims.examples import EXAMPLES, Example, Mark, Step, known_example
from tinypeft.claims.examples.figures import FIGURES, draw
from tinypeft.claims.questions import Numeric
from tinypeft.commands.tables import terminal_width
from tinypeft.files import replace_file

MARGIN = "    "  # under a step's number
FORMATS = ("table", "markdown", "json")
SIGNS = {Mark.AGREES: "✓", Mark.ROUNDED: "✓", Mark.PARTS: "✗", Mark.FOLLOWS: "↳", Mark.AGAIN: "✗", Mark.UNSTATED: "·",
         Mark.OPEN: "?"}
STYLES = {Mark.AGREES: "green", Mark.ROUNDED: "green", Mark.PARTS: "bold red", Mark.FOLLOWS: "yellow", Mark.AGAIN: "bold red",
          Mark.UNSTATED: "", Mark.OPEN: "magenta"}


def run_example(name: str | None = None, *, output_format: str = "table", step: bool = False,
                plot: Path | None = None) -> list[Example]:
    """Compute one example and show it, or all, and list them.

    Args:
        name: of the example; None for a list of all.
        output_format: table, markdown or json.
        step: wait for a line of input before each value: a guess, nothing, or "q" to leave.
        plot: a PNG file for its figure.

    Raises:
        ValueError: an unknown name or format, --step where there is nothing to wait for, or --plot where there is no figure.
    """
    if output_format not in FORMATS:
        raise ValueError(f"unknown format {output_format!r}; there are: {', '.join(FORMATS)}")
    if step and (name is None or output_format != "table"):
        raise ValueError("--step goes through one example on the terminal: name it, and leave out --format")
    if plot is not None and name is None:
        raise ValueError(f"--plot draws the figure of one example: name it. Those with a figure: {', '.join(FIGURES)}")
    if name is None:
        entries = tqdm(EXAMPLES.values(), desc="computing", unit="example", leave=False, disable=None)
        found = sorted((work() for work in entries), key=lambda each: each.source)
        _show_list(found, output_format)
        return found
    found = [known_example(name)()]
    picture = None if plot is None else draw(name)
    if output_format == "json":
        print(json.dumps(found[0].to_dict(), indent=2, ensure_ascii=False))
    elif output_format == "markdown":
        print(_markdown(found[0]))
    else:
        _show(found[0], step)
    if plot is not None and picture is not None:
        with replace_file(plot) as path:
            path.write_bytes(picture.png())
        print(f"Drawn in {plot}: {picture.alt}", file=sys.stderr)
    return found


# ---- one, on a terminal ---------------------------------------------------------------------------------------------

def _console() -> Console:
    return Console(width=terminal_width(), highlight=False, markup=False, emoji=False)


def _print(text: str, style: str = "", margin: str = "") -> None:
    """A paragraph behind a margin, which its further lines keep free."""
    lines = textwrap.wrap(text, terminal_width(), initial_indent=margin, subsequent_indent=" " * len(margin),
                          break_long_words=False, break_on_hyphens=False)
    _console().print(Text("\n".join(lines), style))


def _show(example: Example, wait: bool) -> None:
    _print(example.title, "bold")
    _print(example.where, "dim")
    print()
    _print(example.problem)
    print()
    for number, step in enumerate(example.steps, 1):
        _print(step.text, "bold", f"{number:2}. ")
        _print(step.formula, margin=MARGIN)
        if wait and step.value is not None and not _guessed(step):
            return
        _values(step)
    _print(example.conclusion, "bold")
    print()
    _print(_outcome(example))
    _print(f"About its claims: tinypeft check {' '.join(example.claims)}")


def _values(step: Step) -> None:
    """The values under each other, the mark behind ours; then the reasons."""
    for label, value in (("document states", step.stated), ("its numbers give", step.follows)):
        if value:
            _print(value, margin=f"{MARGIN}{label:16}  ")
    ours, mark = f"{MARGIN}{'we compute':16}  {step.ours or '-'}", f"{SIGNS[step.mark]} {step.mark}"
    gap = "   " if len(ours) + 3 + len(mark) <= terminal_width() else f"\n{MARGIN}"
    _console().print(Text.assemble(ours, gap, (mark, STYLES[step.mark])))
    for text in filter(None, (step.why, step.note)):
        _print(text, margin=MARGIN)
    print()


def _outcome(example: Example) -> str:
    """Where document and computation part, in a sentence."""
    parting = example.steps.parting
    unsettled = [str(number) for number, step in enumerate(example.steps, 1) if step.mark is Mark.OPEN]
    left = f", but for what cannot be computed: step {', '.join(unsettled)}" if unsettled else ""
    return (f"The document and the computation never part{left}." if parting is None else f"They part at step {parting}{left}.")


# ---- guesses --------------------------------------------------------------------------------------------------------

def _guessed(step: Step) -> bool:
    """Take a guess, or nothing, and say how good it is; False to leave. What cannot be read may be typed again."""
    while guess := _guess():
        if guess.lower() in ("q", "quit"):
            return False
        try:
            _print(_reply(step, guess), margin=MARGIN)
        except ValueError as error:
            _print(f"{error}. Once more, or Enter:", margin=MARGIN)
            continue
        break
    return True


def _guess() -> str:
    """What is typed before a value is shown; "" where the input has come to an end."""
    try:
        typed = input(f"{MARGIN}your guess, Enter, or q: ").strip()
    except EOFError:
        typed = ""
    if not sys.stdin.isatty():  # what is not typed would otherwise be missing in what is printed, and so would its end
        print(typed)
    return typed


def _reply(step: Step, guess: str) -> str:
    """What a guess is told: by the rules of the practice questions, each number of several by itself.

    Raises:
        ValueError: it cannot be read, or is not as many numbers as come out.
    """
    if isinstance(step.value, bool):
        return "Right." if guess.lower()[0] == step.ours[0] else "It is not so."
    several = isinstance(step.value, list)
    items = re.split(r"[,;\s]+", guess.strip("[](),; ")) if several else [guess]
    values = step.value if several else [step.value]
    if len(items) != len(values):
        raise ValueError(f"{len(values)} numbers come out; you gave {len(items)}")
    told = [Numeric(kind="example", topic="", prompt="", answer=value, unit=step.unit).check(item)
            for item, value in zip(items, values, strict=True)]
    return next((feedback.message for feedback in told if not feedback.right), "Right.")


# ---- lists, Markdown ------------------------------------------------------------------------------------------------

HEADER = ("", "step", "formula, shapes", "document", "follows from it", "computed", "")


def _show_list(examples: list[Example], output_format: str) -> None:
    if output_format == "json":
        print(json.dumps([each.to_dict() for each in examples], indent=2, ensure_ascii=False))
        return
    rows = [(each.name, f"{each.document}, {each.place}", each.title, _parting(each)) for each in examples]
    if output_format == "markdown":
        print("\n".join(_rows(("example", "document", "what it computes", "where they part"), rows)) + "\n")
        return
    console = _console()
    table = Table("document", "example", "what it computes", "where they part")
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for name, place, title, parting in rows:
        table.add_row(place[:3], name, Text(title), Text(parting, {"✓": "green", "?": "magenta"}.get(parting[0], "red")))
    console.print(table)
    console.print("tinypeft example NAME shows one; with --step, one step at a time.")


def _parting(example: Example) -> str:
    number = example.steps.parting
    if number is None and any(step.mark is Mark.OPEN for step in example.steps):
        return "? nowhere, but for what cannot be computed"
    return "✓ nowhere" if number is None else f"✗ step {number}: {example.steps[number - 1].text}"


def _markdown(example: Example) -> str:
    rows = [(str(number), step.text, step.formula, step.stated, step.follows, step.ours, f"{SIGNS[step.mark]} {step.mark}")
            for number, step in enumerate(example.steps, 1)]
    notes = [f"- Step {number}: {' '.join(filter(None, (step.why, step.note)))}" for number, step in enumerate(example.steps, 1)
             if step.why or step.note]
    parts = [f"# {example.title}", f"*{example.where}*", example.problem, "\n".join(_rows(HEADER, rows)), "\n".join(notes),
             f"**{example.conclusion}**", f"{_outcome(example)} The claims: {', '.join(example.claims)}."]
    return "\n\n".join(filter(None, parts)) + "\n"


def _rows(header: tuple[str, ...], rows: list[Any]) -> Iterator[str]:
    for cells in (header, (":--",) * len(header), *rows):
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
