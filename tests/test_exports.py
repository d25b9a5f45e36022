"""Exports: what other systems get of an exercise, run as they would run it. nbgrader itself is in test_exports_nbgrader.py."""

from __future__ import annotations

import ast
import json
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tinypeft.commands.export import run_classroom50, run_gradescope, run_nbgrader
from tinypeft.commands.solution import solution_file
from tinypeft.grading.archive import read_zip
from tinypeft.grading.confine import can_confine
from tinypeft.grading.exercise import all_exercises, find_exercise
from tinypeft.grading.exports import nbgrader
from tinypeft.grading.exports.classroom50 import result, write_bundle
from tinypeft.grading.exports.gradescope import results, write_autograder
from tinypeft.grading.exports.machine import circumstances, grade_folder
from tinypeft.grading.exports.wheel import make_wheel, repack, write_zip
from tinypeft.grading.run import zero_report

LORA = find_exercise("04")
BANK = Path(__file__).parent / "exercises"
REFERENCE = (BANK / "04_lora" / "reference.py").read_text("utf-8")
STUB = (LORA.folder / LORA.file).read_text("utf-8")
WRONG = REFERENCE.replace("scaling * (x @ A.T)", "(x @ A.T)")  # in the forward pass, which has 20 points
FUNCTIONS = {slug: one for slug, one in all_exercises().items() if one.file.endswith(".py") and solution_file(one)}
posix = pytest.mark.skipif(os.name != "posix", reason="these systems run on Linux")


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="needs the extra `dev`")
    return make_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def built(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports take the wheel that was built once."""
    for module in ("gradescope", "classroom50"):
        monkeypatch.setattr(f"tinypeft.grading.exports.{module}.make_wheel", lambda folder: shutil.copy(wheel, folder) and
                            folder / wheel.name)


# ---- the wheel ------------------------------------------------------------------------------------------------------


def test_an_installed_package_becomes_the_wheel_again(wheel: Path, tmp_path: Path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site-packages")
        records = set(archive.read(next(name for name in archive.namelist() if name.endswith("/RECORD"))).split())
    (about,) = (tmp_path / "site-packages").glob("tinypeft-*.dist-info")
    for name in ("tinypeft/__pycache__/cli.pyc", f"{about.name}/INSTALLER", "../bin/tinypeft"):  # as pip does
        place = tmp_path / "site-packages" / name
        place.parent.mkdir(exist_ok=True)
        place.write_text("here only")
        with open(about / "RECORD", "a") as record:
            record.write(f"{name},,\n")
    again = repack(Distribution.at(about), tmp_path)
    assert again.name == wheel.name
    with zipfile.ZipFile(again) as archive:
        assert set(archive.read(f"{about.name}/RECORD").split()) == records  # names, hashes and sizes
        assert {name.decode().partition(",")[0] for name in records} == set(archive.namelist())
    first = again.read_bytes()
    assert repack(Distribution.at(about), tmp_path).read_bytes() == first


def test_the_wheel_is_built_by_pip_and_not_by_a_pip_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("hatchling", reason="needs the extra `dev`")
    (tmp_path / "pip.py").write_text("raise SystemExit('not pip')")
    monkeypatch.chdir(tmp_path)
    assert make_wheel(tmp_path / "wheel").is_file()


# ---- Gradescope -----------------------------------------------------------------------------------------------------

VISIBILITY = {"hidden", "after_due_date", "after_published", "visible"}
FORMATS = {"text", "html", "simple_format", "md", "ansi"}
NUMBER = (int, float)
TOP = {"score": NUMBER, "execution_time": NUMBER, "output": str, "output_format": FORMATS, "test_output_format": FORMATS,
       "test_name_format": FORMATS, "visibility": VISIBILITY, "stdout_visibility": VISIBILITY, "extra_data": dict,
       "tests": list, "leaderboard": list}
TEST = {"score": NUMBER, "max_score": NUMBER, "status": {"passed", "failed"}, "name": str, "name_format": FORMATS,
        "number": str, "output": str, "output_format": FORMATS, "tags": list, "visibility": VISIBILITY, "extra_data": dict}


def as_documented(value: dict[str, Any], fields: dict[str, Any]) -> bool:
    """Whether all entries are among the documented ones, and of their kind."""
    return all(name in fields and (one in fields[name] if isinstance(fields[name], set) else isinstance(one, fields[name]))
               for name, one in value.items())


class Autograder:
    """Stands for Gradescope's machine: its folders, and a Python that has tinypeft."""

    def __init__(self, folder: Path, python: str = sys.executable):
        self.root, self.home = folder / "autograder", folder / "home"
        for name in ("source", "submission", "results"):
            (self.root / name).mkdir(parents=True)
        write_autograder(LORA, folder / "04_lora.zip", str(self.root), str(self.home))
        subprocess.run(["unzip", "-q", folder / "04_lora.zip", "-d", self.root / "source"], check=True)
        shutil.copy(self.root / "source" / "run_autograder", self.root)
        program(self.home / "bin" / "python", f'exec {python} "$@"')

    def run(self, source: str | None, **environment: str) -> dict[str, Any]:
        if source is not None:
            (self.root / "submission" / "lora.py").write_text(source)
        subprocess.run([self.root / "run_autograder"], check=True, capture_output=True, env={**os.environ, **environment})
        found: dict[str, Any] = json.loads((self.root / "results" / "results.json").read_text("utf-8"))
        assert as_documented(found, TOP)
        assert all(as_documented(test, TEST) for test in found["tests"])
        assert [test["max_score"] for test in found["tests"]] == list(LORA.points.values())
        assert found["score"] == sum(test["score"] for test in found["tests"])
        return found


@pytest.fixture
def autograder(tmp_path: Path, built: None) -> Autograder:
    return Autograder(tmp_path)


@posix
def test_gradescope(autograder: Autograder):
    found = autograder.run(WRONG + "\nprint('<script>of mine</script>')\n")
    (failed,) = [test for test in found["tests"] if test["status"] == "failed"]
    assert (found["score"], failed["name"], failed["score"], failed["tags"]) == (80, "forward", 0, ["lora.no_scale"])
    assert "alpha / r is missing" in failed["output"]
    assert found["extra_data"]["confined"] is (can_confine() is None)
    assert ("without a sandbox" in found["output"]) is (can_confine() is not None)
    assert "<script>of mine</script>" in found["output"]
    assert found["output_format"] == found["test_output_format"] == "text"  # else that would be run in a browser


FORGED = STUB + """
import json
for path in ("@RESULTS@/results.json", "@RESULTS@/../run_autograder"):
    try:
        open(path, "w").write(json.dumps({"score": 100}))
        print("written")
    except OSError as error:
        print(error)
print(json.dumps({"score": 100}))
"""


@posix
@pytest.mark.skipif(can_confine() is not None, reason=f"no sandbox: {can_confine()}")
def test_results_are_out_of_reach(autograder: Autograder):
    before = (autograder.root / "run_autograder").read_text()
    found = autograder.run(FORGED.replace("@RESULTS@", str(autograder.root / "results")))
    assert found["score"] == 0
    assert "written" not in found["output"]
    assert "No such file" in found["output"]
    assert {test["tags"][0] for test in found["tests"]} == {"not-implemented"}
    assert (autograder.root / "run_autograder").read_text() == before


@pytest.mark.parametrize("files", [{}, {"other.py": REFERENCE, "more.py": ""}, {"a/lora.py": REFERENCE, "b/lora.py": STUB}])
def test_nothing_to_grade_is_zero_of_all_points(files: dict[str, str], tmp_path: Path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    report = grade_folder(LORA, tmp_path)
    assert (report.score, report.max, len(report.tests)) == (0, 100, len(LORA.points))
    assert {test.mistake for test in report.tests} == {"no-submission"}
    assert "lora.py" in report.tests[0].message
    assert as_documented(results(report.to_dict()), TOP)


def test_a_folder_around_the_file_is_no_matter_and_the_seed_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "lora.py").write_text(REFERENCE)
    seeds = []

    def looked_at(exercise: Any, file: Path, seed: int, confined: bool) -> Any:
        assert file.read_text() == REFERENCE
        seeds.append(seed)
        return zero_report(exercise, "seen", "")

    monkeypatch.setattr("tinypeft.grading.exports.machine.grade_file", looked_at)
    assert grade_folder(LORA, tmp_path) == grade_folder(LORA, tmp_path)
    assert seeds[0] != seeds[1]


def test_a_zip_that_was_unpacked_is_one_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As Gradescope does it with zips that are handed in."""
    capstone, seen = find_exercise("14"), []

    def looked_at(exercise: Any, file: Path, **_: Any) -> Any:
        seen.append((file.name, read_zip(file, 10, 100)))
        return zero_report(exercise, "seen", "")

    monkeypatch.setattr("tinypeft.grading.exports.machine.grade_file", looked_at)
    assert "adapter.zip" in grade_folder(capstone, tmp_path).tests[0].message
    packed = {name: name.encode() for name in ("adapter_config.json", "adapter_model.safetensors")}
    for name, content in packed.items():
        assert not seen
        (tmp_path / name).write_bytes(content)
        (tmp_path / f"a {name}").write_text("of no interest")
        grade_folder(capstone, tmp_path)
    assert seen == [("adapter.zip", packed)]
    write_zip(tmp_path / "Adapter.zip", {"mine": b""})  # what was packed by its author is what was meant
    grade_folder(capstone, tmp_path)
    assert seen[1:] == [("adapter.zip", {"mine": b""})]
    (tmp_path / "adapter_config.json").unlink()
    (tmp_path / "adapter_config.json").symlink_to(tmp_path / "a adapter_config.json")
    (tmp_path / "Adapter.zip").unlink()
    report = grade_folder(capstone, tmp_path)
    assert (report.tests[0].mistake, len(seen)) == ("no-submission", 2)
    assert "is a link" in report.tests[0].message


def test_what_may_not_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def unreadable(path: Path, _: int) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "lora.py").write_text(REFERENCE)
    monkeypatch.setattr("tinypeft.grading.collect.read_file", unreadable)
    (test, *_) = grade_folder(LORA, tmp_path).tests
    assert (test.mistake, test.message) == ("no-submission", "it could not be read (Permission denied)")


def test_who_ends_the_grader_gets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def ended(*_: Any, **__: Any) -> None:
        raise RuntimeError("the grader of 04_lora did not run")

    monkeypatch.setattr("tinypeft.grading.exports.machine.grade_file", ended)
    (tmp_path / "lora.py").write_text(REFERENCE)
    report = grade_folder(LORA, tmp_path)
    assert (report.score, report.tests[0].mistake) == (0, "not-graded")
    assert "did not run" in report.tests[0].message


@posix
@pytest.mark.slow
def test_what_hangs_gets_what_it_had_before(autograder: Autograder):
    found = autograder.run(REFERENCE + "\n\ndef count_parameters(shapes, r):\n    while True: pass\n")
    assert found["score"] == 90
    assert [test["tags"] for test in found["tests"] if test["name"] == "count"] == [["timeout"]]


def python_for_everybody(folder: Path) -> str:
    """A Python with this one's packages, that each user of this machine may run."""
    def everybody(path: Path) -> bool:
        return all(one.stat().st_mode & 0o5 == 0o5 for one in (path, *path.parents))

    packages = [path for path in sys.path if path.endswith("site-packages")] + [str(Path(__file__).parents[1])]
    base = Path(f"/usr/bin/python3.{sys.version_info[1]}")
    base = Path(sys.base_prefix, "bin", "python3") if everybody(Path(sys.base_prefix)) else base
    if os.geteuid() or not base.exists() or not all(everybody(Path(path)) for path in packages):
        pytest.skip("needs root, and a Python of this version that every user may run")
    subprocess.run([base, "-m", "venv", "--without-pip", folder], check=True)
    (next(folder.glob("lib/python3*/site-packages")) / "borrowed.pth").write_text("\n".join(packages))
    return str(folder / "bin" / "python3")


LOOKING_AROUND = """
import os, threading

def tried(what):
    try:
        what()
        return "done"
    except Exception as error:
        return type(error).__name__

print("user", os.getuid(), os.getgroups())
print("results", tried(lambda: os.listdir("@ROOT@/results")), tried(lambda: os.listdir("@ROOT@/source")))
print("written", tried(lambda: open("@ROOT@/submission/lora.py", "w")), tried(lambda: open("submission.py", "w")))
print("processes", tried(os.fork), tried(lambda: os.kill(os.getppid(), 15)))
print("settings", tried(lambda: open(f"/proc/{os.getppid()}/environ").read()))
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, as those of pytest's are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


NO_HOLDOUT = " No holdout: the Polish names that decided come with tinypeft, and who trains on them has their points."


@pytest.mark.parametrize(("slug", "said", "decided"), [
    ("04_lora", "as a user of its own", ""), ("14_capstone", "as root", NO_HOLDOUT)])
def test_as_whom_it_was_run_without_a_sandbox_is_said(slug: str, said: str, decided: str, monkeypatch: pytest.MonkeyPatch):
    """The process that evaluates an adapter stays root: tinypeft's files are closed to all others there."""
    monkeypatch.setattr("tinypeft.grading.exports.machine.as_nobody", lambda: True)
    report = zero_report(find_exercise(slug), "seen", "").to_dict()
    assert said in circumstances(report)
    assert said in results(report)["output"]
    assert circumstances(report | {"confined": True}) == f"Run in a sandbox.{decided}"


@posix
def test_without_a_sandbox_root_lets_it_run_as_somebody_else(open_folder: Path, built: None):
    python = python_for_everybody(open_folder / "python")
    autograder, programs = Autograder(open_folder, python), open_folder / "bin"
    programs.mkdir()
    for name in ("env", "bash", "mkdir", "chmod"):  # and no bwrap
        (programs / name).symlink_to(str(shutil.which(name)))
    found = autograder.run(REFERENCE + LOOKING_AROUND.replace("@ROOT@", str(autograder.root)), PATH=str(programs))
    assert found["score"] == 100
    assert found["extra_data"]["confined"] is False
    assert "Run without a sandbox" in found["output"]
    printed = dict(line.split(" ", 1) for line in found["output"].splitlines() if " " in line)
    assert int(printed["user"].split()[0]) > 1000
    assert printed["user"].endswith("[]")
    assert printed["results"] == "PermissionError PermissionError"
    assert printed["written"] == "PermissionError PermissionError"
    assert printed["processes"] == "BlockingIOError PermissionError"
    assert printed["settings"] == "PermissionError"


def test_where_nobody_could_import_numpy_nothing_is_graded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Else honest submissions would lose points to a folder that they may not enter."""
    for name, value in {"as_nobody": True, "can_confine": "no bwrap"}.items():
        monkeypatch.setattr(f"tinypeft.grading.exports.machine.{name}", lambda value=value: value)
    (tmp_path / "closed" / "numpy").mkdir(parents=True)
    (tmp_path / "closed").chmod(0o700)
    monkeypatch.setattr("numpy.__file__", str(tmp_path / "closed" / "numpy" / "__init__.py"))
    with pytest.raises(RuntimeError, match="every user has to be able to enter "):
        grade_folder(LORA, tmp_path)


def test_the_zip_has_its_programs_at_the_top(tmp_path: Path, built: None):
    path = run_gradescope("lora", tmp_path / "grader.zip")
    with zipfile.ZipFile(path) as archive:
        modes = {entry.filename: entry.external_attr >> 16 & 0o777 for entry in archive.infolist()}
        texts = {name: archive.read(name).decode() for name in ("setup.sh", "run_autograder")}
    (wheel,) = set(modes) - set(texts)
    assert wheel.startswith("tinypeft-")
    assert modes == {"setup.sh": 0o755, "run_autograder": 0o755, wheel: 0o644}
    assert all(text.startswith("#!/usr/bin/env bash\n") and "@" not in text.replace('"$@"', "") for text in texts.values())
    assert "/autograder/results" in texts["run_autograder"]
    assert "bubblewrap" in texts["setup.sh"]
    if shutil.which("bash"):
        for text in texts.values():
            subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_a_folder_is_no_zip(tmp_path: Path):
    with pytest.raises(ValueError, match="is a folder; expected a name for the zip"):
        run_gradescope("04", tmp_path)


# ---- Classroom 50 ---------------------------------------------------------------------------------------------------

RUNNER = {"CLASSROOM": "peft", "ASSIGNMENT": "lora", "ASSIGNMENT_TYPE": "individual", "OWNER": "ada", "USERNAME": "ada",
          "SUBMISSION_TAG": "submit/2026-01-01T00-00-00Z-abc1234", "COMMIT_URL": "https://192.0.2.1/c", "RELEASE_URL":
          "https://192.0.2.1/r", "REVIEW_URL": "https://192.0.2.1/v"}
RESULT = {"schema": {"classroom50/result/v1"}, "classroom": str, "assignment": str, "assignment_type": {"individual", "group"},
          "owner": str, "submission": str, "commit": str, "release": str, "review": str, "datetime": str, "score": int,
          "max-score": int, "tests": list}
RESULT_TEST = {"test-name": str, "passed": bool, "score": int, "max-score": int}


def valid_result(value: dict[str, Any]) -> bool:
    """As its schema says: all of these and no others; a test may have more."""
    tests = value["tests"]
    return (set(value) == set(RESULT) and as_documented(value, RESULT) and all(value[name] != "" for name in RESULT)
            and value["submission"].startswith("submit/") and bool(datetime.strptime(value["datetime"], "%Y-%m-%dT%H:%M:%SZ"))
            and 0 <= value["score"] <= value["max-score"]
            and all(as_documented({name: test[name] for name in RESULT_TEST}, RESULT_TEST) for test in tests)
            and value["score"] == sum(test["score"] for test in tests))


@posix
@pytest.mark.parametrize(("source", "score", "sudo"), [(WRONG, 80, True), (None, 0, False)], ids=["wrong", "missing"])
def test_classroom50(source: str | None, score: int, sudo: bool, tmp_path: Path, built: None):
    bundle = tmp_path / "bundle"
    write_bundle(LORA, bundle)
    program(bundle / "venv" / "bin" / "python", f'exec {sys.executable} "$@"')
    log = tmp_path / "sudo.log"
    if sudo:
        program(tmp_path / "bin" / "sudo",
                f'printf "%s " "$@" >> {log}; while [ "${{1#-}}" != "$1" ]; do shift; done; exec "$@"')
    (tmp_path / "checkout").mkdir()
    (tmp_path / "kept.json").write_text("kept")
    (tmp_path / "checkout" / "result.json").symlink_to(tmp_path / "kept.json")
    if source is not None:
        (tmp_path / "checkout" / "lora.py").write_text(source)
    path = os.pathsep.join([str(tmp_path / "bin"), *(one for one in os.environ["PATH"].split(os.pathsep)
                                                     if not Path(one, "sudo").exists())])
    subprocess.run([sys.executable, bundle / "autograder.py"], cwd=tmp_path / "checkout", check=True, capture_output=True,
                   env={**os.environ, **RUNNER, "PATH": path})
    found = json.loads((tmp_path / "checkout" / "result.json").read_text())
    assert valid_result(found)
    assert (found["score"], found["max-score"], len(found["tests"])) == (score, 100, len(LORA.points))
    assert found["owner"] == "ada"
    assert (tmp_path / "kept.json").read_text() == "kept"
    if sudo:
        assert f"--preserve-env={','.join(sorted(set(RUNNER) - {'USERNAME'}))},TINYPEFT_AS_NOBODY" in log.read_text()


@posix
def test_classroom50_installs_with_pip_and_not_with_the_students(tmp_path: Path, built: None, monkeypatch: pytest.MonkeyPatch):
    write_bundle(LORA, tmp_path / "bundle")
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "pip.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(checkout)
    monkeypatch.setattr("venv.create", lambda folder, **_: program(folder / "bin" / "python", f'exec {sys.executable} "$@"'))
    for name, value in {"TARGET": str(tmp_path / "installed"), "NO_DEPS": "1", "NO_INDEX": "1"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    runpy.run_path(str(tmp_path / "bundle" / "autograder.py"))["installed"]()
    assert not (checkout / "ran").exists()
    assert (tmp_path / "installed" / "tinypeft").is_dir()


def test_what_the_runner_leaves_out():
    report, now = zero_report(LORA, "no-submission", "no file").to_dict(), datetime.now(UTC)
    given = {name: value for name, value in RUNNER.items() if name not in ("OWNER", "REVIEW_URL", "ASSIGNMENT_TYPE")}
    found = result(report, given, now)
    assert valid_result(found)
    assert (found["owner"], found["review"], found["assignment_type"]) == ("ada", RUNNER["COMMIT_URL"], "individual")
    with pytest.raises(ValueError, match="has not: CLASSROOM, SUBMISSION_TAG$"):
        result(report, given | {"CLASSROOM": "", "SUBMISSION_TAG": ""}, now)


def test_a_report_is_all_that_they_read():
    """Through JSON and back, as it lies in a folder of marks."""
    report = json.loads(json.dumps(zero_report(LORA, "load", "no", seed=3).to_dict()))
    assert as_documented(results(report), TOP)
    assert valid_result(result(report, RUNNER, datetime.now(UTC)))


# ---- nbgrader's notebook --------------------------------------------------------------------------------------------


def body(function: ast.FunctionDef) -> list[str]:
    return [ast.dump(node) for node in function.body[ast.get_docstring(function) is not None:]]


@pytest.mark.parametrize("slug", FUNCTIONS)
def test_the_instructors_version_is_stub_and_reference_in_one(slug: str):
    exercise = FUNCTIONS[slug]
    stub, reference = (exercise.folder / exercise.file).read_text("utf-8"), (BANK / slug / "reference.py").read_text("utf-8")
    both = ast.parse(nbgrader.with_solution(stub, reference))
    found = {node.name: node for node in both.body if isinstance(node, ast.FunctionDef)}
    for node in ast.parse(reference).body:
        if isinstance(node, ast.FunctionDef):
            assert body(found[node.name]) == body(node)
        elif not isinstance(node, ast.Expr):
            assert ast.dump(node) in map(ast.dump, both.body)
    for node in ast.parse(stub).body:
        if isinstance(node, ast.FunctionDef):
            assert ast.get_docstring(found[node.name]) == ast.get_docstring(node)
            assert ast.dump(found[node.name].args) == ast.dump(node.args)


def test_the_notebook(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = run_nbgrader("04", tmp_path / "source" / "lora")
    assert "PREPROCESSORS" in capsys.readouterr().out
    made = nbformat.read(path, as_version=4)
    settings = [cell.metadata.nbgrader for cell in made.cells]
    assert {one.grade_id: one.points for one in settings if one.grade} == LORA.points
    assert all(one.locked for one in settings if not one.solution)
    assert [one.grade_id for one in settings if one.solution] == ["solution"]
    again = run_nbgrader("04", tmp_path / "again")
    assert path.read_bytes() == again.read_bytes()
    with pytest.raises(FileExistsError, match="exists already"):
        run_nbgrader("04", tmp_path / "again")


def test_a_test_cell_gives_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    assert nbgrader.points("04_lora", "lora.py", "test_count") == 0.0
    assert "run the cell that begins with %%writefile lora.py" in capsys.readouterr().out
    Path("lora.py").write_text(WRONG)
    assert [nbgrader.points("04_lora", "lora.py", test) for test in ("test_forward", "test_count")] == [0.0, 10.0]
    told = capsys.readouterr()
    assert "alpha / r is missing" in told.out
    assert "count: 10 of 10\n" in told.out
    assert told.err == ""  # nbgrader takes all points away for it
    Path("lora.py").write_text(REFERENCE)
    assert repr(nbgrader.points("04_lora", "lora.py", "test_forward")) == "20.0"


# ---- the commands ---------------------------------------------------------------------------------------------------


def test_classroom50s_folder_is_not_overwritten(tmp_path: Path, built: None):
    folder = run_classroom50("04", tmp_path / "lora")
    compile((folder / "autograder.py").read_text(), "autograder.py", "exec")
    (folder / "autograder.py").write_text("changed")
    with pytest.raises(FileExistsError, match="exists already"):
        run_classroom50("04", tmp_path / "lora")
    assert (folder / "autograder.py").read_text() == "changed"


@pytest.mark.parametrize("run", [run_gradescope, run_nbgrader, run_classroom50])
def test_an_unknown_exercise(run: Any, tmp_path: Path):
    with pytest.raises(ValueError, match="no exercise 'lorra'; near: 04_lora"):
        run("lorra", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_capstone_is_for_no_notebook(tmp_path: Path):
    with pytest.raises(ValueError, match=r"handed in as adapter.zip, which no cell of a notebook can hold"):
        run_nbgrader("14", tmp_path)
    assert list(tmp_path.iterdir()) == []
