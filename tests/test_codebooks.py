"""Codebooks: bit for bit those of bitsandbytes; and how often their values are used, with what error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import GOLDEN, assert_close
from hypothesis import given, strategies as st
from scipy import integrate, stats

from tinypeft.quant import (
    ScaledValues,
    create_dynamic_map,
    create_linear_map,
    create_normal_map,
    entropy,
    equal_mass,
    get_4bit_type,
    lloyd_max,
    regions,
)
from tinypeft.quant.codebooks import NF4_OFFSET, midpoints

RECORDED = np.load(GOLDEN / "bnb_8bit.npz")
NORMAL = ScaledValues.of_distribution(stats.norm)
TYPES = ("nf4", "fp4", "int4")
DISTRIBUTIONS: dict[str, Any] = {
    "normal": stats.norm(), "uniform": stats.uniform(-1, 2), "t": stats.t(5), "shifted": stats.norm(0.4, 1.0),
    "skewed": stats.gumbel_r(), "one-sided": stats.expon(), "wide": stats.norm(0, 30.0), "tiny": stats.norm(0, 1e-4)}


def assert_bits(received: np.ndarray, expected: np.ndarray) -> None:
    """Equal dtypes, shapes and bits: of zeros the sign too."""
    assert (received.dtype, received.shape, received.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())


# ---- the values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "recorded"), [
    (get_4bit_type("nf4"), "nf4_code"), (get_4bit_type("fp4"), "fp4_code"), (create_normal_map(), "nf4_code"),
    (create_dynamic_map(), "dynamic_map_signed"), (create_dynamic_map(signed=False), "dynamic_map_unsigned"),
], ids=["nf4", "fp4", "normal map", "dynamic, signed", "dynamic, unsigned"])
def test_codebooks_are_those_of_bitsandbytes_bit_for_bit(code, recorded):
    assert_bits(code, RECORDED[recorded])


def test_nf4_is_the_normal_map_of_bitsandbytes_without_its_padding():
    """bitsandbytes pads to 256 values with zeros, and computes in another library: 1 unit in the last place."""
    recorded = RECORDED["normal_map_scipy"]
    inner = np.concatenate([recorded[recorded < 0], [np.float32(0)], recorded[recorded > 0]])
    np.testing.assert_array_max_ulp(get_4bit_type("nf4"), inner, maxulp=1)


def test_the_offset_is_the_mean_of_half_a_part_of_15_and_of_16():
    assert round(1 - (1 / 30 + 1 / 32) / 2, 7) == NF4_OFFSET
    exact = create_normal_map(1 - (1 / 30 + 1 / 32) / 2)  # the rounding of the offset shows in the values
    assert 0 < np.abs(exact - get_4bit_type("nf4")).max() < 4e-7


@pytest.mark.parametrize("side", [1, -1])
def test_nf4_cuts_the_probability_of_each_side_into_equal_steps(side):
    code = get_4bit_type("nf4").astype(np.float64)
    values = code[side * code >= 0] * stats.norm.ppf(NF4_OFFSET)
    assert len(values) == (9 if side == 1 else 8)
    steps = np.diff(stats.norm.cdf(values))
    assert_close(steps, np.full_like(steps, (NF4_OFFSET - 0.5) / (len(values) - 1)), 1e-6)


def test_another_offset_is_another_codebook_of_the_same_shape():
    for offset in (0.9, 0.99, 0.999):
        code = create_normal_map(offset)
        assert code.dtype == np.float32
        assert (np.diff(code) > 0).all()
        assert (code[[0, 7, 15]] == [-1, 0, 1]).all()
    assert create_normal_map(0.999)[8] < create_normal_map(0.9)[8]


def test_fp4_is_a_float_of_a_sign_two_bits_of_exponent_and_one_of_mantissa():
    values = get_4bit_type("fp4") * np.float32(12)
    for bits in range(8):
        exponent, mantissa = bits >> 1, bits & 1
        # bitsandbytes counts its exponents 0, 1, 2, 3 as "subnormal", 8, 4, 2; and has 1/16 for the smallest
        expected = 0.0625 * mantissa if exponent == 0 else {1: 8.0, 2: 4.0, 3: 2.0}[exponent] * (1 + mantissa / 2)
        assert values[bits] == np.float32(expected)
        assert values[bits + 8] == -np.float32(expected)
    assert not np.signbit(values[[0, 8]]).any()  # both zeros are +0


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_linear_maps_have_equal_steps_and_one_code_to_spare(bits):
    code, n = create_linear_map(bits), 2 ** (bits - 1) - 1
    assert code.shape == (2**bits,)
    assert_bits(code[:-1], (np.arange(-n, n + 1, dtype=np.float32) / np.float32(n)))
    assert code[-1] == code[-2] == 1
    assert_close(code[:-1], -code[-2::-1], 0)


def test_the_linear_map_of_bitsandbytes_has_the_same_values():
    """But that torch's linspace misses 0 by 4e-9, and so it has two zeros, and we have two ones."""
    recorded = RECORDED["linear_map_signed"]
    assert (recorded[127:129] == [0, np.float32(3.7252903e-09)]).all()
    assert_close(np.delete(recorded, 128), create_linear_map(8)[:-1], 1e-7)


def test_int4_is_the_linear_map_of_four_bits():
    assert_bits(get_4bit_type("int4"), create_linear_map(4))


@pytest.mark.parametrize("signed", [True, False])
def test_dynamic_maps_double_with_every_power_of_ten(signed):
    code = create_dynamic_map(signed)
    assert code.shape == (256,)
    assert (np.diff(code) > 0).all()
    assert {0.0, 1.0} <= set(code.tolist())
    for i in range(7):
        low, high = 10.0 ** (i - 7), 10.0 ** (i - 6)
        inside = ((code > low) & (code < high)).sum()
        assert inside == 2 ** (i if signed else i + 1)
        assert ((code < -low) & (code > -high)).sum() == (2**i if signed else 0)
    if signed:
        assert_close(code.min(), np.float32(-0.99296874), 0)


def test_codebooks_that_are_shared_cannot_be_changed():
    for code in (*map(get_4bit_type, TYPES), create_dynamic_map(), create_dynamic_map(False), create_linear_map()):
        with pytest.raises(ValueError, match="read-only"):
            code[0] = 2
    assert get_4bit_type("nf4") is get_4bit_type("nf4")


def test_an_unknown_type_is_an_error_that_names_those_there_are():
    for name in ("nf3", "NF4", "", None):
        with pytest.raises(ValueError, match='expected "nf4", "fp4" or "int4"'):
            get_4bit_type(name)


# ---- how often each is used, and with what error --------------------------------------------------------------------


def test_the_regions_of_nf4_under_the_normal_distribution_are_far_from_equal():
    mass, error = regions(get_4bit_type("nf4"), NORMAL)
    assert_close(np.array([mass.min(), mass.max()]), np.array([0.0173, 0.0924]), 5e-5)
    assert_close(mass.max() / mass.min(), 5.36, 2e-3)
    assert (mass.argmin(), mass.argmax()) == (15, 6)
    assert_close(entropy(mass), 3.885, 2e-4)
    assert_close(error.sum(), 0.00846, 1e-5)


@pytest.mark.parametrize(("name", "expected"), [("nf4", 0.00846), ("fp4", 0.01487), ("int4", 0.01158)])
def test_the_error_of_each_type_is_the_one_that_was_measured(name, expected):
    assert_close(regions(get_4bit_type(name), NORMAL)[1].sum(), expected, 1e-5)


def test_the_least_error_is_a_tenth_below_that_of_nf4_and_equal_mass_is_twice_as_bad():
    nf4 = regions(get_4bit_type("nf4"), NORMAL)[1].sum()
    least = regions(lloyd_max(NORMAL), NORMAL)[1].sum()
    equal = regions(*_swapped(equal_mass(NORMAL)))[1].sum()
    assert_close(least, 0.00762, 1e-5)
    assert_close(equal, 0.0171, 1e-4)
    assert_close(least / nf4, 0.90, 0.002)
    assert_close(equal / nf4, 2.02, 0.02)


def _swapped(code_and_boundaries: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, ScaledValues, np.ndarray]:
    code, boundaries = code_and_boundaries
    return code, NORMAL, boundaries


@pytest.mark.parametrize(("blocksize", "ratio"), [(16, 1.46), (64, 5.36), (256, 18.0)])
def test_the_longer_the_blocks_the_less_equal_the_regions(blocksize, ratio):
    mass, _ = regions(get_4bit_type("nf4"), ScaledValues.of_distribution(stats.norm, blocksize))
    assert_close(mass.max() / mass.min(), ratio, 0.01)


def test_even_at_the_scale_that_it_was_made_for_the_regions_of_nf4_are_not_equal():
    """Without blocks: of numbers z / z(0.9677083) from a normal distribution."""
    ends = midpoints(get_4bit_type("nf4")).astype(np.float64) * stats.norm.ppf(NF4_OFFSET)
    mass = np.diff(np.concatenate([[0], stats.norm.cdf(ends), [1]]))
    recorded = [.0585, .071, .0681, .0675, .0672, .0671, .0671, .0628, .0586, .0587, .0587, .0588, .059, .0595, .0617, .0557]
    assert_close(mass, np.array(recorded), 6e-5)
    assert (round(mass.min(), 4), round(mass.max(), 3)) == (0.0557, 0.071)


@pytest.mark.parametrize("blocksize", [16, 64])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_integral_agrees_with_samples(name, blocksize):
    distribution = DISTRIBUTIONS[name]
    samples = ScaledValues.of_samples(distribution.rvs(blocksize * (400000 // blocksize), random_state=3), blocksize)
    integral = ScaledValues.of_distribution(distribution, blocksize, points=6000)
    for kind in TYPES:
        (mass, error), (seen, seen_error) = (regions(get_4bit_type(kind), scaled) for scaled in (integral, samples))
        assert_close(mass, seen, 0.003, f"{kind}: mass")
        assert_close(error.sum() / seen_error.sum(), 1.0, 0.02, f"{kind}: error")


def test_the_maximum_itself_is_one_number_in_each_block():
    for blocksize in (2, 16, 64):
        scaled = ScaledValues.of_distribution(stats.norm, blocksize, points=2000)
        at_ends = scaled.mass[np.abs(scaled.values) == 1].sum()
        assert_close(at_ends, 1 / blocksize, 1e-4)


def test_a_block_of_two_uniform_numbers_is_what_a_pencil_finds():
    """Their quotient is uniform on [-1, 1], and one of two is 1 or -1: regions of int4 have a width of 1/7 in [-1, 1]."""
    mass, _ = regions(create_linear_map(4)[:15], ScaledValues.of_distribution(stats.uniform(-1, 2), 2, points=7 * 2000))
    expected = np.full(15, 1 / 28)
    expected[[0, 14]] = 1 / 56 + 1 / 4
    assert_close(mass, expected, 2e-4)


def test_the_relative_error_is_that_of_numbers_and_not_of_scaled_ones():
    """Against quantization itself, of blocks of very different sizes."""
    random = np.random.default_rng(5)
    x = random.standard_normal((200, 64)) * np.exp(random.standard_normal((200, 1)))
    scaled = ScaledValues.of_samples(x)
    code = get_4bit_type("nf4").astype(np.float64)
    absmax = np.abs(x).max(axis=1, keepdims=True)
    rounded = code[np.searchsorted((code[1:] + code[:-1]) / 2, x / absmax)] * absmax
    assert_close(regions(code, scaled)[1].sum(), ((x - rounded) ** 2).sum() / (x**2).sum(), 1e-8)


def test_samples_leave_out_what_does_not_fill_a_block():
    scaled = ScaledValues.of_samples(np.array([1.0, -2.0, 0.5, 0.0, 9.0, 9.0, 9.0]), blocksize=4)
    assert_close(scaled.values, np.array([-1.0, 0.0, 0.25, 0.5]), 1e-12)
    assert_close(scaled.mass, np.full(4, 0.25), 1e-12)
    assert_close((scaled.power * scaled.values**2).sum(), 1.0, 1e-12)


def test_a_block_of_zeros_does_no_harm():
    x = np.concatenate([np.zeros(64), np.random.default_rng(0).standard_normal(64)])
    assert_close(regions(get_4bit_type("nf4"), ScaledValues.of_samples(x))[1].sum(),
                 regions(get_4bit_type("nf4"), ScaledValues.of_samples(x[64:]))[1].sum(), 1e-12)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_masses_sum_to_one_and_powers_to_the_whole_energy(name):
    scaled = ScaledValues.of_distribution(DISTRIBUTIONS[name], points=2000)
    assert (np.diff(scaled.values) >= 0).all()
    assert (scaled.mass >= 0).all()
    assert_close(scaled.mass.sum(), 1.0, 1e-12)
    assert_close((scaled.power * scaled.values**2).sum(), 1.0, 1e-12)
    for kind in TYPES:
        mass, error = regions(get_4bit_type(kind), scaled)
        assert_close(mass.sum(), 1.0, 1e-12)
        assert (error >= 0).all()


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_no_codebook_has_less_error_than_lloyd_max(name):
    scaled = ScaledValues.of_distribution(DISTRIBUTIONS[name], points=2000)
    best = lloyd_max(scaled)
    least, random = regions(best, scaled)[1].sum(), np.random.default_rng(0)
    assert best.shape == (16,)
    code, boundaries = equal_mass(scaled)
    others = [regions(get_4bit_type(kind), scaled)[1].sum() for kind in TYPES]
    others += [regions(code, scaled, boundaries)[1].sum(), regions(code, scaled)[1].sum()]
    others += [regions(np.sort(best + 0.01 * random.standard_normal(16)), scaled)[1].sum() for _ in range(10)]
    assert least <= min(others)
    if name != "uniform":  # for which equal mass is nearly the best
        assert least < 0.99 * min(others[:5])


def test_the_values_of_lloyd_max_are_the_means_of_their_regions():
    best = lloyd_max(NORMAL)
    place = np.searchsorted(midpoints(best), NORMAL.values)
    means = [np.average(NORMAL.values[place == k], weights=NORMAL.power[place == k]) for k in range(16)]
    assert_close(best, np.array(means), 1e-4)


@pytest.mark.parametrize("size", [4, 16])
@pytest.mark.parametrize("name", ["normal", "t", "shifted", "skewed"])
def test_equal_mass_uses_each_of_its_values_equally(name, size):
    scaled = ScaledValues.of_distribution(DISTRIBUTIONS[name], points=4000)
    code, boundaries = equal_mass(scaled, size)
    assert (code.shape, boundaries.shape) == ((size,), (size - 1,))
    mass, _ = regions(code, scaled, boundaries)
    assert_close(mass, np.full(size, 1 / size), 0.001)
    assert_close(entropy(mass), np.log2(size), 1e-3)
    assert (code[:-1] <= boundaries).all()
    assert (boundaries <= code[1:]).all()


def test_entropy_counts_bits():
    assert entropy(np.full(16, 1 / 16)) == 4.0
    assert entropy(np.array([1.0, 0.0])) == 0.0
    assert_close(entropy(np.array([0.5, 0.25, 0.25, 0.0])), 1.5, 1e-15)


def test_regions_take_codes_in_any_order():
    order = np.random.default_rng(1).permutation(16)
    for part, whole in zip(regions(get_4bit_type("nf4")[order], NORMAL), regions(get_4bit_type("nf4"), NORMAL), strict=True):
        assert_close(part, whole[order], 0)


@given(st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=20, unique=True))
def test_regions_are_those_of_the_nearest_value(values):
    code = np.array(sorted(values))
    scaled = ScaledValues(np.linspace(-1, 1, 301), np.ones(301), np.ones(301))
    mass, error = regions(code, scaled)
    distance = np.abs(scaled.values[:, None] - code).min(axis=1)
    assert_close(error.sum(), (scaled.power * distance**2).sum(), 1e-12)
    assert_close(mass.sum(), 1.0, 1e-12)


def test_the_density_of_scaled_normal_numbers_is_the_integral_over_the_maximum():
    """One region by SciPy's own quadrature: P(0.04 < x/m < 0.12) over the maximum m of 64."""
    n = 64
    low, high = midpoints(get_4bit_type("nf4"))[7:9].astype(np.float64)

    def at(m: float) -> float:
        inside = 2 * stats.norm.cdf(m) - 1
        density = n * 2 * stats.norm.pdf(m) * inside ** (n - 1)  # of the maximum
        return density * (n - 1) / n * (stats.norm.cdf(high * m) - stats.norm.cdf(low * m)) / inside

    expected, _ = integrate.quad(at, 0.5, 8)
    assert_close(regions(get_4bit_type("nf4"), NORMAL)[0][8], expected, 5e-5)
