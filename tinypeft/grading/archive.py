"""What was handed in, as bytes: an ordinary file, or a zip of them. Nothing is unpacked to a disk, and no name becomes a path.

A zip says of itself how many files it has, how they are called and how large they become. All of it is looked at before
anything is unpacked, and nothing of it is believed while it is.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path

END = struct.Struct("<4s4H2LH")  # signature, 2 disks, files here, files, size and place of their list, comment
SIGNATURE, LOCATOR_64, LOCATOR_BYTES = b"PK\x05\x06", b"PK\x06\x07", 20
MOST_COMMENT = 2**16
MOST_HEADER = 2**10  # bytes beside the content of a file: what is said of it, in two places
MOST_NAME = 255
ENCRYPTED = 0x1 | 0x40 | 0x2000  # bits of an entry's flags: itself, strongly, and what is said of it
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others unpack more than they were asked for


class TooLarge(ValueError):
    """It is larger than it may be, packed or unpacked."""


def read_file(path: Path, most_bytes: int) -> bytes:
    """The content of an ordinary file. A link may lead to somebody else's, and a pipe may never end.

    Raises:
        TooLarge: it has more bytes.
        ValueError: it is something else than a file.
        OSError: it may not be read, or is not there.
    """
    if path.is_symlink():
        raise ValueError("what was handed in is a link, not a file")
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags), "rb") as source:
        if not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
            raise ValueError("what was handed in is not an ordinary file")
        content = source.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise TooLarge(f"the file is larger than {most_bytes:,} bytes")
    return content


def unreadable(error: Exception) -> str:
    """Why a file could not be read, for a report: without its path, which is one of the grader's."""
    if isinstance(error, ValueError):
        return str(error)
    return f"it could not be read ({(error.strerror if isinstance(error, OSError) else None) or type(error).__name__})"


def read_zip(path: Path, most_files: int, most_bytes: int) -> dict[str, bytes]:
    """The files in a zip: name -> content. A name may have folders in it, "a/b.py"; folders themselves are left out.

    Args:
        most_files: so many entries at most, folders among them.
        most_bytes: so large at most, all files together.

    Raises:
        TooLarge: the files have more bytes than that.
        ValueError: it is no whole zip, has more files, or something else than files with plain names.
    """
    content = read_file(path, most_bytes + most_files * MOST_HEADER + MOST_COMMENT)
    _check_end(content, most_files)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            if len(entries) > most_files:
                raise ValueError(f"the zip has {len(entries):,} files, and hides that")
            _check(entries, most_bytes)
            return {entry.orig_filename: _unpacked(archive, entry) for entry in entries if not entry.is_dir()}
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, UnicodeError) as error:
        raise ValueError(f"the zip is damaged ({type(error).__name__}: {error})") from None


def _check_end(content: bytes, most_files: int) -> None:
    """Look at the record at the end of a zip, before the list of files that it points to is read."""
    place = content.rfind(SIGNATURE, max(0, len(content) - END.size - MOST_COMMENT))
    if place < 0 or place + END.size > len(content):
        raise ValueError("what was handed in is no zip, or only the beginning of one" if content else "the zip is empty")
    _, _, _, _, count, listed, start, comment = END.unpack_from(content, place)
    if place + END.size + comment != len(content):
        raise ValueError("the zip does not end where it says that it does")
    if content[:place][-LOCATOR_BYTES:].startswith(LOCATOR_64):
        raise ValueError("the zip is of the kind for more than 65,535 files or 4 GB (zip64)")
    if count > most_files or listed > most_files * MOST_HEADER:
        raise ValueError(f"the zip lists {count:,} files in {listed:,} bytes, where at most {most_files:,} are expected")
    if not count:
        raise ValueError("there is no file in the zip")
    if start + listed != place:
        raise ValueError("the zip is damaged: its list of files is not where it says that it is")


def _check(entries: list[zipfile.ZipInfo], most_bytes: int) -> None:
    seen = set[str]()
    for entry in entries:
        name = entry.orig_filename
        parts = name.removesuffix("/").split("/")
        if (not name.isprintable() or len(name) > MOST_NAME or any(character in name for character in "\\:")
                or not all(part.strip(". ") for part in parts)):
            raise ValueError(f"the zip has a file with the name {name[:80]!r}, which is no plain relative one")
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ValueError(f"{name} in the zip is a link, or something else than a file")
        if entry.flag_bits & ENCRYPTED:
            raise ValueError(f"{name} in the zip is encrypted")
        if entry.compress_type not in METHODS:
            raise ValueError(f"{name} in the zip is packed by method {entry.compress_type}; only deflate (8) and none (0) are "
                             "read here")
        if name.casefold() in seen:
            raise ValueError(f"the zip has two files with the name {name}")
        seen.add(name.casefold())
    if (total := sum(entry.file_size for entry in entries)) > most_bytes:
        raise TooLarge(f"the files in the zip have {total:,} bytes, where at most {most_bytes:,} are allowed")


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """No more than was declared: the sum of that is known to be little enough."""
    with archive.open(entry) as file:
        content = file.read(entry.file_size)
        if len(content) != entry.file_size or file.read(1):
            raise zipfile.BadZipFile(f"{entry.orig_filename} has another size than the zip says")
    return content


__all__ = ["TooLarge", "read_file", "read_zip", "unreadable"]
