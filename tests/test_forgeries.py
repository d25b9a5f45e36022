"""Files that are handed in to get marks for nothing, or to harm: none scores more than without its attack, none harms anybody.

A forgery is tests/exercises/forgeries/base.py, a half-right solution, with an attack behind it. Its first lines say

    # expect: crash error|load  what failed tests report, these among them: so the attack has run, and was met as it should be
    # confined only, hangs      it reads, fills, kills or deletes what it can: run in the sandbox, and nowhere else;
                                it uses up all of its time

CHECKOUT, CANARY and PORT in it stand for this checkout, a folder with a file to harm, and a server to connect to.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tinypeft.grading.confine import can_confine
from tinypeft.grading.exercise import find_exercise
from tinypeft.grading.process import Failure, Limits, Worker
from tinypeft.grading.run import grade_file
from tinypeft.grading.submission import Submission, Wrong
from tinypeft.grading.worker import encode

FOLDER = Path(__file__).parent / "exercises" / "forgeries"
CHECKOUT = Path(__file__).parents[1]
resource = pytest.importorskip("resource")  # a system without it is no place for these
BASE = (FOLDER / "base.py").read_text("utf-8")
FORGERIES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "base")
SEED = 20_261  # a private one
HANGING = Limits(call=2.0, total=3.0)
ONLY_CONFINED = 'if "TINYPEFT_CONFINED" not in os.environ:\n    raise SystemExit("this would harm the machine")\n\n'
AT_MOST = 90.0  # seconds until a forgery has been graded, on a machine with much else to do
MEMORY = 700 * 2**20  # bytes by which the grader's process may grow
EXERCISE = find_exercise("04")

no_sandbox = pytest.mark.skipif(can_confine() is not None, reason=f"no sandbox: {can_confine()}")


@dataclass
class Outcome:
    """What became of a file."""

    score: int = 0
    mistakes: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    seconds: float = 0.0
    folder: Path = Path()


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GRADER = load(EXERCISE.grader)


def grade(file: Path, confined: bool, limits: Limits | None = None, seed: int = SEED) -> Outcome:
    """As the plugin does it: one worker for all tests."""
    started, found = time.monotonic(), Outcome()
    with Worker(file, limits, confined) as worker:
        found.folder = worker.folder
        for test, points in EXERCISE.points.items():
            try:
                getattr(GRADER, test)(Submission(worker, EXERCISE, seed, test))
                found.score += points
            except Exception as error:
                found.mistakes.append(getattr(error, "mistake", type(error).__name__))
                found.messages.append(str(error) if isinstance(error, Wrong) else "")
    found.seconds = time.monotonic() - started
    return found


def header(name: str) -> tuple[set[str], set[str]]:
    """What a forgery is expected to be met with, and its remarks."""
    text = (FOLDER / f"{name}.py").read_text("utf-8")
    first, second = text.splitlines()[:2]
    return set(first.removeprefix("# expect: ").split()), set(second.removeprefix("# ").split(", "))


class Surroundings:
    """What could be harmed: a folder with a file in it, and a server that nobody should reach."""

    def __init__(self, folder: Path):
        self.canary = folder / "canary"
        self.canary.mkdir()
        (self.canary / "kept.txt").write_text("kept")
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.setblocking(False)
        self.port = self.server.getsockname()[1]

    def write(self, name: str, folder: Path) -> Path:
        text = (FOLDER / f"{name}.py").read_text("utf-8")
        for old, new in (("CHECKOUT", str(CHECKOUT)), ("CANARY", str(self.canary)), ("PORT", str(self.port))):
            text = text.replace(old, new)
        guard = ONLY_CONFINED if "confined only" in header(name)[1] else ""
        (folder / f"{name}.py").write_text(BASE + guard + text)
        return folder / f"{name}.py"

    def unharmed(self) -> bool:
        content = {path.name: path.read_text() for path in self.canary.iterdir()}
        return content == {"kept.txt": "kept"}

    def visited(self) -> bool:
        try:
            self.server.accept()[0].close()
        except BlockingIOError:
            return False
        return True


def grade_all(folder: Path, confined: bool) -> tuple[dict[str, Outcome], Surroundings, list[Outcome], int]:
    """All forgeries, some at the same time, and an honest file between them."""
    around = Surroundings(folder)
    honest = folder / "base.py"
    honest.write_text(BASE)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    names = [name for name in FORGERIES if confined or "confined only" not in header(name)[1]]
    jobs: dict[str, Any] = {}
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(grade, honest, confined)
        for name in sorted(names, key=lambda name: "hangs" not in header(name)[1]):  # the long ones first
            file = around.write(name, folder)
            jobs[name] = pool.submit(grade, file, confined, HANGING if "hangs" in header(name)[1] else None)
        between = [pool.submit(grade, honest, confined) for _ in range(3)]
        found = {name: job.result(AT_MOST) for name, job in jobs.items()}
        others = [job.result(AT_MOST) for job in (first, *between)]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return found, around, others, grown


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory):
    return grade_all(tmp_path_factory.mktemp("confined"), confined=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory):
    return grade_all(tmp_path_factory.mktemp("plain"), confined=False)


def met_as_it_should_be(name: str, graded: Any) -> None:
    found, _, others, _ = graded
    outcome = found[name]
    assert outcome.score <= others[0].score, outcome.messages
    for expected in header(name)[0]:
        assert set(expected.split("|")) & set(outcome.mistakes), (outcome.mistakes, outcome.messages)
    assert ("load" in outcome.mistakes) == ("load" in header(name)[0]), outcome.messages  # a typing error is no attack
    assert not any("TAKEN" in message for message in outcome.messages), outcome.messages
    assert not outcome.folder.exists()
    for message in outcome.messages:
        assert len(message) < 4000
        assert all(one.isprintable() or one == "\n" for one in message), message


def test_there_are_enough_of_them():
    assert len(FORGERIES) >= 40


@no_sandbox
@pytest.mark.parametrize("name", FORGERIES)
def test_confined(name: str, sandbox):
    met_as_it_should_be(name, sandbox)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FORGERIES if "confined only" not in header(name)[1]])
def test_not_confined(name: str, plain):
    met_as_it_should_be(name, plain)


@no_sandbox
def test_nothing_is_harmed(sandbox):
    _, around, others, grown = sandbox
    assert around.unharmed()
    assert not around.visited()
    assert {one.score for one in others} == {others[0].score}, [one.messages for one in others]
    assert others[0].score == 40
    assert grown < MEMORY


# ---- more than one file, or none -------------------------------------------------------------------------------------


class Recorder(Submission):
    """Answers the grader with a correct solution, and writes down what it was asked and what it said."""

    def __init__(self, test: str, seed: int, table: dict[str, str]):
        super().__init__(None, EXERCISE, seed, test)  # type: ignore[arg-type]
        self._right, self._table = load(FOLDER.parent / "04_lora" / "reference.py"), table

    def _call(self, function: str, arguments: Any) -> Any:
        result = getattr(self._right, function)(*arguments)
        key = hashlib.sha256(encode([function, *arguments])).hexdigest()
        self._table[key] = encode(result).hex()
        return result


LOOKUP = """
import hashlib

main = sys.modules["__main__"]
TABLE = {table}


def looked_up(function, fallback):
    def answer(*arguments):
        key = hashlib.sha256(main.encode([function, *arguments])).hexdigest()
        return main.decode(bytes.fromhex(TABLE[key])) if key in TABLE else fallback(*arguments)

    return answer


for function in ("lora_init", "lora_forward", "lora_backward", "merge", "unmerge", "count_parameters", "rslora_scaling"):
    globals()[function] = looked_up(function, globals()[function])
"""


def test_a_table_of_the_public_answers_is_worth_nothing_in_private(tmp_path: Path):
    table: dict[str, str] = {}
    for test in EXERCISE.points:
        getattr(GRADER, test)(Recorder(test, 0, table))
    file = tmp_path / "lora.py"
    file.write_text(BASE + LOOKUP.replace("{table}", repr(table)))
    assert grade(file, confined=False, seed=0).score == 100
    assert grade(file, confined=False).score == 40


def test_files_beside_the_submission_and_settings_of_pytest_are_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "lora.py").write_text(BASE)
    everything_passes = "def pytest_runtest_makereport(item, call):\n    call.excinfo = None\n"
    (tmp_path / "conftest.py").write_text(everything_passes)
    for name in ("numpy.py", "json.py", "tinypeft.py", "pytest.py", "sitecustomize.py"):
        (tmp_path / name).write_text("raise SystemExit(0)")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --collect-only\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTEST_ADDOPTS", "--collect-only")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    confined = can_confine() is None
    report = grade_file(EXERCISE, tmp_path / "lora.py", seed=SEED, confined=confined)
    assert report.score == 40


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such files here")
def test_what_is_no_file_is_not_opened(tmp_path: Path):
    (tmp_path / "somebody_elses.py").write_text(BASE)
    (tmp_path / "link.py").symlink_to(tmp_path / "somebody_elses.py")
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "large.py").write_text("#" * 2**21)
    for name, reason in (("link", "a link"), ("pipe", "not an ordinary file"), ("large", "larger than")):
        with Worker(tmp_path / f"{name}.py") as worker, pytest.raises(Failure, match=reason) as caught:
            worker.call("merge")
        assert caught.value.kind == "load"
    assert grade_file(EXERCISE, tmp_path / "link.py", tests=["test_count"]).score == 0


def test_who_ends_the_grader_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "lora.py").write_text(BASE + "import signal\nos.kill(os.getppid(), signal.SIGTERM)\n")
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    with pytest.raises(RuntimeError, match="did not run"):
        grade_file(EXERCISE, tmp_path / "lora.py", tests=["test_count"])
    assert list((tmp_path / "scratch").iterdir()) == []


ESCAPES = """
def merge(W, A, B, alpha):
    if os.fork() == 0:  # a session of its own, out of reach of a signal to the group, with the pipes in its hands
        os.setsid()
        if os.fork() == 0:
            import time

            time.sleep(10)
        os._exit(0)
    os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_process_that_gets_away_holds_nobody_up(tmp_path: Path):
    (tmp_path / "lora.py").write_text(BASE + ESCAPES)
    with Worker(tmp_path / "lora.py", Limits(call=2.0, total=6.0)) as worker:
        with pytest.raises(Failure, match="had not returned"):
            worker.call("merge", 1, 2, 3, 4)
        assert worker.call("rslora_scaling", 4.0, 2) == 2.0
