"""Numbers as people write them: "24GB", "8.4M", "0.78 %", "51.2x", and how exactly each of them says what it says.

    GB = 10^9 bytes, GiB = 2^30 bytes        "24GB" is 24e9 bytes; the binary unit has to be written out
    K, M, B, T of parameters = 10^3, 10^6, 10^9, 10^12
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tinypeft.nn.module import near

BYTES = {"bytes": 1, "byte": 1,
         "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
         "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
COUNTS = {"": 1, "K": 10**3, "k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
OTHERS = {"%": 0.01, "x": 1, "×": 1, "bits": 1, "bit": 1, "ms": 1e-3, "s": 1}
_NUMBER = re.compile(r"(?P<about>[~≈]|about\s)?\s*(?P<number>[-+]?(?:\d{1,3}(?:[,_ ]\d{3})+|\d+)?(?:\.\d+)?)"
                     r"(?:[eE](?P<exponent>[-+]?\d+))?\s*(?P<unit>[A-Za-z%×]*)\.?\s*", re.ASCII)


@dataclass(frozen=True)
class Quantity:
    """A written number.

    Attributes:
        value: in bytes, parameters, seconds, or as a fraction (0.0078 for 0.78 %).
        unit: as written, "" for none.
        step: what one more in its last digit would add, in the same measure as value: 1e6 for "35M", 1e5 for "35.0M".
        digits: significant digits that are written.
        about: whether it says "about" of itself.
    """

    value: float
    unit: str
    step: float
    digits: int
    about: bool = False

    @property
    def measure(self) -> str:
        """What it counts: "bytes", "%", "x", "" and so on; units of one measure can be compared."""
        if self.unit in BYTES:
            return "bytes"
        return {"×": "x", "bit": "bits"}.get(self.unit, self.unit if self.unit in OTHERS else "")

    def rounds_to(self, exact: float) -> bool:
        """Whether `exact`, rounded to the digits that are written, is this."""
        return abs(exact - self.value) <= self.step / 2 * (1 + 1e-9)


def parse_quantity(text: str) -> Quantity:
    """Read a number with an optional unit.

    Args:
        text: such as "81,920", "81.9K", "~8.4M", "0.78 %", "35 GB", "51.2×". "B" is billions; write "GB", or "bytes".

    Raises:
        ValueError: it is not one number with a unit known here.

    >>> parse_quantity("0.78 %").value
    0.0078
    >>> parse_quantity("24GB").value, parse_quantity("24 GiB").value
    (24000000000.0, 25769803776.0)
    >>> parse_quantity("8.4M").rounds_to(8_388_608)
    True
    """
    match = _NUMBER.fullmatch(text.strip())
    written = re.sub(r"[,_ ]", "", match["number"]) if match else ""
    if not match or not any(letter.isdigit() for letter in written):
        raise ValueError(f"{text!r} is not a number; write one such as 81,920 or 81.9K or 0.78 % or 35 GB")
    unit = match["unit"]
    scale = (BYTES | COUNTS | OTHERS).get(unit)
    if scale is None:
        raise ValueError(f"{text!r}: unknown unit {unit!r}; known: {', '.join(u for u in (*BYTES, *COUNTS, *OTHERS) if u)}")
    decimals = len(written.partition(".")[2])
    exponent = int(match["exponent"] or 0)
    digits = len(re.sub(r"[-+.]", "", written).lstrip("0")) or 1
    # Through decimal text, so that "0.78 %" is 0.0078 and not 0.0078000000000000005.
    value = float(f"{written}e{exponent - 2}") if unit == "%" else float(f"{written}e{exponent}") * scale
    return Quantity(value, unit, scale * 10.0 ** (exponent - decimals), digits, bool(match["about"]))


def parse_size(text: str, what: str = "size") -> float:
    """Bytes of memory: "24GB" is 24e9, "24GiB" is 24 * 2^30.

    Raises:
        ValueError: no unit of bytes, or not a positive number.

    >>> parse_size("80GB")
    80000000000.0
    """
    hint = "write a number and a unit, such as 24GB (24e9 bytes) or 24GiB (24 * 2^30 bytes)"
    try:
        quantity = parse_quantity(text)
    except ValueError as error:
        raise ValueError(f"{what} {text!r}: {error}. Here: {hint}") from None
    if quantity.measure != "bytes":
        raise ValueError(f"{what} {text!r} has {f'the unit {quantity.unit!r}' if quantity.unit else 'no unit'}: {hint}")
    if quantity.value <= 0 or not math.isfinite(quantity.value):
        raise ValueError(f"{what} {text!r} is not more than nothing: {hint}")
    return quantity.value


def names_known(name: str, known: Iterable[str], others: Iterable[str] = (), says: str = "known") -> str:
    """What to say of an unknown name: those near it, `others` among them, and all that are known.

    >>> names_known("qlra", ["lora", "qlora"], says="there are"), names_known("x", ["lora"])
    ('near: qlora, lora. There are: lora, qlora', 'known: lora')
    """
    known = list(known)
    hint = near(name, [*known, *others])
    start = f"near: {', '.join(hint)}. {says.capitalize()}" if hint else says
    return f"{start}: {', '.join(known)}"


def format_bytes(count: float, digits: int = 2) -> str:
    """Decimal units, with `digits` after the point.

    >>> format_bytes(36_357_000_000), format_bytes(816_000), format_bytes(512)
    ('36.36 GB', '816.00 kB', '512 bytes')
    """
    for unit in ("TB", "GB", "MB", "kB"):
        if abs(count) >= BYTES[unit] * (1 - 0.5 * 10.0 ** -(digits + 3)):
            return f"{count / BYTES[unit]:,.{digits}f} {unit}"
    return f"{count:,.0f} bytes"


def format_count(count: float) -> str:
    """A count with separators, 8,388,608; what is not whole keeps four digits."""
    return f"{count:,.0f}" if float(count).is_integer() else f"{count:,.4g}"


def format_value(value: Any, unit: str = "") -> str:
    """Any value as text, in the unit that a document uses for it: "%" multiplies by 100, a unit of bytes divides.

    >>> format_value(0.00169464, "%"), format_value(36.36e9, "GB"), format_value(8388608), format_value((64, 8))
    ('0.1695 %', '36.36 GB', '8,388,608', '64 x 8')
    """
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return str(value)
    if isinstance(value, tuple | list):
        whole = value and all(isinstance(item, int) and not isinstance(item, bool) for item in value)
        return " x ".join(map(str, value)) if whole else ", ".join(format_value(item, unit) for item in value)
    if unit == "%":
        return f"{value * 100:.4g} %"
    if unit in BYTES:
        return f"{value / BYTES[unit]:,.2f} {unit}" if abs(value) >= BYTES[unit] / 10 or not value else format_bytes(value)
    if unit in ("x", "×"):
        return f"{value:,.4g}x"
    return format_count(value) + (f" {unit}" if unit and unit not in COUNTS else "")
