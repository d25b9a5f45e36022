"""`tinypeft check`: recompute the claims of the documents, and show what became of each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from tinypeft.budget.units import names_known
from tinypeft.claims.audit import CLAIMS
from tinypeft.claims.claim import KINDS, SOURCES, Checked, Claim, check, known
from tinypeft.claims.judge import Verdict
from tinypeft.claims.record import read_record, recorded
from tinypeft.commands.check_report import html_page, markdown, print_claim, print_report
from tinypeft.files import write_text

FORMATS = ("table", "markdown", "json", "html")


def run_check(ids: Sequence[str] = (), *, verdict: str | None = None, source: str | None = None, kind: str | None = None,
              slow: bool = False, output_format: str = "table", out: Path | None = None) -> list[Checked]:
    """Recompute, filter, show.

    Args:
        ids: claims to show in full; none for a table of all.
        verdict, source, kind: show only claims with this verdict, of this document (its number or letter), of this kind.
        slow: recompute those too that take more than seconds; else their recorded results are shown, marked not fresh.
        output_format: table, markdown, json or html.
        out: a file to write to, instead of the terminal.

    Raises:
        ValueError: an unknown id, verdict, document, kind or format.
    """
    if output_format not in FORMATS:
        raise ValueError(f"unknown format {output_format!r}; there are: {', '.join(FORMATS)}")
    wanted = [known(id) for id in ids] or list(CLAIMS.values())
    if source is not None:
        letter = _letter(source)
        wanted = [entry for entry in wanted if entry.id[0] == letter]
    if kind is not None:
        _one_of(kind, KINDS, "kind")
        wanted = [entry for entry in wanted if entry.kind == kind]
    if verdict is not None:
        _one_of(verdict, list(Verdict), "verdict")
    results = [found for found in recompute(wanted, slow=slow or bool(ids)) if verdict in (None, found.verdict)]
    _show(results, bool(ids), output_format, out)
    return results


def recompute(claims: Sequence[Claim], slow: bool) -> list[Checked]:
    """Check all; the slow ones only if asked to, else as recorded."""
    record = read_record()
    return [recorded(entry, record) if entry.slow and not slow else check(entry)
            for entry in tqdm(claims, desc="recomputing", unit="claim", leave=False, disable=None)]


def _show(results: list[Checked], in_full: bool, output_format: str, out: Path | None) -> None:
    text = {"json": lambda: json.dumps([found.to_dict() for found in results], indent=2, ensure_ascii=False) + "\n",
            "markdown": lambda: markdown(results), "html": lambda: html_page(results)}.get(output_format)
    if out is not None:
        write_text(out, text() if text else markdown(results))
        print(f"{len(results)} claims written to {out}")
    elif text:
        print(text(), end="")
    elif in_full:
        for found in results:
            print_claim(found)
    else:
        print_report(results)


def _letter(source: str) -> str:
    """The letter of a document, from its letter, its number (000 to 003) or its file name."""
    for letter, (file, _) in SOURCES.items():
        if source.lower() == letter or (len(source) >= 3 and file.startswith(source)):
            return letter
    raise ValueError(f"unknown source {source!r}; there are: "
                     + ", ".join(f"{file[:3]} ({title})" for file, title in SOURCES.values()))


def _one_of(name: str, names: Sequence[str], what: str) -> None:
    if name not in names:
        raise ValueError(f"unknown {what} {name!r}; {names_known(name, names, says='there are')}")
