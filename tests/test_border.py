"""The border between a grader and a submission: only plain trees pass, at a bounded price, and one reply for one request."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from tinypeft.grading import confine
from tinypeft.grading.compare import clean, compare, describe
from tinypeft.grading.confine import can_confine, confined_command, system_call_filter
from tinypeft.grading.process import Failure, Limits, Worker
from tinypeft.grading.submission import Wrong
from tinypeft.grading.worker import MOST_DEPTH, MOST_TEXT, WireError, decode, encode

DTYPES = [np.bool_, np.int8, np.uint8, np.int16, np.int32, np.uint32, np.int64, np.uint64, np.float16, np.float32, np.float64]
arrays = st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0)))
trees = st.recursive(st.none() | st.booleans() | st.integers(-2**70, 2**70) | st.floats() | st.text() | arrays,
                     lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and (a == b or (a != a and b != b))


def message(tree: Any, behind: bytes = b"") -> bytes:
    text = json.dumps(tree).encode()
    return struct.pack("<I", len(text)) + text + behind


@pytest.mark.parametrize("description", [
    ["<f8", [2**60, 2**60]], ["<f8", [2**26, 2**26]], ["<f8", [-1]], ["<f8", [2, -1, -1]], ["<f8", [1.0]], ["<f8", [True]],
    ["<f8", None], ["<f8", "2"], ["<f8", [1] * 100], ["<f8", [10**400]], ["|O", [1]], ["<U4", [1]], ["<c16", [1]], ["|V8", [1]],
    ["<M8[s]", [1]], ["f8,f8", [1]], [["<f8"], [1]], [{}, [1]], [], "<f8", None, 5, ["<f8", [1], 1], ["<f8", [3]]])
def test_an_array_is_what_its_bytes_can_be(description: Any):
    with pytest.raises(WireError):
        decode(message({"result": {"$array": description}}, bytes(16)))


@pytest.mark.parametrize("text", [b"[" * 100_000, b"[" * 30 + b"]" * 30, b'{"a":' * 30 + b"1" + b"}" * 30, b"\xff\xfe", b"",
                                  b"1" * 5000, b"[" + b"[]," * (MOST_TEXT // 3) + b"[]]"])
def test_text_that_costs_more_than_it_says_is_refused(text: bytes):
    with pytest.raises(WireError):
        decode(struct.pack("<I", len(text)) + text)


def test_depth_is_the_same_on_both_sides():
    def nested(depth: int) -> Any:
        return [nested(depth - 1)] if depth else 1

    assert decode(encode({"result": nested(MOST_DEPTH - 1)}))
    with pytest.raises(WireError, match="nested"):
        encode({"result": nested(MOST_DEPTH)})


def test_truth_values_are_two():
    (received,) = decode(message([{"$array": ["|b1", [3]]}], b"\0\1\2"))
    assert received.tobytes() == b"\0\1\1"


def test_numbers_in_another_order_of_bytes_are_numbers():
    sent = np.arange(3, dtype=">i8")
    assert same(decode(encode(sent)), np.arange(3))


# ---- what is said of it ----------------------------------------------------------------------------------------------

HOSTILE = "\x1b[2J\u202e\ud800\u2028\x00one\r\ntwo\t"


@given(st.text(st.characters(exclude_categories=())) | st.just(HOSTILE))
def test_a_line_for_a_report_is_one_line_that_can_be_printed(text: str):
    line = clean(text, 50)
    assert line.isprintable()
    assert len(line) <= 50 * len("\\U0010ffff")
    line.encode("utf-8")
    assert clean("x" * 100, 50) == "x" * 47 + "..."


@given(trees, trees | st.just(0.5) | st.just(3) | st.just(np.ones((2, 2))))
def test_comparing_anything_with_anything_says_something_short(received: Any, expected: Any):
    difference = compare(decode(encode(received)), expected)
    assert difference is None or len(str(difference)) < 2000
    assert len(describe(received)) < 500


@pytest.mark.parametrize(("received", "expected"), [
    (10**1000, 1.0), (-(10**1000), 1.0), (float("nan"), 1.0), (float("inf"), 1.0), (np.float32("nan"), 1.0), (True, 1.0),
    ("1", 1.0), (np.full(2, np.nan), np.ones(2)), (np.ones(2, np.float16), np.ones(2)), (np.ones(2, bool), np.ones(2)),
    (1.0, 1), (True, 1), (np.ones(2, np.int32), np.ones(2, np.int64)), ([1.0, 1.0], np.ones(2)), (np.ones((2, 1)), np.ones(2)),
    ({"a": 1}, {"a": 1, "b": 2}), (np.ones((0, 2)), np.ones((1, 2))), (None, 0)])
def test_what_is_not_right_is_different(received: Any, expected: Any):
    assert compare(decode(encode(received)), expected) is not None


def test_whole_numbers_of_numpy_are_whole_numbers():
    assert compare(decode(encode(np.int64(3))), np.int32(3)) is None
    assert compare(3.0, np.int64(3)) is not None


def test_an_array_of_one_number_is_that_number():
    for number in (3, 2.5, True):
        assert compare(decode(encode(np.array(number))), number) is None


def test_a_failure_speaks_in_few_printable_lines():
    text = str(Wrong("f: " + HOSTILE + "\n" * 500 + "x" * 10**6, "f", "numeric"))
    assert len(text.splitlines()) <= 10
    assert len(text) < 5000
    assert all(one.isprintable() for one in text.splitlines())


# ---- requests and replies --------------------------------------------------------------------------------------------


def worker(tmp_path: Path, text: str, **limits: float) -> Worker:
    (tmp_path / "submission.py").write_text(text)
    return Worker(tmp_path / "submission.py", Limits(**limits))  # type: ignore[arg-type]


def test_a_reply_answers_its_request_and_no_other(tmp_path: Path):
    text = ("import sys\nmain = sys.modules['__main__']\n"
            "def twice(n):\n    line = sys._getframe(2).f_locals\n"
            "    main.send(line['replies'], main.encode({'number': line['request']['number'], 'result': 'first'}))\n"
            "    return 'second'\n"
            "def plain(n):\n    return n\n")
    with worker(tmp_path, text) as asked:
        assert asked.call("twice", 1) == "first"
        with pytest.raises(Failure, match="something else") as caught:
            asked.call("plain", 2)
        assert caught.value.kind == "crash"
        assert asked.call("plain", 3) == 3


def test_a_file_that_does_not_load_is_loaded_once(tmp_path: Path):
    text = f"open({str(tmp_path / 'loads')!r}, 'a').write('x')\nraise ValueError('no')"
    with worker(tmp_path, text) as asked:
        for _ in range(3):
            with pytest.raises(Failure, match="ValueError: no") as caught:
                asked.call("f")
            assert caught.value.kind == "load"
    assert (tmp_path / "loads").read_text() == "x"


def test_what_is_printed_is_kept_to_its_end_and_cleaned(tmp_path: Path):
    with worker(tmp_path, "def f():\n    print('x' * 10**5 + chr(10) + chr(27) + 'end', flush=True)") as asked:
        asked.call("f")
        assert asked.printed().endswith("\n\\x1bend")
        assert len(asked.printed()) < 5000


# ---- the sandbox -----------------------------------------------------------------------------------------------------


def test_a_sandbox_that_does_not_work_is_not_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho 'No permissions to create a new namespace' >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(confine.sys, "platform", "linux")
    can_confine.cache_clear()
    assert "No permissions to create a new namespace" in str(can_confine())
    can_confine.cache_clear()


def test_packages_are_out_of_sight_wherever_the_library_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    packages = tmp_path / "lib" / "python3.12" / "site-packages"
    (packages / "tinypeft").mkdir(parents=True)
    monkeypatch.setattr(confine.sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr(confine.sys, "_base_executable", str(tmp_path / "bin" / "python3"), raising=False)
    command = confined_command(tmp_path, [])
    place = "/python/lib/python3.12/site-packages"
    assert command.index("--tmpfs") < command.index(place)
    assert command[command.index(place) - 1] == "--tmpfs"
    assert ["--remount-ro", place] in [command[i:i + 2] for i in range(len(command))]
    assert ["--remount-ro", "/"] in [command[i:i + 2] for i in range(len(command))]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_rules_for_system_calls_are_a_program(machine: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(confine.platform, "machine", lambda: machine)
    architecture, calls = confine.CALLS[machine]
    rules = system_call_filter()
    assert rules is not None
    with rules as file:
        content = file.read()
    lines = [struct.unpack("<HBBI", content[i:i + 8]) for i in range(0, len(content), 8)]

    def run(number: int, flags: int = 0, processor: int = architecture) -> int:
        """As the kernel does it."""
        loaded, at = 0, 0
        while True:
            code, yes, no, value = lines[at]
            at += 1
            if code == 0x20:
                loaded = {0: number, 4: processor, 16: flags}[value]
            elif code == 0x06:
                return value
            else:
                holds = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}[code]
                at += yes if holds else no

    allowed, refused = 0x7FFF0000, 0x00050001
    assert run(0) == run(calls["clone"], 0x11) == allowed
    assert {run(number) for name, number in calls.items() if name not in ("clone", "clone3")} == {refused}
    assert run(calls["clone"], 0x10000011) == refused
    assert run(calls["clone3"]) == 0x00050026
    assert run(0, processor=1) == run(0x40000000) == 0x80000000
