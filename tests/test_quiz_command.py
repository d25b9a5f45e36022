"""`tinypeft quiz`: what is asked and said, and where the figures go."""

from __future__ import annotations

import io
import re
import sys

import pytest
from typer.testing import CliRunner

from tinypeft.claims.quiz import FAMILIES, OBJECTIVES, draw
from tinypeft.cli import app, main
from tinypeft.commands.quiz import run_quiz


def transcript(monkeypatch, capsys, lines: list[str], **options):
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    monkeypatch.setattr("tinypeft.claims.ask.textwrap.fill", lambda text, *_, **__: text)  # unbroken, to be compared
    session = run_quiz(**{"topic": None, "seed": 0, "count": 4, "figures": None, **options})
    return session, capsys.readouterr().out


def test_each_answer_is_explained(monkeypatch, capsys):
    questions = list(draw(count=3, seed=0))
    wrong = next(letter for letter in "ABC" if letter != questions[1].right)
    _, said = transcript(monkeypatch, capsys, [questions[0].right, wrong, "skip"], count=3)
    texts = re.split(r"Question \d", said)[1:]
    right, mistaken, skipped = (dict(zip("ABCD", question.options, strict=False)) for question in questions)
    assert right[questions[0].right].why in texts[0]
    assert "Not right" not in texts[0]
    assert f"Not right. {mistaken[wrong].why}" in texts[1]
    assert mistaken[questions[1].right].why in texts[1]  # and why the right one is right
    assert f"Answer: {questions[1].solution}" in texts[1]
    assert skipped[questions[2].right].why in texts[2]
    for question, text in zip(questions, texts, strict=True):
        assert question.prompt in text
        assert all(f"{letter}) {option.text}" in text for letter, option in zip("ABCD", question.options, strict=False))


def test_the_score_is_by_objective(monkeypatch, capsys):
    questions = list(draw(count=5, seed=0))
    session, said = transcript(monkeypatch, capsys, [question.right for question in questions[:4]] + ["skip"], count=5)
    assert "4 of 5 right, 1 skipped" in said
    scores = said.partition("By objective:\n")[2].splitlines()
    assert len(session.results) == 5
    assert sorted(scores) == sorted(f"  {question.objective}. {OBJECTIVES[question.objective]}: {int(i < 4)} of 1"
                                    for i, question in enumerate(questions))


def test_the_end_of_input_ends_it(monkeypatch, capsys):
    session, said = transcript(monkeypatch, capsys, [], count=3)
    assert session.results == []
    assert "No question was answered." in said
    assert "By objective" not in said


def test_a_reply_that_is_no_option_is_asked_again(monkeypatch, capsys):
    question = next(draw(count=1, seed=0))
    session, said = transcript(monkeypatch, capsys, ["E", "hint", question.right.lower()], count=1)
    assert "'E' is none of the options; answer with one letter of A, B, C" in said
    assert f"Hint: {question.steps[0].text}: {question.steps[0].formula}." in said
    assert [result.right for result in session.results] == [True]


def test_without_a_seed_one_is_drawn_and_said(monkeypatch, capsys):
    _, said = transcript(monkeypatch, capsys, ["quit"], seed=None)
    seed = int(re.match(r"Seed (\d+): --seed \1 asks the same again\.", said)[1])
    _, again = transcript(monkeypatch, capsys, ["quit"], seed=seed)
    assert said.partition("\n")[2] == again


def test_figures_are_written_and_named_without_the_answer(monkeypatch, capsys, tmp_path):
    folder = tmp_path / "new" / "figures"
    _, said = transcript(monkeypatch, capsys, ["A"] * 3, topic="attention", count=3, figures=folder)
    written = sorted(folder.glob("*.png"))
    assert [path.name for path in written] == ["attention-1.png", "attention-2.png", "attention-3.png"]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in written)
    assert all(f"Figure: {path}" in said for path in written)
    assert "queries" in said  # described in words too


def test_figures_are_told_in_words_without_a_folder(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    _, said = transcript(monkeypatch, capsys, ["A"], topic="bars", count=1)
    assert "Stacked bars of memory" in said
    assert list(tmp_path.iterdir()) == []


def test_the_list_has_all_families(capsys):
    assert run_quiz(topic=None, seed=None, count=10, figures=None, listing=True) is None
    said = capsys.readouterr().out
    assert all(re.search(rf"^  {name} \(", said, re.MULTILINE) for name in FAMILIES)
    assert all(f"{number}. {title}" in said for number, title in OBJECTIVES.items())
    run_quiz(topic="ulora", seed=None, count=10, figures=None, listing=True)
    assert "1 of" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), [
    (["pefix"], "no question is on 'pefix'; near: prefix"),
    (["--count", "0"], "count=0: expected at least 1 question"),
    (["--seed", "-1"], "--seed -1: expected at least 0"),
])
def test_errors_are_sentences(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["tinypeft", "quiz", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    assert message in capsys.readouterr().err


def test_the_menu_has_it():
    run = CliRunner().invoke(app, ["quiz", "scaling", "--seed", "1", "--count", "1"], input="A\n")
    assert run.exit_code == 0
    assert "By which factor is B A multiplied" in " ".join(run.output.split())
    assert "By objective:" in run.output
