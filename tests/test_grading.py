"""Grading, part by part: what crosses the border, what counts as right, which mistake is named, and what a worker survives.

Files that attack the grader are in test_forgeries.py; the graders of the exercises are tested in test_course.py.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tomllib
from dataclasses import replace
from enum import Enum, IntEnum
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays

from tinypeft.grading.bank import BANKS, read_bank
from tinypeft.grading.compare import compare
from tinypeft.grading.contract import read_contract
from tinypeft.grading.direct import DirectGrader
from tinypeft.grading.exercise import all_exercises, find_exercise, read_exercise
from tinypeft.grading.mutants import mutants, vjp_mutants
from tinypeft.grading.process import Failure, Limits, Worker, _read
from tinypeft.grading.run import Report, grade_file
from tinypeft.grading.submission import Misconception, Submission, Wrong, message_of
from tinypeft.grading.worker import MOST_BYTES, MOST_DEPTH, MOST_REPLY, WireError, decode, encode

ROOT = Path(__file__).parents[1]
LORA = find_exercise("04")
BANK = read_bank(LORA)

# ---- what crosses the border ----------------------------------------------------------------------------------------

DTYPES = [np.dtype(name) for name in ("bool", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")]
LEAVES = (st.none() | st.booleans() | st.integers(-2**70, 2**70) | st.floats() | st.text(max_size=5)
          | st.sampled_from(DTYPES).flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0))))
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.text(max_size=4).filter(lambda key: key != "$array"), inner, max_size=3), max_leaves=8)


def same(a: Any, b: Any) -> bool:
    """Equal in every bit, types and dtypes too."""
    if isinstance(a, np.ndarray):
        return (isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape
                and np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and (a == b or (a != a and b != b))


@given(TREES)
def test_trees_come_back_as_they_were(tree):
    assert same(tree, decode(encode(tree)))


class Kind(str, Enum):  # noqa: UP042 - the str() of a StrEnum is its value already
    TEXT = "full"


class Number(IntEnum):
    FOUR = 4


class Share(float):
    def __repr__(self) -> str:
        return "50%"


@pytest.mark.parametrize(("sent", "received"), [
    ((1, (2.5, "a")), [1, [2.5, "a"]]),
    (np.float64(0.5), 0.5),
    (np.int32(7), 7),
    (np.bool_(True), True),
    (np.float32(0.1), np.array(0.1, np.float32)),
    (np.arange(6).reshape(2, 3).T, np.array([[0, 3], [1, 4], [2, 5]])),
    (np.array([1.5, 2.5], ">f8"), np.array([1.5, 2.5])),
    ({np.str_("a"): np.str_("b")}, {"a": "b"}),
    ([Kind.TEXT, Number.FOUR, Share(0.5)], ["full", 4, 0.5]),
    ({Kind.TEXT: 1}, {"full": 1}),
])
def test_what_is_not_a_plain_tree_becomes_one(sent, received):
    assert same(decode(encode(sent)), received)


def test_an_array_that_came_can_be_written_to():
    array = decode(encode(np.zeros(3)))
    array += 1
    assert array.tolist() == [1, 1, 1]


def nested(depth: int) -> list:
    return [] if depth == 0 else [nested(depth - 1)]


@pytest.mark.parametrize("tree", [
    object(), {1, 2}, b"bytes", 1j, np.array([1j]), np.array(["text"]), np.array([None]), np.array(["2020-01-01"], "M8[D]"),
    {1: 2}, {"$array": 0}, [lambda: 0], nested(MOST_DEPTH + 1), np.zeros(MOST_BYTES // 8 + 1), "x" * (MOST_BYTES + 1),
], ids=lambda tree: type(tree).__name__)
def test_nothing_else_is_sent(tree):
    with pytest.raises(WireError):
        encode(tree)


@pytest.mark.parametrize(("tree", "says"), [
    ({1: 2}, "a dict with 1, an int, as a key cannot be sent: keys are text"), ({1, 2}, "a set cannot be sent: only numbers, "),
    (np.array(["a"]), "an array of <U1 cannot be sent: only .*; text goes into a list"),
    (np.longdouble(1), "floating-point numbers of at most 8 bytes"), (np.zeros(MOST_BYTES // 8 + 1), "it is too large")])
def test_what_cannot_be_sent_is_told_why(tree, says):
    with pytest.raises(WireError, match=says):
        encode(tree)


@given(st.binary(max_size=60))
def test_garbage_is_refused_or_plain(message):
    with contextlib.suppress(WireError):
        decode(message)


@given(TREES, st.data())
def test_a_damaged_message_is_refused_or_plain(tree, data):
    message = bytearray(encode(tree))
    for _ in range(data.draw(st.integers(1, 3))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode(bytes(message))
    except WireError:
        return
    assert same(found, decode(encode(found)))


@given(TREES.filter(lambda tree: tree is not None), st.integers(1, 20))
def test_a_message_cut_short_or_too_long_is_refused(tree, count):
    message = encode([np.arange(4.0), tree])
    for wrong in (message[:-count], message + bytes(count)):
        with pytest.raises(WireError):
            decode(wrong)


@pytest.mark.parametrize("description", [0, None, ["<f8"], ["<f8", [2**40]], ["<f8", [-1]], ["|O", [1]], ["<U4", [1]],
                                         ["<f8", [True]], ["<f8", "2"], [["<f8"], [1]], ["<f8", [1] * 70]])
def test_descriptions_of_arrays_are_not_believed(description):
    text = json.dumps({"$array": description}).encode()
    with pytest.raises(WireError):
        decode(struct.pack("<I", len(text)) + text + bytes(8))


# ---- received and expected ------------------------------------------------------------------------------------------

HALF = np.full((2, 3), 0.5)


@pytest.mark.parametrize(("received", "expected"), [
    (0.5, 0.5), (1, 1.0), (0.5 + 1e-11, 0.5), (np.array(0.5), 0.5), (np.array(0.1, np.float32), 0.1), (1e6 + 1e-5, 1e6),
    (HALF, HALF), (HALF.astype(np.float32) * (1 + 1e-6), HALF), ({"a": [1, HALF]}, {"a": (1, HALF)}), (True, True), ("x", "x"),
    (None, None), (np.arange(3, dtype=np.uint8), np.arange(3, dtype=np.uint8)), (np.zeros((0, 2)), np.zeros((0, 2))),
    (np.array(3), 3),
])
def test_equal(received, expected):
    assert compare(received, expected) is None


@pytest.mark.parametrize(("received", "expected", "kind", "place"), [
    (0.5 + 1e-9, 0.5, "value", ""),
    (float("nan"), 0.5, "value", ""),
    (float("inf"), 0.5, "value", ""),
    (np.array(0.1 + 1e-4, np.float32), 0.1, "value", ""),
    (True, 1.0, "type", ""),
    ("0.5", 0.5, "type", ""),
    (None, 0.5, "type", ""),
    (np.array([0.5]), 0.5, "type", ""),
    (1.0, 1, "type", ""),
    (1, True, "type", ""),
    (2, 3, "value", ""),
    ([0.5], HALF, "type", ""),
    (HALF.T, HALF, "shape", ""),
    (HALF[None], HALF, "shape", ""),
    (np.float64(0.5), HALF, "type", ""),
    (HALF.astype(np.float16), HALF, "dtype", ""),
    (np.ones((2, 3), np.int64), np.ones((2, 3)), "dtype", ""),
    (np.arange(3), np.arange(3, dtype=np.uint8), "dtype", ""),
    (np.arange(3.0), np.arange(3), "dtype", ""),
    (np.array([0, 1, 3]), np.arange(3), "value", "[2]"),
    (np.array([[0.5, 0.5, 0.5], [0.5, 0.6, 0.7]]), HALF, "value", "[1, 1]"),
    (HALF * np.nan, HALF, "value", "[0, 0]"),
    ({"a": 1}, {"a": 1, "b": 2}, "keys", ""),
    ({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 2}, "keys", ""),
    ([1], {"a": 1}, "keys", ""),
    ({"a": {"b": 2}}, {"a": {"b": 3}}, "value", "['a']['b']"),
    ([1, 2], [1, 2, 3], "length", ""),
    (np.arange(3), [0, 1, 2], "length", ""),
    ([1, HALF, HALF * 2], [1, HALF, HALF], "value", "[2][0, 0]"),
])
def test_different(received, expected, kind, place):
    found = compare(received, expected)
    assert found is not None
    assert (found.kind, found.place) == (kind, place)
    assert "received" in str(found)
    assert "expected" in str(found)


# ---- which mistake is named -----------------------------------------------------------------------------------------

class Fake:
    """A worker that answers with a function of ours."""

    def __init__(self, function):
        self.function = function

    def call(self, name, *arguments):
        return self.function(*arguments)


DOUBLED = Misconception("lora.scale_twice", "it is doubled", lambda x: 2 * x)
SQUARED = Misconception("lora.square", "it is squared", lambda x: x * x)
FAULTY = Misconception("lora.sign", "it cannot be", lambda x: x / [])


def asked(function, cases, oracle=lambda x: x, misconceptions=(), part=None) -> Wrong | None:
    submission = Submission(Fake(function), LORA, 0, "test_forward")
    try:
        submission.agrees("lora_forward", [(case,) for case in cases], oracle, misconceptions, part)
    except Wrong as wrong:
        return wrong
    return None


def test_what_is_right_passes():
    assert asked(lambda x: x, [1.0, 2.0], misconceptions=[DOUBLED]) is None


def test_a_mistake_is_named_with_its_section():
    wrong = asked(lambda x: 2 * x, [1.0, 3.0], misconceptions=[SQUARED, DOUBLED])
    assert wrong.mistake == "lora.scale_twice"
    assert str(wrong) == ("lora_forward(1.0), received 2, expected 1. It looks as if it is doubled. "
                          "See lesson 04_lora, section scaling.")


def test_a_mistake_is_named_only_if_it_explains_every_case():
    assert asked(lambda x: 4.0, [2.0, 3.0], misconceptions=[DOUBLED, SQUARED]).mistake == "numeric"


def test_a_mistake_that_no_case_tells_from_the_truth_is_not_named():
    """With wrong answers elsewhere, one that gives the truth would never be meant."""
    same_as_oracle = Misconception("lora.sign", "nothing is wrong", lambda x: x)
    assert asked(lambda x: 2 * x, [1.0], misconceptions=[same_as_oracle, DOUBLED]).mistake == "lora.scale_twice"


def test_a_mistake_that_cannot_be_made_is_passed_over():
    assert asked(lambda x: 2 * x, [1.0], misconceptions=[FAULTY, DOUBLED]).mistake == "lora.scale_twice"


def test_all_cases_are_asked_before_anything_is_said():
    asked_for = []
    assert asked(lambda x: asked_for.append(x) or 0.0, [1.0, 2.0, 3.0]) is not None
    assert asked_for == [1.0, 2.0, 3.0]


def test_other_differences_are_named_by_their_kind():
    assert asked(lambda x: x.T, [HALF]).mistake == "shape"
    assert asked(lambda x: x.astype(np.float16), [HALF]).mistake == "dtype"
    assert asked(lambda x: str(x), [1.0]).mistake == "type"


def test_what_is_nearly_right_is_told_so():
    in_single = asked(lambda x: x.astype(np.float32).astype(np.float64), [HALF / 3])
    assert (in_single.mistake, "float32" in str(in_single)) == ("precision", True)
    assert asked(lambda x: {"a": [x + 1e-7]}, [1.0], lambda x: {"a": [x]}).mistake == "precision"
    assert asked(lambda x: x + 1e-7 if x < 2 else x + 1, [1.0, 2.0]).mistake == "numeric"
    assert asked(lambda x: x * (1 + 1e-7), [1.0], misconceptions=[
        Misconception("lora.bound", "it is", lambda x: x * (1 + 1e-7))]).mistake == "lora.bound"


def test_a_part_is_compared_alone():
    def gradients(x):
        return {"A": x, "B": 0 * x}

    assert asked(gradients, [HALF], part="A") is None
    wrong = asked(gradients, [HALF], part="B")
    assert (wrong.mistake, "['B'][0, 0]" in str(wrong)) == ("numeric", True)
    assert asked(gradients, [HALF], part="C").mistake == "keys"
    assert asked(lambda x: [x, 0 * x], [HALF], part=0) is None
    assert asked(lambda x: [x], [HALF], part=1).mistake == "length"
    assert asked(lambda x: x, [HALF], part="A").mistake == "keys"


def test_oracles_and_mistakes_that_change_their_arguments_do_no_harm():
    def careless(x):
        x *= 2
        return x

    case = np.ones(2)
    wrong = asked(lambda x: 2 * x, [case], careless, [Misconception("lora.sign", "no", careless)])
    assert wrong is None
    assert case.tolist() == [1, 1]


def test_inputs_depend_on_seed_exercise_and_test():
    def drawn(seed: int, test: str, exercise=LORA) -> float:
        return float(Submission(Fake(None), exercise, seed, test).rng.random())

    first = drawn(0, "test_merge")
    assert first == drawn(0, "test_merge")
    assert len({first, drawn(1, "test_merge"), drawn(0, "test_count"), drawn(0, "test_merge", replace(LORA, slug="x"))}) == 4


def test_require_fails_with_its_message():
    submission = Submission(Fake(None), LORA, 0, "test_init")
    submission.require(True, "lora_init", "nothing")
    with pytest.raises(Wrong, match="lora_init: B is not zero. See lesson 04_lora, section zero-start.") as caught:
        submission.require(False, "lora_init", "B is not zero", "lora.both_random")
    assert (caught.value.function, caught.value.mistake) == ("lora_init", "lora.both_random")


def test_an_error_in_the_grader_is_told_in_one_line():
    assert message_of(Wrong("as it is", "f", "numeric")) == "as it is"
    assert message_of(TypeError("a\nb")) == (r"what came back is nothing that the grader can work with (TypeError: a\nb)")


# ---- the worker -----------------------------------------------------------------------------------------------------

HOSTILE = '''
import os, sys, time
import numpy as np

calls = 0

def count():
    global calls
    calls += 1
    return calls

def echo(*arguments):
    return list(arguments)

def change(x):
    x += 1
    return x

def sleep(seconds):
    time.sleep(seconds)

def forever():
    while True:
        pass

def leave():
    os._exit(0)

def stop():
    sys.exit("enough")

def fail():
    raise KeyError("q_proj")

def later():
    raise NotImplementedError

def strange():
    return {1, 2}

def zeros(count):
    return np.zeros(count)

def hungry():
    return float(np.ones(2**30).sum())

def say(text):
    print(text)
    return text

def read():
    return sys.stdin.read()

number = 5
'''


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("hostile") / "hostile.py"
    file.write_text(HOSTILE)
    return file


@pytest.fixture(scope="module")
def worker(hostile):
    with Worker(hostile, Limits(total=120.0)) as one:
        yield one


def failure(worker: Worker, function: str, *arguments: Any) -> Failure:
    with pytest.raises(Failure) as caught:
        worker.call(function, *arguments)
    return caught.value


def test_arguments_are_copies_and_may_not_be_changed(worker):
    x = np.ones(3)
    found = failure(worker, "change", x)
    assert (found.kind, "has changed what was passed in" in str(found)) == ("changed", True)
    assert x.tolist() == [1, 1, 1]
    assert same(worker.call("echo", None, True, 3, 0.5, "ä", {"a": [HALF]}), [None, True, 3, 0.5, "ä", {"a": [HALF]}])


def test_an_error_says_where_it_was_and_the_process_goes_on(worker):
    before = worker.call("count")
    found = failure(worker, "fail")
    assert (found.kind, str(found)) == ("error", "KeyError: 'q_proj'")
    assert found.where[-1].endswith('in fail: raise KeyError("q_proj")')
    assert failure(worker, "stop").kind == "error"
    assert failure(worker, "later").kind == "not-implemented"
    assert failure(worker, "nothing").kind == "missing"
    assert failure(worker, "number").kind == "missing"
    assert failure(worker, "strange").kind == "unusable"
    assert worker.call("count") == before + 1, "still the same process"


def test_what_is_printed_is_no_answer(worker):
    assert worker.call("say", "hello\nworld") == "hello\nworld"
    assert worker.call("read") == ""
    assert worker.call("echo", 1) == [1]


def test_after_a_crash_there_is_a_new_process(worker):
    worker.call("count")
    assert failure(worker, "leave").kind == "crash"
    assert worker.call("count") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_memory_is_limited(worker):
    found = failure(worker, "hungry")
    assert (found.kind, "Memory" in str(found)) == ("error", True)
    assert worker.call("echo", 1) == [1]


def test_a_call_that_does_not_end_is_ended(hostile):
    with Worker(hostile, Limits(call=4.0, total=60.0)) as worker:
        assert worker.call("count") == 1
        assert failure(worker, "forever").kind == "timeout"
        assert worker.call("count") == 1, "in a new process"


def test_time_for_all_calls_is_limited(hostile):
    with Worker(hostile, Limits(call=30.0, total=2.0)) as worker:
        assert failure(worker, "sleep", 60).kind == "timeout"
        assert worker.process is None
        found = failure(worker, "count")
        assert (found.kind, "used up" in str(found)) == ("timeout", True), "it is not even started"


def test_a_reply_takes_little_of_the_graders_memory(worker):
    assert worker.call("zeros", MOST_REPLY // 8 - 20).shape == (MOST_REPLY // 8 - 20,)
    found = failure(worker, "zeros", MOST_REPLY // 8)
    assert (found.kind, "at most 2,097,152 may be sent" in str(found)) == ("unusable", True)
    assert worker.call("zeros", 1).shape == (1,), "the same process goes on"


def test_a_longer_reply_is_not_read():
    assert _read(io.BytesIO(struct.pack("<I", MOST_REPLY + 1) + b"x" * (MOST_REPLY + 1))) is None
    assert _read(io.BytesIO(struct.pack("<I", 3) + b"abc")) == b"abc"


def test_a_file_that_never_loads_is_not_blamed_on_a_function(tmp_path):
    file = tmp_path / "lora.py"
    file.write_text("while True:\n    pass\n")
    with Worker(file, Limits(call=0.5)) as worker:
        assert str(failure(worker, "f")).startswith("lora.py had not been loaded after")


def test_a_file_that_cannot_be_loaded_says_why(tmp_path):
    for text, word in {"def f(:": "SyntaxError", "import tensorfoo": "'tensorfoo': only this file is graded",
                       "1 / 0": "division", "raise SystemExit": "SystemExit",
                       "raise NotImplementedError": "not written"}.items():
        file = tmp_path / "broken.py"
        file.write_text(text)
        with Worker(file) as worker:
            found = failure(worker, "f")
            assert word in str(found), found
            assert "submission.py" not in str(found), found
            assert found.kind in ("load", "not-implemented")


def test_a_file_that_may_not_be_read_is_said_and_nothing_left_behind(hostile, monkeypatch):
    def unreadable(path: Path, _: int) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("tinypeft.grading.process.read_file", unreadable)
    with Worker(hostile) as worker:
        found = failure(worker, "count")
    assert (found.kind, str(found)) == ("load", "it could not be read (Permission denied)")
    assert not worker.folder.exists()


def test_nothing_is_left_behind(hostile):
    with Worker(hostile) as worker:
        worker.call("count")
        process, folder = worker.process, worker.folder
        assert folder.is_dir()
    assert process.poll() is not None
    assert not folder.exists()


def test_a_submission_cannot_import_the_library(tmp_path):
    file = tmp_path / "cheat.py"
    file.write_text("def f():\n    import tinypeft\n    return 1\n")
    with Worker(file) as worker:
        assert failure(worker, "f").kind == "error"


# ---- grade_file, and its quick copy ---------------------------------------------------------------------------------

def without_seconds(report: Report) -> Report:
    return replace(report, tests=tuple(replace(test, seconds=0.0) for test in report.tests))


@pytest.fixture(scope="module")
def half_right(tmp_path_factory) -> Path:
    """Fails four tests, for four reasons."""
    file = tmp_path_factory.mktemp("half") / "half.py"
    text = BANK.reference.read_text("utf-8")
    for old, new in [("scaling * (x @ A.T)", "(x @ A.T)"), ("return W - alpha", "raise ValueError('no') or W - alpha"),
                     ('"A": du.T @ rows', '"A": (du.T @ rows).astype(np.float16)'), ("def rslora_scaling", "def other")]:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    return file


@pytest.fixture(scope="module")
def graded(half_right) -> Report:
    return grade_file(LORA, half_right, seed=3)


def test_a_report_has_points_and_mistakes(graded):
    failed = {test.name: test.mistake for test in graded.tests if not test.passed}
    assert failed == {"test_forward": "lora.no_scale", "test_unmerge": "error", "test_gradient_of_A": "dtype",
                      "test_rslora": "missing"}
    assert graded.score == graded.max - sum(LORA.points[name] for name in failed) == sum(test.points for test in graded.tests)
    assert [test.name for test in graded.tests] == list(LORA.points)
    assert (graded.exercise, graded.seed, graded.confined) == ("04_lora", 3, False)
    assert json.loads(json.dumps(graded.to_dict()))["tests"][0]["name"] == "test_init"


@pytest.mark.parametrize("trusted", [False, True], ids=["worker", "trusted"])
def test_direct_grading_gives_the_same_report(graded, half_right, trusted):
    (report,) = DirectGrader(LORA).grade(half_right, [3], trusted)
    assert without_seconds(report) == without_seconds(graded)


def test_a_trusted_file_that_cannot_be_loaded_fails_as_in_a_worker(tmp_path):
    file = tmp_path / "lora.py"
    file.write_text("import nothing_of_this_name")
    both = [DirectGrader(LORA).grade(file, [0], trusted)[0] for trusted in (False, True)]
    assert without_seconds(both[0]) == without_seconds(both[1])
    assert both[0].score == 0
    assert {test.mistake for test in both[0].tests} == {"load"}


def test_single_tests_can_be_graded(half_right):
    report = grade_file(LORA, half_right, tests=["test_merge"])
    assert {test.name: test.mistake for test in report.tests if test.name in ("test_merge", "test_count")} == {
        "test_merge": None, "test_count": "not-run"}
    assert report.score == LORA.points["test_merge"]


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.py"):
        grade_file(LORA, tmp_path / "nowhere.py")


def test_what_stands_beside_a_file_changes_nothing(half_right, graded, monkeypatch):
    """Not a conftest.py, no numpy.py, no settings of pytest or Python, neither there nor in the folder one is in."""
    folder = half_right.parent
    (folder / "conftest.py").write_text("raise SystemExit('conftest was read')")
    for module in ("numpy", "tinypeft", "json", "sitecustomize"):
        (folder / f"{module}.py").write_text(f"raise SystemExit('a false {module} was read')")
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --collect-only\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTEST_ADDOPTS", "--collect-only")
    monkeypatch.setenv("PYTEST_PLUGINS", "nothing_of_this_name")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("PYTHONSTARTUP", str(folder / "conftest.py"))
    assert without_seconds(grade_file(LORA, half_right, seed=3)) == without_seconds(graded)


def test_pytest_looks_into_no_folder_but_the_graders(tmp_path, half_right):
    """It would list all that lies beside the folders above, and take longer the fuller they are."""
    exercise = replace(LORA, folder=tmp_path / LORA.slug, points={"test_alone": 100})
    exercise.folder.mkdir()
    exercise.grader.write_text("def test_alone(request):\n    assert len(request.node.listchain()) == 4\n")
    (found,) = grade_file(exercise, half_right).tests
    assert found.passed, found.message  # session, folder, file, test


# ---- plain pytest ---------------------------------------------------------------------------------------------------

def pytest_in(folder: Path, *options: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run plain pytest in a folder, without the plugins that this environment happens to have.

    Args:
        path: a folder with what is installed, in front of everything else.
    """
    others = {point.name for point in entry_points(group="pytest11")} - {"tinypeft.grading.plugin"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(path), str(ROOT)])
    return subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
                           *(option for name in sorted(others) for option in ("-p", f"no:{name}")), *options],
                          cwd=folder, env=environment, capture_output=True, text=True, check=False)


def learners_folder(folder: Path, file: Path) -> Path:
    exercise = folder / "04_lora"
    exercise.mkdir()
    for source in (LORA.folder / "exercise.toml", LORA.grader):
        (exercise / source.name).write_text(source.read_text("utf-8"))
    (exercise / LORA.file).write_text(file.read_text("utf-8"))
    return exercise


def test_plain_pytest_grades_the_file_beside_the_grader(tmp_path, half_right):
    learners_folder(tmp_path, half_right)
    done = pytest_in(tmp_path, "04_lora", "-p", "tinypeft.grading.plugin")
    assert "4 failed, 5 passed" in done.stdout, done.stdout + done.stderr
    assert "It looks as if the factor alpha / r is missing. See lesson 04_lora, section scaling." in done.stdout
    assert "Advisory: this was your own pytest" in done.stdout
    assert "Traceback" not in done.stdout
    assert "submission.py\", line" not in done.stdout, "no lines of ours"


def test_plain_pytest_in_a_learners_folder_takes_the_packaged_grader(tmp_path, half_right):
    exercise = tmp_path / "exercises" / "04_lora"
    exercise.mkdir(parents=True)
    (exercise / LORA.file).write_text(half_right.read_text("utf-8"))
    (tmp_path / "exercises" / "05_mine").mkdir()
    (tmp_path / "exercises" / "05_mine" / "test_mine.py").write_text("def test_mine():\n    pass\n")
    done = pytest_in(tmp_path, "exercises", "-p", "tinypeft.grading.plugin")
    assert "4 failed, 6 passed" in done.stdout, done.stdout + done.stderr
    assert "FAILED exercises/04_lora/lora.py::test_forward" in done.stdout
    assert "It looks as if the factor alpha / r is missing." in done.stdout
    assert "Advisory" in done.stdout
    other = pytest_in(tmp_path, "exercises/05_mine", "-p", "tinypeft.grading.plugin")
    assert "1 passed" in other.stdout
    assert "Advisory" not in other.stdout


@pytest.mark.parametrize("twice", [False, True], ids=["found", "found and asked for"])
def test_pytest_finds_the_plugin_by_itself(tmp_path, twice):
    """By its entry point, as an installed tinypeft has it; `-p` as well does no harm."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]["pytest11"]
    assert points == {"tinypeft.grading.plugin": "tinypeft.grading.plugin"}
    installed = tmp_path / "site" / "tinypeft_plugin-1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: tinypeft-plugin\nVersion: 1\n")
    (installed / "entry_points.txt").write_text("[pytest11]\n" + "".join(f"{a} = {b}\n" for a, b in points.items()))
    learners_folder(tmp_path, BANK.reference)
    done = pytest_in(tmp_path, "04_lora", *(["-p", "tinypeft.grading.plugin"] if twice else []), path=installed.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(LORA.points)} passed" in done.stdout


def test_the_plugin_loads_nothing_heavy():
    code = ("import sys, tinypeft.grading.plugin as plugin\n"
            "print(*[name for name in sys.modules if name.startswith('tinypeft.grading.')], sep=',')")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["tinypeft.grading.plugin"]


# ---- exercises, contract, bank, mutants -----------------------------------------------------------------------------

def test_exercises_are_found_by_number_and_name():
    assert {find_exercise(name).slug for name in ("4", "04", "04_lora", "lora")} == {"04_lora"}
    with pytest.raises(ValueError, match="no exercise 'lorra'; near: .*04_lora|There are"):
        find_exercise("lorra")


def test_a_test_that_is_skipped_has_no_points(tmp_path):
    folder = tmp_path / "04_lora"
    shutil.copytree(LORA.folder, folder)
    grader = folder / LORA.grader.name
    grader.write_text(grader.read_text("utf-8") + "\n\ndef test_init(submission):\n    __import__('pytest').skip()\n")
    found = grade_file(read_exercise(folder), folder / LORA.file, tests=["test_init"]).tests[0]
    assert (found.name, found.points, found.mistake) == ("test_init", 0, "skipped")


def test_points_have_to_add_up(tmp_path):
    folder = tmp_path / "04_lora"
    folder.mkdir()
    (folder / "exercise.toml").write_text((LORA.folder / "exercise.toml").read_text("utf-8").replace(
        "test_init = 10", "test_init = 11"))
    with pytest.raises(ValueError, match="add up to 101, not 100"):
        read_exercise(folder)


def test_the_contract_is_read_as_it_stands():
    contract = read_contract()
    assert set(all_exercises()) <= set(contract)
    text = (ROOT / "exercises" / "CONTRACT.md").read_text("utf-8")
    assert sum(map(len, contract.values())) == text.count("\n| `"), "a row was not understood"
    vjps = [name for functions in contract.values() for name, one in functions.items() if one.is_vjp]
    assert {name for name in vjps if name.endswith(("_vjp", "_backward"))} == {
        name for functions in contract.values() for name in functions if name.endswith(("_vjp", "_backward"))}
    assert contract["08_adapters"]["adapter_vjp"].parts == ("h", "W_down", "b_down", "W_up", "b_up")
    assert contract["01_autograd"]["add_vjp"].parts == (0, 1)
    assert contract["13_planning"]["choose"].parts == ("method", "r", "merged", "bytes")


@pytest.mark.parametrize(("entry", "message"), [
    ('fails = ["test_init"]', "either edit or file"),
    ('edit = [["alpha", "beta"]]\nfile = "x.py"\nfails = ["test_init"]', "either edit or file"),
    ('edit = [["alpha", "beta"]]', "no test"),
    ('edit = [["alpha", "beta"]]\nfails = ["test_nothing"]', "test_nothing"),
    ('edit = [["not in there", ""]]\nfails = ["test_init"]', "there is no 'not in there'"),
    ('edit = [["alpha", "beta"], ["beta", "alpha"]]\nfails = ["test_init"]', "leave reference.py as it is"),
    ('edit = [["alpha", "beta"]]\nfails = ["test_init"]\nmistakes = "lora.sign"', "mistakes"),
])
def test_a_bank_that_cannot_be_meant_is_refused(tmp_path, entry, message):
    (tmp_path / "reference.py").write_text(BANK.reference.read_text("utf-8"))
    (tmp_path / "bank.toml").write_text(f"[one]\n{entry}\n")
    with pytest.raises(ValueError, match=message):
        read_bank(LORA, tmp_path)


def test_without_a_bank_it_is_said_where_there_is_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="a clone of its repository"):
        read_bank(LORA, tmp_path)


def changes(source: str) -> set[str]:
    return {mutant.source.partition("return ")[2] for mutant in mutants(f"def f(x, y):\n    return {source}\n")}


@pytest.mark.parametrize(("source", "expected"), [
    ("x + y", {"x - y", "x", "y"}),
    ("x - y", {"x + y", "x", "y - x"}),
    ("np.abs(x - y)", {"np.abs(x + y)", "np.abs(x)"}),
    ("x / y", {"x * y", "x", "y / x"}),
    ("x @ y", {"y @ x"}),
    ("x // y", {"x * y", "x // y + 1"}),
    ("x < y", {"x <= y", "x > y"}),
    ("x and y", {"x or y", "x", "y"}),
    ("not x", {"x"}),
    ("-x", {"x"}),
    ("x.T", {"x"}),
    ("x.swapaxes(0, y)", {"x", "x.swapaxes(1, y)", "x.swapaxes(-1, y)"}),
    ("x.sum(axis=-1)", {"x.mean(axis=-1)", "x.sum(axis=0)", "x.sum(axis=1)", "x.sum(axis=-2)"}),
    ("x[:y]", {"x[:y + 1]", "x[:y - 1]"}),
    ("x[1:]", {"x[2:]", "x[0:]"}),
    ("range(x)", {"range(x + 1)", "range(x - 1)"}),
    ("max(x, y)", {"min(x, y)"}),
    ("np.einsum('ij,jk->ik', x)", {"np.einsum('ij,jk->ki', x)"}),
    ("x if y else 0.5", {"x", "0.5", "x if y else 1.0", "x if y else 0.25"}),
    ("x.reshape(-1)", {"x.reshape(0)", "x.reshape(1)"}),
    ("zip(x, y, strict=True)", set()),
    ("f(x, keepdims=True)", {"f(x, keepdims=False)"}),
])
def test_mutants(source, expected):
    assert changes(source) == expected


def test_mutants_have_names_of_their_own_and_leave_texts_alone():
    source = ('"""One."""\n\nN: int = 3\n\n\n'
              'def f(x: "int | None") -> int:\n    """Two: 1 + 1."""\n    x += 1\n    return x + 1 + (x + 1)\n')
    found = list(mutants(source))
    assert len({mutant.name for mutant in found}) == len(found) == len({mutant.source for mutant in found})
    assert all('"""Two: 1 + 1."""' in mutant.source for mutant in found)
    assert {mutant.name for mutant in found if mutant.name.startswith("module")} == {
        "module: N: int = 3 -> N: int = 4", "module: N: int = 3 -> N: int = 2"}
    assert "f: x += 1 -> x -= 1" in {mutant.name for mutant in found}


def test_gradients_are_attacked_from_outside(tmp_path):
    source = "def f_vjp(x, g):\n    return [3 * g, x * g]\n"
    signatures = read_contract_of(tmp_path, "| `f_vjp(x, g)` | arrays | [dx, dy] |")
    x, g, found = np.arange(6.0).reshape(2, 3), np.full((2, 3), 2.0), {}
    for mutant in vjp_mutants(source, signatures):
        module: dict[str, Any] = {}
        exec(mutant.source, module)
        found[mutant.name] = [np.asarray(part).tolist() for part in module["f_vjp"](x, g)]
    assert len(found) == 9
    assert found["f_vjp: sign flipped"] == [(-3 * g).tolist(), (-x * g).tolist()]
    assert found["f_vjp[1]: sign flipped"] == [(3 * g).tolist(), (-x * g).tolist()]
    assert found["f_vjp[0]: upstream gradient ignored"] == [[[3.0] * 3] * 2, (x * g).tolist()]
    assert found["f_vjp[1]: axes reversed"] == [(3 * g).tolist(), (x * g).T.tolist()]


def read_contract_of(folder: Path, row: str):
    (folder / "CONTRACT.md").write_text(f"## 99 small\n\n{row}\n")
    return read_contract(folder / "CONTRACT.md")["99_small"]


def test_the_bank_of_04_has_what_every_gradient_check_must_reject():
    assert BANKS == ROOT / "tests" / "exercises"
    assert {f"sign_of_{name}" for name in "ABx"} | {"upstream_dropped", "transposed_gradient_of_A", "transposed_gradient_of_B",
                                                    "last_row_only"} <= set(BANK.wrong)


@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_agrees_with_nothing(number):
    for received in (1.0, number, 1e300):
        assert compare(received, float(number)) is not None
        assert compare(np.array([1.0, received]), np.array([1.0, number])) is not None
