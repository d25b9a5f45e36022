"""Codebooks: the few values, between -1 and 1, that a quantized number can have; derived here, not pasted.

    NF4 (Dettmers et al. 2023, 2305.14314)      16 quantiles of the normal distribution
    FP4, int4                                   a 4-bit float, and 15 equal steps
    dynamic (Dettmers 2015, 1511.04561)         256 values, dense near zero: for the block maxima of double quantization

Names are bitsandbytes', and so are the values, bit for bit (but for its linear map, which misses zero by rounding). Then, what
a codebook can be judged by: `regions` says how often each of its values is used and what error that makes, for any
distribution; `lloyd_max` and `equal_mass` are the two codebooks that NF4 is often taken for, the one with the least error and
the one that uses all its values equally. It is neither.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

# 1 - (1/30 + 1/32) / 2, as bitsandbytes rounds it. Of the normal distribution's mass, cut into 15 or into 16 parts, half a part
# would lie beyond the outermost quantile: 1/30 or 1/32. NF4 has 7 values below zero and 8 above, and takes the mean of both.
NF4_OFFSET = 0.9677083


@functools.cache
def get_4bit_type(typename: str) -> np.ndarray:
    """The 16 values of a 4-bit type, float32, read-only; the place of a value is its code.

    Args:
        typename: "nf4" or "fp4", as in bitsandbytes, or "int4": the steps -7/7, ..., 7/7, of which the last has two codes, the
            second unused.

    Raises:
        ValueError: another name.

    >>> get_4bit_type("nf4")[[0, 1, 7, 8, 15]].tolist()
    [-1.0, -0.6961928009986877, 0.0, 0.07958029955625534, 1.0]
    """
    if typename == "nf4":
        code = create_normal_map()
    elif typename == "fp4":  # sign, two bits of exponent, one of mantissa: 3 bits count up from zero, then with the sign
        magnitudes = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3], np.float32) / np.float32(12)
        code = np.concatenate([magnitudes, 0 - magnitudes])
    elif typename == "int4":
        code = create_linear_map(4)
    else:
        raise ValueError(f'quant_type {typename!r} is unknown; expected "nf4", "fp4" or "int4"')
    return _shared(code)


def create_normal_map(offset: float = NF4_OFFSET) -> np.ndarray:
    """NF4: quantiles of the normal distribution, 8 equal steps of probability above zero and 7 below, divided by the largest.

    Args:
        offset: the probability of the outermost quantile. At 1 it would be infinite.

    Returns:
        (16,) float32, rising; -1, 0 and 1 among them, since zeros and block maxima must be kept exactly.
    """
    from scipy.special import ndtri  # the normal quantile function; here, since `import tinypeft` is to be quick

    above, below = ndtri(_linspace(offset, 0.5, 9)[:-1]), -ndtri(_linspace(offset, 0.5, 8)[:-1])
    values = np.sort(np.concatenate([below, [0], above])).astype(np.float32)
    return values / values.max()


@functools.cache
def create_dynamic_map(signed: bool = True) -> np.ndarray:
    """The 256 values of the 8-bit dynamic type, float32, rising, read-only.

    Each power of ten from 1e-6 to 1 has twice as many values as the one below it: the means of 2^i equal parts of [0.1, 1]
    (unsigned: 2^(i+1)), times 10^(i-6). They leave two codes free, for 0 and 1; -1 has none, so that a block whose largest
    number is negative loses 0.7% of it.
    """
    values = [np.array([0, 1], np.float32)]
    for i in range(7):
        edges = _linspace(0.1, 1, 2 ** (i if signed else i + 1) + 1)
        means = np.float32(10.0 ** (i - 6)) * ((edges[:-1] + edges[1:]) / np.float32(2))
        values += [means, -means] if signed else [means]
    return _shared(np.sort(np.concatenate(values)))


@functools.cache
def create_linear_map(total_bits: int = 8) -> np.ndarray:
    """Equal steps, "absmax" quantization: -n/n, ..., n/n with n = 2^(bits-1) - 1, and 1 once more for the code left over.

    Float32, rising, read-only.
    """
    n = 2 ** (total_bits - 1) - 1
    return _shared(np.minimum(np.arange(-n, n + 2), n).astype(np.float32) / np.float32(n))


def _shared(code: np.ndarray) -> np.ndarray:
    """A codebook that is made once, for all callers: read-only."""
    code.flags.writeable = False
    return code


def _linspace(start: float, stop: float, num: int) -> np.ndarray:
    """torch.linspace in float32, to the last bit: steps from the nearer end, product and sum rounded together."""
    first, last, k = np.float32(start), np.float32(stop), np.arange(num)
    step = np.float64((last - first) / np.float32(num - 1))
    return np.where(k < num / 2, np.float64(first) + k * step, np.float64(last) - (num - 1 - k) * step).astype(np.float32)


def midpoints(code: np.ndarray) -> np.ndarray:
    """Where one value's region ends and the next one's begins, in float32; `code` rising."""
    return (code[:-1] + code[1:]) / np.float32(2)


# ---- how good is a codebook? ----------------------------------------------------------------------------------------

@dataclass
class ScaledValues:
    """What a codebook gets to see: numbers divided by the largest magnitude of their block.

    Attributes:
        values: (N,) in [-1, 1], rising.
        mass: (N,) how often each occurs; sums to 1.
        power: (N,) that times the mean square of the block's maximum, which turns squared errors of `values` into those of
            the numbers themselves, divided by the numbers' mean square: sum(power * values^2) is 1.
    """

    values: np.ndarray
    mass: np.ndarray
    power: np.ndarray

    def __post_init__(self) -> None:
        order = np.argsort(self.values, kind="stable")
        self.values, self.mass, self.power = self.values[order], self.mass[order], self.power[order]
        self.mass = self.mass / self.mass.sum()
        self.power = self.power / (self.power * self.values**2).sum()

    @classmethod
    def of_samples(cls, x: Any, blocksize: int = 64, points: int = 20000) -> ScaledValues:
        """Of an array's own numbers; blocks of zeros, and what is left over after the last whole block, are left out.

        Args:
            points: numbers that fall into the same of so many parts of [-1, 1] are taken together, as their mean.
        """
        flat = np.asarray(x, np.float64).reshape(-1)
        blocks = flat[:flat.size // blocksize * blocksize].reshape(-1, blocksize)
        blocks = blocks[np.any(blocks, axis=1)]
        absmax = np.abs(blocks).max(axis=1, keepdims=True)
        scaled = (blocks / absmax).reshape(-1)
        square = np.broadcast_to(absmax**2, blocks.shape).reshape(-1)
        part = np.minimum((scaled + 1) * (points / 2), points - 1).astype(np.int64)
        mass, power, total = (np.bincount(part, weights, points) for weights in (None, square, square * scaled))
        filled = np.flatnonzero(power)
        return cls(total[filled] / power[filled], mass[filled], power[filled])

    @classmethod
    def of_distribution(cls, distribution: Any, blocksize: int = 64, points: int = 20000) -> ScaledValues:
        """Of independent draws from a distribution, by numerical integration.

        One of a block's n numbers is its maximum m and becomes 1 or -1; the others are draws from [-m, m], divided by m.

        Args:
            distribution: anything with `pdf`, `cdf` and `ppf` (a frozen distribution of scipy.stats), continuous.
            points: into how many equal parts [-1, 1] is cut.
        """
        n, edges = blocksize, np.linspace(-1, 1, points + 1)
        unlikely = 1e-9 ** (1 / n)  # all of a block fall between the two quantiles that hold this much: once in 1e9
        high = np.abs(distribution.ppf([1e-9 / n, 1 - 1e-9 / n])).max()
        low = np.abs(distribution.ppf([(1 - unlikely) / 2, (1 + unlikely) / 2])).min()
        m = np.geomspace(max(low, high * 1e-6), high, 400)
        inside = np.maximum(distribution.cdf(m) - distribution.cdf(-m), 1e-300)
        ends = np.stack([distribution.pdf(-m), distribution.pdf(m)])
        weight = inside ** (n - 1) * ends.sum(axis=0) * m  # how often m is the maximum; steps are as wide as m
        between = np.diff(distribution.cdf(edges[:, None] * m), axis=0) / inside  # (points, m)
        at_ends = ends / np.maximum(ends.sum(axis=0), 1e-300)
        mass, power = (np.concatenate([at_ends @ w / n, between @ w * (n - 1) / n]) for w in (weight, weight * m**2))
        return cls(np.concatenate([[-1.0, 1.0], (edges[:-1] + edges[1:]) / 2]), mass, power)


def regions(code: np.ndarray, scaled: ScaledValues, boundaries: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """How often each value of a codebook is used, and the error that it makes.

    Args:
        code: (K,) in any order.
        boundaries: (K - 1,) between the values' regions; the midpoints if not given: the nearest value is taken.

    Returns:
        mass (K,), which sums to 1; and squared error (K,), relative to the mean square of the numbers: its sum is the relative
        mean squared error of quantization.

    >>> from scipy.stats import norm
    >>> mass, error = regions(get_4bit_type("nf4"), ScaledValues.of_distribution(norm))
    >>> mass.round(4).max(), mass.round(4).min(), error.sum().round(5)
    (np.float64(0.0924), np.float64(0.0173), np.float64(0.00846))
    """
    order = np.argsort(code, kind="stable")
    rising = np.asarray(code)[order]
    place = np.searchsorted(midpoints(rising) if boundaries is None else boundaries, scaled.values)  # a tie goes down
    mass, error = np.zeros(len(code)), np.zeros(len(code))
    mass[order] = np.bincount(place, scaled.mass, len(code))
    error[order] = np.bincount(place, scaled.power * (scaled.values - rising[place]) ** 2, len(code))
    return mass, error


def entropy(mass: np.ndarray) -> float:
    """Bits that a code carries on average: -sum(p log2 p), at most log2 of their number."""
    used = mass[mass > 0]
    return float(-(used * np.log2(used)).sum())


def lloyd_max(scaled: ScaledValues, size: int = 16, iterations: int = 500) -> np.ndarray:
    """The codebook of least squared error (Lloyd 1957, Max 1960): every value the mean of its region, regions ending midway."""
    code, _ = equal_mass(scaled, size)
    for _ in range(iterations):
        place = np.searchsorted(midpoints(code), scaled.values)
        weight = np.bincount(place, scaled.power, size)
        code = np.where(weight > 0, np.bincount(place, scaled.power * scaled.values, size) / np.maximum(weight, 1e-300), code)
    return code


def equal_mass(scaled: ScaledValues, size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """A codebook that uses its values equally often: what NF4 is said to be. Its values, the means of their regions, and the
    boundaries of these, the quantiles, which are not the midpoints."""
    quantiles = np.searchsorted(np.cumsum(scaled.mass), np.arange(1, size) / size)
    boundaries = scaled.values[quantiles]
    place = np.searchsorted(boundaries, scaled.values)
    weight = np.maximum(np.bincount(place, scaled.power, size), 1e-300)
    return np.bincount(place, scaled.power * scaled.values, size) / weight, boundaries
