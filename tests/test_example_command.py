"""`tinypeft example`: what is shown in each format and width, and one step at a time."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tinypeft.claims.examples import EXAMPLES
from tinypeft.claims.examples.engine import Steps
from tinypeft.claims.examples.figures import draw
from tinypeft.cli import app
from tinypeft.commands import example as command
from tinypeft.commands.example import run_example
from tinypeft.commands.tables import WIDTH
from tinypeft.viz.vectors import plot_moves

QUICK = ("lora-1000", "lora-forward", "prompt-768")


@pytest.fixture
def few(monkeypatch):
    """Only the quick ones."""
    monkeypatch.setattr(command, "EXAMPLES", {name: EXAMPLES[name] for name in QUICK})


def shown(capsys, *args, **options):
    run_example(*args, **options)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [50, 80, 116, 300])
@pytest.mark.parametrize("name", QUICK)
def test_it_fits_the_terminal(monkeypatch, capsys, name, width):
    monkeypatch.setenv("COLUMNS", str(width))
    lines = shown(capsys, name).split("\n")
    assert max(map(len, lines)) <= min(width, WIDTH)
    assert [line for line in lines if line != line.rstrip()] == []


def test_every_step_is_shown_with_its_values_and_mark(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "116")
    (found,) = run_example("lora-forward")
    printed = capsys.readouterr().out
    blocks = re.split(r"\n +\d+\. ", printed)
    assert len(blocks) == 1 + len(found.steps)
    assert found.title in blocks[0]
    assert found.where in blocks[0]
    for step, block in zip(found.steps, blocks[1:], strict=True):
        ours = f"{step.ours}   {command.SIGNS[step.mark]} {step.mark}"
        assert [text for text in (step.text, step.formula, step.stated, step.follows, ours) if text not in block] == []
        assert ("its numbers give" in block) == bool(step.follows)
        assert " ".join(step.why.split()) in " ".join(block.split())
    assert "They part at step 4." in printed
    assert "tinypeft check d-ex3-arith d-ex3-rank" in printed
    assert "never part" in shown(capsys, "lora-1000")


def test_marks_differ_in_words_and_most_in_signs():
    assert set(command.SIGNS) == set(command.STYLES) == set(command.Mark)
    assert len({str(mark) for mark in command.Mark}) == len(command.Mark)


def test_the_list(few, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "116")
    printed = shown(capsys)
    assert re.search(r"000 +│ lora-1000 .*✓ nowhere", printed)
    assert re.search(r"003 +│ lora-forward .*✗ step 4: The rank r", printed)
    rows = json.loads(shown(capsys, output_format="json"))
    assert [row["name"] for row in rows] == ["lora-1000", "prompt-768", "lora-forward"]  # in the documents' order
    assert "| lora-forward | 003, Worked Examples, Example 3 | A forward pass through LoRA | ✗ step 4: The rank r |" in shown(
        capsys, output_format="markdown")


def test_json_and_markdown(capsys):
    content = json.loads(shown(capsys, "lora-forward", output_format="json"))
    assert content["parts_at"] == 4
    assert content["steps"][5] == {
        "step": "The output", "formula": "W0 x + (alpha / r) B A x: (2,) + (2,) -> (2,)", "stated": "[3.045, 7.06]",
        "follows": "[3.045, 7.06]", "ours": "[3.09, 7.12]", "agrees": False, "mark": "follows from there", "why": "",
        "note": ""}
    assert [step["agrees"] for step in content["steps"]] == [True, True, True, False, False, False, False]
    assert content["claims"] == ["d-ex3-arith", "d-ex3-rank", "d-ex3-out", "d-ex3-pct"]
    text = shown(capsys, "lora-forward", output_format="markdown")
    rows = [line for line in text.split("\n") if line.startswith("|")]
    assert len(rows) == 2 + 7
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {8}
    assert "- Step 4: A has one row" in text


# ---- one step at a time ---------------------------------------------------------------------------------------------

def stepped(monkeypatch, capsys, name, typed):
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    return shown(capsys, name, step=True)


def test_steps_wait_for_a_line_each(monkeypatch, capsys):
    printed = stepped(monkeypatch, capsys, "lora-forward", "[3, 7]\n0.5\n\n2\nnothing\n\n3.09, 7.12\n2%\n")
    said = re.findall(r"your guess, Enter, or q: (.*)\n +(.*)\n", printed)
    assert [guess for guess, _ in said] == ["[3, 7]", "0.5", "", "2", "nothing", "", "3.09, 7.12", "2%"]
    assert said[0][1] == "Right."
    assert said[1][1] == "0.5 is too large."
    assert said[2][1].startswith("document states")
    assert said[3][1].startswith("2 is too large by a factor of 2")
    assert "'nothing' is not a number" in said[4][1]
    assert said[5][1].startswith("document states")  # typed again, nothing this time
    assert said[6][1] == "Right."
    assert said[7][1].startswith("2% is too large")  # 1.97 %, of which "2%" has one digit


def test_without_input_it_goes_on(monkeypatch, capsys):
    printed = stepped(monkeypatch, capsys, "lora-1000", "")
    assert printed.count("your guess") == 5
    assert "never part" in printed


def test_nothing_is_asked_where_nothing_can_be_computed(monkeypatch, capsys):
    printed = stepped(monkeypatch, capsys, "multilingual", "2.1M\n20,000\n")
    assert printed.count("your guess") == 4  # of 5 steps
    assert printed.count("Right.") == 1


def test_q_leaves(monkeypatch, capsys):
    printed = stepped(monkeypatch, capsys, "lora-1000", "\nQ\n")
    assert printed.count("your guess") == 2
    assert printed.count("we compute") == 1


def test_what_cannot_be_computed_is_no_agreement(capsys):
    assert "never part, but for what cannot be computed: step 5." in re.sub(r"\s+", " ", shown(capsys, "multilingual"))


@pytest.mark.parametrize(("guess", "answer"), [("yes", "Right."), ("No", "It is not so."), ("24", "It is not so.")])
def test_yes_and_no(guess, answer):
    steps = Steps()
    steps.add("Does it fit?", "", True, stated="yes", expects=True)
    assert command._reply(steps[0], guess) == answer


# ---- figures --------------------------------------------------------------------------------------------------------

def test_a_figure_is_written(capsys, tmp_path):
    run_example("lora-forward", plot=tmp_path / "forward.png")
    assert (tmp_path / "forward.png").read_bytes().startswith(b"\x89PNG")
    assert "document, scale 0.5 at [3.045, 7.06], computed, scale 1 at [3.09, 7.12]" in capsys.readouterr().err


def test_the_budget_is_drawn_against_the_card():
    alt = draw("qlora-budget").alt
    assert "document, r=16: base 6.5 GB, adapter, gradients, optimizer 0.3 GB, activations 0.5 GB, together 7.3 GB" in alt
    assert "computed, r=256: base 7.2 GB" in alt
    assert "limit of 24 GB" in alt


def test_points_of_a_plane_only():
    with pytest.raises(ValueError, match="two numbers each"):
        plot_moves([1.0, 2.0, 3.0], {"there": [1.0, 2.0, 4.0]}, "here")
    with pytest.raises(ValueError, match="at least one move"):
        plot_moves([1.0, 2.0], {}, "here")


# ---- errors, and the menu -------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("args", "options", "message"), [
    (["lora-forwards"], {}, "unknown example 'lora-forwards'; near: lora-forward"),
    (["lora-forward"], {"output_format": "xml"}, "unknown format 'xml'; there are: table, markdown, json"),
    ([], {"step": True}, "name it"),
    (["lora-forward"], {"step": True, "output_format": "json"}, "leave out --format"),
    ([], {"plot": Path("x.png")}, "name it. Those with a figure: lora-forward, qlora-budget"),
    (["lora-1000"], {"plot": Path("x.png")}, "there is no figure of 'lora-1000'; those with a figure: lora-f")])
def test_errors(args, options, message):
    with pytest.raises(ValueError, match=message):
        run_example(*args, **options)


def test_it_is_in_the_menu():
    result = CliRunner().invoke(app, ["example", "lora-1000", "--format", "json"])
    assert json.loads(result.output)["name"] == "lora-1000"
    assert CliRunner().invoke(app, ["example", "lora-1000", "--step"], input="1M\n").output.count("your guess") == 5
