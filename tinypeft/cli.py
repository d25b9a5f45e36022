"""The command `tinypeft`: a menu. What each command does is in commands/."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import tinypeft

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Parameter-efficient fine-tuning, learned by building it.")

Output = Annotated[Path, typer.Option("--out", help="Folder to write to.")]
Seed = Annotated[int, typer.Option(help="Equal seeds give equal results.")]


@app.command()
def tour(out: Output = Path("tinypeft-tour"), seed: Seed = 0,
         steps: Annotated[int, typer.Option(help="Training steps.")] = 300) -> None:
    """Adapt a small language model to Polish surnames, and look at what happens. Takes less than a minute."""
    from tinypeft.commands.tour import run_tour

    run_tour(out, steps=steps, seed=seed)


@app.command()
def learn(folder: Annotated[Path, typer.Argument(help="Where to put the course.")] = Path("tinypeft-course")) -> None:
    """Copy the lessons and exercises to a folder of yours, to work through with Jupyter."""
    from tinypeft.commands.learn import copy_course

    copy_course(folder)


def _version(show: bool) -> None:
    if show:
        print(f"tinypeft {tinypeft.__version__}")
        raise typer.Exit


@app.callback()
def _options(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True,
                                                   help="Print the version.")] = False) -> None: ...


def main() -> None:
    """Run the command line; an error that a user can mend is a sentence, not a traceback."""
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        print(f"tinypeft: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
