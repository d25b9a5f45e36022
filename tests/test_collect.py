"""A folder of submissions: each is found in whatever form it came, or its student has a sentence, and no other is disturbed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
import unicodedata
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from tinypeft.grading import collect as collecting
from tinypeft.grading.collect import HandedIn, collect, report_name
from tinypeft.grading.exercise import find_exercise

EXERCISE = find_exercise("04")
CAPSTONE = replace(EXERCISE, slug="14_capstone", file="adapter.zip")
CODE = b"def merge(W, A, B, alpha):\n    return W\n"


def packed(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def notebook(*sources: str | list[str], kind: str = "code") -> bytes:
    cells = [{"cell_type": kind, "source": source, "metadata": {}} for source in sources]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode()


def writes(code: bytes = CODE, file: str = "lora.py") -> str:
    return f"%%writefile {file}\n{code.decode()}"


def link(name: str = "lora.py") -> bytes:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    return stream.getvalue()


@pytest.fixture
def found(tmp_path):
    """Hand in files, as relative path -> content (None for a folder), and collect: student -> what was found."""
    def of(files: dict[str, bytes | None], exercise=EXERCISE) -> dict[str, HandedIn]:
        folder = tmp_path / "submissions"
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            path = folder / name
            if content is None:
                path.mkdir(parents=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        every = collect(folder, exercise, tmp_path / "copies")
        assert len({one.name.casefold() for one in every}) == len(every)
        return {one.student: one for one in every}

    return of


# ---- what is found --------------------------------------------------------------------------------------------------

FORMS: dict[str, tuple[dict[str, bytes | None], str]] = {
    "file": ({"anna.py": CODE}, "anna.py"),
    "file of another case": ({"anna.PY": CODE}, "anna.PY"),
    "folder": ({"anna/lora.py": CODE, "anna/notes.txt": b"hello"}, "anna: lora.py"),
    "deeper": ({"anna/a/04_lora/lora.py": CODE, "anna/a/other.py": b"x"}, "anna: a/04_lora/lora.py"),
    "top before deeper": ({"anna/lora.py": CODE, "anna/old/lora.py": b"old"}, "anna: lora.py"),
    "name in capitals": ({"anna/Lora.py": CODE}, "anna: Lora.py"),
    "only program": ({"anna/lora-1.py": CODE, "anna/readme.md": b"see lora-1"}, "anna: lora-1.py"),
    "zip": ({"anna.zip": packed({"lora.py": CODE})}, "anna.zip: lora.py"),
    "zip, deeper": ({"anna.ZIP": packed({"a/b/lora.py": CODE, "__MACOSX/a/lora.py": b"\0", ".old/lora.py": b"1"})},
                    "anna.ZIP: a/b/lora.py"),
    "zip in a folder": ({"anna/handed in.zip": packed({"x/lora.py": CODE})}, "anna: handed in.zip: x/lora.py"),
    "notebook": ({"anna.ipynb": notebook("import numpy", writes())}, "anna.ipynb"),
    "notebook of lines": ({"anna.ipynb": notebook(["\n", *writes().splitlines(keepends=True)])}, "anna.ipynb"),
    "notebook, quoted": ({"anna.ipynb": notebook(writes(file="'./lora.py'"), writes(b"x", "other.py"))}, "anna.ipynb"),
    "notebook as nbgrader has it": ({"anna/04_lora/lora.ipynb": notebook(writes()), "anna/04_lora/timestamp.txt": b"now",
                                     "anna/01_autograd/autograd.ipynb": notebook(writes(b"x", "autograd.py")),
                                     "anna/.ipynb_checkpoints/lora.ipynb": notebook(writes(b"old"))},
                                    "anna: 04_lora/lora.ipynb"),
    "notebook and what it wrote": ({"anna/lora.ipynb": notebook(writes()), "anna/lora.py": CODE}, "anna: lora.py"),
    "damaged notebook beside it": ({"anna/lora.ipynb": b"{", "anna/lora.py": CODE}, "anna: lora.py"),
    "notebook in a zip": ({"anna.zip": packed({"n.ipynb": notebook(writes())})}, "anna.zip: n.ipynb"),
    "another encoding, declared": ({"anna.py": b"# coding: latin-1\n# \xe9\n"}, "anna.py"),
    "with a byte-order mark": ({"anna.py": b"\xef\xbb\xbf" + CODE}, "anna.py"),
    "something else of that name": ({"anna.py": CODE, "anna.txt": b"my notes"}, "anna.py"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_submission_is_found_in_whatever_form_it_came(form, found):
    files, source = FORMS[form]
    one = found(files)["anna"]
    assert (one.trouble, one.source, one.name) == ("", source, "anna")
    assert one.file is not None
    assert one.file.name == "anna.py"
    content = one.file.read_bytes()
    assert content == files["anna.py"] if "anna.py" in files else content.rstrip() == CODE.rstrip()
    assert one.sha256 == hashlib.sha256(content).hexdigest()


def test_an_adapter_is_a_zip_that_stays_one(found):
    adapter = packed({"adapter_config.json": b"{}"})
    every = found({"anna.zip": adapter, "bert/adapter.zip": adapter, "cleo/x/adapter.zip": adapter, "dora.py": CODE,
                   "emil/adapter_config.json": b"{}"}, CAPSTONE)
    for name in ("anna", "bert", "cleo"):
        assert every[name].file is not None
        assert every[name].file.name == f"{name}.zip"
        assert every[name].file.read_bytes() == adapter
    assert "expected NAME.zip, or a folder NAME with adapter.zip" in every["dora"].trouble
    assert every["emil"].trouble == "there is no adapter.zip in it, but adapter_config.json"


# ---- what is trouble ------------------------------------------------------------------------------------------------

TROUBLE: dict[str, tuple[dict[str, bytes | None], str]] = {
    "empty": ({"anna.py": b" \n"}, "the file is empty"),
    "not UTF-8": ({"anna.py": b"x = '\xe9'\n"}, "not text in UTF-8"),
    "UTF-16": ({"anna.py": CODE.decode().encode("utf-16")}, "not text in UTF-8"),
    "UTF-16 without a mark": ({"anna.py": CODE.decode().encode("utf-16-le")}, "perhaps in UTF-16"),
    "unknown encoding": ({"anna.py": b"# coding: klingon\n"}, "not text in UTF-8"),
    "encoding that takes time in squares": ({"anna.py": b"# coding: punycode\nx = 1\n"}, "encoding punycode: save it as UTF-8"),
    "large": ({"anna.py": b"#" * (2**20 + 1)}, "larger than 1,048,576 bytes"),
    "other kind": ({"anna.rar": CODE}, "anna.rar is no submission of 04_lora: expected NAME.py"),
    "empty folder": ({"anna": None}, "there is no lora.py in it or anything else"),
    "other files": ({"anna/a.txt": b"1", "anna/b.py": b"1", "anna/c.py": b"1"}, "no lora.py in it, but a.txt, b.py, c.py"),
    "two deeper": ({"anna/a/lora.py": CODE, "anna/b/lora.py": b"x"}, "There are a/lora.py, b/lora.py, and they differ"),
    "two of one student": ({"anna.py": CODE, "anna.zip": packed({"lora.py": CODE})}, "2 submissions of this student: anna.py,"),
    "three of one student": ({"anna/lora.py": CODE, "anna.py": CODE, "anna.ipynb": notebook(writes())}, "3 submissions"),
    "notebook and file differ": ({"anna/lora.ipynb": notebook(writes(b"x = 1")), "anna/lora.py": CODE}, "and they differ"),
    "notebook without the cell": ({"anna.ipynb": notebook("x", writes(file="other.py"))}, "no code cell that begins with"),
    "cell that is text": ({"anna.ipynb": notebook(writes(), kind="markdown")}, "no code cell"),
    "two cells": ({"anna.ipynb": notebook(writes(), writes(b"x = 1"))}, "2 cells of the notebook begin"),
    "empty cell": ({"anna.ipynb": notebook("%%writefile lora.py")}, "the file is empty"),
    "cell of odd characters": ({"anna.ipynb": notebook("%%writefile lora.py\n'\ud800'")}, "surrogates not allowed"),
    "cell of many spaces": ({"anna.ipynb": notebook("%%writefile a" + " " * 400_000 + "b\nx = 1")}, "no code cell that begins"),
    "no JSON": ({"anna.ipynb": b"not JSON"}, "the notebook is damaged, or none"),
    "other JSON": ({"anna.ipynb": b"[1, 2]"}, "the notebook is damaged, or none"),
    "JSON without end": ({"anna.ipynb": b"[" * 100_000}, "the notebook is damaged, or none"),
    "large notebook": ({"anna.ipynb": notebook(writes(), "#" * 2**21)}, "the notebook is larger than 2,097,152 bytes"),
    "large notebook in a zip": ({"anna.zip": packed({"n.ipynb": b'{"":' * 2**20})}, "the notebook is larger than"),
    "damaged notebook in a folder": ({"anna/lora.ipynb": b"{"}, "the notebook is damaged, or none"),
    "no zip": ({"anna.zip": b"Rar!"}, "no zip"),
    "link in a zip": ({"anna.zip": link()}, "is a link"),
    "path out of a zip": ({"anna.zip": packed({"../lora.py": CODE})}, "no plain relative one"),
    "bomb": ({"anna.zip": packed({"lora.py": b"#" * (17 * 2**20)})}, "bytes, where at most"),
    "crowd in a zip": ({"anna.zip": packed({f"{i}.py": b"" for i in range(1_001)})}, "lists 1,001 files"),
    "zip in a zip": ({"anna.zip": packed({"lora.zip": packed({"lora.py": CODE})})}, "there is no lora.py in it, but lora.zip"),
    "too deep": ({"anna/" + "d/" * 12 + "lora.py": CODE}, "more than 10 levels"),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_what_cannot_be_graded_has_a_sentence_and_nobody_else_is_disturbed(name, found):
    files, sentence = TROUBLE[name]
    every = found({"aaron.py": CODE, "zoe.zip": packed({"lora.py": CODE}), **files})
    assert sentence in every["anna"].trouble
    assert every["anna"].file is None
    assert {student for student, one in every.items() if not one.trouble} == {"aaron", "zoe"}


def test_crowded_folders_are_not_searched_for_ever(found, monkeypatch):
    monkeypatch.setattr(collecting, "MOST_FOUND", 5)
    assert "more than 5 files" in found({f"anna/{i}/lora.py": CODE for i in range(4)})["anna"].trouble


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such files here")
def test_links_and_pipes_are_not_followed(found, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "lora.py").write_bytes(CODE)
    folder = tmp_path / "submissions"
    (folder / "bert").mkdir(parents=True)
    (folder / "anna.py").symlink_to(secret / "lora.py")
    (folder / "bert" / "lora.py").symlink_to(secret / "lora.py")
    (folder / "cleo").symlink_to(secret)
    (folder / "dora").mkdir()
    (folder / "dora" / "inner").symlink_to(secret)
    os.mkfifo(folder / "emil.py")
    every = found({"zoe.py": CODE})
    for name in ("anna", "bert", "cleo"):
        assert every[name].trouble == "what was handed in is a link, not a file"
    assert every["dora"].trouble == "there is no lora.py in it, but inner"
    assert every["emil"].trouble == "what was handed in is not an ordinary file"
    assert every["zoe"].file is not None


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_its_student_s_trouble(found, tmp_path):
    folder = tmp_path / "submissions" / "anna"
    folder.mkdir(parents=True)
    folder.chmod(0)
    every = found({"zoe.py": CODE})
    folder.chmod(0o700)
    assert every["anna"].trouble == "it could not be read (Permission denied)"


def test_an_error_that_nobody_thought_of_stops_nobody(found, monkeypatch):
    def fails(path, exercise):
        raise KeyError(path)

    monkeypatch.setattr(collecting, "in_folder", fails)
    every = found({"anna/lora.py": CODE, "zoe.py": CODE})
    assert every["anna"].trouble == "it could not be read (KeyError)"
    assert every["zoe"].file is not None


def test_what_is_no_submission_of_anybody_is_left_out(found, tmp_path):
    every = found({"anna.py": CODE, ".DS_Store": b"", "__MACOSX/._anna.py": b"", "Thumbs.db": b""})
    assert list(every) == ["anna"]
    with pytest.raises(ValueError, match="is no folder of submissions"):
        collect(tmp_path / "nothing", EXERCISE, tmp_path / "copies")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="there is no submission in"):
        collect(tmp_path / "empty", EXERCISE, tmp_path / "copies")


# ---- names ----------------------------------------------------------------------------------------------------------

ODD = ["Anna Smith", "=cmd|calc", "a\nb", "a_b", "a b", "x" * 200, "x" * 199, "COM1", "con.tar", "Łukasz", "李明", "<b>",
       "a\u202eb", "back\\slash", "O'Neil; rm -rf *", "𝓐" * 50, "-rf", " ", "con.py", "con .a", "COM¹", "_con"]


def test_odd_names_are_safe_and_stay_different(found):
    names = [name for name in ODD if len(name.encode()) < 250]
    every = found({f"{name}.py": CODE for name in names})
    assert len(every) == len(names)
    for one in every.values():
        assert one.file is not None
        assert one.file.is_file()
        assert one.student.isprintable()
        assert len(f"{one.name}.json".encode()) < 200
        assert not set(one.name) & set('/\\:*?"<>|\n\u202e')
        assert not re.match(r"-|(con|com1|com¹) *(\.|$)", one.name, re.IGNORECASE)  # an option; a device of Windows
    assert {every[name].name for name in ("Łukasz", "李明", "Anna Smith")} == {"Łukasz", "李明", "Anna Smith"}
    assert every["COM1"].name.startswith("_COM1-")
    assert every["_con"].name == "_con"


@pytest.mark.parametrize("names", [("O’Brien", "O_Brien-8ebd51f8"), ("m" * 40 + "33040", "m" * 40 + "68002"),
                                   ("O’Brien", "O_Brien-8ebd51f8", "O_Brien-8ebd51f8-2")])
def test_names_whose_hash_is_taken_stay_different(names, found):
    every = found({f"{name}.py": CODE for name in names})  # which looks at the names of their reports
    assert set(every) == set(names)


def test_names_that_differ_in_their_case_have_different_reports(found):
    every = found({"anna.py": CODE, "Anna.py": CODE + b"#"})
    if len(every) < 2:
        pytest.skip("this file system has no such names")
    assert {one.trouble for one in every.values()} == {""}


def test_two_forms_of_an_accented_letter_are_one_student(found):
    composed, decomposed = (unicodedata.normalize(form, "Zoé") for form in ("NFC", "NFD"))
    every = found({f"{composed}.py": CODE, f"{decomposed}.zip": packed({"lora.py": CODE})})
    assert list(every) == [composed]
    assert "2 submissions" in every[composed].trouble


@pytest.mark.skipif(os.name != "posix", reason="names are text here")
def test_names_that_are_not_text(found, tmp_path):
    folder = os.fsencode(tmp_path / "submissions")
    os.mkdir(folder)
    try:
        for name in (b"anna\xff.py", b"anna\xfe.py"):
            Path(os.fsdecode(os.path.join(folder, name))).write_bytes(CODE)
    except OSError:
        pytest.skip("this file system has no such names")
    every = found({})
    assert set(every) == {"anna\\udcff", "anna\\udcfe"}
    assert all(one.name.isascii() and one.file is not None for one in every.values())


def test_a_report_name_depends_on_the_student_alone():
    assert report_name("a/b", set()) == report_name("a/b", {"c"}) != report_name("a_b", set())
    assert report_name("a b", set()) == "a b"
