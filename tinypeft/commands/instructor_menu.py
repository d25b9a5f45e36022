"""The menu of those who teach the course: the part of `tinypeft` that grades others. What each does is in the files beside."""

from __future__ import annotations

from typing import Annotated

import typer

PANEL = "Instructors"  # of `tinypeft --help`

instructor_menu = typer.Typer()


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
