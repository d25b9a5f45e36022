"""`tinypeft grade --scheduler`: on a real cluster of this machine, with a worker that is killed half-way."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tinypeft.grading import batch
from tinypeft.grading.batch import Grading, grade_class
from tinypeft.grading.collect import collect
from tinypeft.grading.confine import can_confine
from tinypeft.grading.exercise import find_exercise

distributed = pytest.importorskip("distributed", reason="needs the extra `cluster`")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signals here")]
HALF = Path(__file__).parent / "exercises" / "forgeries" / "base.py"
STUDENTS = 9


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address=":0") as one:
        yield one


@pytest.fixture
def handed_in(tmp_path):
    folder = tmp_path / "class"
    folder.mkdir()
    for i in range(STUDENTS):
        (folder / f"s{i}.py").write_text(f"{HALF.read_text('utf-8')}\n# {i}\n")
    return collect(folder, find_exercise("04"), tmp_path / "marks" / "submitted")


def test_a_worker_that_is_killed_half_way_costs_nobody_anything(cluster, handed_in, tmp_path, monkeypatch):
    grading = Grading(find_exercise("04"), seed=3, confined=can_confine() is None)
    written: list[str] = []
    killed: list[int] = []
    sent: list[Any] = []
    write = batch.write_json

    def write_and_kill(path: Path, value: Any) -> None:
        write(path, value)
        written.append(path.stem)
        if len(written) == 2:  # a worker that is at it: four tasks are
            killed.append(next(iter(cluster.workers.values())).pid)
            os.kill(killed[0], signal.SIGKILL)

    def spied(call: Any) -> Any:
        def submit(self: Any, function: Any, *arguments: Any, **options: Any) -> Any:
            sent.append(arguments)
            return call(self, function, *arguments, **options)

        return submit

    executor = distributed.cfexecutor.ClientExecutor
    monkeypatch.setattr(executor, "submit", spied(executor.submit))
    monkeypatch.setattr(batch, "write_json", write_and_kill)
    entries = grade_class(grading, handed_in, tmp_path / "marks", scheduler=cluster.scheduler_address)
    assert killed
    assert sorted(written) == sorted(one.name for one in handed_in)  # each report once
    assert [entry["student"] for entry in entries] == [one.student for one in handed_in]
    assert {(entry["score"], entry["trouble"]) for entry in entries} == {(40, "")}
    saved = [json.loads(path.read_text("utf-8")) for path in sorted((tmp_path / "marks" / "students").glob("*.json"))]
    assert saved == entries
    assert len(sent) == STUDENTS
    assert {type(value) for arguments in sent for value in arguments} == {str, int}
    again = grade_class(grading, handed_in, tmp_path / "marks", scheduler="tcp://127.0.0.1:1")  # nothing is left to ask it for
    assert again == entries


def test_a_worker_that_would_grade_otherwise_is_named(cluster, handed_in, tmp_path):
    exercise = find_exercise("04")
    folder = tmp_path / exercise.slug  # another version of the grader, here only
    folder.mkdir()
    for file in (exercise.grader, exercise.folder / "exercise.toml"):
        (folder / file.name).write_bytes(file.read_bytes() + b"\n")
    grading = Grading(replace(exercise, folder=folder), seed=3, confined=False)
    with pytest.raises(RuntimeError, match="the worker tcp://.* cannot grade: it has another version of 04_lora"):
        grade_class(grading, handed_in, tmp_path / "marks", scheduler=cluster.scheduler_address)
    elsewhere = [replace(one, file=Path("/nowhere") / f"{one.name}.py") for one in handed_in]
    with pytest.raises(RuntimeError, match="a folder that all machines share"):
        grade_class(replace(grading, exercise=exercise), elsewhere, tmp_path / "marks", scheduler=cluster.scheduler_address)


def test_no_scheduler_and_no_workers(handed_in, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "CONNECT_SECONDS", 0.5)
    grading = Grading(find_exercise("04"), seed=3, confined=False)
    with pytest.raises(OSError, match="tcp://127.0.0.1:1 "):
        grade_class(grading, handed_in, tmp_path / "marks", scheduler="tcp://127.0.0.1:1")
    with (distributed.LocalCluster(n_workers=0, processes=True, dashboard_address=":0") as empty,
          pytest.raises(RuntimeError, match="has no workers: start one, with `dask worker tcp://")):
        grade_class(grading, handed_in, tmp_path / "marks", scheduler=empty.scheduler_address)


def test_a_cluster_that_goes_away_is_told_and_what_was_graded_is_kept(handed_in, tmp_path, monkeypatch):
    write = batch.write_json
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=True, dashboard_address=":0") as one:

        def write_and_close(path: Path, value: Any) -> None:
            write(path, value)
            one.close()

        monkeypatch.setattr(batch, "write_json", write_and_close)
        with pytest.raises(RuntimeError, match="the cluster is gone. What was graded is kept: give the same command again"):
            grade_class(Grading(find_exercise("04"), seed=3, confined=False), handed_in, tmp_path / "marks",
                        scheduler=one.scheduler_address)
    assert list((tmp_path / "marks" / "students").glob("*.json"))
