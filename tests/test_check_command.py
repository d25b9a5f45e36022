"""`tinypeft check`: filters, forms of output, one claim in full, and what is recorded."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tinypeft.claims import claim as claims_room
from tinypeft.claims.audit import CLAIMS
from tinypeft.claims.claim import Claim, check
from tinypeft.claims.judge import MEANINGS, Computed, Verdict, computed
from tinypeft.claims.record import recorded
from tinypeft.cli import app
from tinypeft.commands import check as command
from tinypeft.commands.check import run_check
from tinypeft.commands.check_report import html_page, markdown, verdict_label
from tinypeft.commands.tables import WIDTH

PRINTED = ["b-print-trainable", "b-print-all", "b-print-pct"]


def test_filters(capsys):
    assert [found.claim.id for found in run_check(kind="code-output")] == PRINTED
    assert run_check(kind="code-output", verdict="confirmed") == []
    assert {found.claim.id[0] for found in run_check(kind="quiz", source="003")} == {"d"}
    assert run_check(kind="quiz", source="b") == []
    for source in ("001", "b", "001_a5cfad807afcb91f.txt"):
        assert [found.claim.id for found in run_check(kind="code-output", source=source)] == PRINTED
    capsys.readouterr()


@pytest.mark.parametrize(("options", "message"), [
    ({"ids": ["b-print-trainible"]}, "unknown claim 'b-print-trainible'; near: b-print-trainable.*There are 233"),
    ({"verdict": "wrong"}, "unknown verdict 'wrong'.*there are: confirmed, confirmed-rounded, corrected"),
    ({"kind": "memry"}, "unknown kind 'memry'; near: memory"),
    ({"source": "004"}, r"unknown source '004'; there are: 000 \(Understanding PEFT"),
    ({"source": "0"}, "unknown source '0'"),
    ({"output_format": "pdf"}, "unknown format 'pdf'; there are: table, markdown, json, html"),
])
def test_what_is_not_there_is_an_error_before_anything_is_computed(options, message, monkeypatch):
    monkeypatch.setattr(command, "check", lambda entry: pytest.fail("computed"))
    with pytest.raises(ValueError, match=message):
        run_check(**options)


def test_one_claim_in_full(capsys):
    run_check(["b-print-trainable"])
    printed = capsys.readouterr().out
    for text in ("6,815,744", "13,631,488", "corrected", "001_a5cfad807afcb91f.txt", "code-output",
                 'lora_counts("llama-3-8b", 16).trainable', "trainable params: 13,631,488"):
        assert text in printed
    assert "{" not in printed.partition("how ")[0]


def test_json_has_everything_of_every_claim_asked_for(capsys):
    run_check(kind="code-output", output_format="json")
    rows = json.loads(capsys.readouterr().out)
    assert [row["id"] for row in rows] == PRINTED
    assert {"id", "source", "place", "kind", "claim", "stated", "holds_if", "computed", "verdict", "why", "correct", "how",
            "basis", "fresh"} == set(rows[0])
    assert rows[0] | {"computed": "13,631,488", "verdict": "corrected", "fresh": True, "basis": "computed"} == rows[0]


def test_the_table_counts_verdicts_and_tells_computed_from_editorial(capsys):
    run_check(source="003", kind="quiz")
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "7 claims: computed 0, editorial 7 (in brackets: no computation decides)." in printed
    assert "(meaningless)" in printed
    assert re.search(r"meaningless │ 0 │ 0 │ 0 │ 7 │ 7", printed)


def test_files_are_written_whole(tmp_path, capsys):
    for name, output_format in (("c.md", "markdown"), ("c.json", "json"), ("c.html", "html"), ("t.md", "table")):
        run_check(kind="code-output", output_format=output_format, out=tmp_path / name)
        assert "3 claims written to" in capsys.readouterr().out
    assert (tmp_path / "c.md").read_text() == (tmp_path / "t.md").read_text()  # a table in a file is Markdown
    assert len(json.loads((tmp_path / "c.json").read_text())) == 3
    page = (tmp_path / "c.html").read_text()
    assert page.startswith("<!doctype html>")
    assert all(f'<tr id="{id}">' in page for id in PRINTED)


def test_text_is_escaped_in_tables_and_pages():
    entry = Claim("d-odd", "here", "formula", "a|b <i>", "1", 1, lambda: computed(2), "x < y", "3")
    result = check(entry)
    assert "a\\|b <i>" in markdown([result])
    assert "a|b &lt;i&gt;" in html_page([result])
    assert "x &lt; y" in html_page([result])


def test_a_statement_that_is_no_number_says_when_it_holds(capsys):
    assert {id: CLAIMS[id].holds_if for id in (
        "a-storage-efficiency", "d-adapter-latency", "d-p5-less", "a-llama2-max", "a-lora-1000-factors", "a-prefix-shape",
        "a-qlora-4or8", "d-tab-lora-none", "d-nf4-enterprise", "b-print-all", "b-p1-ab", "c-ref-lora", "b-r-more",
        "d-init")} == {
            "a-qlora-4or8": "4 bits, 8 bits", "d-tab-lora-none": "0, 0, but for rounding",
            "a-storage-efficiency": "at most 1 %", "d-adapter-latency": "from 1 % to 3 %", "d-p5-less": "less than 1x",
            "a-llama2-max": "within 2 % of 70,000,000,000", "a-lora-1000-factors": "8,000", "a-prefix-shape": "20 x 4096",
            "d-nf4-enterprise": "yes", "b-print-all": "", "b-p1-ab": "", "c-ref-lora": "", "b-r-more": "more than 0",
            "d-init": "0, but for rounding"}
    run_check(["d-p5-less"])
    assert re.search(r"holds if +less than 1x", capsys.readouterr().out)
    [found] = [check(CLAIMS["d-p5-less"])]
    assert "Even less than LoRA (~0.1%) [holds if: less than 1x]" in markdown([found])
    assert "[holds if: less than 1x]" in html_page([found])


def test_a_claim_that_holds_only_as_about_says_so(capsys):
    run_check(["a-llama2-max", "d-ex1-total", "d-ex1-pct"])
    about, equal, digits = re.sub(r"\s+", " ", capsys.readouterr().out).split(" how ")[:3]
    assert 'confirmed-rounded: within 2 %, as "about", and not at the stated digits' in about
    assert "confirmed: the computed value equals the stated one" in equal
    assert "confirmed-rounded: it rounds to the stated digits" in digits


def test_verdicts_and_documents_are_explained_wherever_they_are_shown(capsys):
    results = run_check(kind="code-output")
    shown = {"terminal": capsys.readouterr().out, "markdown": markdown(results), "page": html_page(results)}
    for name, text in shown.items():
        words = re.sub(r"\s+", " ", text)
        assert f"corrected: {MEANINGS[Verdict.CORRECTED]}." in words, name
        assert "a glossary" in words, name
        assert "not-reproducible" not in words, name  # what does not occur is left out
    usage = re.sub(r"[\s│]+", " ", CliRunner().invoke(app, ["check", "--help"]).output)
    readme = re.sub(r"\s+", " ", (Path(__file__).parents[1] / "README.md").read_text())
    for verdict, meaning in MEANINGS.items():
        assert f"{verdict}: {meaning}." in usage
        assert f": {meaning}." in readme


@pytest.mark.parametrize("width", [60, 80, 110, 140])
def test_no_word_is_lost_at_any_width(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    results = run_check(source="003", kind="quiz") + run_check(kind="code-output")
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= width
    assert all(found.claim.id in printed for found in results)
    assert ("┃" in printed.partition("verdicts")[0]) is (width >= 110)  # a table where there is room for five columns


def test_code_keeps_its_lines(capsys):
    lines = CLAIMS["a-lora-letter-convention"].how.splitlines()
    assert max(map(len, lines)) > WIDTH - 4
    run_check(["a-lora-letter-convention"])
    printed = capsys.readouterr().out
    assert all(f"    {line}\n" in printed for line in lines)


def test_pages_are_well_formed_and_count_the_verdicts():
    results = [check(CLAIMS[id]) for id in (*PRINTED, "d-p5-less")]
    unclosed: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "br"):
                unclosed.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert unclosed.pop() == tag

    Checker().feed(html_page(results))
    assert unclosed == []
    assert "| corrected | 0 | 3 | 0 | 0 | 3 |" in markdown(results)
    assert "| depends | 0 | 0 | 0 | 1 | 1 |" in markdown(results)
    rows = [line for line in markdown(results).splitlines() if line.startswith("| b-print") or line.startswith("| d-p5")]
    assert [row.count(" | ") for row in rows] == [5] * 4


# ---- what is slow -----------------------------------------------------------------------------------------------------

@pytest.fixture
def slow_claim(monkeypatch):
    """The first claim, made slow, with a record."""
    runs = []

    def compute() -> Computed:
        runs.append(1)
        return computed(41)

    entry = Claim("d-slow", "here", "formula", "it is 42", "42", 42, compute, "why", "41", slow=True)
    monkeypatch.setitem(CLAIMS, "d-slow", entry)
    monkeypatch.setattr(command, "read_record", lambda: {
        "d-slow": {"computed": "41", "verdict": "corrected", "why": "as found", "correct": "41"}})
    monkeypatch.setattr(command, "CLAIMS", {"d-slow": entry})
    return runs


def test_slow_claims_are_shown_as_recorded_unless_asked_for(slow_claim, capsys):
    [result] = run_check()
    assert (slow_claim, result.fresh, result.why, verdict_label(result)) == ([], False, "as found", "corrected*")
    assert "Of the computed, 1 are shown as recorded (*): --slow computes them again." in re.sub(
        r"\s+", " ", capsys.readouterr().out)
    [result] = run_check(slow=True)
    assert (slow_claim, result.fresh, result.verdict) == ([1], True, Verdict.CORRECTED)
    [result] = run_check(["d-slow"])  # asked for by name
    assert result.fresh


def test_a_slow_claim_without_a_record_is_an_error(slow_claim):
    with pytest.raises(KeyError, match="d-slow"):
        recorded(CLAIMS["d-slow"], {})


def test_entries_are_checked_when_they_are_made():
    with pytest.raises(AssertionError, match="b-print-all is entered twice"):
        claims_room.claim("b-print-all", "", "code-output", "", stated="1")(lambda: computed(1))
    with pytest.raises(AssertionError, match="unknown kind 'rumour'"):
        claims_room.claim("b-new", "", "rumour", "", stated="1")(lambda: computed(1))
    with pytest.raises(ValueError, match="is not a number"):
        claims_room.claim("b-new", "", "formula", "", stated="as stated")
