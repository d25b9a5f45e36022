"""`tinypeft quant-table`: what each codebook costs and loses, on numbers of several kinds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from tinypeft import AutoModelForCausalLM
from tinypeft.commands.tables import print_table, print_text
from tinypeft.models import smollm2
from tinypeft.quant import (
    ScaledValues,
    create_linear_map,
    dequantize_4bit,
    dequantize_blockwise,
    entropy,
    equal_mass,
    lloyd_max,
    quantize_4bit,
    quantize_blockwise,
)
from tinypeft.quant.blockwise import BLOCKSIZES, check_options

FORMATS = ("table", "markdown", "json")
SAMPLES = 1 << 20  # of each distribution
BUNDLED = "tinypeft/surnames"


@dataclass
class Row:
    """What was measured of one codebook.

    Attributes:
        bits: all that is stored, for each number.
        mse: mean squared error, divided by the numbers' mean square.
        largest_error: of any number, divided by the root of that.
        entropy: bits of information in a code; at most the bits that it has.
    """

    codebook: str
    bits: float
    mse: float
    largest_error: float
    entropy: float


Coder = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray, float]]  # numbers, block size -> codes, numbers again, bits


def _four_bits(quant_type: str, double: bool = False) -> Coder:
    def code(x: np.ndarray, blocksize: int) -> tuple[np.ndarray, np.ndarray, float]:
        packed, state = quantize_4bit(x, quant_type, blocksize, double)
        codes = np.stack([packed >> 4, packed & 15], axis=-1).reshape(-1)[:x.size]
        return codes, dequantize_4bit(packed, state), state.bits_per_parameter

    return code


def _eight_bits(codebook: np.ndarray | None) -> Coder:
    def code(x: np.ndarray, blocksize: int) -> tuple[np.ndarray, np.ndarray, float]:
        codes, state = quantize_blockwise(x, codebook, blocksize)
        return codes, dequantize_blockwise(codes, state), state.bits_per_parameter

    return code


def _lloyd_max(x: np.ndarray, blocksize: int) -> tuple[np.ndarray, np.ndarray, float]:
    codes, again, bits = _eight_bits(lloyd_max(ScaledValues.of_samples(x, blocksize)))(x, blocksize)
    return codes, again, bits - 4  # its 16 codes need half a byte


def _equal_mass(x: np.ndarray, blocksize: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Its regions end at quantiles, not midway, so that the nearest value is not always the one taken."""
    values, boundaries = equal_mass(ScaledValues.of_samples(x, blocksize))
    _, state = quantize_blockwise(x, None, blocksize)
    absmax = np.repeat(state.absmax, blocksize)[:x.size]
    codes = np.searchsorted(boundaries, x / np.maximum(absmax, 1e-38))
    return codes, values[codes] * absmax, state.bits_per_parameter - 4


CODEBOOKS: dict[str, Coder] = {
    "NF4": _four_bits("nf4"),
    "NF4, double quantization": _four_bits("nf4", double=True),
    "FP4": _four_bits("fp4"),
    "int4": _four_bits("int4"),
    "equal mass": _equal_mass,
    "Lloyd-Max": _lloyd_max,
    "dynamic 8-bit": _eight_bits(None),
    "int8": _eight_bits(create_linear_map()),
}


def run_quant_table(*, blocksize: int, seed: int, output_format: str) -> dict[str, list[Row]]:
    """Measure and print.

    Returns:
        Kind of numbers -> a row for each codebook.

    Raises:
        ValueError: an unknown format or block size.
    """
    if output_format not in FORMATS:
        raise ValueError(f"unknown format {output_format!r}; there are: {', '.join(FORMATS)}")
    check_options(blocksize, "nearest", BLOCKSIZES)
    random = np.random.default_rng(seed)
    model, weights = _weights()
    kinds = {
        "normal": random.standard_normal(SAMPLES).astype(np.float32),
        "heavy-tailed (Student's t, 3 degrees of freedom)": random.standard_t(3, SAMPLES).astype(np.float32),
        f"weights of {model}": weights,
    }
    found = {kind: [_measure(name, coder, x, blocksize) for name, coder in CODEBOOKS.items()] for kind, x in kinds.items()}
    if output_format == "json":
        print(json.dumps({kind: [asdict(row) for row in rows] for kind, rows in found.items()}, indent=2))
        return found
    markdown = output_format == "markdown"
    for kind, rows in found.items():
        print_text(f"{kind}: {kinds[kind].size:,} numbers in blocks of {blocksize}", markdown)
        print_table(["codebook", "bits a parameter", "mean squared error", "largest error", "entropy"],
                    [[row.codebook, f"{row.bits:.3f}", f"{row.mse:.6f}", f"{row.largest_error:.3f}", f"{row.entropy:.3f}"]
                     for row in rows], 0, markdown)
    text = ("Errors: relative to the numbers' mean square, and to its root. Entropy: bits of information in a code. Equal "
            "mass and Lloyd-Max are fitted to the very numbers, and NF4 is neither.")
    if smollm2.NAME in model:
        text += f" (The file that {smollm2.NAME} comes from has rounded its weights to 4 bits before: Q4_1, blocks of 32.)"
    print_text(text, markdown)
    return found


def _weights() -> tuple[str, np.ndarray]:
    """A model's name and the numbers of its linear layers: SmolLM2's, of three blocks, where it is installed."""
    try:
        state = smollm2.read_state()
        model, wanted = f"{smollm2.NAME}, blocks 0, 14 and 29", r"model\.layers\.(0|14|29)\..*_proj\.weight"
    except (FileNotFoundError, ImportError):
        model, wanted, state = BUNDLED, r".*_proj\.weight", AutoModelForCausalLM.from_pretrained(BUNDLED).state_dict()
    return model, np.concatenate([np.ravel(tensor) for name, tensor in state.items() if re.fullmatch(wanted, name)])


def _measure(name: str, coder: Coder, x: np.ndarray, blocksize: int) -> Row:
    codes, again, bits = coder(x, blocksize)
    error, power = (x - again).astype(np.float64), np.square(x, dtype=np.float64).mean()
    return Row(name, bits, float((error**2).mean() / power), float(np.abs(error).max() / power**0.5),
               entropy(np.bincount(codes.astype(np.int64)) / x.size))
