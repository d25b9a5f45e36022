"""`tinypeft start`, `list`, `test`, `watch`, `hint` and `reset`: the course in a folder of the learner's.

    start   copies lessons and exercises; what is there already is never overwritten
    test    grades with the packaged grader, which is not in that folder, and remembers the points
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tinypeft.commands import program
from tinypeft.commands.course_report import listing, not_enforced, report_text
from tinypeft.commands.tables import print_table, print_text, terminal_width
from tinypeft.files import replace_file
from tinypeft.grading import PUBLIC_SEED
from tinypeft.grading.exercise import Exercise, all_exercises, exercises_folder, find_exercise
from tinypeft.grading.progress import Course, Progress, find_course, is_course
from tinypeft.grading.run import Report, grade_file

FORMATS = ("table", "json")
POLL = 0.3  # seconds between two looks at a file


@dataclass(frozen=True)
class Task:
    """An exercise, the file to grade, and the course that remembers the points, if the file is part of one."""

    exercise: Exercise
    file: Path
    course: Course | None = None


# ---- the folder -----------------------------------------------------------------------------------------------------


def run_start(folder: Path) -> Course:
    """Copy lessons and exercises to a folder, or to one that has some of them what it lacks.

    Raises:
        FileExistsError: there is something else at `folder`; a learner's work is never overwritten.
    """
    if folder.exists() and not (folder.is_dir() and (is_course(folder) or not any(folder.iterdir()))):
        raise FileExistsError(f"{folder} exists already, and may hold work of yours: name another folder, or move it away")
    course = Course(folder)
    course.write(course.progress())  # first: if this is interrupted, the next `start` knows the folder and completes it
    missing = {place: source for place, source in course_files().items() if not (folder / place).exists()}
    for place, source in missing.items():
        with replace_file(folder / place) as temporary:
            shutil.copyfile(source, temporary)
    if not missing:
        print(f"Nothing was missing in {folder}.")
    lessons = sorted((folder / "lessons").glob("*.ipynb"))
    begin = [f"{_from_anywhere('jupyter')} lab {lessons[0].relative_to(folder)}"] if lessons else []
    print(f"The course is in {folder}. Begin with:\n\n" + "".join(f"    {line}\n" for line in [
        f"cd {folder}", *begin, f"{_from_anywhere('tinypeft')} list"]))
    return course


def _from_anywhere(name: str) -> str:
    """What to type for a program after a change of folder."""
    found = program(name)
    return found if found == name else str(Path(found).absolute())


def course_files() -> dict[str, Path]:
    """What a learner gets: place in their folder -> packaged file.

    Graders, hints and what notebooks are built from stay in the package: an answer should not lie beside its question.
    """
    exercises = exercises_folder()
    lessons = exercises.parent / "lessons"
    files = [*lessons.glob("*.ipynb"), exercises / "README.md"]
    for exercise in all_exercises().values():
        files += [path for path in exercise.folder.iterdir()
                  if path.is_file() and path.name not in ("exercise.toml", exercise.grader.name)]
    return {path.relative_to(exercises.parent).as_posix(): path for path in sorted(files)}


def run_list(place: Path | None = None) -> None:
    """Print all exercises, and how far each is."""
    course = find_course(place or Path.cwd())
    progress = course.progress() if course else {}
    rows = [listing(exercise, progress.get(slug, Progress()), course is not None and begun(course, exercise))
            for slug, exercise in all_exercises().items()]
    print_table(["exercise", "points", "hints", "runs", ""], rows, left=0, markdown=False, width=terminal_width(), broken={0})
    if course is None:
        print(f"This is no course folder: {program('tinypeft')} start copies the course to one.")
    else:
        print(f"In {course.root}. {program('tinypeft')} test NN grades, {program('tinypeft')} hint NN gives a hint.")


def begun(course: Course, exercise: Exercise) -> bool:
    """Whether the learner's file is there, and no longer the stub."""
    file, stub = course.file(exercise), exercise.folder / exercise.file
    return file.is_file() and (not stub.is_file() or file.read_bytes() != stub.read_bytes())


# ---- grading --------------------------------------------------------------------------------------------------------


def run_test(name: str | None = None, *, file: Path | None = None, seed: int = PUBLIC_SEED, plot: Path | None = None,
             output_format: str = "table", place: Path | None = None) -> list[Report]:
    """Grade, and print what is right, wrong, and probably the reason.

    Args:
        name: an exercise by number or name; None for the one whose folder this is, or for all that were begun.
        file: grade this file instead of the course's.
        seed: inputs are drawn from it.
        plot: folder for a picture of each result that differs.
        output_format: "table" or "json".
        place: where the learner is; None for the current folder.

    Raises:
        ValueError, FileNotFoundError: nothing to grade.
    """
    if output_format not in FORMATS:
        raise ValueError(f"--format {output_format}; expected one of {', '.join(FORMATS)}")
    reports, chosen = [], tasks(name, file, place or Path.cwd())
    for task in chosen:
        reports.append(graded(task, seed, quiet=output_format == "json"))
        if plot is not None:
            pictures(task, reports[-1], plot, say=sys.stderr if output_format == "json" else sys.stdout)
    if output_format == "json":
        print(json.dumps([report.to_dict() for report in reports], indent=2))
    elif any(task.exercise.made_by is None for task in chosen):  # of an adapter, no code ran
        print(not_enforced(sys.platform))
    return reports


def tasks(name: str | None, file: Path | None, place: Path) -> list[Task]:
    """What is to be graded."""
    if file is not None:
        exercise = find_exercise(name) if name else _owner_of(file)
        course = find_course(file.parent)
        own = course is not None and course.file(exercise).resolve() == file.resolve()
        return [Task(exercise, file, course if own else None)]
    course = find_course(place)
    if course is None:
        return [_outside(name, place)]
    every = list(all_exercises().values())
    chosen = [find_exercise(name)] if name else [
        one for one in every if place.resolve().is_relative_to(course.file(one).parent.resolve())]  # in its folder
    found = [Task(one, course.file(one), course) for one in chosen or every if chosen or begun(course, one)]
    if not found:
        raise ValueError(f"no exercise in {course.root} has been begun: edit a file in exercises/, then test again; or name an "
                         "exercise, as in `tinypeft test 04`")
    return found


def _owner_of(file: Path) -> Exercise:
    found = [exercise for exercise in all_exercises().values() if exercise.file == file.name]
    if len(found) != 1:
        raise ValueError(f"which exercise is {file}? Name it too, as in `tinypeft test 04 --file {file}`")
    return found[0]


def _outside(name: str | None, place: Path) -> Task:
    """A file of an exercise that lies somewhere, and is no part of a course."""
    wanted = [find_exercise(name)] if name else list(all_exercises().values())
    for exercise in wanted:
        for file in (place / exercise.file, place / exercise.slug / exercise.file,
                     place / "exercises" / exercise.slug / exercise.file):
            if file.is_file() and (name or file.parent == place):
                return Task(exercise, file)
    what = f"no {wanted[0].file} of exercise {wanted[0].slug}" if name else "no exercise"
    raise FileNotFoundError(f"{what} in {place}, and it is in no course: `tinypeft start DIR` copies the course to a folder; "
                            "or name a file with --file")


def graded(task: Task, seed: int = PUBLIC_SEED, quiet: bool = False) -> Report:
    """Grade one file; the points are remembered before anything is printed."""
    before = task.course.of(task.exercise) if task.course else None
    report = grade_file(task.exercise, task.file, seed=seed)
    if task.course and before:
        task.course.remember(task.exercise, before.after(report.score))
    if not quiet:
        print(report_text(report, task.exercise, _near(task.file), before, program("tinypeft")))
    return report


def _near(file: Path) -> str:
    """A path as the learner would type it."""
    file, here = file.resolve(), Path.cwd()
    return str(file.relative_to(here) if file.is_relative_to(here) else file)


def pictures(task: Task, report: Report, folder: Path, say: object = None) -> list[Path]:
    """Draw received against expected for each test that compares arrays and found a difference."""
    from tinypeft.grading.differences import differing_arrays
    from tinypeft.viz.grading import plot_difference

    made = []
    failed = [test.name for test in report.tests if not test.passed]
    for test, (received, expected) in differing_arrays(task.exercise, task.file, failed, report.seed or 0).items():
        path = folder / f"{task.exercise.slug}-{test}.png"
        picture = plot_difference(received, expected, title=f"{task.exercise.slug}, {test}")
        with replace_file(path) as temporary:
            temporary.write_bytes(picture.png())
        print(f"{path}: {picture.alt}", file=say)  # type: ignore[call-overload]
        made.append(path)
    if not made:
        print("Nothing to draw: no array of the right shape has wrong numbers.", file=say)  # type: ignore[call-overload]
    return made


# ---- grading on save ------------------------------------------------------------------------------------------------


def run_watch(name: str | None = None, *, place: Path | None = None, sleep: Callable[[float], None] = time.sleep) -> None:
    """Grade a file whenever it is saved, until Ctrl-C; one that is named is graded at once too.

    Args:
        name: an exercise; None for all of the course.
        sleep: waits so many seconds.
    """
    place = place or Path.cwd()
    course = find_course(place)
    watched = tasks(name, None, place) if name or course is None else [
        Task(one, course.file(one), course) for one in all_exercises().values()]
    files = ", ".join(_near(task.file) for task in watched) if len(watched) < 4 else "the exercises"
    print(f"Watching {files}. Save to grade; Ctrl-C ends.\n")
    done = [None if name else _state(task.file) for task in watched]
    try:
        _watch(watched, done, sleep)
    except KeyboardInterrupt:
        print("\nNo longer watching. Your points are remembered." if course else "\nNo longer watching.")


def _watch(watched: Sequence[Task], done: list[tuple[int, int] | None], sleep: Callable[[float], None]) -> None:
    last = [_state(task.file) for task in watched]
    while True:
        for i, task in enumerate(watched):
            now = _state(task.file)
            if now is not None and now == last[i] and now != done[i]:  # as a moment ago: no editor is still writing it
                done[i] = now
                try:
                    graded(task)
                except (OSError, RuntimeError, ValueError) as error:  # one bad save does not end the watch
                    print(f"tinypeft: {error}")
                sys.stdout.flush()  # at once, into a pipe or a file too
            last[i] = now
        sleep(POLL)


def _state(file: Path) -> tuple[int, int] | None:
    """What changes when a file is saved; None while an editor has it away."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


# ---- hints and a new beginning --------------------------------------------------------------------------------------


def run_hint(name: str, *, again: bool = False, place: Path | None = None) -> None:
    """Print the next hint, and remember that it was given; or those given so far.

    Raises:
        ValueError: an unknown exercise, or no course to remember it in.
    """
    course, exercise = needed_course(name, place)
    progress, total = course.of(exercise), len(exercise.hints)
    shown = progress.hints
    if not again and shown < total:
        course.remember(exercise, replace(progress, hints=shown + 1))
        print_text(f"Hint {shown + 1} of {total} for {exercise.slug}: {exercise.hints[shown]}", markdown=False)
        return
    for i, hint in enumerate(exercise.hints[:shown]):
        print_text(f"Hint {i + 1} of {total} for {exercise.slug}: {hint}", markdown=False)
    print("There are no more." if shown >= total else f"{shown or 'None'} of {total} so far: {program('tinypeft')} hint {name} "
          "gives the next.")


def run_reset(name: str, *, place: Path | None = None) -> Path | None:
    """Put the stub back, and keep what was there beside it.

    Returns:
        Where the learner's file is kept; None if there was none, or it was the stub.
    """
    course, exercise = needed_course(name, place)
    file, stub = course.file(exercise).with_name(exercise.edited), exercise.folder / exercise.edited
    kept = None
    if file.is_file():
        if file.read_bytes() == stub.read_bytes():
            print(f"{_near(file)} is as it was at the beginning: nothing to reset.")
            return None
        kept = next(path for i in range(1, 10**6) if not (path := file.with_name(f"{file.name}.{i}.bak")).exists())
        with replace_file(kept) as temporary:  # a copy, and only then the stub: at no moment is there less than one of them
            shutil.copyfile(file, temporary)
    with replace_file(file) as temporary:
        shutil.copyfile(stub, temporary)
    print(f"{_near(file)} is as it was at the beginning. " + (f"Yours is kept in {_near(kept)}. " if kept else "")
          + "Points and hints stay as they were.")
    return kept


def needed_course(name: str, place: Path | None) -> tuple[Course, Exercise]:
    """The course that the learner is in, and an exercise.

    Raises:
        ValueError: no course, or no such exercise.
    """
    exercise = find_exercise(name)
    course = find_course(place or Path.cwd())
    if course is None:
        raise ValueError(f"{place or Path.cwd()} is in no course folder: change to yours, or make one with `tinypeft start "
                         "DIR`")
    return course, exercise
