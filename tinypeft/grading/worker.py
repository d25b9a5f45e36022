"""The process that a learner's code runs in, and the form in which arguments and results cross its border.

    request   [4 bytes: length of what follows] [JSON: function and arguments] with arrays as .npy files behind it
    reply     the same, of a result or of an error

Nothing of this process is believed: what comes back is decoded by `decode`, which takes plain values and plain arrays and
nothing else. This file needs NumPy only, so that it can be the only one of ours that is in sight of the learner's code.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import struct
import sys
import traceback
from typing import Any, BinaryIO

import numpy as np

MOST_BYTES = 64 * 2**20  # of a message
MOST_DEPTH = 20  # of a tree
KINDS = "biuf"  # of arrays: booleans, integers, floats
ARRAY = "$array"
NOBODY = 65534
MOST_PROCESSES, MOST_WRITTEN = 16, 10 * 2**20  # bytes of a file


class WireError(ValueError):
    """What was sent is not a tree of plain values and arrays, or is too large."""


# ---- trees as bytes -------------------------------------------------------------------------------------------------

def encode(tree: Any) -> bytes:
    """A tree of None, bool, int, float, str, lists, tuples, dicts with string keys, and arrays, as bytes.

    Raises:
        WireError: anything else in it, or too much of it.
    """
    arrays: list[bytes] = []
    try:
        text = json.dumps(_plain(tree, arrays, 0)).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(str(error)) from None
    message = b"".join([struct.pack("<II", len(text), len(arrays)), text,
                        *(part for array in arrays for part in (struct.pack("<I", len(array)), array))])
    if len(message) > MOST_BYTES:
        raise WireError(f"{len(message):,} bytes, where at most {MOST_BYTES:,} may be sent")
    return message


def _plain(value: Any, arrays: list[bytes], depth: int) -> Any:
    if depth > MOST_DEPTH:
        raise WireError(f"nested more than {MOST_DEPTH} deep")
    if isinstance(value, np.generic) and not (isinstance(value, np.floating) and value.dtype != np.float64):
        value = value.item()  # float32 numbers stay arrays, so that their precision is known
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.kind not in KINDS or array.nbytes > MOST_BYTES:
            raise WireError(f"an array of {array.dtype} with {array.size:,} numbers cannot be sent")
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
        arrays.append(buffer.getvalue())
        return {ARRAY: len(arrays) - 1}
    if isinstance(value, list | tuple):
        return [_plain(item, arrays, depth + 1) for item in value]
    if isinstance(value, dict) and all(type(key) is str and key != ARRAY for key in value):
        return {key: _plain(item, arrays, depth + 1) for key, item in value.items()}
    raise WireError(f"a {type(value).__name__} cannot be sent: only numbers, text, None, lists, dicts with text as keys, and "
                    "NumPy arrays of them can")


def decode(message: bytes) -> Any:
    """The tree again.

    Raises:
        WireError: it is no message of `encode`, or holds other arrays than of plain numbers.
    """
    try:
        length, count = struct.unpack_from("<II", message)
        place = 8 + length
        arrays = []
        for _ in range(count):
            (size,) = struct.unpack_from("<I", message, place)
            piece = io.BytesIO(message[place + 4:place + 4 + size])
            array = np.lib.format.read_array(piece, allow_pickle=False)
            if array.dtype.kind not in KINDS or piece.read(1):
                raise WireError(f"an array of {array.dtype}")
            arrays.append(array)
            place += 4 + size
        if place != len(message):
            raise WireError("its lengths do not add up")
        return _with_arrays(json.loads(message[8:8 + length]), arrays)
    except WireError:
        raise
    except (struct.error, ValueError, TypeError, KeyError, IndexError, RecursionError, MemoryError, EOFError) as error:
        raise WireError(f"not a message: {type(error).__name__}") from None


def _with_arrays(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_with_arrays(item, arrays) for item in value]
    if isinstance(value, dict):
        if set(value) == {ARRAY}:
            return arrays[value[ARRAY]]
        return {key: _with_arrays(item, arrays) for key, item in value.items()}
    return value


def send(stream: BinaryIO, message: bytes) -> None:
    stream.write(struct.pack("<I", len(message)) + message)
    stream.flush()


# ---- the process ----------------------------------------------------------------------------------------------------

def confined() -> bool:
    """Whether this process is in the sandbox of confine.py."""
    return "TINYPEFT_CONFINED" in os.environ


def _limit(memory: int, seconds: int) -> None:
    """What this process may use, where the system can limit it."""
    try:
        import resource
    except ImportError:  # Windows
        return
    wanted = {"RLIMIT_AS": memory, "RLIMIT_CPU": seconds, "RLIMIT_FSIZE": MOST_WRITTEN, "RLIMIT_CORE": 0}
    if confined():  # elsewhere it would count all of the user's processes
        wanted["RLIMIT_NPROC"] = MOST_PROCESSES
    for name, most in wanted.items():
        kind = getattr(resource, name, None)
        if kind is None or (name == "RLIMIT_AS" and sys.platform == "darwin"):
            continue
        try:
            resource.setrlimit(kind, (most, most))
        except (ValueError, OSError):  # a lower limit is there already
            continue


def _load(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("submission", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["submission"] = module
    spec.loader.exec_module(module)
    return module


def _told(error: BaseException, path: str) -> dict[str, Any]:
    """An error as a reply: its last line, and the lines of the learner's file that it came from."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    where = [f"line {frame.lineno}, in {frame.name}: {frame.line}" for frame in frames[-3:]]
    return {"error": type(error).__name__, "message": str(error)[:2000], "where": where}


def _answer(module: Any, request: dict[str, Any], path: str) -> dict[str, Any]:
    function = getattr(module, request["function"], None)
    if not callable(function):
        return {"error": "missing", "message": f"there is no function {request['function']}", "where": []}
    try:
        return {"result": function(*request["arguments"])}
    except NotImplementedError as error:
        return {**_told(error, path), "error": "NotImplementedError"}
    except BaseException as error:  # the learner's SystemExit and KeyboardInterrupt too
        return _told(error, path)


def main(path: str, memory: int, seconds: int) -> None:
    """Answer requests on two pipes of our own, until the first one ends. What is printed goes elsewhere."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what the learner prints goes where errors go
    if confined() and os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)  # for good: the limit on processes does not hold for root
    _limit(memory, seconds)
    try:
        module: Any = _load(path)
        send(replies, encode({"ready": True}))
    except BaseException as error:
        send(replies, encode(_told(error, path)))
        return
    while len(header := requests.read(4)) == 4:
        request = decode(requests.read(struct.unpack("<I", header)[0]))
        reply = _answer(module, request, path)
        try:
            message = encode(reply)
        except WireError as error:
            message = encode({"error": "unusable", "message": str(error), "where": []})
        send(replies, message)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
