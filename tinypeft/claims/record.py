"""The recorded results of the slow claims, shown where they are not computed anew.

    python -m tinypeft.claims.record        recomputes them and writes the record again
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinypeft.claims.claim import Checked, Claim, check
from tinypeft.claims.judge import Verdict
from tinypeft.files import read_json, write_json

RECORD = Path(__file__).parent / "recorded.json"
KEPT = ("computed", "verdict", "why", "correct")


def read_record() -> dict[str, dict[str, str]]:
    """Id -> what was found when the record was written."""
    found: dict[str, dict[str, str]] = read_json(RECORD)
    return found


def recorded(entry: Claim, record: dict[str, dict[str, str]]) -> Checked:
    """A claim with its recorded result, which is not fresh.

    Raises:
        KeyError: it is not in the record.
    """
    values: dict[str, Any] = dict(record[entry.id])
    return Checked(entry, **values | {"verdict": Verdict(values["verdict"])}, fresh=False)


def write_record(claims: dict[str, Claim]) -> None:
    """Recompute the slow claims, and keep what was found."""
    found = [check(entry) for entry in claims.values() if entry.slow]
    write_json(RECORD, {result.claim.id: {key: str(getattr(result, key)) for key in KEPT} for result in found})


if __name__ == "__main__":
    from tinypeft.claims.audit import CLAIMS

    write_record(CLAIMS)
