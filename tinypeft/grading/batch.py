"""A whole class: each submission graded in a process of its own, many at a time, here or on a cluster.

    grade_class(grading, collect(...), marks)                          in a pool of processes
    grade_class(grading, collect(...), marks, scheduler="tcp://...")   by Dask; the same function, `grade_one`, on its workers

Each report is in marks/students/NAME.json as soon as it is made, whole or not at all. Who begins again after a kill makes only
what is missing, and what a changed submission, grader, seed or sandbox would make otherwise.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import signal
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, ProcessPoolExecutor, as_completed
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from multiprocessing import get_all_start_methods, get_context, parent_process
from pathlib import Path
from typing import Any

from tinypeft.files import read_json, write_json
from tinypeft.grading.collect import HandedIn
from tinypeft.grading.compare import clean
from tinypeft.grading.confine import can_confine
from tinypeft.grading.exercise import TOTAL, Exercise, find_exercise
from tinypeft.grading.run import Report, grade_file

FORMAT = 1
SEED_BITS = 48  # of a private seed: exact in every program that reads JSON
POOLS = 3  # at most: the first, and new ones for what a broken one has left
MOST_PROCESSES = 60  # in a pool; Windows has no more
RETRIES = 3  # of a task on a cluster
CONNECT_SECONDS = 20.0

Entry = dict[str, Any]  # a report, and whose it is: what students/NAME.json holds


@dataclass(frozen=True)
class Grading:
    """How a class is graded; the same for everybody.

    Attributes:
        seed: inputs are drawn from it.
        confined: in the sandbox of confine.py.
        holdout: the capstone's names that are not shipped.
    """

    exercise: Exercise
    seed: int
    confined: bool = True
    holdout: Path | None = None

    def settings(self, elsewhere: bool) -> str:
        """As JSON, for another process, or for another machine, which has to be looked at first."""
        return json.dumps({"exercise": self.exercise.slug, "confined": self.confined, "grader": grader_hash(self.exercise),
                           "elsewhere": elsewhere})

    @cached_property
    def depends_on(self) -> Entry:
        """What every report depends on, apart from the submission."""
        holdout = None if self.holdout is None else _hash(self.holdout.read_bytes())
        return {"exercise": self.exercise.slug, "grader": grader_hash(self.exercise), "seed": self.seed,
                "confined": self.confined, "holdout": holdout}


def grader_hash(exercise: Exercise) -> str:
    """Of what gives the points: the grader, the list of its tests, all that grades beside it, and the release of tinypeft."""
    files = [exercise.grader, exercise.folder / "exercise.toml", *sorted(Path(__file__).parent.glob("*.py"))]
    parts = [file.read_bytes() for file in files] + [version("tinypeft").encode()]
    return _hash(b"\0".join(parts))


def class_seed(marks: Path, exercise: Exercise, seed: int | None) -> int:
    """The seed of a class: the given one, or the one that was drawn when it was first graded. It is remembered in `marks`.

    Raises:
        ValueError: these are the marks of another exercise, or something else.
    """
    record = marks / "grading.json"
    known = read_json(record) if record.exists() else {"format": FORMAT, "exercise": exercise.slug}
    if not isinstance(known, dict) or known.get("format") != FORMAT or type(known.get("seed", 0)) is not int:
        raise ValueError(f"{record} is not what `tinypeft grade` writes there: name another folder, or move it away")
    if known.get("exercise") != exercise.slug:
        raise ValueError(f"{marks} has the marks of {known.get('exercise')}: name another folder for those of {exercise.slug}")
    chosen = known.get("seed", secrets.randbits(SEED_BITS)) if seed is None else seed
    write_json(record, known | {"seed": chosen})
    return int(chosen)


def grade_class(grading: Grading, every: Sequence[HandedIn], marks: Path, *, workers: int | None = None,
                scheduler: str | None = None, again: bool = False) -> list[Entry]:
    """Grade all that was handed in, with a progress bar.

    Args:
        marks: folder for the reports. On a cluster, all machines see it at the same place.
        workers: how many at a time; default: two for each core, since a submission that hangs uses none.
        scheduler: Dask's address; its workers do it.
        again: make reports again that are there.

    Returns:
        An entry for each, in their order.

    Raises:
        RuntimeError: this machine, or one of the cluster's, cannot grade as it should.
    """
    from tqdm import tqdm

    entries = {one.name: _known(grading, one, marks, again) for one in every}
    pending = {one.name: one for one in every if entries[one.name] is None}
    with (tqdm(total=len(every), initial=len(every) - len(pending), unit="submission", disable=not pending) as bar,
          closing(_outcomes(grading, pending, workers or default_workers(), scheduler)) as outcomes):
        for name, outcome in outcomes:
            entries[name] = _write_entry(grading, pending[name], outcome, marks)
            bar.update()
    return [entry for entry in entries.values() if entry is not None]


def default_workers() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(2 * cores, MOST_PROCESSES)


# ---- a task ---------------------------------------------------------------------------------------------------------

def grade_one(file: str, holdout: str, seed: int, settings: str) -> str:
    """What a process or a machine is asked for: paths, integers and JSON, no objects.

    Returns:
        JSON with one of "report"; "trouble", of this submission; "unfit", of this machine.
    """
    wanted = json.loads(settings)
    if wanted["elsewhere"] and (reason := unfit(settings, file, holdout)):
        return json.dumps({"unfit": reason})
    try:
        report = grade_file(find_exercise(wanted["exercise"]), Path(file), seed=seed, confined=wanted["confined"],
                            holdout=Path(holdout) if holdout else None)
    except (RuntimeError, OSError, ValueError) as error:
        return json.dumps({"trouble": str(error)})
    return json.dumps({"report": report.to_dict()})


def unfit(settings: str, *files: str) -> str:
    """Why this machine cannot grade it as others do, or "". A mark must not depend on where it was given."""
    wanted = json.loads(settings)
    if wanted["confined"] and (missing := can_confine()):
        return missing
    if grader_hash(find_exercise(wanted["exercise"])) != wanted["grader"]:
        return f"it has another version of {wanted['exercise']}: install the same tinypeft everywhere"
    absent = [file for file in files if file and not Path(file).exists()]
    return f"there is no {absent[0]}: it has to be in a folder that all machines share" if absent else ""


# ---- many of them ---------------------------------------------------------------------------------------------------

def _outcomes(grading: Grading, pending: dict[str, HandedIn], workers: int, scheduler: str | None
              ) -> Generator[tuple[str, Entry], None, None]:
    """Name and outcome of each, as they come. A pool that lost a process is made again, for those that are left."""
    left, settings, holdout = dict(pending), grading.settings(elsewhere=scheduler is not None), str(grading.holdout or "")
    for _ in range(POOLS):
        if not left:
            return
        files = (str(next(iter(left.values())).file), holdout)  # what every machine should see
        opened = _cluster(scheduler, settings, *files) if scheduler else _processes(min(workers, len(left)))
        with opened as pool, suppress(BrokenExecutor):
            futures = {pool.submit(grade_one, str(one.file), holdout, grading.seed, settings): name
                       for name, one in left.items()}
            for future in as_completed(futures):
                if future.cancelled() or not isinstance(future.exception(), BrokenExecutor):
                    yield futures[future], _outcome(future)
                    del left[futures[future]]
    if left:
        raise RuntimeError(f"processes that grade were ended again and again, by something else than this program, and "
                           f"{len(left)} submissions are left: give the same command again, perhaps with fewer --workers")


def _outcome(future: Any) -> Entry:
    try:
        outcome: Entry = json.loads(future.result())
    except CancelledError:
        raise RuntimeError("the cluster is gone. What was graded is kept: give the same command again") from None
    except Exception as error:  # of this submission alone, as far as anybody knows
        return {"trouble": f"{type(error).__name__}: {error}"}
    if "unfit" in outcome:
        raise RuntimeError(f"a machine cannot grade here: {outcome['unfit']}")
    return outcome


@contextmanager
def _processes(workers: int) -> Iterator[Executor]:
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    context.set_forkserver_preload(["__main__", __name__])  # what the processes need is imported once, not by each
    with _ctrl_c_ignored():  # and so it is by all that is started in here: Ctrl-C is for this process to answer
        pool = ProcessPoolExecutor(workers, context, initializer=_end_with_parent)
        pool.submit(int)  # starts the first of them
    try:
        yield pool
    except KeyboardInterrupt:
        print("\nStopping as soon as what is being graded is done. The same command goes on from there.", file=sys.stderr)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only that one may say so
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end_with_parent() -> None:
    """A process of the pool ends when the one that asks it is killed, and does not wait for questions for ever.

    It goes on after Ctrl-C, so that what it grades is whole.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _cluster(scheduler: str, settings: str, *files: str) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError("--scheduler needs the library Dask: pip install '.[cluster]' in tinypeft's folder") from error
    with Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False) as client:
        answers = client.run(unfit, settings, *files, on_error="return")
        if bad := {address: answer for address, answer in answers.items() if answer}:
            raise RuntimeError("; ".join(f"the worker {address} cannot grade: {answer}" for address, answer in bad.items()))
        if not answers:
            raise RuntimeError(f"the scheduler {scheduler} has no workers: start one, with `dask worker {scheduler}`")
        pool = client.get_executor(pure=False, retries=RETRIES)
        try:
            yield pool
        finally:
            pool.shutdown(wait=False)


# ---- entries --------------------------------------------------------------------------------------------------------

def _known(grading: Grading, one: HandedIn, marks: Path, again: bool) -> Entry | None:
    """The entry of who needs no grading: there is trouble, or it was made before, of the same file and in the same way."""
    place = _place(marks, one.name)
    if one.trouble:
        return _write_entry(grading, one, {"trouble": one.trouble}, marks)
    if again or not place.exists():
        return None
    try:
        entry = read_json(place)
        same = all(entry[name] == value for name, value in (_whose(one) | grading.depends_on).items())
        return entry if same and entry["tests"] else None
    except (ValueError, KeyError, TypeError):  # something else has written there
        return None


def _entry(grading: Grading, one: HandedIn, outcome: Entry) -> Entry:
    """Report and owner. Where there is trouble, there are no points, not even 0: an instructor looks at it."""
    trouble = clean(outcome.get("trouble", ""), 1000)
    report = outcome.get("report") or Report(grading.exercise.slug, grading.exercise.title, grading.seed, grading.confined, 0,
                                             TOTAL, (), version("tinypeft")).to_dict() | {"score": None}
    cleaned: Entry = _clean(report)
    return cleaned | _whose(one) | grading.depends_on | {"trouble": trouble}


def _write_entry(grading: Grading, one: HandedIn, outcome: Entry, marks: Path) -> Entry:
    """The entry, which is now in its file. If it has something that no file can hold, that is trouble of this student alone."""
    place, entry = _place(marks, one.name), _entry(grading, one, outcome)
    try:
        write_json(place, entry)
    except (ValueError, TypeError, OSError) as error:
        entry = _entry(grading, one, {"trouble": f"its report could not be written ({type(error).__name__}: {error})"})
        write_json(place, entry)
    return entry


def _clean(value: Any) -> Any:
    """The same JSON, with each line of each text as `clean` has it."""
    if isinstance(value, str):
        return "\n".join(clean(line, len(line)) for line in value.split("\n"))
    if isinstance(value, dict):
        return {name: _clean(entry) for name, entry in value.items()}
    return list(map(_clean, value)) if isinstance(value, (list, tuple)) else value


def _whose(one: HandedIn) -> Entry:
    return {"student": one.student, "source": one.source, "sha256": one.sha256}


def _place(marks: Path, name: str) -> Path:
    return marks / "students" / f"{name}.json"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


__all__ = ["Entry", "Grading", "class_seed", "default_workers", "grade_class", "grade_one"]
