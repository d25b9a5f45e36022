"""Weights in four bits: what is stored, how a number is rounded, which codebook loses least, what merging into codes does."""

from __future__ import annotations

import functools
from itertools import combinations, pairwise

import numpy as np

from tinypeft.claims.practice.kinds import choice, kind, numeric, pick, slug, some
from tinypeft.claims.questions import Choice, Mistake, Need, Numeric, Option, Ordering, Step
from tinypeft.quant import dequantize_4bit, entropy, get_4bit_type, quantize_4bit

SECTION = "06_quantization"


@kind("nf4-bits", "quantization", "bits a parameter, constants included", 2)
def nf4_bits(rng: np.random.Generator) -> Numeric:
    n_out, n_in = (32 * int(rng.integers(4, 28)) for _ in range(2))
    blocksize, double = pick(rng, (32, 64, 128, 256)), bool(rng.integers(2))
    _, state = quantize_4bit(np.ones((n_out, n_in), np.float32), "nf4", blocksize, compress_statistics=double)
    bits, n, blocks = state.bits_per_parameter, n_out * n_in, state.absmax.size
    how = ("They are quantized themselves (double quantization): to 8 bits each, with one 32-bit maximum for every 256 of them "
           "and one 32-bit mean for all" if double else "They are stored in 32 bits each")
    nested = -(-blocks // 256)
    constants = 8 * blocks + 32 * nested + 32 if double else 32 * blocks
    return numeric(
        f"A matrix of {n_out} x {n_in} is stored in NF4: a 4-bit code for each number, and a maximum for each block of "
        f"{blocksize} numbers. {how}. How many bits are stored for each parameter?", bits,
        [Step("blocks", f"{n:,} / {blocksize}, rounded up", f"{blocks:,}"),
         Step("bits of the constants", f"8 x {blocks:,} + 32 x {nested} + 32" if double else f"32 x {blocks:,}",
              f"{constants:,}"),
         Step("for each parameter", f"4 + {constants:,} / {n:,}", f"{bits:.4g} bits")],
        [Mistake("codes-only", 4, "That is the codes alone. Without the maxima they mean nothing."),
         Mistake("other-constants", 4 + (32 / blocksize if double else 8 / blocksize + 32 / (256 * blocksize)),
                 "That stores the maxima in 32 bits; here they are quantized too." if double else
                 "That quantizes the maxima too. Here they are in 32 bits."),
         Mistake("16-bit-constants", 4 + 16 / blocksize, "That stores the maxima in 16 bits."),
         Mistake("constants-only", bits - 4, "That is the constants alone. Each number has its 4-bit code as well."),
         Mistake("bytes", bits / 8, "Those are bytes; a byte has 8 bits."),
         Mistake("each-number", 36, "That has a maximum for each number. A block shares one.")],
        unit="bits", tolerance=0.002, section=SECTION)


@kind("nf4-round", "quantization", "a block of numbers, rounded to NF4", 2)
def nf4_round(rng: np.random.Generator) -> Numeric:
    code = get_4bit_type("nf4")
    block = np.round(rng.normal(0, 1, 6), 2)
    place = int(rng.integers(6))
    x, largest = float(block[place]), float(np.abs(block).max())
    packed, state = quantize_4bit(block.astype(np.float32), "nf4")
    answer, scaled = float(dequantize_4bit(packed, state)[place]), x / largest
    nearest = int(np.abs(code - scaled).argmin())
    uniform = round(scaled * 7) / 7
    towards = code[code <= scaled].max() if scaled > 0 else code[code >= scaled].min()
    shown = ", ".join(f"{value:.4f}" for value in code)
    return numeric(
        f"NF4's values are\n\n    {shown}\n\nA block holds {', '.join(f'{value:g}' for value in block)}. It is divided by its "
        "largest magnitude, rounded to the nearest of these values, and multiplied again (the maximum is kept in 32 bits). "
        f"What becomes of {x:g}?", answer,
        [Step("largest magnitude", "", f"{largest:g}"), Step("scaled", f"{x:g} / {largest:g}", f"{scaled:.4f}"),
         Step("nearest value", "", f"{code[nearest]:.4f}"),
         Step("multiplied again", f"{code[nearest]:.4f} x {largest:g}", f"{answer:.4g}")],
        [Mistake("not-scaled-back", float(code[nearest]), "That is NF4's value. It is multiplied by the block's maximum, "
                                                          f"{largest:g}."),
         Mistake("not-scaled", float(code[np.abs(code - x).argmin()]) * largest, "That looks up the number itself. It is "
                                                                                "divided by the block's maximum first."),
         Mistake("neither", float(code[np.abs(code - x).argmin()]), "That rounds the number as it is, without the block's "
                                                                    "maximum."),
         Mistake("toward-zero", float(towards) * largest, "That rounds toward zero. The nearest value is taken."),
         Mistake("uniform", uniform * largest, "That takes 15 equally spaced values, as int4 has. NF4's lie closer together "
                                               "near 0."),
         Mistake("unchanged", x, "That is the number before. Four bits can keep 16 values in a block, and this is none of "
                                 "them."),
         Mistake("neighbour", float(code[min(nearest + 1, 15)]) * largest, "That is the next value above; another one is "
                                                                           "nearer."),
         Mistake("neighbour-below", float(code[max(nearest - 1, 0)]) * largest, "That is the next value below; another one is "
                                                                                "nearer.")],
        tolerance=0.003, section=SECTION)


# ---- codebooks, by hand ---------------------------------------------------------------------------------------------

COUNT, SIZE = 8, 4  # numbers of a block, and values of a codebook: few enough to reckon with
_LOSES = {
    "equal steps": "equal steps leave few values where many numbers are",
    "equal use": "values that occur equally often are not those that lose least, since it is the far numbers that lose most",
    "least error": "each of its values is the mean of the numbers it stands for, at the best of all divisions",
    "near zero": "its values lie close together near 0, and far apart where errors are large"}
_SAYS = {
    "equal steps": "most numbers are small, and share few of its values",
    "equal use": "its values are made to stand for equally many numbers each",
    "least error": "a number far from all others gets a value of its own, which is then used once",
    "near zero": "what is not near 0 shares its outermost values"}


def codebooks_for(x: np.ndarray) -> dict[str, np.ndarray]:
    """Four codebooks of four values for eight numbers in rising order.

    >>> {name: values.tolist() for name, values in codebooks_for(np.array([-8, -6, -2, -2, 0, 0, 4, 8]) / 8).items()}
    ... # doctest: +NORMALIZE_WHITESPACE
    {'equal steps': [-1.0, -0.333, 0.333, 1.0], 'equal use': [-0.875, -0.25, 0.0, 0.75],
     'least error': [-0.875, -0.125, 0.5, 1.0], 'near zero': [-1.0, -0.25, 0.25, 1.0]}
    """
    divisions = [np.split(x, cuts) for cuts in combinations(range(1, COUNT), SIZE - 1)]
    best = min(divisions, key=lambda parts: sum(float(((part - part.mean()) ** 2).sum()) for part in parts))
    return {"equal steps": np.array([-1, -0.333, 0.333, 1]), "equal use": x.reshape(SIZE, -1).mean(axis=1),
            "least error": np.array([part.mean() for part in best]).round(3), "near zero": np.array([-1, -0.25, 0.25, 1])}


def lost_and_said(x: np.ndarray, values: np.ndarray) -> tuple[float, float, np.ndarray]:
    """The sum of squared errors of numbers rounded to the nearest values, bits that a code says, and how often each is used."""
    nearest = np.abs(x[:, None] - values).argmin(axis=1)
    used = np.bincount(nearest, minlength=len(values))
    return float(((x - values[nearest]) ** 2).sum()), float(entropy(used / len(x))), used


@kind("codebook", "quantization", "codebooks by what they lose, or by what a code says", 2)
def codebook(rng: np.random.Generator) -> Ordering:
    by_error = bool(rng.integers(2))
    while True:
        drawn = np.sort(rng.standard_normal(COUNT))
        x = (drawn / np.abs(drawn).max()).round(2)
        books = codebooks_for(x)
        found = {name: lost_and_said(x, values) for name, values in books.items()}
        values = {name: error if by_error else -said for name, (error, said, _) in found.items()}
        names = some(rng, list(books), 3)
        order = sorted(names, key=lambda name: values[name])
        apart = [values[after] - values[before] for before, after in pairwise(order)]
        gaps = [np.sort(np.abs(x[:, None] - books[name]), axis=1) for name in names]
        clear = min(float((gap[:, 1] - gap[:, 0]).min()) for gap in gaps) > 0.015  # no number lies midway between two values
        if clear and min(apart) > (0.1 * values[order[-1]] if by_error else 0.1) and len(np.unique(x)) == COUNT:
            break  # far enough from each other to be told apart by a rough reckoning
    number = dict(zip(names, "123", strict=True))

    def shown(name: str) -> str:
        return ", ".join(f"{value:.4g}" for value in books[name])

    def said(name: str) -> str:
        return f"{values[name]:.3f}" if by_error else f"{-values[name]:.2f} bits"

    def uses(name: str) -> str:
        return ", ".join(f"{times}" for times in found[name][2]) + " times"

    def why(before: str, after: str) -> str:
        if by_error:
            return (f"the squared errors sum to {said(before)} with line {number[before]} ({before}) and to {said(after)} with "
                    f"line {number[after]} ({after}): {_LOSES[after if after != 'least error' else before]}.")
        return (f"the values of line {number[before]} are used {uses(before)}, those of line {number[after]} {uses(after)}: "
                f"{_SAYS[before if before == 'equal use' else after]}.")

    needs = tuple(Need(number[before], number[after], why(before, after), f"{slug(after)}-before-{slug(before)}")
                  for i, before in enumerate(order) for after in order[i + 1:])
    asked = ("Put the codebooks in order by the sum of squared errors, the least first." if by_error else
             "Put the codebooks in order by how evenly their values are used (by the information in a code, -sum p log2 p with "
             "p the share of the numbers that get it), the most even first.")
    return Ordering(
        kind="", topic="", lines=tuple(map(shown, names)), section=SECTION,
        orders=("".join(number[name] for name in order),), needs=needs,
        prompt=f"A block holds {', '.join(f'{value:g}' for value in x)} (divided by their largest magnitude already). Each "
               f"number is rounded to the nearest of {SIZE} values. {asked}",
        steps=tuple(Step(f"{name} ({shown(name)})", "", f"used {uses(name)}; " + (
            f"squared errors sum to {said(name)}" if by_error else f"{said(name)} a code")) for name in order))


# ---- merging into codes ---------------------------------------------------------------------------------------------

@functools.lru_cache(maxsize=64)
def codes_changed(size: float, double: bool) -> tuple[float, float]:
    """What merging a change of `size` times the weights' own size does to NF4 codes.

    Returns:
        The share of the codes that become others, and a block's maximum on average, in units of the weights' size.
    """
    rng = np.random.default_rng(0)
    W = rng.standard_normal(1 << 15).astype(np.float32)
    packed, state = quantize_4bit(W, "nf4", 64, double)
    base = dequantize_4bit(packed, state)
    change = (rng.standard_normal(1 << 15) * size * base.std()).astype(np.float32)
    merged, _ = quantize_4bit(base + change, "nf4", 64, double)
    changed = np.stack([packed >> 4, packed & 15]) != np.stack([merged >> 4, merged & 15])
    return float(changed.mean()), float(state.statistics().mean() / W.std())


SHARES = (("fewer than 1 in 100", 0.01), ("1 to 10 in 100", 0.1), ("10 to 50 in 100", 0.5), ("50 to 99 in 100", 0.99),
          ("more than 99 in 100", 1.0))
SIZES = ((0.002, 0.005, 0.01, 0.015, 0.02), (0.05,), (0.1, 0.12, 0.15), (0.3, 0.4, 0.5))  # of updates, by the share


@kind("requantize", "merging", "how many 4-bit codes a merged update changes", 2)
def requantize(rng: np.random.Generator) -> Choice:
    size, double = pick(rng, pick(rng, SIZES)), bool(rng.integers(2))
    shape = f"({64 * int(rng.integers(8, 129)):,}, {64 * int(rng.integers(8, 129)):,})"
    share, absmax = codes_changed(size, double)
    right = next(i for i, (_, limit) in enumerate(SHARES) if share <= limit)
    options = []
    for i, (text, _) in enumerate(SHARES):
        why = f"Measured on {1 << 15:,} weights: {share:.1%} of the codes change."
        if i == right:
            why += (" To keep the update, dequantize the base and merge into 16 bits." if share < 0.5 else
                    " What of the update lies between two values is still lost.")
        elif i > right:
            why += (" Every weight changes, but its code only if another value becomes the nearest; and a weight that was "
                    "quantized stands exactly on a value, half a step away from that.")
        else:
            why += " The update is not that small beside the steps between NF4's values."
        options.append(Option(text, why, "" if i == right else "too-many" if i > right else "too-few"))
    half = absmax * float(np.diff(get_4bit_type("nf4"))[7]) / 2
    return choice(
        f"A QLoRA adapter has been trained for W {shape}, stored in NF4 in blocks of 64{', maxima quantized too' * double}; "
        f"its weights are normally distributed. The update, (alpha/r) B A, has {100 * size:g}% of W's size (root mean square). "
        "It is added to the dequantized weights, and these are quantized again. How many of the 4-bit codes become "
        "others?", options, rng, section="07_qlora", shuffle=False,
        steps=[Step("a block's largest weight, on average, in units of W's size", "", f"{absmax:.2f}"),
               Step("half a step of NF4 near 0, in the same units", "", f"{half:.3f}"),
               Step("the update in these units", "", f"{size:g}"),
               Step("measured share of codes that change", "", f"{share:.1%}")])
