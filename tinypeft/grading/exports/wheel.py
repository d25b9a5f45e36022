"""tinypeft as one file for pip on another machine: built from a checkout, or put together from what is installed here."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import io
import os
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

CHECKOUT = Path(__file__).parents[3]
OF_THIS_INSTALLATION = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}  # written by pip, of no use elsewhere
DATE = (2020, 1, 1, 0, 0, 0)  # so that equal content makes equal archives


def make_wheel(folder: Path) -> Path:
    """Write tinypeft's wheel to a folder.

    Raises:
        RuntimeError: this is a checkout, and building did not work.
    """
    return _build(folder) if (CHECKOUT / "pyproject.toml").is_file() else repack(distribution("tinypeft"), folder)


def _build(folder: Path) -> Path:
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []  # else pip fetches it
    pip = [sys.executable, "-P", "-m", "pip"]  # -P: or a pip.py of the folder that one is in would be taken for pip
    done = subprocess.run([*pip, "wheel", "--quiet", "--no-deps", *isolation, "--wheel-dir", str(folder), str(CHECKOUT)],
                          capture_output=True, text=True, check=False)
    built = sorted(folder.glob("tinypeft-*.whl"))
    if done.returncode or not built:
        raise RuntimeError(f"tinypeft's wheel was not built from {CHECKOUT}. The extra `dev` has what is needed for that. pip "
                           f"says:\n{done.stderr[-1000:]}")
    return built[-1]


def repack(installed: Distribution, folder: Path) -> Path:
    """A wheel with the files of an installed package."""
    files = {file.as_posix(): Path(str(file.locate())).read_bytes() for file in installed.files or ()
             if ".." not in file.parts and "__pycache__" not in file.parts and file.name not in OF_THIS_INSTALLATION}
    about = f"{installed.name}-{installed.version}.dist-info"
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.writerow([name, f"sha256={digest}", len(content)])
    rows.writerow([f"{about}/RECORD", "", ""])
    wheel = folder / f"{installed.name}-{installed.version}-py3-none-any.whl"
    write_zip(wheel, {**files, f"{about}/RECORD": record.getvalue().encode()})
    return wheel


def write_zip(path: Path, files: dict[str, bytes], executable: frozenset[str] = frozenset()) -> None:
    """A zip of these files, the same bytes for the same content.

    Args:
        executable: names of files that are programs.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, DATE)
            entry.create_system = 3  # Unix, whose file modes follow
            entry.external_attr = (0o100755 if name in executable else 0o100644) << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    os.chmod(path, 0o644)


__all__ = ["make_wheel", "repack", "write_zip"]
