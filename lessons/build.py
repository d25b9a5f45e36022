"""Builds each lesson's notebook, NN_slug.ipynb, from its source, NN_slug.py.

    python lessons/build.py            write every notebook that is not up to date
    python lessons/build.py --check    write nothing; fail if a notebook is not what its source gives

The source is a plain Python file in cells that begin with `# %%` (jupytext's py:percent). A notebook holds no outputs, and
building it twice gives the same bytes: the ids of its cells follow from the lesson and the cell's place.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import jupytext
import nbformat

LESSONS = Path(__file__).parent
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def sources(folder: Path = LESSONS) -> list[Path]:
    """The lessons' sources, in order."""
    return sorted(folder.glob("[0-9][0-9]_*.py"))


def read(source: Path) -> nbformat.NotebookNode:
    """The notebook that a source describes."""
    notebook = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for index, cell in enumerate(notebook.cells):
        cell.id = hashlib.sha256(f"{source.stem} {index}".encode()).hexdigest()[:12]  # jupytext's own are random
        for key in ("lines_to_next_cell", "lines_to_end_of_cell_marker"):  # jupytext's notes on blank lines
            cell.metadata.pop(key, None)
    nbformat.validate(notebook)
    return notebook


def build(source: Path) -> str:
    """The text of the .ipynb file of a source."""
    return nbformat.writes(read(source)) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if a notebook is not up to date")
    check = parser.parse_args(arguments).check
    stale = []
    for source in sources():
        notebook, content = source.with_suffix(".ipynb"), build(source).encode()
        if not notebook.is_file() or notebook.read_bytes() != content:
            stale.append(notebook.name)
            if not check:
                notebook.write_bytes(content)
    if stale:
        print(f"{'not what the source gives' if check else 'written'}: {', '.join(stale)}"
              + ("\nrun: python lessons/build.py" if check else ""))
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
