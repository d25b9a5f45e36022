"""The grader of exercise 06: what is asked of quantization.py, what is right, and what typical mistakes give."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from tinypeft.grading.submission import Misconception as M

# ---- what is right --------------------------------------------------------------------------------------------------

OFFSET = 0.9677083


def magnitude(x):
    return np.abs(x).max(initial=0)


def int8(x, maximum=magnitude, scale=127, rounded=np.round):
    """Codes and maximum. What does not fit into int8 is cut off at its ends."""
    absmax = maximum(x)
    with np.errstate(all="ignore"):
        codes = np.clip(rounded(scale * x / np.where(absmax == 0, 1, absmax)), -128, 127)
        codes = np.asarray(codes).astype(np.int8)
    return {"codes": codes, "absmax": float(absmax) if np.ndim(absmax) == 0 else absmax}


def quantiles(probabilities):
    return np.array([NormalDist().inv_cdf(p) for p in probabilities])


def nf4(offset=OFFSET, below=8, above=9):
    values = np.concatenate([-quantiles(np.linspace(offset, 0.5, below)[:-1]), [0.0],
                             quantiles(np.linspace(offset, 0.5, above)[:-1])[::-1]])
    return values / np.abs(values).max()


def in_order(n, blocksize):
    return np.split(np.arange(n), np.arange(blocksize, n, blocksize))


def nearest(scaled, code):
    return np.abs(scaled[:, None] - code).argmin(axis=1)  # the first of equals


def blockwise(x, code, blocksize, maximum=magnitude, choose=nearest, blocks=in_order):
    parts = blocks(len(x), blocksize)
    codes, absmax = np.zeros(sum(map(len, parts)), np.uint8), np.array([float(maximum(x[part])) for part in parts])
    for part, largest in zip(parts, absmax, strict=True):
        codes[part] = choose(x[part] / (largest or 1.0), code)
    return {"codes": codes, "absmax": absmax}


def spread(absmax, n, blocksize):
    """The maximum that belongs to each of n numbers."""
    return np.repeat(absmax, blocksize)[:n]


def dequantized(codes, absmax, code, blocksize):
    return code[codes] * spread(absmax, len(codes), blocksize)


def packed(codes, missing=7):
    both = np.append(codes, np.full(len(codes) % 2, missing, np.uint8)).reshape(-1, 2)
    return both[:, 0] << 4 | both[:, 1]


def unpacked(bytes_, n):
    return np.stack([bytes_ >> 4, bytes_ & 15], axis=1).reshape(-1)[:n]


def double(absmax, blocksize, offset=None, blocks=in_order, **change):
    offset = absmax.mean() if offset is None else offset
    parts = [int8((absmax - offset)[part], **change) for part in blocks(len(absmax), blocksize)]
    return {"offset": float(absmax.mean()), "codes": np.concatenate([part["codes"] for part in parts]),
            "absmax": np.array([part["absmax"] for part in parts])}


def bits(blocksize, nested_blocksize):
    if nested_blocksize is None:
        return 4 + 32 / blocksize
    return 4 + 8 / blocksize + 32 / (blocksize * nested_blocksize)


# ---- what is drawn --------------------------------------------------------------------------------------------------
# No number is so near to the middle between two codes that float32 could take the other one; and some are exactly there, with
# divisions that are exact whatever their order.

HALVES = np.arange(127) + 0.5
HALVES = HALVES[[all(kind(half) / kind(127) * kind(127) == half for kind in (np.float32, np.float64)) for half in HALVES]]


def clear(draw, places):
    """Draw until the distance of all places from what they must keep off is at least 0.002."""
    while True:
        x = draw()
        if places(x).min(initial=1) > 2e-3:
            return x


def to_half(x):
    """How far int8's unrounded codes are from a half."""
    codes = 127 * x / magnitude(x)
    return np.abs(codes - np.floor(codes) - 0.5)


def halves(rng, count):
    """Numbers with the maximum 127 (times a power of two) and codes that are halves; both signs, and half of them below an even
    number."""
    even, odd = HALVES[HALVES % 2 == 0.5], HALVES[HALVES % 2 == 1.5]
    chosen = np.concatenate([rng.choice(even, count // 2, replace=False), rng.choice(odd, count - count // 2, replace=False)])
    return rng.permutation(np.concatenate([chosen * np.where(np.arange(count) % 4 < 2, 1, -1), [-127.0]]))


def tensors(rng):
    for shape in ((3, 4), (7,), (2, 3, 2), (1, 1), (5, 1), (1, 6)):
        scale = float(rng.uniform(0.1, 9))
        x = clear(lambda shape=shape, scale=scale: scale * rng.standard_normal(shape), to_half)
        yield (x if x.flat[np.abs(x).argmax()] < 0 else -x,)  # the largest magnitude belongs to a negative number
    for power in (int(rng.integers(-6, 6)), -40):  # small numbers are not zeros
        yield (halves(rng, 9).reshape(5, 2) * 2.0**power,)


def codebook(rng, below):
    """16 values that rise from -1 to 1, so many of them below zero."""
    down, up = np.cumsum(rng.uniform(0.5, 1.5, below)), np.cumsum(rng.uniform(0.5, 1.5, 15 - below))
    return np.concatenate([-down[::-1] / down[-1], [0.0], up / up[-1]])


def middles(code):
    return (code[1:] + code[:-1]) / 2


def weights(rng):
    """x, code and blocksize; the last ones have numbers in the middle between two values, and are large and small."""
    for n, blocksize, code in ((10, 4, nf4()), (24, 6, codebook(rng, 5)), (11, 64, codebook(rng, 9)), (5, 1, codebook(rng, 7)),
                               (1, 3, nf4()), (67, 32, codebook(rng, 4))):
        def apart(x, code=code, blocksize=blocksize):
            scaled = x / spread(blockwise(x, code, blocksize)["absmax"], len(x), blocksize)
            return np.abs(scaled[:, None] - middles(code))

        yield clear(lambda n=n: rng.standard_normal(n) * rng.uniform(0.02, 3, n), apart), code, blocksize
    inner = np.concatenate([-rng.choice(np.arange(1, 32), 6, replace=False), rng.choice(np.arange(1, 32), 7, replace=False)])
    code = np.sort(np.concatenate([[-32, 0, 32], inner])) / 32
    ties = rng.permutation(middles(code))
    x = np.concatenate([0.25 * ties[:7], [-0.25], 8 * ties[7:], [8.0]])
    yield x, code, 8
    yield 2.0**-34 * x, code, 8


def code_arrays(rng):
    """Codes, maxima, codebook and blocksize."""
    for n, blocksize, below in ((10, 4, 7), (12, 3, 5), (9, 64, 9), (4, 1, 6), (1, 2, 7), (70, 32, 4)):
        code = nf4() if below == 7 else codebook(rng, below)
        codes = rng.integers(0, 16, n).astype(np.uint8)
        codes[0] = rng.choice([0, 2, 14, 15])  # not the code of zero
        yield codes, rng.uniform(0.1, 5, -(-n // blocksize)), code, blocksize


def maxima(rng):
    """Block maxima, and the size of the blocks that they are put into."""
    for n, blocksize in ((10, 4), (12, 6), (5, 8), (7, 3), (3, 1)):
        def apart(x, blocksize=blocksize):
            parts = [(x - x.mean())[part] for part in in_order(len(x), blocksize)]
            return np.concatenate([*map(to_half, parts), [magnitude(part) / 20 for part in parts]])

        yield clear(lambda n=n: rng.uniform(0.5, 2.5, n), apart), blocksize
    rest = halves(rng, 6)
    yield 256 + np.concatenate([rest, -rest]), 7  # their mean is exactly 256


# ---- the tests ------------------------------------------------------------------------------------------------------


def truncated(x):
    return np.trunc(x)


def half_up(x):
    return np.floor(x + 0.5)


def half_away(x):
    return np.trunc(x + np.copysign(0.5, x))


TINY = 1e-8
ROWS = "each row has a maximum of its own; here one is for the whole array"


def of_rows(x):
    return np.abs(x).max(axis=-1, keepdims=True)


def wrapped(x, scale):
    """Codes cast to int8 without a look at what fits."""
    with np.errstate(all="ignore"):
        return np.round(scale * x).astype(np.int64).astype(np.int8)


def rounding(gives):
    """Misconceptions of rounding to int8; `gives` makes codes of a way to do it."""
    return [
        M("quant.truncated", "what is behind the point is cut off; round to the nearest code", gives(rounded=truncated)),
        M("quant.truncated", "codes are rounded down; round to the nearest code", gives(rounded=np.floor)),
        M("quant.halves", "halves are rounded up; the contract has them go to the even code, as np.round does",
          gives(rounded=half_up)),
        M("quant.halves", "halves are rounded away from zero; the contract has them go to the even code, as np.round does",
          gives(rounded=half_away)),
        M("quant.scale", "the largest number becomes 128, which int8 does not have; the largest code is 127", gives(scale=128)),
        M("quant.scale", "the factor 127 is missing", gives(scale=1)),
        M("quant.scale", "the codes go to 7, as those of 4 bits; with 8 bits they go to 127", gives(scale=7)),
        M("quant.no_magnitude", "the largest number is taken, not the largest magnitude", gives(maximum=np.max)),
        M("quant.range", "the numbers are divided by their range, not by the largest magnitude", gives(maximum=np.ptp)),
    ]


def test_int8_codes(submission):
    def gives(**change):
        return lambda x: int8(x, **change)["codes"]

    submission.agrees("absmax_int8_quantize", tensors(submission.rng), gives(), [
        *rounding(gives),
        M("quant.no_magnitude", "the largest number is taken, not the largest magnitude", lambda x: wrapped(x, 127 / x.max())),
        M("quant.scale", "the largest number becomes 128, which int8 does not have; the largest code is 127",
          lambda x: wrapped(x, 128 / magnitude(x))),
        M("quant.other_blocks", ROWS, gives(maximum=of_rows)),
        M("quant.small", "numbers that are all small are taken for zeros",
          gives(maximum=lambda x: magnitude(x) if magnitude(x) > TINY else np.inf)),
        M("quant.not_scaled", "x is not divided by absmax", lambda x: wrapped(x, 127)),
        M("quant.unsigned", "127 or 128 is added to the codes, as for unsigned ones",
          lambda x: (int8(x)["codes"].astype(int) + 128).astype(np.uint8)),
    ], part="codes")


def test_int8_absmax(submission):
    submission.agrees("absmax_int8_quantize", tensors(submission.rng), lambda x: float(magnitude(x)), [
        M("quant.no_magnitude", "the largest number is taken, not the largest magnitude", lambda x: float(x.max())),
        M("quant.step", "it is absmax / 127, the step between two codes", lambda x: float(magnitude(x)) / 127),
        M("quant.step", "it is 127 / absmax", lambda x: 127 / float(magnitude(x))),
        M("quant.range", "it is the range of the numbers, not the largest magnitude", lambda x: float(np.ptp(x))),
        M("quant.other_blocks", ROWS, of_rows),
        M("quant.other_blocks", ROWS, lambda x: of_rows(x)[..., 0]),
    ], part="absmax")


def test_int8_dequantize(submission):
    rng = submission.rng
    cases = [(rng.integers(-127, 128, shape).astype(np.int8), float(rng.uniform(2, 9)))
             for shape in ((3, 4), (7,), (2, 3, 1), (1, 1))]
    submission.agrees("absmax_int8_dequantize", cases, lambda codes, absmax: codes * absmax / 127, [
        M("quant.scale", "they are not divided by 127", lambda codes, absmax: codes * absmax),
        M("quant.scale", "they are divided by 128; the largest code, 127, stands for absmax",
          lambda codes, absmax: codes * absmax / 128),
        M("quant.not_scaled", "they are not multiplied by absmax", lambda codes, absmax: codes / 127),
        M("quant.inverse", "the factor is 127 / absmax, that of the way there", lambda codes, absmax: codes * 127 / absmax),
    ])


def rounded_table():
    values = np.sort(nf4() * NormalDist().inv_cdf(OFFSET)).astype(np.float32)
    return (values / values.max()).astype(np.float64)


def test_nf4_codebook(submission):
    given, right = submission.nf4_codebook(), nf4()
    if isinstance(given, np.ndarray) and given.shape == right.shape and given.dtype.kind == "f":
        only_order = bool((np.abs(np.sort(given) - right) < 1e-5).all()) and bool((np.diff(given) < 0).any())
        submission.require(not only_order, "nf4_codebook", "the values are right, but they do not rise", "quant.not_rising")
    submission.agrees("nf4_codebook", [()], nf4, [
        M("quant.equal_steps", "the values are in equal steps; NF4's are quantiles", lambda: np.linspace(-1, 1, 16)),
        M("quant.sides_swapped", "8 values are below zero and 7 above; NF4 has it the other way round",
          lambda: nf4(below=9, above=8)),
        M("quant.symmetric", "zero is not among the values: they are 8 on each side",
          lambda: quantiles(np.linspace(1 - OFFSET, OFFSET, 16)) / NormalDist().inv_cdf(OFFSET)),
        M("quant.equal_mass", "the values are the middles of 16 equally likely parts; NF4 is built from two halves and a zero",
          lambda: quantiles((np.arange(16) + 0.5) / 16) / NormalDist().inv_cdf(15.5 / 16)),
        M("quant.not_normalized", "the quantiles are not divided by the largest", lambda: nf4() * NormalDist().inv_cdf(OFFSET)),
        M("quant.offset", "the offset is 1 - (1/30 + 1/32) / 2 unrounded; NF4 is defined with 0.9677083",
          lambda: nf4(1 - (1 / 30 + 1 / 32) / 2)),
        M("quant.offset", "the offset is that of 8 values for both sides: 1 - 1/32", lambda: nf4(1 - 1 / 32)),
        M("quant.offset", "the offset is that of 7 values for both sides: 1 - 1/30", lambda: nf4(1 - 1 / 30)),
        M("quant.rounded_table", "the values are those of a table in float32; compute them, or return them as float32",
          rounded_table),
    ])


def interleaved(n, blocksize):
    return [np.arange(n)[i::-(-n // blocksize)] for i in range(-(-n // blocksize))]


def equal_parts(n, blocksize):
    return np.array_split(np.arange(n), -(-n // blocksize))


def whole_only(n, blocksize):
    return [part for part in in_order(n, blocksize) if len(part) == blocksize]


def all_in_one(n, blocksize):
    return [np.arange(n)]


def blocking(gives):
    """Misconceptions of which numbers are a block, and what its maximum is."""
    return [
        M("quant.no_magnitude", "the largest number of a block is taken, not the largest magnitude", gives(maximum=np.max)),
        M("quant.other_blocks", "there is one maximum for the whole array, not one for each block", gives(blocks=all_in_one)),
        M("quant.other_blocks", "the numbers of a block do not stand side by side", gives(blocks=interleaved)),
        M("quant.other_blocks", "the blocks are equally long; all but the last have `blocksize` numbers",
          gives(blocks=equal_parts)),
        M("quant.rest_dropped", "the last block is dropped where it is shorter", gives(blocks=whole_only)),
    ]


def linear(scaled, code):
    return np.clip(np.round((scaled + 1) * 7.5), 0, 15)


def next_above(scaled, code):
    return np.minimum(np.searchsorted(code, scaled), 15)


def next_below(scaled, code):
    return np.clip(np.searchsorted(code, scaled, "right") - 1, 0, 15)


def test_blockwise_codes(submission):
    def gives(**change):
        return lambda x, code, blocksize: blockwise(x, code, blocksize, **change)["codes"]

    submission.agrees("quantize_blockwise", weights(submission.rng), gives(), [
        *blocking(gives),
        M("quant.halves", "a number in the middle goes to the upper value; the contract has it go to the lower one",
          gives(choose=lambda scaled, code: 15 - nearest(-scaled, -code[::-1]))),
        M("quant.not_nearest", "the next value above is taken, not the nearest", gives(choose=next_above)),
        M("quant.not_nearest", "the next value below is taken, not the nearest", gives(choose=next_below)),
        M("quant.not_scaled", "x is not divided by its block's maximum", gives(maximum=lambda x: 1.0)),
        M("quant.small", "a block of small numbers is taken for one of zeros",
          gives(maximum=lambda x: magnitude(x) if magnitude(x) > TINY else np.inf)),
        M("quant.codebook_ignored", "NF4 is used whatever `code` is", gives(choose=lambda scaled, _: nearest(scaled, nf4()))),
        M("quant.codebook_ignored", "the codes are in equal steps whatever `code` is", gives(choose=linear)),
    ], part="codes")


def test_block_maxima(submission):
    def gives(**change):
        return lambda x, code, blocksize: blockwise(x, code, blocksize, **change)["absmax"]

    submission.agrees("quantize_blockwise", weights(submission.rng), gives(), [
        *blocking(gives),
        M("quant.step", "the maxima's inverses are returned", lambda *case: 1 / gives()(*case)),
        M("quant.signed", "the number of largest magnitude is taken with its sign",
          gives(maximum=lambda x: x[np.abs(x).argmax()])),
        M("quant.range", "the range of a block's numbers is taken, not the largest magnitude", gives(maximum=np.ptp)),
    ], part="absmax")


def test_zeros(submission):
    rng, blocksize = submission.rng, 4
    x = np.tile([-1.0, 1.0, 1.0], 4)[:11] * rng.uniform(2, 9)  # only -absmax and absmax: nothing else is asked here
    first, last = x.copy(), x.copy()
    first[:4], last[4:] = 0, 0
    cases = [(first, codebook(rng, 9), blocksize), (last, codebook(rng, 4), blocksize), (np.zeros(3), codebook(rng, 6), 2)]

    def with_code(chosen):
        def gives(x, code, blocksize):
            right = blockwise(x, code, blocksize)
            empty = spread(right["absmax"] == 0, len(x), blocksize)
            return right | {"codes": np.where(empty, np.uint8(chosen), right["codes"])}
        return gives

    def with_absmax(value):
        def gives(*case):
            right = blockwise(*case)
            return right | {"absmax": np.where(right["absmax"] == 0, value, right["absmax"])}
        return gives

    submission.agrees("quantize_blockwise", cases, blockwise, [
        *(M("quant.zero_divided", f"a block of zeros gets code {code}, which is what dividing it by its maximum, 0, can give; "
            "it has the code of the value 0", with_code(code)) for code in (0, 15)),
        M("quant.zero_code", "a block of zeros gets code 7: zero in NF4, but not in every codebook", with_code(7)),
        M("quant.zero_absmax", "the maximum of a block of zeros is set to 1; it is stored as 0", with_absmax(1.0)),
    ])
    submission.agrees("absmax_int8_quantize", [(np.zeros((2, 3)),), (np.zeros(()),)], int8)
    submission.agrees("double_quantize", [(np.full(5, float(rng.choice([0.5, 1.5, 2.75]))), 2)], double)


def test_dequantize_blockwise(submission):
    submission.agrees("dequantize_blockwise", code_arrays(submission.rng), dequantized, [
        M("quant.not_scaled", "the values are not multiplied by their block's maximum", lambda codes, _, code, __: code[codes]),
        M("quant.inverse", "the values are divided by their block's maximum",
          lambda codes, absmax, code, blocksize: dequantized(codes, 1 / absmax, code, blocksize)),
        M("quant.other_blocks", "the maxima are taken in turn, one for each number; each is for a whole block",
          lambda codes, absmax, code, _: code[codes] * np.resize(absmax, len(codes))),
        M("quant.other_blocks", "the largest of all maxima is used for all blocks",
          lambda codes, absmax, code, _: code[codes] * absmax.max()),
        M("quant.rest_dropped", "the last block is dropped where it is shorter",
          lambda codes, absmax, code, size: dequantized(codes[:len(codes) // size * size], absmax, code, size)),
        M("quant.codebook_ignored", "NF4 is used whatever `code` is",
          lambda codes, absmax, _, blocksize: dequantized(codes, absmax, nf4(), blocksize)),
        M("quant.codebook_ignored", "the codes are taken for equal steps; they are places in `code`",
          lambda codes, absmax, _, blocksize: dequantized(codes, absmax, np.linspace(-1, 1, 16), blocksize)),
        M("quant.codebook_ignored", "the codes themselves are multiplied; they are places in `code`",
          lambda codes, absmax, _, blocksize: codes * spread(absmax, len(codes), blocksize)),
    ])


def low_first(codes):
    return packed(codes) << 4 | packed(codes) >> 4


def in_halves(codes):
    even = np.append(codes, np.full(len(codes) % 2, 7, np.uint8))
    return even[:len(even) // 2] << 4 | even[len(even) // 2:]


SWAPPED = "the first of two codes is in the low half of the byte; it belongs into the high half"
APART = "codes that stand side by side do not share a byte: the array is taken in two halves"


def test_pack(submission):
    rng = submission.rng
    cases = [(rng.permutation(16).astype(np.uint8)[:n],) for n in (6, 7, 1, 16)]
    cases += [(rng.integers(8, 16, n).astype(np.uint8),) for n in (5, 2)]
    submission.agrees("pack", cases, packed, [
        M("quant.low_first", SWAPPED, low_first),
        M("quant.padding", "a missing code is 0; it is 7, so that what is added stands for zero", lambda c: packed(c, 0)),
        M("quant.padding", "a missing code is 15; it is 7, so that what is added stands for zero", lambda c: packed(c, 15)),
        M("quant.padding", "a missing code is the last one again; it is 7, so that what is added stands for zero",
          lambda c: packed(c, c[-1])),
        M("quant.padding", "the last code is dropped if it has no partner; add a 7", lambda c: packed(c)[:len(c) // 2]),
        M("quant.halves_packed", APART, in_halves),
        M("quant.no_shift", "the first code is not moved into the high half",
          lambda c: np.append(c, np.full(len(c) % 2, 7, np.uint8)).reshape(-1, 2) @ np.ones(2, np.uint8)),
        M("quant.no_shift", "the first code is not moved into the high half",
          lambda c: np.bitwise_or.reduce(np.append(c, np.full(len(c) % 2, 7, np.uint8)).reshape(-1, 2), axis=1)),
        M("quant.one_a_byte", "each code has a byte of its own", lambda c: c),
    ])


def test_unpack(submission):
    rng = submission.rng
    cases = [(packed(rng.permutation(16).astype(np.uint8)[:n]), n) for n in (6, 7, 1, 16)]
    cases += [(packed(np.append(rng.integers(0, 16, n - 1), 7).astype(np.uint8)), n) for n in (4, 5)]  # a 7 that counts
    submission.agrees("unpack", cases, unpacked, [
        M("quant.low_first", SWAPPED, lambda both, n: unpacked(both << 4 | both >> 4, n)),
        M("quant.padding", "n is not looked at: what was added to fill the last byte is returned too",
          lambda both, n: unpacked(both, 2 * len(both))),
        M("quant.last_7", "a last code of 7 is taken for what was added to fill the byte; n says how many codes there are",
          lambda both, n: unpacked(both, 2 * len(both) - int(both[-1] & 15 == 7))),
        M("quant.halves_packed", APART, lambda both, n: np.concatenate([both >> 4, both & 15])[:n]),
        M("quant.no_shift", "the high half is not moved down",
          lambda both, n: np.stack([both & 240, both & 15], 1).ravel()[:n]),
        M("quant.no_mask", "the second code still has the first in its high half",
          lambda both, n: np.stack([both >> 4, both], 1).ravel()[:n]),
        M("quant.one_a_byte", "a byte is taken for one code; it holds two", lambda both, n: both[:n]),
    ])


def test_nested_offset(submission):
    submission.agrees("double_quantize", maxima(submission.rng), lambda absmax, _: float(absmax.mean()), [
        M("quant.other_offset", "the offset is the smallest maximum; it is their mean", lambda absmax, _: float(absmax.min())),
        M("quant.other_offset", "the offset is the middle of the range; it is the mean",
          lambda absmax, _: float(absmax.min() + absmax.max()) / 2),
        M("quant.other_offset", "the offset is the median; it is the mean", lambda absmax, _: float(np.median(absmax))),
        M("quant.other_offset", "each block has an offset of its own; it is the mean of all",
          lambda absmax, size: np.array([absmax[part].mean() for part in in_order(len(absmax), size)])),
        M("quant.offset_missing", "the offset is 0; it is the mean of all maxima", lambda *_: 0.0),
    ], part="offset")


def nested(gives):
    """Misconceptions of what is quantized the second time."""
    def of_block(absmax, blocksize):
        mean = np.concatenate([np.full(len(part), absmax[part].mean()) for part in in_order(len(absmax), blocksize)])
        return gives(offset=mean)(absmax, blocksize)

    return [
        M("quant.offset_missing", "the offset is not taken off before quantization", gives(offset=0.0)),
        M("quant.offset_added", "the offset is added, not taken off",
          lambda absmax, size: gives(offset=-absmax.mean())(absmax, size)),
        M("quant.other_offset", "the mean of each block is taken off, not that of all", of_block),
        M("quant.other_offset", "the smallest maximum is taken off, not the mean",
          lambda absmax, size: gives(offset=absmax.min())(absmax, size)),
        M("quant.other_blocks", "there is one maximum for all, not one for each block", gives(blocks=all_in_one)),
    ]


def test_nested_codes(submission):
    def gives(**change):
        return lambda absmax, blocksize: double(absmax, blocksize, **change)["codes"]

    submission.agrees("double_quantize", maxima(submission.rng), gives(), [*nested(gives), *rounding(gives)], part="codes")


def test_nested_maxima(submission):
    def gives(**change):
        return lambda absmax, blocksize: double(absmax, blocksize, **change)["absmax"]

    submission.agrees("double_quantize", maxima(submission.rng), gives(), [
        *nested(gives),
        M("quant.no_magnitude", "the largest difference of a block is taken, not the largest magnitude", gives(maximum=np.max)),
        M("quant.step", "it is absmax / 127, the step between two codes", lambda *case: gives()(*case) / 127),
    ], part="absmax")


def test_bits(submission):
    rng = submission.rng
    cases = [(int(rng.choice([32, 64])), None), (int(rng.choice([128, 256])), None), (64, 256),
             (int(rng.integers(20, 200)), int(rng.integers(100, 500)))]
    submission.agrees("bits_per_parameter", cases, bits, [
        M("quant.maxima_free", "the maxima are not counted", lambda *_: 4.0),
        M("quant.maxima_free", "the float32 of the nested blocks is not counted",
          lambda size, nested: 4 + (32 if nested is None else 8) / size),
        M("quant.bytes", "the maxima are counted in bytes, the codes in bits",
          lambda size, nested: 4 + (4 / size if nested is None else 1 / size + 4 / (size * nested))),
        M("quant.bytes", "it is in bytes", lambda size, nested: bits(size, nested) / 8),
        M("quant.half_maxima", "the maxima have 16 bits; they are float32",
          lambda size, nested: 4 + (16 / size if nested is None else 8 / size + 16 / (size * nested))),
        M("quant.nested_ignored", "the maxima have 32 bits even with double quantization", lambda size, _: 4 + 32 / size),
        M("quant.nested_ignored", "the maxima have 32 bits even with double quantization",
          lambda size, nested: 4 + 32 / size + (32 / (size * nested) if nested else 0)),
        M("quant.nested_blocks", "a nested block is as many weights as it has maxima; it is blocksize times as many",
          lambda size, nested: bits(size, None) if nested is None else 4 + 8 / size + 32 / nested),
    ])
