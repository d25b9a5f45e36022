"""Atomic writes: a file or a folder appears under its name complete, or the name keeps what it had.

The new content is built beside its destination, on the same disk, because only there is a rename a single step.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replace_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to; on leaving the block it becomes `path`, after an error it is removed.

    The parent folder is made if it is missing.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "notes.txt"
    >>> with replace_file(target) as temporary:
    ...     _ = temporary.write_text("all of it")
    >>> target.read_text()
    'all of it'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _sibling(path, "tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:  # the rename must not reach the disk before the bytes do
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # also on Ctrl-C
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary, empty folder to fill; on leaving the block it becomes `path`, after an error it is removed.

    A folder already at `path` is replaced **whole**, and only once the new one is complete: use this for folders that
    are ours alone, such as a training checkpoint, and single atomic files for a folder that the user names.

    Raises:
        FileExistsError: `path` is a file.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file; a folder is to be written there: move it away or choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    building, previous = _sibling(path, "tmp"), _sibling(path, "old")
    building.mkdir()
    try:
        yield building
        if path.exists():
            path.rename(previous)  # a folder that is not empty cannot be renamed over
        building.rename(path)
    except BaseException:
        if previous.exists() and not path.exists():
            previous.rename(path)
        shutil.rmtree(building, ignore_errors=True)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def _sibling(path: Path, suffix: str) -> Path:
    """A hidden name beside `path` that no other process or thread uses."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{suffix}")
