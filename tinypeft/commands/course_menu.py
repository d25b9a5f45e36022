"""The menu of the course: the part of `tinypeft` that learners work through it with. What each does is in the files beside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PANEL = "Course"  # of `tinypeft --help`

course_menu = typer.Typer()

ExerciseName = Annotated[str, typer.Argument(metavar="NN", help="An exercise, by number or name: 04, lora.")]


@course_menu.command(rich_help_panel=PANEL)
def start(folder: Annotated[Path, typer.Argument(help="Where to put the course; one that is there already gets only what it "
                                                      "lacks.")] = Path("tinypeft-course")) -> None:
    """Copy the lessons and exercises to a folder of yours, to work through with Jupyter and an editor."""
    from tinypeft.commands.course import run_start

    run_start(folder)


@course_menu.command("list", rich_help_panel=PANEL)
def list_exercises() -> None:
    """List the exercises, and how far you are with each."""
    from tinypeft.commands.course import run_list

    run_list()


@course_menu.command("test", rich_help_panel=PANEL)
def grade(
    name: Annotated[str | None, typer.Argument(metavar="[NN]", help="An exercise, by number or name: 04, lora. Default: the "
                                                                    "one in this folder, or all that you have begun.")] = None,
    file: Annotated[Path | None, typer.Option(help="Grade this file, instead of the one in your course.")] = None,
    seed: Annotated[int, typer.Option(help="Inputs are drawn from it.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Folder for pictures: arrays received, and expected.")] = None,
    output_format: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """Grade an exercise: points for each test, what is wrong, and which mistake it looks like. Ends with 1 below full marks."""
    from tinypeft.commands.course import run_test

    reports = run_test(name, file=file, seed=seed, plot=plot, output_format=output_format)
    if any(report.score < report.max for report in reports):
        raise typer.Exit(1)


@course_menu.command(rich_help_panel=PANEL)
def watch(name: Annotated[str | None, typer.Argument(metavar="[NN]", help="An exercise. Default: all of the course.")] = None
          ) -> None:
    """Grade an exercise whenever you save it, until Ctrl-C."""
    from tinypeft.commands.course import run_watch

    run_watch(name)


@course_menu.command(rich_help_panel=PANEL)
def hint(name: ExerciseName,
         again: Annotated[bool, typer.Option("--again", help="Those that you have had, and no new one.")] = False) -> None:
    """Give a hint: the first is a nudge, the last is nearly the formula. Each call gives one more."""
    from tinypeft.commands.course import run_hint

    run_hint(name, again=again)


@course_menu.command(rich_help_panel=PANEL)
def reset(name: ExerciseName) -> None:
    """Begin an exercise again. Your file is kept beside it."""
    from tinypeft.commands.course import run_reset

    run_reset(name)


@course_menu.command(rich_help_panel=PANEL)
def solution(name: ExerciseName) -> None:
    """Show our solution of an exercise that you have passed, and the library's own code for the same thing."""
    from tinypeft.commands.solution import run_solution

    run_solution(name)


@course_menu.command(rich_help_panel=PANEL)
def doctor() -> None:
    """Look whether all that the course needs is installed and works, and say how to mend what does not."""
    from tinypeft.commands.doctor import run_doctor

    if any(one.needed and not one.well for one in run_doctor()):
        raise typer.Exit(1)
