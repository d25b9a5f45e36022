"""A folder of submissions, as an instructor has it: who handed in what, each copied to one file that can be graded.

    NAME.py          any name: it is the student's
    NAME.ipynb       the cell that begins with %%writefile lora.py
    NAME.zip, NAME/  lora.py, at the top or deeper, or a notebook with that cell; if there are both, they have to agree; or else
                     the only .py
    NAME.zip         of the capstone, whose file is adapter.zip: itself

No link is followed and nothing is believed. What is wrong with one submission is a sentence beside its student, no more.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import tokenize
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import chain, count
from operator import itemgetter
from pathlib import Path, PurePosixPath

from tinypeft.files import replace_file
from tinypeft.grading.archive import read_file, read_zip, unreadable
from tinypeft.grading.compare import clean
from tinypeft.grading.exercise import Exercise
from tinypeft.grading.process import MOST_SOURCE

MOST_BYTES = 16 * 2**20  # of a zip, of what is in it
MOST_NOTEBOOK = 2 * 2**20  # bytes; as objects they can be forty times as many
MOST_FILES, MOST_FOUND, MOST_DEPTH = 1_000, 10_000, 10  # in a zip; in a folder, and in how many levels of it
MOST_NAME = 40  # characters of a report's name; four bytes each, file systems have room for
IGNORED = {"__MACOSX", "__pycache__", "Thumbs.db", "desktop.ini"}  # and what begins with a dot
ENCODINGS = ("utf-8", "utf-8-sig", "ascii", "iso8859-1", "iso8859-2", "iso8859-15", "cp1250", "cp1251", "cp1252",
             "koi8-r", "gbk", "gb18030", "big5", "shift_jis", "euc_jp", "euc_kr")  # punycode takes minutes for a file
NOT_ON_WINDOWS = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10))}
MAGICS = ("%%writefile", "%%file")  # first word of a cell that writes a file; the other is its name

Files = Mapping[str, Callable[[], bytes]]  # relative name -> reads it; both may be anything


class NoSuchFile(ValueError):
    """The exercise's file is not among those that were handed in."""


@dataclass(frozen=True)
class HandedIn:
    """What one student handed in.

    Attributes:
        student: as the file or folder is called, made printable.
        name: of their reports: fit for every file system, and no other student's.
        source: which file it is, as in "anna.zip: work/lora.py".
        file: a copy of it, to be graded; None if there is trouble.
        sha256: of its content.
        trouble: why there is nothing to grade, or "".
    """

    student: str
    name: str
    source: str
    file: Path | None = None
    sha256: str = ""
    trouble: str = ""


def collect(folder: Path, exercise: Exercise, target: Path) -> list[HandedIn]:
    """All submissions in a folder, in the order of their students.

    Args:
        target: folder for the copies; those that are there already are replaced.

    Raises:
        ValueError: no folder, or nothing in it.
    """
    found, names = [], set[str]()
    for student, places in sorted(by_student(folder).items()):
        name = report_name(student, names)
        names.add(name.casefold())
        found.append(_copied(student, name, places, exercise, target))
    assert len(names) == len(found)
    return found


def report_name(student: str, taken: set[str]) -> str:
    r"""A student's name as that of a file; where it has to be changed, a piece of its hash tells it from others, or a number.

    Args:
        taken: names that others have, in lower case.

    >>> report_name("Łucja Nowak", set()), report_name("../etc", set()), report_name("anna", {"anna"})
    ('Łucja Nowak', '_etc-f7f9121f', 'anna-55579b55')
    """
    safe = "".join(one if one.isalnum() or one in " -_." else "_" for one in student).strip(" .")[:MOST_NAME]
    device = unicodedata.normalize("NFKC", safe.partition(".")[0].rstrip()).casefold()  # Windows reads "COM¹ .py" as COM1
    if not safe or safe.startswith("-") or device in NOT_ON_WINDOWS:  # commands take -x for an option
        safe = f"_{safe}"
    if safe == student and safe.casefold() not in taken:
        return safe
    hashed = f"{safe}-{hashlib.sha256(student.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    return next(name for name in chain([hashed], (f"{hashed}-{i}" for i in count(2))) if name.casefold() not in taken)


# ---- who ------------------------------------------------------------------------------------------------------------

def by_student(folder: Path) -> dict[str, list[Path]]:
    """Student -> what carries their name. Two forms of an accented letter are one; a folder's name has no suffix.

    Raises:
        ValueError: no folder, or nothing in it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder of submissions: expected one with a file, a zip or a folder for each student")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if not _ignored(path.name):
            student = path.name if path.is_dir() and not path.is_symlink() else path.stem
            found.setdefault(unicodedata.normalize("NFC", student), []).append(path)
    if not found:
        raise ValueError(f"there is no submission in {folder}")
    return found


def _ignored(name: str) -> bool:
    return name.startswith(".") or name in IGNORED


def _copied(student: str, name: str, places: list[Path], exercise: Exercise, target: Path) -> HandedIn:
    told = clean(student, 200)
    readers = {path: read for path in places if (read := _reader(path, exercise)) is not None}
    source = clean(", ".join(path.name for path in readers or places), 300)
    try:
        if len(readers) > 1:
            raise ValueError(f"there are {len(readers)} submissions of this student: {source}. Leave one of them")
        if not readers:
            raise ValueError(f"{source} is no submission of {exercise.slug}: expected {_expected(exercise)}")
        inside, content = next(iter(readers.values()))()
        _check(content, exercise)
    except Exception as error:  # whatever it is, it is this student's alone
        return HandedIn(told, name, source, trouble=clean(unreadable(error), 1000))
    file = target / f"{name}{PurePosixPath(exercise.file).suffix}"
    with replace_file(file) as temporary:
        temporary.write_bytes(content)
    return HandedIn(told, name, source + (f": {clean(inside, 300)}" if inside else ""), file,
                    hashlib.sha256(content).hexdigest())


def _expected(exercise: Exercise) -> str:
    if exercise.file.endswith(".zip"):
        return f"NAME.zip, or a folder NAME with {exercise.file}"
    return f"NAME.py, a notebook, a zip, or a folder with {exercise.file}"


def _check(content: bytes, exercise: Exercise) -> None:
    """Whether it is worth grading: something, and text if it is a program."""
    if not content.strip():
        raise ValueError("the file is empty")
    if not exercise.file.endswith(".py"):
        return
    if len(content) > MOST_SOURCE:
        raise ValueError(f"the file is larger than {MOST_SOURCE:,} bytes")
    try:
        encoding, _ = tokenize.detect_encoding(BytesIO(content).readline)
        if codecs.lookup(encoding).name not in ENCODINGS:
            raise ValueError(f"the file says that it is in the encoding {encoding}: save it as UTF-8")
        text = content.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError):
        raise ValueError("the file is not text in UTF-8: save it as that") from None
    if "\0" in text:
        raise ValueError("the file is not text in UTF-8, but perhaps in UTF-16: save it as UTF-8")


# ---- what -----------------------------------------------------------------------------------------------------------

def _reader(path: Path, exercise: Exercise) -> Callable[[], tuple[str, bytes]] | None:
    """How to get from a place to the file to grade, and to its name in there; None for what is no submission."""
    if path.is_dir() and not path.is_symlink():
        return lambda: in_folder(path, exercise)
    suffix = path.suffix.lower()
    if suffix == PurePosixPath(exercise.file).suffix or path.is_symlink():  # a link is refused there
        return lambda: ("", read_file(path, MOST_BYTES))
    if exercise.file.endswith(".py") and suffix == ".ipynb":
        return lambda: ("", only_cell(read_file(path, MOST_BYTES), exercise.file))
    if exercise.file.endswith(".py") and suffix == ".zip":
        return lambda: _chosen(_packed(path), exercise)
    return None


def in_folder(folder: Path, exercise: Exercise) -> tuple[str, bytes]:
    """The exercise's file in the folder of one student: what it is called there, and its content.

    Raises:
        NoSuchFile: there is none.
        ValueError: it cannot be said which of several it is, or it is something else than a file.
        OSError: it cannot be read.
    """
    files = dict(sorted(_files(folder), key=itemgetter(0)))
    zips = [name for name in files if name.lower().endswith(".zip")]
    if len(zips) == 1 and exercise.file.endswith(".py") and not any(name.lower().endswith((".py", ".ipynb")) for name in files):
        inside, content = _chosen(_packed(folder / zips[0]), exercise)
        return f"{zips[0]}: {inside}", content
    return _chosen(files, exercise)


def _files(folder: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """All files below a folder. Links are among them, and refused when they are read."""
    folders, seen = [folder], 0
    while folders:
        for path in sorted(folders.pop().iterdir()):
            seen += 1
            if seen > MOST_FOUND or len(path.relative_to(folder).parts) > MOST_DEPTH:
                raise ValueError(f"the folder has more than {MOST_FOUND:,} files, or more than {MOST_DEPTH} levels of folders")
            if _ignored(path.name):
                continue
            if path.is_dir() and not path.is_symlink():
                folders.append(path)
            else:
                yield path.relative_to(folder).as_posix(), partial(read_file, path, MOST_BYTES)


def _packed(path: Path) -> Files:
    content = read_zip(path, MOST_FILES, MOST_BYTES)
    return {name: partial(bytes, one) for name, one in content.items() if not any(map(_ignored, name.split("/")))}


def _chosen(files: Files, exercise: Exercise) -> tuple[str, bytes]:
    """The file to grade, by name or kind."""
    own = _called(files, exercise.file)
    cells = _cells(files, exercise.file, needed=not own) if exercise.file.endswith(".py") else dict[str, bytes]()
    if len(own) + len(cells) > 1:
        every = {name: files[name]() for name in own} | cells
        if len({content.strip() for content in every.values()}) > 1:
            raise ValueError(f"which is to be graded? There are {', '.join(every)}, and they differ")
        return next(iter(every.items()))
    if own:
        return own[0], files[own[0]]()
    if cells:
        return next(iter(cells.items()))
    programs = [name for name in files if exercise.file.endswith(".py") and name.lower().endswith(".py")]
    if len(programs) == 1:
        return programs[0], files[programs[0]]()
    there = ", ".join(list(files)[:5]) + (", ..." if len(files) > 5 else "")
    raise NoSuchFile(f"there is no {exercise.file} in it" + (f", but {there}" if files else " or anything else"))


def _called(files: Files, wanted: str) -> list[str]:
    """The names of that file: the one at the top, or else all that there are."""
    if wanted in files:
        return [wanted]
    return [name for name in files if PurePosixPath(name).name.casefold() == wanted.casefold()]


# ---- notebooks ------------------------------------------------------------------------------------------------------

def _cells(files: Files, wanted: str, needed: bool) -> dict[str, bytes]:
    """Notebook -> what its cell would write to the file, of those that have such a cell.

    Args:
        needed: whether there is nothing else, so that a notebook that cannot be read is to be told.
    """
    found, troubles = dict[str, bytes](), list[ValueError]()
    for name in files:
        if name.lower().endswith(".ipynb"):
            try:
                if (cell := _cell(files[name](), wanted)) is not None:
                    found[name] = cell
            except ValueError as error:
                troubles.append(error)
    if troubles and needed and not found:
        raise troubles[0]
    return found


def only_cell(notebook: bytes, wanted: str) -> bytes:
    """What a notebook writes to a file.

    Raises:
        ValueError: it is no notebook, a large one, or does not write that file, or in two ways.
    """
    cell = _cell(notebook, wanted)
    if cell is None:
        raise ValueError(f"the notebook has no code cell that begins with %%writefile {wanted}, as those of `tinypeft export "
                         "nbgrader` have")
    return cell


def _cell(notebook: bytes, wanted: str) -> bytes | None:
    """What a notebook writes to a file; None if it does not.

    Raises:
        ValueError: it is no notebook, a large one, or writes the file in two ways.
    """
    if len(notebook) > MOST_NOTEBOOK:
        raise ValueError(f"the notebook is larger than {MOST_NOTEBOOK:,} bytes: clear its outputs, and save it")
    try:
        cells = json.loads(notebook.decode("utf-8-sig"))["cells"]
        sources = [source if isinstance(source := cell["source"], str) else "".join(source)
                   for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("the notebook is damaged, or none: expected JSON with a list of cells") from None
    texts = {text for first, _, text in (source.lstrip().partition("\n") for source in sources) if _written_by(first) == wanted}
    if len(texts) > 1:
        raise ValueError(f"{len(texts)} cells of the notebook begin with %%writefile {wanted}, and they differ: leave one")
    return texts.pop().encode("utf-8") if texts else None


def _written_by(line: str) -> str:
    """The file that a cell with this first line writes, or ""."""
    magic, _, file = line.replace("\t", " ").partition(" ")
    return file.strip().strip("'\"").removeprefix("./") if magic in MAGICS else ""


__all__ = ["HandedIn", "NoSuchFile", "by_student", "collect", "in_folder", "only_cell", "report_name"]
