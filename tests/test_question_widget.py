"""The notebook's question box: as a widget, as text, and around a practice session."""

from __future__ import annotations

import sys

import pytest

from tinypeft.claims.ask import Session, in_notebook
from tinypeft.claims.practice import practice_box
from tinypeft.claims.questions import Choice, Numeric, Option, Step
from tinypeft.viz import Card, QuestionBox

CHOICE = Choice(kind="c", topic="nf4", prompt="Which <b>?",
                options=(Option("one", "Not one.", "one"), Option("two", "Yes, two.")))
NUMBER = Numeric(kind="n", topic="lora", prompt="How many?", answer=8, steps=(Step("a", "2 x 4", "8"), Step("end", "", "8")))


class Quiz:
    """Cards, and the answers that were given; "right" ends a card."""

    def __init__(self, *cards: Card):
        self.cards, self.given = list(cards), []

    def box(self) -> QuestionBox:
        return QuestionBox(lambda: self.cards[0] if self.cards else None, self.reply, lambda: f"{len(self.given)} replies.")

    def reply(self, text: str) -> tuple[str, bool]:
        self.given.append(text)
        over = text in ("right", "A", "skip")
        if over:
            self.cards.pop(0)
        return f"<{text}>", over


def parts(box: QuestionBox):
    """Text, field, buttons by name, and what it is told."""
    *head, field, buttons, told = box.widget().children
    return head, field, {button.description: button for button in buttons.children}, told


def test_a_typed_answer():
    quiz = Quiz(Card("One?"), Card("Two?"))
    box = quiz.box()
    head, field, buttons, told = parts(box)
    assert "One?" in head[0].value
    field.value = "wrong"
    buttons["Answer"].click()
    assert "&lt;wrong&gt;" in told.value  # escaped
    assert not field.disabled
    assert buttons["Next"].layout.display == "none"
    field.value = "right"
    buttons["Answer"].click()
    assert field.disabled
    assert buttons["Answer"].disabled
    assert buttons["Next"].layout.display == ""
    buttons["Next"].click()
    head, field, _, _ = parts(box)
    assert "Two?" in head[0].value
    assert not field.disabled
    assert quiz.given == ["wrong", "right"]


def test_nothing_typed_is_no_answer():
    quiz = Quiz(Card("One?"), Card("Which?", ("a", "b")))
    box = quiz.box()
    _, _, buttons, told = parts(box)
    buttons["Answer"].click()
    assert "Type an answer first." in told.value
    buttons["Skip"].click()
    buttons["Next"].click()
    _, _, buttons, told = parts(box)
    buttons["Answer"].click()
    assert "Choose an option first." in told.value
    assert quiz.given == ["skip"]


def test_options_are_radio_buttons_with_letters():
    quiz = Quiz(Card("Which?", ("first", "second")))
    box = quiz.box()
    _, field, buttons, _ = parts(box)
    assert list(field.options) == [("A) first", "A"), ("B) second", "B")]
    assert field.value is None
    field.value = "A"
    buttons["Answer"].click()
    buttons["Next"].click()
    assert "1 replies." in box.widget().children[0].value


def test_a_hint_leaves_the_question_open():
    quiz = Quiz(Card("One?"))
    _, field, buttons, told = parts(quiz.box())
    buttons["Hint"].click()
    assert "hint" in told.value
    assert not field.disabled


def test_a_figure_is_shown_with_its_alt_text():
    class Picture:
        def _repr_mimebundle_(self):
            return {"text/html": '<img alt="a curve">'}

    head, *_ = parts(Quiz(Card("See?", draw=Picture)).box())
    assert 'alt="a curve"' in head[1].value


def test_what_a_notebook_shows_has_a_text_beside_the_widget():
    bundle = Quiz(Card("One?", ("a", "b"))).box()._repr_mimebundle_()
    assert bundle["text/plain"] == "One?\n\n  A) a\n  B) b"
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_without_ipywidgets_there_is_text(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    quiz = Quiz(Card("One?"), Card("Two?"))
    box = quiz.box()
    assert box.widget() is None
    assert box._repr_mimebundle_() == {"text/plain": "One?"}
    box.answer("wrong")
    assert capsys.readouterr().out == "<wrong>\n"
    box.answer("right")
    assert capsys.readouterr().out == "<right>\n\nTwo?\n"
    box.answer("right")
    box.answer("more")
    assert capsys.readouterr().out == "<right>\n\n3 replies.\n3 replies.\n"


def test_a_session_in_a_notebook():
    session = Session([CHOICE, NUMBER])
    box = in_notebook(session)
    head, field, buttons, told = parts(box)
    assert "Question 1 of 2 (nf4)" in head[0].value
    assert "Which &lt;b&gt;?" in head[0].value
    assert "one" not in head[0].value  # the options are buttons
    field.value = "A"
    buttons["Answer"].click()
    assert "Not right. Not one." in told.value
    assert "Answer: B) two" in told.value
    buttons["Next"].click()
    _, field, buttons, told = parts(box)
    field.value = "x"
    buttons["Answer"].click()
    assert "is not a number" in told.value
    assert not field.disabled
    field.value = "8"
    buttons["Answer"].click()
    assert "Right: 8." in told.value
    buttons["Next"].click()
    assert "1 of 2 right." in box.widget().children[0].value
    assert [result.right for result in session.results] == [False, True]


def test_a_session_as_text(capsys):
    box = in_notebook(Session([CHOICE]))
    assert repr(box) == "Question 1 of 1 (nf4)\n\nWhich <b>?\n\n  A) one\n  B) two"
    box.answer("b")
    assert "Yes, two." in capsys.readouterr().out


@pytest.mark.parametrize("answer", ["hint", 8])
def test_answers_of_other_types_are_read_as_text(answer, capsys):
    in_notebook(Session([NUMBER])).answer(answer)
    assert {"hint": "Hint: a: 2 x 4.", 8: "Right: 8."}[answer] in capsys.readouterr().out


def test_practice_in_a_notebook(capsys):
    box = practice_box("lora", kinds=["lora-matrix"], seed=4, count=2)
    head, field, buttons, told = parts(box)
    assert "Question 1 of 2 (lora)" in head[0].value
    field.value = "1"
    buttons["Answer"].click()
    assert "Worked solution" in told.value
    assert capsys.readouterr().out == ""


def test_practice_without_a_seed_prints_one_that_brings_the_same_again(capsys):
    box = practice_box("memory", count=1)
    seed = int(capsys.readouterr().out.split()[1].rstrip(":"))
    assert repr(practice_box("memory", seed=seed, count=1)) == repr(box)


@pytest.mark.parametrize(("options", "message"), [
    ({"topic": "memry"}, "unknown topic 'memry'; near: memory"), ({"count": 0}, "count 0: expected 1 or more"),
    ({"seed": -1}, "seed -1: expected 0 or more")])
def test_a_box_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        practice_box(**options)
