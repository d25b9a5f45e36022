"""A worker as the grader sees it: started, asked, timed, and ended as a group.

    worker.call("lora_forward", x, W, A, B, alpha)  ->  what came back, or a Failure that says why nothing did
"""

from __future__ import annotations

import contextlib
import os
import queue
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
from typing import Any

from tinypeft.grading.confine import WORKER, confined_command
from tinypeft.grading.worker import MOST_BYTES, WireError, decode, encode, send

CALL_SECONDS, TOTAL_SECONDS = 5.0, 10.0
MEMORY = 2 * 2**30
PRINTED = 4_000  # bytes of what was printed that are kept


class Failure(Exception):
    """A call that brought no result.

    Attributes:
        kind: "missing", "not-implemented", "error", "unusable", "timeout", "crash" or "load".
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
    """

    def __init__(self, submission: Path, limits: Limits | None = None, confined: bool = False):
        self.limits, self.confined = limits or Limits(), confined
        self.folder = Path(tempfile.mkdtemp(prefix="tinypeft-"))
        self.file = self.folder / "submission.py"
        shutil.copyfile(submission, self.file)
        self.left = self.limits.total
        self.process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a function of the submission.

        Raises:
            Failure: nothing usable came back.
        """
        message = encode({"function": function, "arguments": list(arguments)})
        if self.left <= 0:
            raise Failure("timeout", f"the {self.limits.total:g} s for this exercise are used up")
        reply = self._exchange(message, function)
        if "result" in reply:
            return reply["result"]
        raise self._failure(reply)

    def printed(self) -> str:
        """The end of what the submission has printed."""
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - PRINTED))
        return self._log.read().decode("utf-8", "replace")

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

    def _exchange(self, message: bytes, function: str) -> dict[str, Any]:
        started = time.monotonic()
        seconds = min(self.limits.call, self.left)
        try:
            if self.process is None:
                self._start()
                reply = self._receive(started + seconds)
                if "ready" not in reply:
                    self._end()
                    raise self._failure(reply, loading=True)
            self._send(message)
            return self._receive(started + seconds)
        except queue.Empty:
            self._end()
            raise Failure("timeout", f"{function} had not returned after {seconds:.3g} s") from None
        except (EOFError, WireError) as error:
            self._end()
            raise Failure("crash", f"in {function} the process ended, or sent something else than a result ({error})") from None
        finally:
            self.left -= time.monotonic() - started

    def _start(self) -> None:
        arguments = [str(self.limits.memory), str(int(self.limits.total) + 5)]
        command = (confined_command(self.folder, arguments) if self.confined
                   else [sys.executable, "-I", "-B", str(WORKER), str(self.file), *arguments])
        kept = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}  # Windows starts nothing without it
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, cwd=self.folder, start_new_session=True,
            env={"PATH": os.defpath, "OPENBLAS_NUM_THREADS": "1"} | kept)
        self.replies: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(self.process.stdout, self.replies), daemon=True).start()

    def _send(self, message: bytes) -> None:
        """By a thread: a process that does not read would let us wait for ever."""
        assert self.process is not None
        threading.Thread(target=_write, args=(self.process.stdin, message), daemon=True).start()

    def _receive(self, deadline: float) -> dict[str, Any]:
        message = self.replies.get(timeout=max(0.0, deadline - time.monotonic()))
        if message is None:
            raise EOFError("end of file")
        reply = decode(message)
        if not isinstance(reply, dict):
            raise WireError("no reply")
        return reply

    def _failure(self, reply: dict[str, Any], loading: bool = False) -> Failure:
        error, message = str(reply.get("error", "error")), str(reply.get("message", ""))
        where = [str(line)[:300] for line in reply.get("where", []) if isinstance(line, str)][:3]
        if error == "NotImplementedError":
            return Failure("not-implemented", "not written yet", where)
        if error in ("missing", "unusable"):
            return Failure(error, message, where)
        return Failure("load" if loading else "error", f"{error}: {message}" if message else error, where)

    def _end(self) -> None:
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.name == "posix":
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self.process = None


def _listen(stream: Any, replies: queue.SimpleQueue[bytes | None]) -> None:
    """Pass on one message after the other, and None at the end, or instead of one that is too long."""
    with contextlib.suppress(OSError, ValueError):  # closed by us
        while len(header := stream.read(4)) == 4:
            (length,) = struct.unpack("<I", header)
            if length > MOST_BYTES or len(message := stream.read(length)) < length:
                break
            replies.put(message)
    replies.put(None)


def _write(stream: Any, message: bytes) -> None:
    with contextlib.suppress(OSError, ValueError):  # it is gone: that shows where the reply is waited for
        send(stream, message)


__all__ = ["Failure", "Limits", "Worker"]
