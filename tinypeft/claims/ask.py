"""Ask questions one after another: what practice and quiz share, in a terminal and in a notebook.

    session = Session(questions)
    session.ask()                   the current question, as text
    session.reply("81.9K")          judges it, explains, and goes on to the next question
    converse(session)               the same with a keyboard, or with lines from a pipe
    in_notebook(session)            the same with buttons

"hint", "skip" and "quit" are replies too.
"""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tinypeft import viz
from tinypeft.claims.questions import Choice, Feedback, Matching, Numeric, Ordering, Question, Step

WORDS = ("hint", "skip", "quit")
LETTERS = "ABCDEFGHIJ"
NUMBERS = "123456789"
MOST_REMARKS = 3  # at the end, of the mistakes that were made


@dataclass(frozen=True)
class Reply:
    """What a reply is answered with.

    Attributes:
        text: what to show.
        done: whether the question is over; if not, it waits for another reply.
        feedback: None where nothing was judged: a hint, a skipped question, or an answer that could not be read.
    """

    text: str
    done: bool
    feedback: Feedback | None = None


@dataclass
class Result:
    """How a question went.

    Attributes:
        right: whether an answer was right in the end.
        mistakes: ids of the typical mistakes that were recognized.
        remarks: what was said to each of them.
        tries: answers that were judged; 0 means that it was skipped.
        hints: how many were asked for.
    """

    question: Question
    right: bool = False
    mistakes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    tries: int = 0
    hints: int = 0


class Session:
    """Some questions, the place where one is, and how it went.

    Args:
        questions: asked in this order; taken one at a time, so that an iterator may draw them as they are needed.
        tries: wrong answers that a question may have before its solution is shown.
        total: how many questions there are, to be shown with each; None if it is not to be, or if they are a list.

    Attributes:
        current: the question that waits for a reply; None at the end.
        results: of all questions so far, the current one excluded.
    """

    def __init__(self, questions: Iterable[Question], *, tries: int = 1, total: int | None = None):
        if tries < 1:
            raise ValueError(f"tries={tries}: expected at least 1")
        self.total = len(questions) if isinstance(questions, list | tuple) else total
        self._rest: Iterator[Question] = iter(questions)
        self._tries = tries
        self.results: list[Result] = []
        self._next()

    def _next(self) -> None:
        self.current: Question | None = next(self._rest, None)
        self._result = None if self.current is None else Result(self.current)

    def ask(self) -> str:
        """The current question with its options, as text; "" at the end."""
        if self.current is None:
            return ""
        of = f" of {self.total}" if self.total else ""
        return f"Question {len(self.results) + 1}{of} ({self.current.topic})\n\n{full_text(self.current)}"

    def reply(self, text: str) -> Reply:
        """Take an answer, or one of "hint", "skip", "quit".

        Raises:
            ValueError: no question is waiting.
        """
        question, result = self.current, self._result
        if question is None or result is None:
            raise ValueError("there is no question left to answer")
        text = text.strip()
        word = text.lower()
        if word == "hint":
            result.hints += 1
            return Reply(hint(question, result.hints), False)
        if word == "quit":
            self._rest, self.current, self._result = iter(()), None, None
            if result.tries:
                self.results.append(result)
            return Reply("", True)
        if word == "skip":
            return self._finish("Skipped.", None)
        try:
            feedback = question.check(text)
        except ValueError as error:
            return Reply(f"{error}.", False)
        result.tries += 1
        result.right = feedback.right
        if feedback.mistake:
            result.mistakes += (feedback.mistake,)
            result.remarks += (feedback.message,)
        if not feedback.right and result.tries < self._tries:
            return Reply(f"Not yet. {feedback.message} Try again.", False, feedback)
        return self._finish(_praise(feedback.message) if feedback.right else f"Not right. {feedback.message}", feedback)

    def _finish(self, said: str, feedback: Feedback | None) -> Reply:
        assert self.current is not None  # since `reply` was given a question
        assert self._result is not None
        text = said + "\n\n" + worked_solution(self.current, told=feedback is not None and feedback.right)
        self.results.append(self._result)
        self._next()
        return Reply(text.rstrip(), True, feedback)

    def summary(self) -> str:
        """How many were right, and which mistakes were made, as text."""
        if not self.results:
            return "No question was answered."
        right = sum(result.right for result in self.results)
        skipped = sum(not result.tries for result in self.results)
        text = f"{right} of {len(self.results)} right" + (f", {skipped} skipped" if skipped else "") + "."
        if wrong := Counter(result.question.topic for result in self.results if not result.right):
            text += f" To look at again: {', '.join(topic for topic, _ in wrong.most_common())}."
        if remarks := Counter(first_sentence(remark) for result in self.results for remark in result.remarks):
            text += "\nMistakes recognized:" + "".join(f"\n  {remark}" + (f" ({count} times)" if count > 1 else "")
                                                      for remark, count in remarks.most_common(MOST_REMARKS))
            if (more := len(remarks) - MOST_REMARKS) > 0:
                text += f"\n  And {more} more."
        return text


def _praise(message: str) -> str:
    """What a right answer is told: that it is right, and why."""
    return message if message.startswith("Right") else f"Right. {message}"


def first_sentence(text: str) -> str:
    """What stands before the first end of a sentence.

    >>> first_sentence("That is 0.5 of it. B is missing.")
    'That is 0.5 of it.'
    """
    return re.split(r"(?<=[.?!”]) (?=[A-Z“])", text, maxsplit=1)[0]


# ---- questions as text ----------------------------------------------------------------------------------------------

def full_text(question: Question) -> str:
    """The prompt, the options or lines under it, and how to answer."""
    listed, how = listed_answers(question), ""
    if isinstance(question, Numeric) and question.tolerance < 0.003:
        how = "Give all digits: about right is not enough here."
    elif isinstance(question, Choice):
        how = "Answer with a letter."
    elif isinstance(question, Ordering):
        shown = NUMBERS[:len(question.lines)]
        example = next(order for order in (shown[::-1], shown, shown[1:] + shown[0]) if order not in question.orders)
        how = f"Answer with all numbers in order, such as {' '.join(example)}."
    elif isinstance(question, Matching):
        how = f"Answer with {len(question.lines)} letters, one for each line: its {question.called}."
    return "\n\n".join(part for part in (question.prompt, listed, how) if part)


def listed_answers(question: Question) -> str:
    """Options lettered, lines numbered, with reasons lettered below them; "" for a number."""
    def lettered(texts: Iterable[str]) -> list[str]:
        return [f"  {letter}) {text}" for letter, text in zip(LETTERS, texts, strict=False)]

    def numbered(texts: Iterable[str]) -> list[str]:
        return [f"  {i}. {text}" for i, text in enumerate(texts, 1)]

    if isinstance(question, Choice):
        return "\n".join(lettered(option.text for option in question.options))
    if isinstance(question, Ordering):
        return "\n".join(numbered(question.lines))
    if isinstance(question, Matching):
        heading = f"  {question.called.capitalize()}s:"
        return "\n".join([*numbered(question.lines), "", heading, *lettered(question.reasons)])
    return ""


def hint(question: Question, number: int) -> str:
    """The first, second, ... hint: a step of the solution without its value, a line of an order, an option that is wrong."""
    hints = _hints(question)
    if number > len(hints):
        return "There are no more hints." if hints else "There is no hint for this question."
    return f"Hint: {hints[number - 1]}."


def _hints(question: Question) -> list[str]:
    """All but the last thing, which would be the answer."""
    if isinstance(question, Ordering):
        places = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
        return [f"line {line} can be the {place}" for place, line in zip(places, question.orders[0][:-2], strict=False)]
    if isinstance(question, Matching):
        return [f"the {question.called} of line {place} is {letter}" for place, letter in enumerate(question.right[:-1], 1)]
    steps = question.steps[:-1] if len(question.steps) > 1 else question.steps
    if isinstance(question, Choice):
        steps = tuple(step for step in question.steps if step.formula)  # a name alone might be that of the right option
        if not steps:
            wrong = [letter for letter in LETTERS[:len(question.options)] if letter != question.right]
            return [f"it is not {letter}" for letter in wrong[:-1]]
    return [step.text + (f": {step.formula}" if step.formula else "") for step in steps]


def worked_solution(question: Question, told: bool = False) -> str:
    """The steps with their numbers, then the answer.

    Args:
        told: the answer has been said already, so that only the steps are wanted.
    """
    lines = [f"  {step_text(step)}" for step in question.steps]
    if not told:
        lines.append(f"  Answer: {question.solution}")
        if isinstance(question, Choice):
            lines.append(f"  {question.options[LETTERS.index(question.right)].why}")
    return "\n".join(["Worked solution:", *lines]) if lines else ""


def step_text(step: Step) -> str:
    """A step in a line: "A (r, in): 16 x 4096 = 65,536"."""
    return step.text + (f": {step.formula}" if step.formula else "") + (
        f"{' =' if step.formula else ':'} {step.value}" if step.value else "")


# ---- in a terminal --------------------------------------------------------------------------------------------------

def converse(session: Session, read: Callable[[], str] | None = None) -> None:
    """Ask and answer on standard output until the questions, or the lines that are read, come to an end.

    Args:
        read: gives a line with its end, "" when there are no more; standard input's by default.
    """
    read = read or sys.stdin.readline
    echo = not sys.stdin.isatty()  # what is not typed would otherwise be missing in what is printed
    print(f'Type an answer, or one of: {", ".join(WORDS)}.')
    while session.current is not None:
        asked = session.current
        say("\n" + session.ask() + "\n")
        if asked.draw is not None:
            viz.show(asked.draw())
        while session.current is asked:
            print("> ", end="", flush=True)
            try:
                line = read()
            except KeyboardInterrupt:
                line = ""
            if not line:
                print()
                session.reply("quit")
                break
            if echo:
                print(line.rstrip("\n"))
            if line.strip():
                say(session.reply(line).text)
    say("\n" + session.summary())


def say(text: str) -> None:
    """Print, with lines broken at the terminal's width; what is indented stays so."""
    width = min(shutil.get_terminal_size().columns, 110)
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip()))
        print(textwrap.fill(line, width, subsequent_indent=indent + ("   " if indent else ""), break_long_words=False,
                            break_on_hyphens=False))


# ---- in a notebook --------------------------------------------------------------------------------------------------

def in_notebook(session: Session) -> viz.QuestionBox:
    """A widget that asks the session's questions; where there are no widgets, the questions and solutions as text."""
    def card() -> viz.Card | None:
        question = session.current
        if question is None:
            return None
        options = tuple(option.text for option in question.options) if isinstance(question, Choice) else ()
        return viz.Card(session.ask() if not options else session.ask().split("\n\n  A) ")[0], options, question.draw)

    def reply(text: str) -> tuple[str, bool]:
        answered = session.reply(text)
        return answered.text, answered.done

    return viz.QuestionBox(card, reply, session.summary)
