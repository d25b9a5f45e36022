"""JSON and text files, in UTF-8, written atomically."""

import json
from pathlib import Path
from typing import Any

from tinypeft.files.atomic import replace_file


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not UTF-8 or not JSON; the message has the file, line and column.
    """
    path = existing(path)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}): expected a JSON file") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}") from error


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON with a final newline, atomically.

    Raises:
        TypeError: JSON has no form for something in `value` (an array, a set); nothing is written.
        ValueError: `value` holds NaN or an infinity, which JSON does not have; nothing is written.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise type(error)(f"cannot write {path} as JSON: {error}") from error
    write_text(path, text + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write `text` in UTF-8, newlines as they are on every system, atomically."""
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def existing(path: str | Path) -> Path:
    """The path of a file that is there, else a FileNotFoundError."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    return path
