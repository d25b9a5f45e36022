"""The graders are graded: every exercise against its bank, its mutants and the contract.

    examine(exercise, seeds)     all of it, as `tinypeft course-check` prints it; tests ask for one thing at a time
"""

from __future__ import annotations

import ast
import re
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tinypeft.grading.bank import Bank, read_bank
from tinypeft.grading.contract import Signature, read_contract
from tinypeft.grading.direct import DirectGrader
from tinypeft.grading.exercise import TOTAL, Exercise
from tinypeft.grading.mutants import mutants, vjp_mutants
from tinypeft.grading.run import NOT_RUN, Report

CAPSTONE = "14_capstone"  # has no functions, and a bank of another kind
RIGHT, WRONG, DIAGNOSED, MISCONCEPTIONS, HINTS = 3, 12, 8, 6, 3  # at least so many, of hints exactly
MUTANT_SEEDS = (0, 1)  # a mutant is killed if it fails at each


@dataclass(frozen=True)
class Findings:
    """What came out for one exercise.

    Attributes:
        scores: correct solution -> its score at each seed.
        stub: score of what a learner starts with.
        wrong: wrong solution -> what is not as the bank says, or "".
        undiagnosed: of the wrong solutions that have to get a diagnosis, those that do not.
        diagnosed: how many have to.
        mutants: how many there are that are not equivalent; None if they were not tried.
        survivors: names of those that pass.
        complaints: what else is not as it should be.
    """

    exercise: str
    scores: dict[str, list[int]]
    stub: int
    wrong: dict[str, str]
    undiagnosed: list[str]
    diagnosed: int
    mutants: int | None
    survivors: list[str]
    complaints: list[str]

    @property
    def rejected(self) -> int:
        """How many wrong solutions fail exactly the tests that they have to."""
        return sum(not unlike for unlike in self.wrong.values())

    @property
    def holds(self) -> bool:
        """Whether nothing is to be mended."""
        right = all(score == TOTAL for scores in self.scores.values() for score in scores)
        return right and not (self.stub or any(self.wrong.values()) or self.undiagnosed or self.survivors or self.complaints)


def examine(exercise: Exercise, seeds: Sequence[int], with_mutants: bool = True) -> Findings:
    """Grade everything in an exercise's bank.

    Args:
        seeds: of the correct solutions; wrong ones are graded at the first three.

    Raises:
        FileNotFoundError: it has no bank here.
    """
    bank, grader = read_bank(exercise), DirectGrader(exercise)
    contract = read_contract().get(exercise.slug, {})
    wrong, undiagnosed = wrong_solutions(bank, grader, seeds[:3])
    killed, survivors, stale = mutation(bank, grader, contract) if with_mutants else (None, [], [])
    return Findings(
        exercise.slug, {file.name: right_scores(grader, file, seeds) for file in bank.right},
        max(report.score for report in grader.grade(exercise.folder / exercise.file, seeds[:3], trusted=True)), wrong,
        undiagnosed, sum(one.mistake is not None for one in bank.wrong.values()),
        None if killed is None else killed + len(survivors), survivors,
        complaints(exercise, bank, grader, contract) + stale)


# ---- what is graded -------------------------------------------------------------------------------------------------

def right_scores(grader: DirectGrader, file: Path, seeds: Iterable[int]) -> list[int]:
    """The score of a correct solution at each seed."""
    return [report.score for report in grader.grade(file, seeds, trusted=True)]


def wrong_solutions(bank: Bank, grader: DirectGrader, seeds: Iterable[int], quick: bool = False
                    ) -> tuple[dict[str, str], list[str]]:
    """Name -> what is not as the bank says, or ""; and the names of those that do not get their diagnosis at every seed.

    Args:
        quick: run only the tests that each has to fail, so that nothing is said about the others.
    """
    found, undiagnosed = {}, []
    for name, one in bank.wrong.items():
        with _written(one.source) as file:
            reports = grader.grade(file, seeds, trusted=True, tests=one.fails if quick else ())
        found[name] = next((text for report in reports if (text := _unlike(report, one.fails))), "")
        if one.mistake is not None and not all(one.mistake in {test.mistake for test in report.tests} for report in reports):
            undiagnosed.append(name)
    return found, undiagnosed


def _unlike(report: Report, fails: frozenset[str]) -> str:
    failed = {test.name for test in report.tests if not test.passed and test.mistake != NOT_RUN}
    passes, more = sorted(fails - failed), sorted(failed - fails)
    parts = [f"passes {', '.join(passes)}"] * bool(passes) + [f"fails {', '.join(more)} too"] * bool(more)
    return f"{' and '.join(parts)} at seed {report.seed}" if parts else ""


def mutation(bank: Bank, grader: DirectGrader, contract: dict[str, Signature]) -> tuple[int, list[str], list[str]]:
    """Number of mutants that are killed; names of survivors; complaints about what is listed as equivalent and is not."""
    source = bank.reference.read_text("utf-8")
    endless, killed, survivors, names = _endless(source), 0, [], set()
    for mutant in (*mutants(source), *vjp_mutants(source, contract)):
        names.add(mutant.name)
        with _written(mutant.source) as file:
            rejected = grader.rejects(file, MUTANT_SEEDS, trusted=mutant.name.split(":")[0] not in endless)
        killed += rejected
        if not rejected and mutant.name not in bank.equivalent_mutants:
            survivors.append(mutant.name)
        elif rejected and mutant.name in bank.equivalent_mutants:
            names.discard(mutant.name)
    stale = [f"bank.toml: the mutant {name!r} is listed as equivalent, but there is none such, or it is killed"
             for name in bank.equivalent_mutants if name not in names]
    return killed, survivors, stale


def _endless(source: str) -> set[str]:
    """The functions whose mutants may never return, and need a process that can be ended: those with `while`, or called there.

    >>> sorted(_endless("def f(x): return x\\ndef g(): return 1\\ndef h():\\n    while g(): pass"))
    ['g', 'h', 'module']
    """
    found = set()
    for function in ast.parse(source).body:
        inside = list(ast.walk(function))
        if any(isinstance(node, ast.While) for node in inside):
            named = {node.id for node in inside if isinstance(node, ast.Name)}
            found |= {"module", getattr(function, "name", "module"), *named}
    return found


@contextmanager
def _written(source: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tinypeft-bank-") as folder:
        file = Path(folder) / "submission.py"
        file.write_text(source, encoding="utf-8")
        yield file


# ---- what is read ---------------------------------------------------------------------------------------------------

def complaints(exercise: Exercise, bank: Bank, grader: DirectGrader, contract: dict[str, Signature]) -> list[str]:
    """What is missing or does not fit together, in words."""
    enough = [("correct solutions", len(bank.right), RIGHT), ("wrong solutions", len(bank.wrong), WRONG),
              ("wrong solutions with a diagnosis", sum(one.mistake is not None for one in bank.wrong.values()), DIAGNOSED),
              ("misconceptions", len(exercise.mistakes), MISCONCEPTIONS)]
    found = [f"{count} {what}, where at least {least} are asked for" for what, count, least in enough if count < least]
    if len(exercise.hints) != HINTS or not all(hint.strip() for hint in exercise.hints):
        found.append(f"{len(exercise.hints)} hints, where there have to be {HINTS} with text in them")
    if set(exercise.points) != set(grader.tests):
        found.append(f"points for {sorted(exercise.points)}, and tests {sorted(grader.tests)}")
    if any(type(points) is not int or points < 1 for points in exercise.points.values()):
        found.append("points that are not positive whole numbers")
    return [*found, *_sections(exercise), *_named_mistakes(exercise, bank), *_functions(exercise, bank, contract)]


def _sections(exercise: Exercise) -> Iterator[str]:
    """Messages have to point to sections that exist; those of a lesson that is not written yet only have to look like ids."""
    lessons = {lesson["slug"]: lesson for lesson in tomllib.loads(
        (exercise.folder.parents[1] / "lessons" / "outline.toml").read_text("utf-8"))["lessons"]}
    for mistake, place in exercise.mistakes.items():
        lesson, _, section = place.partition("/")
        ids = [one["id"] for one in lessons.get(lesson, {}).get("sections", [])]
        if lesson not in lessons or (section not in ids if ids else not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", section)):
            yield f"{mistake} points to {place}, which does not exist"


def _named_mistakes(exercise: Exercise, bank: Bank) -> Iterator[str]:
    """The ids in exercise.toml, in the grader and in the bank are the same."""
    tree = ast.parse(exercise.grader.read_text("utf-8"))
    used = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for mistake in exercise.mistakes:
        if mistake not in used:
            yield f"{mistake} has a section, and the grader never names it"
    stems = {mistake.partition(".")[0] for mistake in exercise.mistakes}
    ids = {text for text in used if re.fullmatch(r"[a-z0-9_]+\.\w+", text) and text.partition(".")[0] in stems}
    for mistake in sorted(ids - set(exercise.mistakes)):
        yield f"{mistake} is named by the grader, and has no section"
    for one in bank.wrong.values():
        if one.mistake and "." in one.mistake and one.mistake not in exercise.mistakes:
            yield f"{one.name} in the bank asks for {one.mistake}, which has no section"


def _functions(exercise: Exercise, bank: Bank, contract: dict[str, Signature]) -> Iterator[str]:
    """Stub and solutions have the contract's functions, and import neither one another nor anything of ours."""
    wanted = {one.name: one.arguments for one in contract.values()}
    stub = _defined(exercise.folder / exercise.file)
    if stub != wanted:
        yield f"the stub has {stub}, the contract {wanted}"
    for file in bank.right:
        if absent := set(wanted) - set(_defined(file)):
            yield f"{file.name} has no function {', '.join(sorted(absent))}"
    sources = {file.name: file.read_text("utf-8") for file in (exercise.folder / exercise.file, *bank.right)}
    for name, source in (sources | {one.name: one.source for one in bank.wrong.values()}).items():
        if re.search(r"^\s*(import|from)\s+(tinypeft|test_|reference|right_)", source, re.MULTILINE):
            yield f"{name} imports what a learner does not have"


def _defined(file: Path) -> dict[str, tuple[str, ...]]:
    """The public functions of a file, with the names of their arguments."""
    body = ast.parse(file.read_text("utf-8")).body
    return {node.name: tuple(argument.arg for argument in node.args.args) for node in body
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")}


__all__ = ["Findings", "complaints", "examine", "mutation", "right_scores", "wrong_solutions"]
