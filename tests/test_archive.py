"""Zips that were handed in: honest ones are read, and all else is refused with a sentence, before it costs anything."""

from __future__ import annotations

import io
import os
import stat
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from tinypeft.grading.archive import MOST_HEADER, read_file, read_zip

FILES, BYTES = 4, 10_000


def packed(*entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content, method)
    return stream.getvalue()


@pytest.fixture
def read(tmp_path):
    """Read bytes as a zip that was handed in."""
    def of(content: bytes) -> dict[str, bytes]:
        path = tmp_path / "handed-in.zip"
        path.write_bytes(content)
        return read_zip(path, FILES, BYTES)

    return of


# ---- what is read ---------------------------------------------------------------------------------------------------

def test_files_come_with_their_names(read):
    inner = packed(("deep.txt", b"never opened"))
    entries = ("a.py", b"x = 1\n"), ("folder/b.bin", bytes(range(256)) * 20), ("zip.zip", inner), ("empty", b"")
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
        assert read(packed(*entries, method=method)) == dict(entries)


def test_folders_names_in_other_scripts_and_a_comment_are_nothing_bad(read, tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir("Aufgabe")
        archive.writestr("Aufgabe/lösung 1.py", b"1")
        archive.comment = b"from home"
    assert read(path.read_bytes()) == {"Aufgabe/lösung 1.py": b"1"}


def test_the_limits_can_be_reached(read):
    assert len(read(packed(*((f"{i}.txt", os.urandom(BYTES // FILES)) for i in range(FILES))))) == FILES


# ---- what is refused ------------------------------------------------------------------------------------------------

def link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("link.py")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


def changed(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content
    return content.replace(old, new)


def field(content: bytes, place: int, form: str, value: int, local: int | None = None) -> bytes:
    """A zip of one file, with another number in the list of files, and where it says the same, in front of the file."""
    changed, listed = bytearray(content), content.rindex(b"PK\x01\x02")
    struct.pack_into(form, changed, listed + place, value)
    if local is not None:
        struct.pack_into(form, changed, local, value)
    return bytes(changed)


def crowded(count: int) -> bytes:
    """A list of `count` files, all of which are the same one; the end says that it is one alone."""
    one = packed(("a", b""))
    listed, end = one.index(b"PK\x01\x02"), one.index(b"PK\x05\x06")
    listing = one[listed:end] * count
    return one[:listed] + listing + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(listing), listed, 0)


ONE = packed(("name.py", b"x" * 100))
NAMES = ["/etc/passwd", "../x.py", "a/../../x.py", "a\\b.py", "C:/x.py", "C:x.py", "a//b.py", "./x.py", "a/. /b.py", "x\n.py",
         "x\x1b[2J.py", "n" * 300, "file.py:stream", "..", "..."]
REFUSED = {
    "nothing": (b"", "is empty"),
    "no zip": (b"import numpy as np\n" * 50, "no zip"),
    "no files": (packed(), "no file in the zip"),
    "truncated": (ONE[:-30], "no zip, or only the beginning"),
    "end truncated": (ONE[:-1], "no zip, or only the beginning"),
    "something behind": (ONE + b"more", "does not end where"),
    "beginning missing": (ONE[20:], "damaged"),
    "list damaged": (changed(ONE, b"PK\x01\x02", b"PK\x01\x03"), "damaged"),
    "content damaged": (packed(("a", b"abc"), method=0).replace(b"abc", b"abd"), "damaged"),
    "link": (packed((link(), b"/etc/passwd")), "is a link"),
    "encrypted": (field(ONE, 8, "<H", 1, 6), "name.py in the zip is encrypted"),
    "other method": (packed(("a", b"x" * 100), method=zipfile.ZIP_BZIP2), "method 12"),
    "too many": (packed(*((str(i), b"") for i in range(FILES + 1))), "lists 5 files"),
    "many in secret": (crowded(60_000), "lists 1 files|larger than"),
    "a few in secret": (crowded(80), "has 80 files, and hides"),
    "zip64": (packed(*((str(i), b"") for i in range(2))).replace(b"PK\x05\x06", b"PK\x06\x07" + b"\0" * 16 + b"PK\x05\x06"),
              "zip64"),
    "bomb": (packed(("a", b"\0" * 10_000_000)), "10,000,000 bytes, where at most 10,000"),
    "bombs": (packed(*((str(i), b"\0" * 4_000) for i in range(3))), "12,000 bytes"),
    "bomb that lies": (field(packed(("a", b"\0" * 10_000_000)), 24, "<L", 100, 22), "damaged"),
    "more declared than there": (field(ONE, 24, "<L", 5_000, 22), "damaged"),
    "two with one name": (changed(packed(("a.py", b"1"), ("b.py", b"2")), b"b.py", b"a.py"), "two files with the name"),
    "two with one name on Windows": (packed(("a.py", b"1"), ("A.py", b"2")), "two files with the name"),
    "name not in UTF-8": (changed(packed(("ä.py", b"1")), "ä.py".encode(), b"\xff\xfe.py"), "damaged"),
    "name with a zero": (changed(ONE, b"name.py", b"nam\0.py"), "no plain relative one"),
    "two names": (ONE[:30] + b"eman" + ONE[34:], "damaged"),
    "larger than all": (b"\0" * (BYTES + FILES * MOST_HEADER + 70_000), "larger than"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_zip_of_plain_files_is_refused(name, read):
    content, reason = REFUSED[name]
    with pytest.raises(ValueError, match=reason):
        read(content)


@pytest.mark.parametrize("name", NAMES)
def test_names_that_could_lead_elsewhere_are_refused(name, read):
    info = zipfile.ZipInfo("x")
    info.filename = name  # as it is: ZipInfo itself would mend it
    with pytest.raises(ValueError, match="no plain relative one|damaged"):
        read(packed((info, b"1")))


def test_a_hundred_thousand_entries_cost_nothing(tmp_path):
    """With limits that are wide enough to read the file."""
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"")
        archive.filelist *= 100_000
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="zip64"):
            read_zip(path, FILES, 20_000_000)
        (tmp_path / "secret.zip").write_bytes(crowded(100_000))
        with pytest.raises(ValueError, match="lists 1 files"):
            read_zip(tmp_path / "secret.zip", FILES, 20_000_000)
        assert tracemalloc.get_traced_memory()[1] < 30_000_000  # the file itself, and a little more
    finally:
        tracemalloc.stop()


def test_a_bomb_is_not_unpacked(read):
    tracemalloc.start()
    try:
        for name in ("bomb", "bomb that lies"):
            with pytest.raises(ValueError, match=REFUSED[name][1]):
                read(REFUSED[name][0])
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_only_an_ordinary_file_is_read(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_file(tmp_path / "file", 5) == b"12345"
    with pytest.raises(ValueError, match="larger than 4 bytes"):
        read_file(tmp_path / "file", 4)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none", 4)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(ValueError, match="is a link"):
        read_file(tmp_path / "link", 5)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ValueError, match="not an ordinary file"):
            read_zip(Path(tmp_path / "pipe"), FILES, BYTES)
