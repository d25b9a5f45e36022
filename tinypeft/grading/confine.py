"""What a submission can see and do when an instructor grades it: bubblewrap (Debian's package `bubblewrap`).

    in sight    the Python interpreter with its standard library, numpy and scipy, worker.py, the one submitted file: read-only;
                an empty /tmp of 64 MB, the only place that can be written to
    not         tinypeft, the graders, the marks, other submissions, home folders, other packages, the network, other processes
    limits      memory, file size and CPU seconds, no second process: set by the worker on itself before it loads the file
    refused     system calls that get memory around these limits, or a sandbox of one's own to be root in

In a container that allows no sandbox, root can at least let each submission run as a user of its own, who owns nothing, if
AS_NOBODY is set: with the same limits, but with the network, and with all files in sight that everybody may read.
"""

from __future__ import annotations

import os
import platform
import shutil
import struct
import subprocess
import sys
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO

WORKER = Path(__file__).with_name("worker.py")
AS_NOBODY = "TINYPEFT_AS_NOBODY"  # name of an environment variable
SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d",
          "/etc/alternatives")
PACKAGES = ("numpy", "numpy.libs", "scipy", "scipy.libs")
OURS = ("tinypeft", "safetensors")  # beside these, where a file of ours works on data that was handed in
SCRATCH = 64 * 2**20  # bytes of /tmp
LIBRARIES = ("lib/python3/dist-packages", "lib/python3*/site-packages", "lib/python3*/dist-packages",
             "local/lib/python3*/site-packages", "local/lib/python3*/dist-packages")  # in /usr or a Python: may hold tinypeft
TRIAL_SECONDS = 20.0

# Linux's numbers of system calls. Shared memory and files in memory count for no process; in a user namespace one is root.
CALLS = {
    "x86_64": (0xC000003E, {"clone": 56, "shmget": 29, "msgget": 68, "mq_open": 240, "memfd_create": 319, "memfd_secret": 447,
                            "unshare": 272, "setns": 308, "mount": 165, "ptrace": 101, "add_key": 248, "keyctl": 250,
                            "io_uring_setup": 425, "userfaultfd": 323, "bpf": 321, "perf_event_open": 298, "clone3": 435}),
    "aarch64": (0xC00000B7, {"clone": 220, "shmget": 194, "msgget": 186, "mq_open": 180, "memfd_create": 279,
                             "memfd_secret": 447, "unshare": 97, "setns": 268, "mount": 40, "ptrace": 117, "add_key": 217,
                             "keyctl": 219, "io_uring_setup": 425, "userfaultfd": 282, "bpf": 280, "perf_event_open": 241,
                             "clone3": 435}),
}


@cache
def can_confine() -> str | None:
    """None if submissions can be confined here, else what is missing. A sandbox is tried once: not every system allows one."""
    if not sys.platform.startswith("linux"):
        return f"confinement needs Linux's bubblewrap, and this is {sys.platform}"
    if shutil.which("bwrap") is None:
        return "the program bwrap is not installed (Debian, Ubuntu: apt install bubblewrap)"
    with tempfile.TemporaryDirectory(prefix="tinypeft-") as folder:
        Path(folder, "submission.py").touch()
        try:  # without a request, the worker ends at once
            done = subprocess.run(confined_command(Path(folder), [str(2**31), "10"]), stdin=subprocess.DEVNULL,
                                  capture_output=True, check=False, timeout=TRIAL_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"bwrap is installed, but does not work: {error}"
    if done.returncode == 0 and b"ready" in done.stdout:
        return None
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return f"bwrap is installed, but makes no sandbox here (it says: {said[-1][:300] if said else 'nothing'})"


def as_nobody() -> bool:
    """Whether this is root, who was asked to let submissions without a sandbox run as somebody else."""
    return AS_NOBODY in os.environ and hasattr(os, "geteuid") and os.geteuid() == 0


def system_call_filter() -> IO[bytes] | None:
    """An open file with the rules that bwrap gives to the kernel (seccomp, a program for the Berkeley packet filter).

    Each instruction is a code, two jumps and a number: load the architecture, then the call's number; allow, or refuse with
    EPERM. None on other processors than those of CALLS.
    """
    if platform.machine() not in CALLS:
        return None
    architecture, calls = CALLS[platform.machine()]
    load, equal, at_least, common_bits, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    clone, not_there = calls["clone"], calls["clone3"]
    refused = [number for name, number in calls.items() if name not in ("clone", "clone3")]
    allow, refuse, missing, kill = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000  # 1 is EPERM, 0x26 (38) ENOSYS
    lines = [(load, 0, 0, 4), (equal, 1, 0, architecture), (answer, 0, 0, kill), (load, 0, 0, 0),
             (at_least, 0, 1, 0x40000000), (answer, 0, 0, kill),  # x86's third set of numbers for the same calls
             (equal, 0, 1, not_there), (answer, 0, 0, missing)]  # its flags cannot be seen: the C library then uses clone
    for number in refused:
        lines += [(equal, 0, 1, number), (answer, 0, 0, refuse)]
    lines += [(equal, 0, 3, clone), (load, 0, 0, 16), (common_bits, 0, 1, 0x10000000), (answer, 0, 0, refuse),  # CLONE_NEWUSER
              (answer, 0, 0, allow)]
    file = tempfile.TemporaryFile()  # noqa: SIM115 (the caller closes it)
    file.write(b"".join(struct.pack("<HBBI", *line) for line in lines))
    file.seek(0)
    return file


def confined_command(folder: Path, arguments: list[str], rules: int | None = None, ours: bool = False) -> list[str]:
    """The command that runs worker.py on `folder`/submission.py in a sandbox.

    Args:
        folder: holds submission.py and nothing else.
        arguments: the worker's, after the file.
        rules: number of an open file, from `system_call_filter`.
        ours: whether the file is one of ours, which has tinypeft in sight.
    """
    base = Path(sys.base_prefix)
    python = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    if base != Path("/usr"):  # a Python of its own, perhaps in a home folder that nobody may enter
        python = Path("/python") / python.relative_to(base)
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
    if os.geteuid() == 0:  # root makes namespaces itself, and the worker turns into nobody: see there
        command.remove("--unshare-all")
        command += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try",
                    "--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    if rules is not None:
        command += ["--seccomp", str(rules)]
    for path in SYSTEM:
        command += ["--ro-bind-try", path, path]
    if base != Path("/usr"):
        command += ["--ro-bind", str(base), "/python", "--setenv", "LD_LIBRARY_PATH", "/python/lib"]
    hidden = _hidden(base)
    for folder_in_sight in hidden:
        command += ["--perms", "0555", "--tmpfs", folder_in_sight]
    command += ["--perms", "0755", "--dir", "/packages"]
    for package in (*PACKAGES, *OURS) if ours else PACKAGES:
        if place := _installed(package):
            command += ["--ro-bind", str(place), f"/packages/{package}"]
    for name, value in {"PATH": "/usr/bin", "OPENBLAS_NUM_THREADS": "1", "TINYPEFT_CONFINED": "1"}.items():
        command += ["--setenv", name, value]
    command += ["--proc", "/proc", "--dev", "/dev", "--size", str(SCRATCH), "--perms", "1777", "--tmpfs", "/tmp",
                "--ro-bind", str(WORKER), "/worker.py", "--ro-bind", str(folder / "submission.py"), "/submission.py",
                "--chdir", "/tmp"]
    for in_memory in (*hidden, "/dev", "/"):  # what is written there takes memory without a limit
        command += ["--remount-ro", in_memory]
    start = "import sys; sys.path.append('/packages'); sys.argv[:] = sys.argv[1:]; exec(compile(open('/worker.py').read(), " \
            "'/worker.py', 'exec'))"
    return [*command, "--", str(python), "-I", "-S", "-B", "-c", start, "/worker.py", "/submission.py", *arguments]


def _hidden(base: Path) -> list[str]:
    """What lies in the folders in sight and is no business of a submission: installed packages, tinypeft among them."""
    ours = Path(__file__).resolve().parents[2]  # a checkout, or the packages' folder
    seen = {Path("/usr"): Path("/usr"), base: Path("/usr") if base == Path("/usr") else Path("/python")}
    found = {str(as_seen / place.relative_to(root)) for root, as_seen in seen.items()
             for pattern in LIBRARIES for place in root.glob(pattern) if place.is_dir() and not place.is_symlink()}
    found |= {str(as_seen / ours.relative_to(root)) for root, as_seen in seen.items() if ours.is_relative_to(root)}
    return sorted(found)


def _installed(package: str) -> Path | None:
    """The folder of a package, or of the libraries that stand beside it."""
    if not package.endswith(".libs"):
        spec = find_spec(package)
        return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
    beside = _installed(package.removesuffix(".libs"))
    libraries = None if beside is None else beside.with_name(package)
    return libraries if libraries is not None and libraries.exists() else None


__all__ = ["AS_NOBODY", "WORKER", "as_nobody", "can_confine", "confined_command", "system_call_filter"]
