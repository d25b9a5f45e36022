"""`tinypeft practice`: what it prints, what it accepts from a keyboard or a pipe, and that a seed brings the same again."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from tinypeft.claims import ask
from tinypeft.claims.ask import Session, converse, full_text, hint, worked_solution
from tinypeft.claims.practice import KINDS, TOPICS, series
from tinypeft.claims.questions import Choice, Matching, Mistake, Need, Numeric, Option, Ordering, Step
from tinypeft.cli import app
from tinypeft.commands.practice import run_practice

NUMBER = Numeric(kind="n", topic="lora", prompt="How many?", answer=81920, mistakes=(Mistake("a-only", 65536, "That is A."),),
                 steps=(Step("A", "16 x 4,096", "65,536"), Step("B", "16 x 1,024", "16,384"), Step("together", "", "81,920")))
CHOICE = Choice(kind="c", topic="nf4", prompt="Which?",
                options=(Option("one", "No, not one.", "one"), Option("two", "Yes, two.")))
ORDER = Ordering(kind="o", topic="proof", prompt="In order?", lines=("second", "first"), orders=("21",),
                 needs=(Need("2", "1", "first things first.", "first-last"),))
REASONS = Matching(kind="m", topic="proof", prompt="Why?", lines=("l1", "l2"), reasons=("r1", "r2", "r3"), right="CA",
                   remarks=("that is r1.", "that is r2.", "that is r3."), ids=("id1", "id2", "id3"))
ALL = [NUMBER, CHOICE, ORDER, REASONS]


def conversation(questions, *lines, **options) -> tuple[Session, str]:
    """A session that is answered with these lines, and what was printed."""
    printed: list[str] = []
    session = Session(questions, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *texts, **_: printed.append(" ".join(map(str, texts))))
        converse(session, io.StringIO("".join(f"{line}\n" for line in lines)).readline)
    return session, "\n".join(printed)


def practice(*lines, **options) -> str:
    """What the command prints when it is given these lines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        out = io.StringIO()
        patch.setattr("sys.stdout", out)
        run_practice(**{"topic": None, "seed": 1, "count": 2, "kinds": None, "tries": 1, "list_only": False, **options})
        return out.getvalue()


# ---- the engine -----------------------------------------------------------------------------------------------------

def test_all_right():
    session, printed = conversation(ALL, "81.9K", "b", "2 1", "C, A")
    assert [result.right for result in session.results] == [True] * 4
    assert "Right: 81,920." in printed
    assert "Right. Yes, two." in printed
    assert "Right: 2 1." in printed
    assert "4 of 4 right." in printed
    assert "Question 3 of 4 (proof)" in printed


def test_a_wrong_answer_is_told_what_it_looks_like_and_then_the_solution():
    session, printed = conversation(ALL, "65536", "A", "12", "BA")
    assert [result.mistakes for result in session.results] == [("a-only",), ("one",), ("first-last",), ("id2",)]
    assert "Not right. That is A.\n\nWorked solution:\n  A: 16 x 4,096 = 65,536\n" in printed
    assert "  together: 81,920\n  Answer: 81,920" in printed
    assert "Not right. No, not one.\n\nWorked solution:\n  Answer: B) two\n  Yes, two." in printed
    assert "Line 2 has to stand before line 1: first things first." in printed
    assert "Line 1: that is r2." in printed
    assert ("0 of 4 right. To look at again: proof, lora, nf4.\nMistakes recognized:\n  That is A.\n  No, not one.\n"
            "  Line 2 has to stand before line 1: first things first.\n  And 1 more.") in printed


@pytest.mark.parametrize(("question", "answer", "sentence"), [
    (NUMBER, "many", "'many' is not a number; write one such as 81,920"),
    (NUMBER, "81.920", "the point begins its decimals."),
    (NUMBER, "81,920 GB", "the unit 'GB' does not fit; a plain number is asked for"),
    (CHOICE, "C", "'C' is none of the options; answer with one letter of A, B."),
    (CHOICE, "two", "'two' is none of the options"),
    (ORDER, "112", "'112' does not name each line once; give all of 1, 2, as in 2 1"),
    (REASONS, "CAD", "'CAD' does not name a reason for each of the 2 lines; give 2 letters of ABC."),
    (REASONS, "CE", "'CE' does not name a reason for each of the 2 lines"),
])
def test_what_cannot_be_read_gets_a_sentence_and_another_try(question, answer, sentence):
    session, printed = conversation([question], answer, {"n": "81920", "c": "B", "o": "2, 1", "m": "CA"}[question.kind])
    assert sentence in printed
    assert (session.results[0].right, session.results[0].tries) == (True, 1)


MEMORY = Numeric(kind="n", topic="lora", prompt="How many GB (10^9 bytes) is that?", answer=6.3e9, unit="GB")


@pytest.mark.parametrize(("question", "answer", "right"), [
    (MEMORY, "6.30", True), (MEMORY, "6.3gb", True), (MEMORY, "6300 mb", True), (MEMORY, "6.3e9 Bytes", True),
    (MEMORY, "5.87gib", True), (MEMORY, "5.87", False), (MEMORY, "6.3 GiB", False),
    (Numeric(kind="n", topic="", prompt="By what factor?", answer=11, unit="x"), "11 times", True),
    (Numeric(kind="n", topic="", prompt="Which rank?", answer=6), "r = 6", True),
    (Numeric(kind="n", topic="", prompt="Which rank?", answer=6), "r=7", False),
])
def test_numbers_are_read_as_people_write_them(question, answer, right):
    assert question.check(answer).right is right


@pytest.mark.parametrize("prompt", ["How much memory is that?", "How many GB is that, and how many GiB?"])
def test_a_unit_is_needed_where_the_question_names_none_or_two(prompt):
    question = Numeric(kind="n", topic="lora", prompt=prompt, answer=6.3e9, unit="GB")
    with pytest.raises(ValueError, match="'6.30' lacks a unit of memory; answer in GB"):
        question.check("6.30")


def test_what_belongs_to_a_line_has_its_own_name():
    text = full_text(replace(REASONS, called="run"))
    assert "\n  Runs:\n  A) r1" in text
    assert text.endswith("one for each line: its run.")
    assert hint(replace(REASONS, called="run"), 1) == "Hint: the run of line 1 is C."


def test_hints_are_the_steps_without_their_values():
    session, printed = conversation([NUMBER], "hint", "HINT", "hint", "skip")
    assert "Hint: A: 16 x 4,096.\n" in printed
    assert "Hint: B: 16 x 1,024.\n" in printed
    assert "There are no more hints." in printed  # the last step would be the answer
    assert "65,536" not in printed.split("Worked solution")[0]
    assert session.results[0].hints == 3
    assert hint(CHOICE, 1) == "There is no hint for this question."
    assert hint(Numeric(kind="", topic="", prompt="", answer=1, steps=(Step("one", "1"),)), 1) == "Hint: one: 1."


def test_hints_to_choices_and_orders_leave_something_to_find():
    options = [Option(text, "No.", f"not-{text}") for text in ("one", "two", "three")]
    question = Choice(kind="c", topic="t", prompt="?", options=(options[0], Option("four", "Yes."), *options[1:]),
                      steps=(Step("four", "", "the best"),))
    assert [hint(question, i) for i in (1, 2, 3)] == ["Hint: it is not A.", "Hint: it is not C.", "There are no more hints."]
    order = Ordering(kind="o", topic="t", prompt="?", lines=("c", "a", "b"), orders=("231",))
    assert [hint(order, i) for i in (1, 2)] == ["Hint: line 2 can be the first.", "There are no more hints."]
    assert [hint(REASONS, i) for i in (1, 2)] == ["Hint: the reason of line 1 is C.", "There are no more hints."]


def test_skip_shows_the_solution_and_goes_on():
    session, printed = conversation([NUMBER, CHOICE], "skip", "B")
    assert "Skipped.\n\nWorked solution:" in printed
    assert [(result.right, result.tries) for result in session.results] == [(False, 0), (True, 1)]
    assert "1 of 2 right, 1 skipped." in printed


@pytest.mark.parametrize("lines", [["81920", "quit"], ["81920"]], ids=["quit", "end of input"])
def test_leaving_ends_politely(lines):
    session, printed = conversation(ALL, *lines)
    assert session.current is None
    assert len(session.results) == 1
    assert printed.rstrip().endswith("1 of 1 right.")


def test_leaving_at_once():
    _, printed = conversation(ALL)
    assert "No question was answered." in printed


def test_a_keyboard_interrupt_is_a_way_to_leave(capsys):
    def interrupt() -> str:
        raise KeyboardInterrupt

    converse(Session([NUMBER]), interrupt)
    assert "No question was answered." in capsys.readouterr().out


def test_more_tries_hold_the_solution_back():
    session, printed = conversation([NUMBER], "65536", "5", "81920", tries=3)
    assert "Not yet. That is A. Try again." in printed
    assert session.results[0].right
    assert (session.results[0].tries, session.results[0].mistakes) == (3, ("a-only",))
    session, printed = conversation([NUMBER], "5", "6", tries=2)
    assert not session.results[0].right
    assert "Answer: 81,920" in printed
    with pytest.raises(ValueError, match="tries=0: expected at least 1"):
        Session([NUMBER], tries=0)


def test_an_answered_session_has_no_question():
    session = Session([CHOICE])
    session.reply("b")
    assert session.current is None
    assert session.ask() == ""
    with pytest.raises(ValueError, match="no question left"):
        session.reply("b")


def test_an_empty_line_is_no_answer():
    session, _ = conversation([CHOICE], "", "   ", "B")
    assert session.results[0].tries == 1


def test_questions_say_how_to_answer_without_giving_the_answer_away():
    assert full_text(CHOICE).endswith("Which?\n\n  A) one\n  B) two\n\nAnswer with a letter.")
    assert full_text(ORDER).endswith("Answer with all numbers in order, such as 1 2.")  # not 2 1, which is right
    assert "  1. l1\n  2. l2\n\n  Reasons:\n  A) r1" in full_text(REASONS)
    assert full_text(NUMBER) == "How many?"
    assert full_text(Numeric(kind="", topic="", prompt="How many?", answer=1, tolerance=0.001)).endswith("about right is not "
                                                                                                         "enough here.")
    assert worked_solution(NUMBER, told=True).endswith("together: 81,920")
    assert worked_solution(CHOICE, told=True) == ""


def test_long_lines_are_broken_at_the_terminals_width(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    ask.say("  A) " + "word " * 20 + "\nnext")
    lines = capsys.readouterr().out.split("\n")
    assert max(map(len, lines)) <= 40
    assert lines[1].startswith("     word")
    assert "next" in lines


def test_a_figure_is_told_in_a_terminal():
    class Picture:
        alt = "A line that rises."

    _, printed = conversation([Numeric(kind="n", topic="t", prompt="?", answer=1, draw=Picture)], "1")
    assert "A line that rises." in printed


# ---- the command ----------------------------------------------------------------------------------------------------

def test_equal_seeds_ask_the_same_and_others_do_not():
    first, again, other = (practice("skip", "skip", topic="lora", seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.replace("Seed 1", "Seed 2").replace("--seed 1", "--seed 2") != other


def test_without_a_seed_one_is_drawn_and_printed_so_that_it_can_be_repeated():
    printed = practice("skip", "skip", topic="lora", seed=None)
    seed, topic, again, count = re.search(r"Seed (\d+)\. .* practice (\w+) --seed (\d+) --count (\d+)", printed).groups()
    assert (topic, count, again) == ("lora", "2", seed)
    assert practice("skip", "skip", topic="lora", seed=int(seed)) == printed


def test_what_is_answered_from_a_pipe_is_shown():
    printed = practice("12", "skip", topic="lora", count=1)
    assert "> 12\n" in printed


def test_only_the_kinds_that_are_asked_for():
    printed = practice("skip", "skip", "skip", kinds="lora-matrix, kv-cache", count=3)
    assert "--kind lora-matrix,kv-cache --seed 1 --count 3" in printed
    assert len(re.findall(r"Question \d of 3", printed)) == 3
    assert set(re.findall(r"Question \d of 3 \(([^)]*)\)", printed)) == {"lora", "kv-cache"}


def test_each_kind_comes_once_before_any_comes_again():
    kinds = [kind for kind in KINDS.values() if kind.topic == "proof"]
    asked = [question.kind for question in series(kinds, 0, 8)]
    assert set(asked[:4]) == set(asked[4:]) == {kind.name for kind in kinds}
    first, second = series(kinds[:1], 0, 2)
    assert first.kind == second.kind
    assert first.prompt != second.prompt
    assert next(series(kinds, 0, 10**9)).kind == asked[0]  # drawn as they are asked for


def test_all_kinds_are_listed_under_their_topics():
    printed = practice(list_only=True)
    assert all(f"    {name} " in printed for name in KINDS)
    assert all(f"{topic}: {words}" in printed for topic, words in TOPICS.items())
    assert f"{len(KINDS)} kinds of questions" in printed
    assert "kv-cache" not in practice(list_only=True, topic="proof")


@pytest.mark.parametrize(("options", "message"), [
    ({"count": 0}, "count 0: expected 1 or more"), ({"seed": -3}, "seed -3: expected 0 or more"),
    ({"tries": 0}, "tries 0: expected 1 or more"), ({"topic": "memry"}, "unknown topic 'memry'; near: memory"),
    ({"kinds": "lora-matrx"}, "unknown kind of question 'lora-matrx'; near: lora-matrix"),
])
def test_bad_options_get_a_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        practice(**options)


def test_the_command_line_passes_everything_on():
    runner = CliRunner()
    result = runner.invoke(app, ["practice", "lora", "--kind", "lora-matrix", "--seed", "7", "--count", "1", "--tries", "2"],
                           input="1\nhint\n" + draw_answer(7) + "\n")
    assert result.exit_code == 0
    assert "Not yet." in result.stdout
    assert "Hint: A (r, in)" in result.stdout
    assert "1 of 1 right." in result.stdout
    assert "lora-matrix" in runner.invoke(app, ["practice", "--list"]).stdout


def draw_answer(seed: int) -> str:
    """The answer to the first question of that seed, among one kind."""
    (question,) = series([KINDS["lora-matrix"]], seed, 1)
    return question.solution
