"""`tinypeft quant-table`: its numbers agree with quadrature, and with what is known of the codebooks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import norm

from tinypeft.commands import quant_table
from tinypeft.commands.quant_table import CODEBOOKS, run_quant_table
from tinypeft.quant import ScaledValues, get_4bit_type, regions


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Fewer numbers; and the bundled model's weights, whether or not SmolLM2 is installed."""
    monkeypatch.setattr(quant_table, "SAMPLES", 1 << 17)
    monkeypatch.setattr(quant_table.smollm2, "read_state", _absent)


def _absent():
    raise FileNotFoundError("not installed")


def table(**options):
    return run_quant_table(**{"blocksize": 64, "seed": 0, "output_format": "table", **options})


def test_every_kind_of_numbers_has_a_row_for_every_codebook(capsys):
    found = table()
    assert [[row.codebook for row in rows] for rows in found.values()] == [list(CODEBOOKS)] * 3
    assert list(found)[2] == "weights of tinypeft/surnames"
    printed = capsys.readouterr().out
    for rows in found.values():
        for row in rows:
            assert f"{row.mse:.6f}" in printed
            assert f"{row.largest_error:.3f}" in printed


def test_bits_are_all_that_is_stored():
    for rows in table().values():
        bits = {row.codebook: row.bits for row in rows}
        assert bits.pop("NF4, double quantization") == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), abs=1e-3)
        assert {name: round(b, 6) for name, b in bits.items()} == {
            "NF4": 4.5, "FP4": 4.5, "int4": 4.5, "equal mass": 4.5, "Lloyd-Max": 4.5, "dynamic 8-bit": 8.5, "int8": 8.5}


def test_normal_numbers_give_what_quadrature_gives():
    rows = {row.codebook: row for row in table()["normal"]}
    scaled = ScaledValues.of_distribution(norm)
    for name, quant_type in (("NF4", "nf4"), ("FP4", "fp4"), ("int4", "int4")):
        _, error = regions(get_4bit_type(quant_type), scaled)
        assert rows[name].mse == pytest.approx(error.sum(), rel=0.02)  # 131,072 numbers


def test_lloyd_max_has_the_least_error_of_16_values_and_equal_mass_the_most_information():
    for rows in table().values():
        four = [row for row in rows if row.bits < 5]
        assert min(four, key=lambda row: row.mse).codebook == "Lloyd-Max"
        assert max(four, key=lambda row: row.entropy).codebook == "equal mass"
        assert all(0 < row.entropy <= 8 for row in rows)
        equal = next(row for row in rows if row.codebook == "equal mass")
        assert equal.entropy == pytest.approx(4, abs=2e-3)


@pytest.mark.slow
def test_blocks_seeds_and_formats(capsys):
    small, large = table(blocksize=32), table(blocksize=4096)
    for before, after in zip(small["normal"][:4], large["normal"][:4], strict=True):
        assert before.mse < after.mse
        assert before.bits > after.bits
    assert table() == table()
    assert table(seed=1)["normal"] != table()["normal"]
    capsys.readouterr()
    found = table(output_format="json")
    content = json.loads(capsys.readouterr().out)
    assert {kind: [row["mse"] for row in rows] for kind, rows in content.items()} == {
        kind: [row.mse for row in rows] for kind, rows in found.items()}
    table(output_format="markdown")
    assert "| NF4 | 4.500 |" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "message"), [({"blocksize": 100}, "blocksize must be one of 32, .*, got 100"),
                                                  ({"output_format": "xml"}, "unknown format 'xml'; there are: table")])
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        table(**options)


@pytest.mark.parametrize("name", CODEBOOKS)
def test_a_measured_error_is_that_of_the_decoded_numbers(name):
    x = np.random.default_rng(5).standard_normal(64 * 300).astype(np.float32)
    codes, again, bits = CODEBOOKS[name](x, 64)
    row = quant_table._measure(name, CODEBOOKS[name], x, 64)
    assert codes.shape == again.shape == x.shape
    assert row.mse == pytest.approx(np.mean((x - again) ** 2, dtype=np.float64) / np.mean(x**2, dtype=np.float64), rel=1e-5)
    assert row.bits == bits
