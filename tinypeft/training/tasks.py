"""Real data: surnames of the US, which the bundled model was trained on, and of other countries, to adapt it to.

US surnames are the 88,799 of the 1990 Census, in the package `names`; the others are the lists that Faker draws from.
All are folded to the letters A-Z and a-z, so that one alphabet serves everywhere, and names that also occur in the US
list are left out, so that nothing that a model is adapted to was seen in pre-training.

Which part a name falls into depends on the name alone (a hash), so it stays there when a list grows.
"""

import functools
import hashlib
import importlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

# country: (Faker's locales, how many names of Faker 40.54 remain after folding and leaving out US names)
COUNTRIES: dict[str, tuple[tuple[str, ...], int]] = {
    "polish": (("pl_PL",), 3048), "slovak": (("sk_SK",), 1189), "kenyan": (("en_KE",), 893), "italian": (("it_IT",), 729),
    "croatian": (("hr_HR",), 695), "dutch": (("nl_NL", "nl_BE"), 674), "german": (("de_DE", "de_AT", "de_CH"), 489),
    "irish": (("en_IE",), 560), "estonian": (("et_EE",), 370), "french": (("fr_FR", "fr_BE", "fr_CH", "fr_CA"), 355),
}

# Letters that Unicode does not take apart into a base letter and an accent.
_WHOLE_LETTERS = str.maketrans("łŁøØđĐðÐħĦı", "lLoOdDdDhHi") | str.maketrans(
    {"ß": "ss", "ẞ": "Ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "þ": "th", "Þ": "Th"})


@dataclass(frozen=True)
class Split:
    """Three disjoint lists of names, each sorted."""

    train: list[str]
    validation: list[str]
    test: list[str]


def fold(name: str) -> str | None:
    """A name in the letters A-Z and a-z, capitalised; None if that is not 2 to 20 letters (compounds, apostrophes).

    >>> fold("ŁĄCZYŃSKI"), fold("Weiß"), fold("Þórðarson"), fold("O'Brien"), fold("Grein Groth")
    ('Laczynski', 'Weiss', 'Thordarson', None, None)
    """
    letters = unicodedata.normalize("NFD", name.translate(_WHOLE_LETTERS))
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return plain.capitalize() if re.fullmatch("[A-Za-z]{2,20}", plain) else None


def us_surnames() -> Split:
    """US surnames: about 80,800 to train on, and 4,000 each to validate and to test.

    Raises:
        ImportError: the package `names` is not installed, or has lost its list.
    """
    return _split(_us_names(), train=0.91, validation=0.045)


def surnames(country: str = "polish") -> Split:
    """Surnames of another country that do not occur in the US: 80% to train on, 10% each to validate and to test.

    Args:
        country: one of COUNTRIES.

    Raises:
        ValueError: an unknown country.
        ImportError: Faker is not installed, or its list has changed beyond recognition.

    >>> surnames("polish").test[:3]
    ['Aleksa', 'Armata', 'Bany']
    """
    if country not in COUNTRIES:
        raise ValueError(f"no surnames for {country!r}; expected one of {', '.join(COUNTRIES)}")
    locales, expected = COUNTRIES[country]
    names: set[str | None] = set()
    for locale in locales:
        provider = importlib.import_module(f"faker.providers.person.{locale}").Provider
        # Polish has the last two. (Female Polish names are left out: they repeat the male ones with -ska for -ski.)
        for attribute in ("last_names", "unisex_last_names", "male_last_names"):
            names.update(fold(name) for name in getattr(provider, attribute, ()))
    kept = {name for name in names if name} - _us_names()
    _check_size(f"{country} surnames in Faker", len(kept), expected, "faker==40.54.0")
    return _split(kept, train=0.8, validation=0.1)


@functools.cache
def _us_names() -> frozenset[str]:
    spec = find_spec("names")  # finds the folder without importing the package
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("US surnames are in the package `names`, which is not installed: pip install names==0.3.0")
    lines = Path(spec.submodule_search_locations[0], "dist.all.last").read_text(encoding="ascii").splitlines()
    kept = frozenset(name for name in (fold(line.split()[0]) for line in lines) if name)
    _check_size("US surnames in `names`", len(kept), 88_799, "names==0.3.0")
    return kept


def _check_size(what: str, size: int, expected: int, package: str) -> None:
    if not 0.9 * expected <= size <= 1.5 * expected:  # lists may grow a little from release to release
        raise ImportError(f"{size} {what}, where about {expected} were expected: pip install the known list, {package}")


def _split(names: Iterable[str], train: float, validation: float) -> Split:
    split = Split([], [], [])
    for name in sorted(names):
        place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64  # uniform in [0, 1)
        part = split.train if place < train else split.validation if place < train + validation else split.test
        part.append(name)
    return split
