"""One judge for all claims: every verdict follows from a stated and a computed value."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tinypeft.budget import parse_quantity
from tinypeft.claims.judge import Range, Verdict, computed, judge, searched, under

CONFIRMED, ROUNDED, CORRECTED, DEPENDS = Verdict.CONFIRMED, Verdict.ROUNDED, Verdict.CORRECTED, Verdict.DEPENDS


@pytest.mark.parametrize(("stated", "value", "about", "verdict"), [
    (parse_quantity("65,536"), 65536, 0, CONFIRMED),
    (parse_quantity("65,536"), 65537, 0, CORRECTED),
    (parse_quantity("8,037,224,448"), 8_037_224_447, 0, CORRECTED),  # a count is exact, however large
    (parse_quantity("140 GB"), 140e9, 0, CONFIRMED),
    (parse_quantity("140 GB"), 137.95e9, 0, CORRECTED),
    (parse_quantity("0.12 %"), 0.001198, 0, ROUNDED),
    (parse_quantity("0.12 %"), 0.001251, 0, CORRECTED),
    (parse_quantity("~33M"), 33_554_432, 0.02, ROUNDED),
    (parse_quantity("~33M"), 33_554_432, 0.01, CORRECTED),
    (parse_quantity("51.2x"), 51.2, 0, CONFIRMED),
    (parse_quantity("8"), float("nan"), 0, CORRECTED),
    (parse_quantity("8"), "eight", 0, CORRECTED),
    (parse_quantity("1"), True, 0, CORRECTED),  # a truth value is no number
    (0.0, 7.5e-15, 0, CONFIRMED),  # an identity, up to rounding
    (0.0, 1e-8, 0, CORRECTED),
    (np.inf, 1.41, 0, CORRECTED),
    ((64, 8), (64, 8), 0, CONFIRMED),
    ((64, 8), (8, 64), 0, CORRECTED),
    ([3.045, 7.06], [3.045, 7.06], 0, CONFIRMED),
    ((64, 8), "does not conform", 0, CORRECTED),
    ("float32", "float32", 0, CONFIRMED),
    (True, True, 0, CONFIRMED),
    (True, 1, 0, CONFIRMED),
    (Range(0.001, 0.01), 0.001, 0, CONFIRMED),
    (Range(0.001, 0.01), 0.0237, 0, CORRECTED),
    (Range(high=0.0001), -3, 0, CONFIRMED),
    (Range(high=1), 1, 0, CONFIRMED),
    (Range(below=1), 1, 0, CORRECTED),
    (Range(below=1), 0.999, 0, CONFIRMED),
    (Range(above=0), 0, 0, CORRECTED),
    (Range(above=0), 1e-300, 0, CONFIRMED),
])
def test_one_value(stated, value, about, verdict):
    assert judge(stated, computed(value), about) is verdict


def test_conditions_that_disagree_give_depends():
    stated = parse_quantity("0.1 %")
    assert judge(stated, under({"small": 0.001, "large": 0.02})) is DEPENDS
    assert judge(stated, under({"small": 0.001, "large": 0.001})) is CONFIRMED
    assert judge(stated, under({"small": 0.001, "large": 0.00104})) is ROUNDED
    assert judge(stated, under({"small": 0.01, "large": 0.02})) is CORRECTED


def test_a_search_that_finds_nothing_is_not_reproducible():
    stated = parse_quantity("3M")
    assert judge(stated, searched({"q": 4_194_304, "q, v": 8_388_608})) is Verdict.NOT_REPRODUCIBLE
    assert judge(stated, searched({"q": 3_000_000, "q, v": 8_388_608})) is DEPENDS


@given(st.floats(-1e12, 1e12))
def test_every_number_agrees_with_itself(value):
    assert judge(value, computed(value)) is CONFIRMED


@given(st.floats(1e-6, 1e12), st.floats(0.001, 0.5))
def test_about_covers_its_range_and_no_more(value, about):
    stated = parse_quantity(f"{value:.6e}")
    for inside in (1 - 0.98 * about, 1 + 0.98 * about):
        assert judge(stated, computed(stated.value * inside), about) in (CONFIRMED, ROUNDED)
    for outside in (1 - 1.02 * about, 1 + 1.02 * about):
        assert judge(stated, computed(stated.value * outside), about) is CORRECTED
