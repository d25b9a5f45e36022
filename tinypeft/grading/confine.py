"""What a submission can see and do when an instructor grades it: bubblewrap (Debian's package `bubblewrap`).

    in sight    the Python interpreter with its standard library, numpy and scipy, worker.py, the one submitted file: read-only;
                an empty /tmp of 64 MB
    not         tinypeft, the graders, the marks, other submissions, home folders, the network, other processes
    limits      processes, memory, file size and CPU seconds, set by the worker on itself before it loads the file
"""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

WORKER = Path(__file__).with_name("worker.py")
SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d",
          "/etc/alternatives")
PACKAGES = ("numpy", "numpy.libs", "scipy", "scipy.libs")
SCRATCH = 64 * 2**20  # bytes of /tmp


def can_confine() -> str | None:
    """None if submissions can be confined here, else what is missing."""
    if not sys.platform.startswith("linux"):
        return f"confinement needs Linux's bubblewrap, and this is {sys.platform}"
    if shutil.which("bwrap") is None:
        return "the program bwrap is not installed (Debian, Ubuntu: apt install bubblewrap)"
    return None


def confined_command(folder: Path, arguments: list[str]) -> list[str]:
    """The command that runs worker.py on `folder`/submission.py in a sandbox.

    Args:
        folder: holds submission.py and nothing else.
        arguments: the worker's, after the file.
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
    for path in SYSTEM:
        command += ["--ro-bind-try", path, path]
    if base != Path("/usr"):
        command += ["--ro-bind", str(base), "/python", "--setenv", "LD_LIBRARY_PATH", "/python/lib"]
    command += ["--perms", "0755", "--dir", "/packages"]
    for package in PACKAGES:
        if place := _installed(package):
            command += ["--ro-bind", str(place), f"/packages/{package}"]
    for name, value in {"PATH": "/usr/bin", "OPENBLAS_NUM_THREADS": "1", "TINYPEFT_CONFINED": "1"}.items():
        command += ["--setenv", name, value]
    command += ["--proc", "/proc", "--dev", "/dev", "--size", str(SCRATCH), "--perms", "1777", "--tmpfs", "/tmp",
                "--ro-bind", str(WORKER), "/worker.py", "--ro-bind", str(folder / "submission.py"), "/submission.py",
                "--chdir", "/tmp"]
    start = "import sys; sys.path.append('/packages'); sys.argv[:] = sys.argv[1:]; exec(compile(open('/worker.py').read(), " \
            "'/worker.py', 'exec'))"
    return [*command, "--", str(python), "-I", "-S", "-B", "-c", start, "/worker.py", "/submission.py", *arguments]


def _installed(package: str) -> Path | None:
    """The folder of a package, or of the libraries that stand beside it."""
    if not package.endswith(".libs"):
        spec = find_spec(package)
        return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
    beside = _installed(package.removesuffix(".libs"))
    libraries = None if beside is None else beside.with_name(package)
    return libraries if libraries is not None and libraries.exists() else None


__all__ = ["WORKER", "can_confine", "confined_command"]
