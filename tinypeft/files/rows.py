"""A practitioner's own data: text files of examples, one a line."""

import json
from pathlib import Path

_EXPECTED = '{"text": "..."} or {"prompt": "...", "completion": "..."}'


def read_rows(path: str | Path) -> list[dict[str, str]]:
    """Read a data set: a `.txt` file of one example a line, or a `.jsonl` file of one JSON object a line.

    Blank lines are skipped, white space around a line of text is dropped, other keys of a JSON object are ignored.

    Returns:
        For each example {"text"} or {"prompt", "completion"}, and "source": its file and line, for messages.

    Raises:
        OSError: the file cannot be opened.
        ValueError: another kind of file, no examples in it, or a line that cannot be read: the message names the line.
    """
    path = Path(path)
    if path.suffix not in (".txt", ".jsonl"):
        raise ValueError(f"{path} is neither .txt (one text a line) nor .jsonl (one {_EXPECTED} a line)")
    rows = []
    for number, raw in enumerate(path.read_bytes().split(b"\n"), start=1):
        source = f"{path}, line {number}"
        try:
            if line := raw.decode("utf-8-sig").strip():
                rows.append((_parse(line) if path.suffix == ".jsonl" else {"text": line}) | {"source": source})
        except ValueError as error:  # of the encoding, of JSON, or ours
            raise ValueError(f"{source}: {error}; expected UTF-8 text, in a .jsonl file {_EXPECTED}") from error
    if not rows:
        raise ValueError(f"{path} holds no examples: it is empty or has blank lines only")
    return rows


def _parse(line: str) -> dict[str, str]:
    """One line of a .jsonl file."""
    value = json.loads(line)
    found = value if isinstance(value, dict) else {}
    row = {key: found[key] for key in ("text", "prompt", "completion") if key in found}
    valid = all(isinstance(text, str) and (text.strip() or key == "prompt") for key, text in row.items())
    if not valid or [*row] not in (["text"], ["prompt", "completion"]):
        raise ValueError(f"a line that says {line[:60]}")
    return row
