"""Numbers as people write them are read and written exactly."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from tinypeft.budget import format_bytes, format_value, parse_quantity, parse_size


@pytest.mark.parametrize(("text", "value", "step", "digits"), [
    ("81,920", 81920, 1, 5),
    ("81 920", 81920, 1, 5),
    ("81.9K", 81900, 100, 3),
    ("8.4M", 8.4e6, 1e5, 2),
    ("7B", 7e9, 1e9, 1),
    ("0.78 %", 0.0078, 1e-4, 2),
    ("0.0848%", 0.000848, 1e-6, 3),
    ("35 GB", 35e9, 1e9, 2),
    ("36.36GB", 36.36e9, 1e7, 4),
    ("24GiB", 24 * 2**30, 2**30, 2),
    ("51.2×", 51.2, 0.1, 3),
    ("51.2x", 51.2, 0.1, 3),
    ("1e-3", 0.001, 0.001, 1),
    ("-3.5", -3.5, 0.1, 2),
    ("4.127 bits", 4.127, 0.001, 4),
    (".5", 0.5, 0.1, 1),
])
def test_numbers_are_read(text, value, step, digits):
    found = parse_quantity(text)
    assert found.value == pytest.approx(value, rel=1e-15)
    assert found.step == pytest.approx(step, rel=1e-12)
    assert (found.digits, found.about) == (digits, False)


def test_a_stated_about_is_kept():
    assert parse_quantity("~40M").about
    assert parse_quantity("about 40M").about
    assert not parse_quantity("40M").about


@pytest.mark.parametrize("text", ["", "many", "GB", "1.2.3", "12 13", "--4", "4 gigs", "1,23", "0x10", "nan", "~"])
def test_what_is_not_a_number_is_an_error_that_quotes_it(text):
    with pytest.raises(ValueError, match="is not a number|unknown unit"):
        parse_quantity(text)


@pytest.mark.parametrize(("text", "message"), [
    ("24", "has no unit"), ("24 gigs", "unknown unit 'gigs'"), ("24 %", "has the unit '%'"), ("24B", "has the unit 'B'"),
    ("0GB", "not more than nothing"), ("-3GB", "not more than nothing"), ("plenty", "is not a number"),
])
def test_what_is_not_a_size_is_an_error_that_shows_how_to_write_one(text, message):
    with pytest.raises(ValueError, match=rf"card '{text}'.*{message}.*24GB \(24e9 bytes\) or 24GiB"):
        parse_size(text, "card")


def test_gb_and_gib_differ():
    assert parse_size("24GB") == 24e9
    assert parse_size("24GiB") == 24 * 2**30


@given(st.integers(1, 10**13))
def test_a_count_with_separators_is_read_back(count):
    assert parse_quantity(f"{count:,}").value == count
    assert parse_quantity(format_value(count)).value == count


@given(st.floats(1e-3, 1e12), st.integers(1, 6))
def test_rounding_to_the_digits_written(value, digits):
    text = f"{value:.{digits - 1}e}"
    assert parse_quantity(text).rounds_to(value)
    assert not parse_quantity(text).rounds_to(value * (1 + 2 * 10.0 ** (1 - digits)))


@given(st.floats(1, 1e14))
def test_bytes_are_written_with_what_they_round_to(count):
    assert parse_size(format_bytes(count)) == pytest.approx(count, rel=0.006, abs=0.5)


def test_values_are_written_in_the_unit_asked_for():
    assert format_value(5242880, "GB") == "5.24 MB"  # too little of a GB to be read
    assert format_value(0, "GB") == "0.00 GB"
    assert format_value(0.5, "x") == "0.5x"
    assert format_value([3.09, 7.12]) == "3.09, 7.12"
    assert format_value(True) == "True"
    assert format_value(1.5) == "1.5"
