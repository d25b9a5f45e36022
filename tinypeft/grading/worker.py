"""The process that a learner's code runs in, and the form in which arguments and results cross its border.

    request   [4 bytes: length of what follows] [4 bytes: length of the JSON] [JSON: number, function, arguments] [arrays]
    reply     the same, with the number of its request, of a result or of an error

An array is {"$array": ["<f8", [2, 3]]} in the JSON, and its bytes stand behind it, in the order of the JSON: no header to be
parsed, no pickle. Nothing of this process is believed: what comes back is decoded by `decode`, which takes plain values and
plain arrays and nothing else, in time and memory that are a small multiple of the message. This file needs NumPy only, so that
it can be the only one of ours that is in sight of the learner's code.
"""

from __future__ import annotations

import importlib.util
import io
import json
import math
import os
import struct
import sys
import traceback
from typing import IO, Any

import numpy as np

MOST_BYTES = 64 * 2**20  # of a message
MOST_REPLY = 2 * 2**20  # of one that comes back: the grader keeps those of all cases of a test
MOST_TEXT = 2**20  # of these, of the JSON: a list of empty lists takes thirty times its text in memory
MOST_DEPTH = 20  # of a tree
MOST_AXES = 32
DTYPES = {name: np.dtype(name) for name in ("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8")}
ARRAY = "$array"
OWN_USERS, NOBODY = 200_000, 65534  # user numbers that belong to nobody: one of many for each worker, or the usual one
CHANGED = "it has changed what was passed in, such as by `W += ...`: work on a copy, or make a new array"
MOST_WRITTEN, MOST_FILES = 10 * 2**20, 64  # bytes of a file, and open files


class WireError(ValueError):
    """What was sent is not a tree of plain values and arrays, or is too large."""


# ---- trees as bytes -------------------------------------------------------------------------------------------------

def encode(tree: Any, most: int = MOST_BYTES) -> bytes:
    """A tree of None, bool, int, float, str, lists, tuples, dicts with string keys, and arrays, as bytes.

    Raises:
        WireError: anything else in it, or too much of it.
    """
    arrays: list[np.ndarray] = []
    try:
        text = json.dumps(_plain(tree, arrays, 0)).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(str(error)) from None
    size = 4 + len(text) + sum(array.nbytes for array in arrays)
    if len(text) > MOST_TEXT or size > most:
        raise WireError(f"{size:,} bytes, where at most {most:,} may be sent, {MOST_TEXT:,} of them outside of arrays")
    return b"".join([struct.pack("<I", len(text)), text, *(array.tobytes() for array in arrays)])


def _plain(value: Any, arrays: list[np.ndarray], depth: int) -> Any:
    if depth > MOST_DEPTH:
        raise WireError(f"nested more than {MOST_DEPTH} deep")
    if isinstance(value, np.generic) and not (isinstance(value, np.floating) and value.dtype != np.float64):
        value = value.item()  # float32 numbers stay arrays, so that their precision is known
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):  # here and below: or of a class of the learner's, such as a member of an enumeration
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        dtype = array.dtype.newbyteorder("<")
        if dtype.str not in DTYPES:
            raise WireError(f"an array of {array.dtype} cannot be sent: only arrays of truth values, of integers, and of "
                            "floating-point numbers of at most 8 bytes; text goes into a list")
        if array.nbytes > MOST_BYTES:
            raise WireError(f"an array of {array.dtype} with {array.size:,} numbers cannot be sent: it is too large")
        arrays.append(array.astype(dtype, copy=False))
        return {ARRAY: [dtype.str, list(array.shape)]}
    if isinstance(value, list | tuple):
        return [_plain(item, arrays, depth + 1) for item in value]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str) or key == ARRAY:
                raise WireError(f"a dict with {key!r:.40}, {_a(key)}, as a key cannot be sent: keys are text")
        return {str.__str__(key): _plain(item, arrays, depth + 1) for key, item in value.items()}
    raise WireError(f"{_a(value)} cannot be sent: only numbers, text, None, lists, dicts with text as keys, and arrays of "
                    "numbers can")


def _a(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def decode(message: bytes) -> Any:
    """The tree again.

    Raises:
        WireError: it is no message of `encode`, or holds other arrays than of plain numbers.
    """
    try:
        (length,) = struct.unpack_from("<I", message)
        if length > MOST_TEXT:
            raise WireError("too much text")
        tree, place = _with_arrays(json.loads(message[4:4 + length]), message, 4 + length, 0)
    except WireError:
        raise
    except (struct.error, ValueError, RecursionError, MemoryError) as error:
        raise WireError(f"not a message: {type(error).__name__}") from None
    if place != len(message):
        raise WireError("its lengths do not add up")
    return tree


def _with_arrays(value: Any, message: bytes, place: int, depth: int) -> tuple[Any, int]:
    """The tree with its arrays, which begin at `place` of the message, and the place where they end."""
    if depth > MOST_DEPTH + 1:  # the tree is an entry of the reply
        raise WireError(f"nested more than {MOST_DEPTH} deep")
    if isinstance(value, list):
        for i, item in enumerate(value):
            value[i], place = _with_arrays(item, message, place, depth + 1)
    elif isinstance(value, dict) and set(value) == {ARRAY}:
        return _array(value[ARRAY], message, place)
    elif isinstance(value, dict):
        for key, item in value.items():
            value[key], place = _with_arrays(item, message, place, depth + 1)
    return value, place


def _array(description: Any, message: bytes, place: int) -> tuple[np.ndarray, int]:
    name, shape = description if isinstance(description, list) and len(description) == 2 else (None, None)
    if not isinstance(name, str) or name not in DTYPES or not isinstance(shape, list) or len(shape) > MOST_AXES:
        raise WireError("an array that is none")
    if not all(type(n) is int and 0 <= n <= MOST_BYTES for n in shape):
        raise WireError("an array of an impossible shape")
    end = place + math.prod(shape) * DTYPES[name].itemsize
    if end > len(message):
        raise WireError("an array that is longer than the message")
    array = np.ndarray(shape, DTYPES[name], message, place)
    if name == "|b1":  # a byte 2 would be a third truth value
        return np.asarray(array.view(np.uint8) != 0), end
    return array.copy(), end


def send(stream: IO[bytes], message: bytes) -> None:
    stream.write(struct.pack("<I", len(message)) + message)
    stream.flush()


# ---- the process ----------------------------------------------------------------------------------------------------

def separate() -> bool:
    """Whether this process is to have a user to itself: in a sandbox, or where root can make none (see confine.py)."""
    return "TINYPEFT_CONFINED" in os.environ or "TINYPEFT_AS_NOBODY" in os.environ


def _limit(memory: int, seconds: int) -> None:
    """What this process may use, where the system can limit it."""
    try:
        import resource
    except ImportError:  # Windows
        return
    wanted = {"RLIMIT_AS": memory, "RLIMIT_CPU": seconds, "RLIMIT_FSIZE": MOST_WRITTEN, "RLIMIT_NOFILE": MOST_FILES,
              "RLIMIT_CORE": 0}
    if separate():  # no second process or thread, each of which would have its own memory; elsewhere all of the user's count
        wanted["RLIMIT_NPROC"] = 1
    for name, most in wanted.items():
        kind = getattr(resource, name, None)
        if kind is None or (name == "RLIMIT_AS" and sys.platform == "darwin"):
            continue
        try:
            resource.setrlimit(kind, (most, most))
        except (ValueError, OSError):  # a lower limit is there already
            continue


def _become_nobody() -> None:
    """For good: limits do not hold for root. Each worker is another nobody, so that none can use up what another may have."""
    os.setgroups([])
    for user in (OWN_USERS + int.from_bytes(os.urandom(2), "little"), NOBODY):
        try:
            os.setgid(user)
            os.setuid(user)
            return
        except OSError:  # in a container that has few user numbers
            continue
    raise OSError("root could not become another user")


def load(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("submission", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["submission"] = module
    spec.loader.exec_module(module)
    return module


def told(error: BaseException, path: str) -> dict[str, Any]:
    """An error as a reply: its last line, and the lines of the learner's file that it came from."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    where = [f"line {frame.lineno}, in {frame.name}: {frame.line}" for frame in frames[-3:]]
    return {"error": type(error).__name__, "message": str(error)[:2000], "where": where}


def answer(module: Any, request: dict[str, Any], path: str) -> dict[str, Any]:
    function = getattr(module, request["function"], None)
    if not callable(function):
        return {"error": "missing", "message": f"there is no function {request['function']}", "where": []}
    before = encode(request["arguments"])
    try:
        result = function(*request["arguments"])
        if encode(request["arguments"]) != before:
            return {"error": "changed", "message": CHANGED, "where": []}
        return {"result": result}
    except NotImplementedError as error:
        return {**told(error, path), "error": "NotImplementedError"}
    except BaseException as error:  # the learner's SystemExit and KeyboardInterrupt too
        return told(error, path)


def main(path: str, memory: int, seconds: int, ours: bool = False) -> None:
    """Answer requests on two pipes of our own, until the first one ends. What is printed goes elsewhere."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what the learner prints goes where errors go
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # at once: this process ends by being killed
    if separate() and os.getuid() == 0:
        _become_nobody()
    _limit(memory, seconds)
    if not ours:
        sys.modules["tinypeft"] = None  # type: ignore[assignment]  # `import tinypeft` fails here as it does in the sandbox
    try:
        module: Any = load(path)
        send(replies, encode({"ready": True}))
    except BaseException as error:
        send(replies, encode(told(error, path)))
        return
    while len(header := requests.read(4)) == 4:
        request = decode(requests.read(struct.unpack("<I", header)[0]))
        number, reply = request["number"], answer(module, request, path)
        try:
            message = encode(reply | {"number": number}, MOST_REPLY)
        except Exception as error:  # not only WireError: a list of the learner's own kind may raise anything
            message = encode({"error": "unusable", "message": str(error), "where": [], "number": number})
        send(replies, message)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), "ours" in sys.argv[4:])
