"""A worker as the grader sees it: started, asked, timed, and ended as a group.

    worker.call("lora_forward", x, W, A, B, alpha)  ->  what came back, or a Failure that says why nothing did
"""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tinypeft.grading.archive import read_file, unreadable
from tinypeft.grading.compare import clean
from tinypeft.grading.confine import AS_NOBODY, WORKER, as_nobody, confined_command, system_call_filter
from tinypeft.grading.worker import MOST_REPLY, WireError, decode, encode, send

CALL_SECONDS, TOTAL_SECONDS = 5.0, 10.0
MEMORY = 2 * 2**30
PRINTED = 4_000  # bytes of what was printed that are kept
MOST_SOURCE = 2**20  # bytes of a submission
ALONE = ": only this file is graded, with NumPy, SciPy and the standard library"


class Failure(Exception):
    """A call that brought no result.

    Attributes:
        kind: "missing", "not-implemented", "error", "changed" (what was passed in), "unusable", "timeout", "crash" or "load".
        where: lines of the submission that it came from, innermost last.
    """

    def __init__(self, kind: str, message: str, where: Sequence[str] = ()):
        super().__init__(message)
        self.kind, self.where = kind, tuple(where)


@dataclass(frozen=True)
class Limits:
    """Seconds for a call and for all calls together, and bytes of memory."""

    call: float = CALL_SECONDS
    total: float = TOTAL_SECONDS
    memory: int = MEMORY


class Worker:
    """Runs the functions of one file in a process of their own; a new one after a crash or a time-out.

    Args:
        submission: the learner's file.
        limits: of time and memory.
        confined: in a bubblewrap sandbox (see confine.py), or as an ordinary process.
        ours: whether the file is no learner's but one of ours, which may import tinypeft.
    """

    def __init__(self, submission: Path, limits: Limits | None = None, confined: bool = False, ours: bool = False):
        self.limits, self.confined, self.ours = limits or Limits(), confined, ours
        self.folder = Path(tempfile.mkdtemp(prefix="tinypeft-"))
        self.file, self.name = self.folder / "submission.py", submission.name
        refused = _copy(submission, self.file)
        self.unloaded = None if refused is None else Failure("load", refused)  # it will not load a second time either
        self.left = self.limits.total
        self.process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a function of the submission.

        Raises:
            Failure: nothing usable came back.
        """
        if self.unloaded is not None:
            raise self.unloaded
        if self.left <= 0:
            raise Failure("timeout", f"the {self.limits.total:g} s for this exercise are used up")
        reply = self._exchange(function, arguments)
        if "result" in reply:
            return reply["result"]
        raise failure_of(reply, self.name)

    def printed(self) -> str:
        """The end of what the submission has printed."""
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - PRINTED))
        return "\n".join(map(clean, self._log.read().decode("utf-8", "replace").splitlines()))

    def close(self) -> None:
        """End the process and all that it has started, and remove its folder."""
        self._end()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _exchange(self, function: str, arguments: Sequence[Any]) -> dict[str, Any]:
        number = secrets.randbits(52)  # so that a reply belongs to this request, and was not sent before it
        message = encode({"number": number, "function": function, "arguments": list(arguments)})
        started = time.monotonic()
        end, waiting_for = started + self.left, f"{self.name} had not been loaded"
        try:
            if self.process is None:
                self._start()
                reply = self._receive(end)
                if "ready" not in reply:
                    self._end()
                    self.unloaded = failure_of(reply, self.name, loading=True)
                    raise self.unloaded
            waiting_for = f"{function} had not returned"
            self.requests.put(message)
            reply = self._receive(end)
            if reply.get("number") != number:
                raise WireError("a reply to something else")
            return reply
        except queue.Empty:
            self._end()
            seconds = time.monotonic() - started
            raise Failure("timeout", f"{waiting_for} after {seconds:.3g} s") from None
        except (EOFError, WireError) as error:
            self._end()
            raise Failure("crash", f"in {function} the process ended, or sent something else than a result ({error})") from None
        finally:
            self.left -= time.monotonic() - started

    def _start(self) -> None:
        arguments = [str(self.limits.memory), str(int(self.limits.total) + 5), *(["ours"] if self.ours else [])]
        kept = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}  # Windows starts nothing without it
        if as_nobody() and not self.confined and not self.ours:
            kept[AS_NOBODY] = "1"
            self.folder.chmod(0o711)  # whoever the worker becomes has to find its file
        with contextlib.ExitStack() as stack:
            filters = [stack.enter_context(file) for file in [system_call_filter()] if self.confined and file is not None]
            rules = [file.fileno() for file in filters]
            command = (confined_command(self.folder, arguments, next(iter(rules), None), self.ours) if self.confined
                       else [sys.executable, "-I", "-B", str(WORKER), str(self.file), *arguments])
            try:
                self.process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, cwd=self.folder,
                    start_new_session=True, pass_fds=rules,
                    env={"PATH": os.defpath, "OPENBLAS_NUM_THREADS": "1"} | kept)
            except OSError as error:
                raise EOFError(f"it could not be started: {error.strerror}") from None
        self.requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.replies: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=_converse, args=(self.process, self.requests, self.replies), daemon=True).start()

    def _receive(self, end: float) -> dict[str, Any]:
        seconds = min(self.limits.call, end - time.monotonic())
        message = self.replies.get(timeout=max(0.0, seconds))
        if message is None:
            raise EOFError("end of file")
        reply = decode(message)
        if not isinstance(reply, dict):
            raise WireError("no reply")
        return reply

    def _end(self) -> None:
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.name == "posix":
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()
        self.process.wait()
        self.requests.put(None)  # its thread closes the pipes: who closes them here may wait for a process that got away
        self.process = None


def _copy(submission: Path, file: Path) -> str | None:
    """Copy what was handed in, unless it is something else than a file, or may not be read: then why not."""
    try:
        content = read_file(submission, MOST_SOURCE)
    except (ValueError, OSError) as error:
        return unreadable(error)
    file.write_bytes(content)
    file.chmod(0o644)  # whoever the worker becomes may read it
    return None


def failure_of(reply: dict[str, Any], name: str, loading: bool = False) -> Failure:
    """Of an error as the worker tells it. Nothing in it need be what it should be.

    Args:
        name: of the learner's file, which is called submission.py there.
    """
    error, message, lines = (reply.get(name) for name in ("error", "message", "where"))
    error = clean(error, 100) if isinstance(error, str) else "error"
    message = clean(message, 1000).replace("submission.py", name) if isinstance(message, str) else ""
    where = [clean(line, 300) for line in lines[:3] if isinstance(line, str)] if isinstance(lines, list) else []
    if error == "NotImplementedError":
        return Failure("not-implemented", "not written yet", where)
    if error == "ModuleNotFoundError":
        message += ALONE
    if error in ("missing", "unusable", "changed"):
        return Failure(error, message, where)
    return Failure("load" if loading else "error", f"{error}: {message}" if message else error, where)


def _converse(process: subprocess.Popen[bytes], requests: queue.SimpleQueue[bytes | None],
              replies: queue.SimpleQueue[bytes | None]) -> None:
    """Read one message, then one more for each request; None where there is none, or one that is too long.

    In a thread, because a process that neither reads nor writes would let us wait for ever. Nothing is read that was not asked
    for: what a process sends without end stays on its side.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(OSError), process.stdout, process.stdin:  # it may be gone at any time
        message = _read(process.stdout)
        while message is not None:
            replies.put(message)
            if (request := requests.get()) is None:
                return
            send(process.stdin, request)
            message = _read(process.stdout)
    replies.put(None)


def _read(stream: IO[bytes]) -> bytes | None:
    header = stream.read(4)
    if len(header) < 4 or (length := struct.unpack("<I", header)[0]) > MOST_REPLY:
        return None
    message = stream.read(length)
    return message if len(message) == length else None


__all__ = ["Failure", "Limits", "Worker"]
