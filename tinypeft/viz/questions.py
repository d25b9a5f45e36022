"""A box in a notebook that asks questions: what is asked, a field or options for the answer, buttons, and what it is told.

It knows nothing of its questions: `card` says what to show, `reply` takes what was typed or chosen. Where there are no widgets
(no ipywidgets, a plain terminal, an exported notebook) the question stands as text, and `box.answer("...")` answers it.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LETTERS = "ABCDEFGH"


@dataclass(frozen=True)
class Card:
    """A question as it is shown.

    Attributes:
        text: what is asked.
        options: what can be chosen, lettered A, B, C, ...; () for an answer that is typed.
        draw: draws a Picture that belongs to it; None for none.
    """

    text: str
    options: tuple[str, ...] = ()
    draw: Callable[[], Any] | None = None


class QuestionBox:
    """Shown by a notebook as a widget, elsewhere as text.

    Args:
        card: what is asked now; None when there is nothing left.
        reply: answer, "hint" or "skip" -> what it is told, and whether the question is over.
        summary: what is said at the end.

    >>> cards = [Card("How many legs has a spider?")]
    >>> box = QuestionBox(card=lambda: cards[0] if cards else None, summary=lambda: "Done.",
    ...                   reply=lambda text: (f"{text}? No, 8.", bool(cards.pop())))
    >>> box
    How many legs has a spider?
    >>> box.answer("6")
    6? No, 8.
    <BLANKLINE>
    Done.
    """

    def __init__(self, card: Callable[[], Card | None], reply: Callable[[str], tuple[str, bool]],
                 summary: Callable[[], str]):
        self._card, self._reply, self._summary = card, reply, summary
        self._widget: Any = None

    def __repr__(self) -> str:
        card = self._card()
        if card is None:
            return self._summary()
        options = "".join(f"\n  {letter}) {option}" for letter, option in zip(LETTERS, card.options, strict=False))
        return card.text + (f"\n{options}" if options else "")

    def answer(self, text: str) -> None:
        """Answer the question without buttons, and print what comes of it, and the next question.

        Args:
            text: the answer, a letter for an option; or "hint" or "skip".
        """
        if self._card() is None:
            print(self._summary())
            return
        told, over = self._reply(str(text))
        print(told + (f"\n\n{self!r}" if over else ""))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """The widget for whoever can show it, the text for everyone."""
        shown = self.widget()
        return ({} if shown is None else dict(shown._repr_mimebundle_())) | {"text/plain": repr(self)}

    def widget(self) -> Any:
        """An ipywidgets box, always the same one; None where ipywidgets is not installed."""
        if self._widget is None:
            try:
                import ipywidgets
            except ImportError:
                return None
            self._widget = ipywidgets.VBox()
            self._show_card(ipywidgets)
        return self._widget

    def _show_card(self, widgets: Any) -> None:
        card = self._card()
        if card is None:
            self._widget.children = [widgets.HTML(_paragraphs(self._summary()))]
            return
        told = widgets.HTML()
        if card.options:
            lettered = [(f"{letter}) {text}", letter) for letter, text in zip(LETTERS, card.options, strict=False)]
            field = widgets.RadioButtons(options=lettered, value=None, layout={"width": "100%"})
        else:
            field = widgets.Text(placeholder="Your answer", continuous_update=False)
        answer, hint, skip, following = (widgets.Button(description=name) for name in ("Answer", "Hint", "Skip", "Next"))
        following.layout.display = "none"

        def take(text: str) -> None:
            said, over = self._reply(text)
            told.value = _paragraphs(said)
            if over:
                for part in (field, answer, hint, skip):
                    part.disabled = True
                following.layout.display = ""

        def take_field() -> None:
            if field.value:
                take(field.value)
            else:
                told.value = _paragraphs("Choose an option first." if card.options else "Type an answer first.")

        answer.on_click(lambda _: take_field())
        hint.on_click(lambda _: take("hint"))
        skip.on_click(lambda _: take("skip"))
        following.on_click(lambda _: self._show_card(widgets))
        figure = [] if card.draw is None else [widgets.HTML(card.draw()._repr_mimebundle_()["text/html"])]
        self._widget.children = [widgets.HTML(_paragraphs(card.text)), *figure, field,
                                 widgets.HBox([answer, hint, skip, following]), told]


def _paragraphs(text: str) -> str:
    """Text as HTML that keeps its lines and columns."""
    return f'<div style="white-space: pre-wrap; line-height: 1.4">{html.escape(text)}</div>'
