"""The menu of those who teach the course: the part of `tinypeft` that grades others. What each does is in the files beside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PANEL = "Instructors"  # of `tinypeft --help`

instructor_menu = typer.Typer()
export_menu = typer.Typer(no_args_is_help=True)
instructor_menu.add_typer(export_menu, name="export", rich_help_panel=PANEL,
                          help="Give an exercise to another system: Gradescope, nbgrader or Classroom 50.")

Exported = Annotated[str, typer.Argument(metavar="NN", help="An exercise, by number or name: 04, lora.")]


@instructor_menu.command(rich_help_panel=PANEL)
def grade(
    submissions: Annotated[Path, typer.Argument(help="Folder with a file, a notebook, a zip or a folder for each student, "
                                                     "named after them.")],
    exercise: Annotated[str, typer.Option(metavar="NN", help="By number or name: 04, lora.")],
    out: Annotated[Path, typer.Option(help="Folder for marks and reports; one that has some gets what is missing.")],
    workers: Annotated[int | None, typer.Option(help="Submissions at a time. Default: two for each core.")] = None,
    scheduler: Annotated[str | None, typer.Option(help='Of a Dask cluster that sees the same folders: "tcp://...".')] = None,
    seed: Annotated[int | None, typer.Option(help="Inputs are drawn from it. Default: a random one, kept for this class.")] =
    None,
    unconfined: Annotated[bool, typer.Option("--unconfined", help="Without a sandbox. Every report says so.")] = False,
    holdout: Annotated[Path | None, typer.Option(help="For the capstone: FILE of names that are not shipped, one a line.")] =
    None,
    again: Annotated[bool, typer.Option("--again", help="Make reports again that are there.")] = False,
    output_format: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """Grade a class: a report for each, a table of marks, a summary with a picture. What was interrupted goes on."""
    from tinypeft.commands.grade import run_grade

    run_grade(submissions, exercise, out, workers=workers, scheduler=scheduler, seed=seed, confined=not unconfined,
              holdout=holdout, again=again, output_format=output_format)


@instructor_menu.command("course-check", rich_help_panel=PANEL)
def course_check(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NN]...", help="Exercises. Default: all.")] = None,
    seeds: Annotated[int, typer.Option(help="How many seeds every correct solution is graded with.")] = 20,
    mutants: Annotated[bool, typer.Option(help="Try automatic mutants of every reference too.")] = True,
    output_format: Annotated[str, typer.Option("--format", help="table, markdown or json.")] = "table",
) -> None:
    """Grade the graders, in a clone: do they accept what is right, reject what is wrong, and name the mistake?"""
    from tinypeft.commands.course_check import run_course_check

    found = run_course_check(names or [], seeds=seeds, mutants=mutants, output_format=output_format)
    if not all(one.holds for one in found):
        raise typer.Exit(1)


@export_menu.command()
def gradescope(name: Exported, out: Annotated[Path | None, typer.Option(help="The zip. Default: NN_slug.zip.")] = None) -> None:
    """Write an autograder to upload to Gradescope."""
    from tinypeft.commands.export import run_gradescope

    run_gradescope(name, out)


@export_menu.command()
def nbgrader(name: Exported, out: Annotated[Path | None, typer.Option(help="The assignment's folder. Default: source/slug.")] =
             None) -> None:
    """Write an assignment for nbgrader: a notebook with a solution cell, and a test cell for each test."""
    from tinypeft.commands.export import run_nbgrader

    run_nbgrader(name, out)


@export_menu.command()
def classroom50(name: Exported, out: Annotated[Path | None, typer.Option(help="The folder. Default: autograders/slug.")] = None
                ) -> None:
    """Write an autograder for Classroom 50, which grades on GitHub's machines."""
    from tinypeft.commands.export import run_classroom50

    run_classroom50(name, out)
