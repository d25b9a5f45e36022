"""Quantization in blocks: `blocksize` numbers are divided by their largest magnitude and rounded to a codebook's values.

    absmax = max|x| of a block        code = the nearest value's place, for x / absmax        x ~ codebook[code] * absmax

4 bits and one float32 for 64 numbers are 4.5 bits a parameter. Double quantization (Dettmers et al. 2023, 2305.14314) stores
the maxima in 8 bits too, after their mean is taken off, in blocks of 256: 4 + 8/64 + 32/(64 * 256) = 4.127 bits.

All this equals bitsandbytes, bit for bit: arithmetic in float32, a number in the middle goes to the lower value, blocks run on
across rows, the first of two numbers is in the high half of a byte. Only the mean, a sum in another order, may differ in its
last bits. (Where two of its own kernels differ, see `rule`.)
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from tinypeft.backend import Array, as_dtype, asarray, chunk_size, take_into, to_numpy
from tinypeft.quant.codebooks import create_dynamic_map, get_4bit_type, midpoints

BLOCKSIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)  # bitsandbytes'
NESTED_BLOCKSIZE = 256
RULES = ("nearest", "native")


@dataclass(eq=False)
class QuantState:
    """What turns codes back into numbers; attributes are named as in bitsandbytes.

    Attributes:
        absmax: (blocks,) float32; with double quantization uint8 codes, to be read with `state2` and `offset`.
        shape, dtype: of the array that was quantized.
        code: the codebook, (16,) or (256,) float32.
        blocksize: how many numbers share a maximum.
        quant_type: "nf4", "fp4", "int4"; None for 8 bits.
        offset: the mean that was taken off the maxima before they were quantized; one float32.
        state2: how they were.
    """

    absmax: Array
    shape: tuple[int, ...]
    dtype: np.dtype
    code: Array
    blocksize: int
    quant_type: str | None = None
    offset: Array | None = None
    state2: QuantState | None = None

    @property
    def nested(self) -> bool:
        """Whether the maxima are quantized too."""
        return self.state2 is not None

    def statistics(self) -> Array:
        """The maxima, (blocks,) float32."""
        return self.absmax if self.state2 is None else dequantize_blockwise(self.absmax, self.state2) + self.offset

    @property
    def bits_per_parameter(self) -> float:
        """All that is stored for this array (but the codebooks, which all arrays share), divided by its numbers.

        >>> _, state = quantize_4bit(np.ones(2**20, np.float32), compress_statistics=True)
        >>> round(state.bits_per_parameter, 3)
        4.127
        """
        n = int(np.prod(self.shape))
        codes = n if self.quant_type is None else (n + 1) // 2
        scales = [self.absmax] if self.state2 is None else [self.absmax, self.state2.absmax, self.offset]
        return 8 * (codes + sum(array.nbytes for array in scales)) / n

    def as_dict(self, packed: bool = False) -> dict[str, Any]:
        """Named arrays, numbers and names, as in bitsandbytes.

        Args:
            packed: arrays only, as a safetensors file needs it: the others become bytes of JSON in one of them.
        """
        arrays = {"absmax": self.absmax, "quant_map": self.code}
        rest: dict[str, Any] = {"quant_type": self.quant_type, "blocksize": self.blocksize, "dtype": str(self.dtype),
                                "shape": list(self.shape)}
        if self.state2 is not None and self.offset is not None:
            arrays |= {"nested_absmax": self.state2.absmax, "nested_quant_map": self.state2.code}
            rest |= {"nested_blocksize": self.state2.blocksize, "nested_dtype": str(self.state2.dtype),
                     "nested_offset": float(self.offset)}
        if not packed:
            return arrays | rest
        text = np.frombuffer(json.dumps(rest).encode(), np.uint8)
        return {**arrays, f"quant_state.bitsandbytes__{self.quant_type}": text}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """From what `as_dict` makes, packed or not, here or in bitsandbytes.

        Raises:
            ValueError: parts are missing, or are not what they should be.
        """
        found = dict(values)
        try:
            for key in [key for key in found if key.startswith("quant_state.bitsandbytes__")]:
                found |= json.loads(np.asarray(found.pop(key)).tobytes())
            state2 = offset = None
            if found.keys() & {"nested_absmax", "nested_offset"}:
                absmax2 = np.asarray(found["nested_absmax"])
                offset = np.asarray(found["nested_offset"], np.float32)
                state2 = cls(absmax2, np.shape(found["absmax"]), np.dtype(np.float32),
                             np.asarray(found["nested_quant_map"]), found["nested_blocksize"])
            dtype = as_dtype("float32" if found["dtype"] == "bfloat16" else found["dtype"])  # widened, as everywhere
            state = cls(np.asarray(found["absmax"]), tuple(found["shape"]), dtype,
                        np.asarray(found["quant_map"]), found["blocksize"], found["quant_type"], offset, state2)
            check_options(state.blocksize, "nearest", BLOCKSIZES if state.quant_type else None)
            blocks = -(-int(np.prod(state.shape)) // state.blocksize)
            if (state.absmax.shape, state.code.size) != ((blocks,), 256 if state.quant_type is None else 16) or (
                    state2 is not None and (state2.absmax.size, state2.code.size) != (-(-blocks // state2.blocksize), 256)):
                raise ValueError("its parts are longer or shorter than its shape needs")
            if not np.isfinite(state.statistics()).all():
                raise ValueError("its maxima are not finite")
            return state
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is not the state of a quantized array ({type(error).__name__}: {error}); it has "
                             f"{', '.join(values)}") from error


# ---- 4 bits ---------------------------------------------------------------------------------------------------------

def quantize_4bit(x: Array, quant_type: str = "nf4", blocksize: int = 64, compress_statistics: bool = False,
                  rule: str = "nearest") -> tuple[Array, QuantState]:
    """Quantize an array to 4 bits a number.

    Args:
        x: float16, float32 or float64 (which is rounded to float32 first), of any shape.
        quant_type: "nf4", "fp4" or "int4".
        blocksize: a power of two from 32 to 4096.
        compress_statistics: quantize the maxima too: double quantization.
        rule: for those, see `quantize_blockwise`.

    Returns:
        The codes, two in a byte, uint8 (ceil(n / 2), 1), and their QuantState. An odd array is filled up with the code of 0.

    Raises:
        TypeError, ValueError: x is no array of floats, is empty, or holds nan or an infinity; unknown options.

    >>> packed, state = quantize_4bit(np.array([1.0, -0.1, 0.5], np.float32))
    >>> [f"{byte:08b}" for byte in packed.ravel()], dequantize_4bit(packed, state)  # codes 15, 6, 12; and 7, which is 0
    (['11110110', '11000111'], array([ 1.        , -0.09105004,  0.44070983], dtype=float32))
    """
    blocksize = check_options(blocksize, rule, BLOCKSIZES)
    code, flat = get_4bit_type(quant_type), _flat(x)
    order = np.argsort(code, kind="stable").astype(np.uint8)
    thresholds = midpoints(code[order])
    absmax = np.empty_like(flat, np.float32, shape=-(-flat.size // blocksize))
    packed = np.empty_like(flat, np.uint8, shape=(flat.size + 1) // 2)
    step = chunk_size(flat)
    for start in range(0, flat.size, step):
        scaled, absmax[start // blocksize:(start + step) // blocksize] = _scale(flat[start:start + step], blocksize)
        # How many thresholds a number is above: in a chunk that fits the cache, 15 comparisons beat any search.
        above, place = np.empty_like(scaled, bool), np.zeros_like(scaled, np.uint8)
        for threshold in thresholds:
            np.greater(scaled, threshold, out=above)
            place += above.view(np.uint8)
        if quant_type == "fp4":  # whose codes do not rise with their values
            place = asarray(order, like=place)[place]
        if place.size % 2:
            place = np.append(place, np.uint8(np.flatnonzero(code == 0)[0]))
        both = place.view("<u2")  # two codes, the first in the lower byte; of the result a byte keeps the lower one
        packed[start // 2:(start + step) // 2] = both << 4 | both >> 8
    _require_finite(absmax, x)
    state = QuantState(absmax, x.shape, x.dtype, asarray(code, like=packed), blocksize, quant_type)
    if compress_statistics:
        state.offset = absmax.mean(dtype=np.float32)
        state.absmax, state.state2 = quantize_blockwise(absmax - state.offset, blocksize=NESTED_BLOCKSIZE, rule=rule)
    return packed[:, None], state


def dequantize_4bit(packed: Array, state: QuantState) -> Array:
    """The numbers again, of the shape and dtype that they had: codebook value times maximum, in float32, then rounded.

    Raises:
        ValueError: there are more or fewer bytes than the state's shape needs.
    """
    n, absmax, step = int(np.prod(state.shape)), state.statistics(), chunk_size(packed)
    packed = packed.reshape(-1)
    packed = packed if packed.flags.c_contiguous else packed.copy()  # since it is seen as numbers of 16 bits below
    if packed.size != (n + 1) // 2:
        raise ValueError(f"{packed.size} bytes hold {2 * packed.size} codes, the state is of {n} numbers {state.shape}")
    out = np.empty_like(packed, state.dtype, shape=2 * packed.size)
    four = _values_of_two_bytes(to_numpy(state.code).tobytes())
    for start in range(0, n, step):
        piece = packed[start // 2:(start + step) // 2]
        written = out[start:start + step]
        values = written if out.dtype == np.float32 else np.empty_like(written, np.float32)
        even = piece.size // 2 * 2
        take_into(four, piece[:even].view(np.uint16), values[:2 * even].view(np.complex128))
        if even < piece.size:  # a last byte, with two codes: half of the four of that byte and any other
            values[2 * even:] = asarray(four, like=piece)[np.repeat(piece[even:], 2).view(np.uint16)].view(np.float32)[:2]
        _multiply(values[:n - start], absmax[start // state.blocksize:], state.blocksize)
        if values is not written:
            written[...] = values
    return out[:n].reshape(state.shape)


@functools.lru_cache(maxsize=4)
def _values_of_two_bytes(code: bytes) -> np.ndarray:
    """For each two bytes, seen as one number of 16 bits, the four float32 that their codes stand for, as one of 128 bits.

    So one look-up in a table of 1 MB, which fits the cache, decodes four numbers.
    """
    both = np.arange(1 << 16, dtype=np.uint16).view(np.uint8)  # the bytes in the order in which they lie in memory
    codes = np.stack([both >> 4, both & 15], axis=-1).reshape(-1, 4)
    return np.frombuffer(code, np.float32)[codes].view(np.complex128)[:, 0]


# ---- 8 bits ---------------------------------------------------------------------------------------------------------

def quantize_blockwise(x: Array, code: np.ndarray | None = None, blocksize: int = 4096, rule: str = "nearest"
                       ) -> tuple[Array, QuantState]:
    """Quantize an array to 8 bits a number.

    Args:
        x: as for `quantize_4bit`.
        code: at most 256 values, rising; the signed dynamic map if not given.
        blocksize: any.
        rule: "nearest", the nearest value, as on GPUs; or "native", what bitsandbytes' CPU library does: it rounds to a grid
            of 65,536 steps first, and so turns 0 into 2e-5 of the maximum. They differ for a few numbers in a thousand.

    Returns:
        The codes, uint8 in the shape of x, and their QuantState.

    Raises:
        TypeError, ValueError: as `quantize_4bit`.
    """
    blocksize = check_options(blocksize, rule)
    code = create_dynamic_map() if code is None else np.asarray(code, np.float32)
    if code.ndim != 1 or not 2 <= code.size <= 256 or not (np.diff(code) >= 0).all():
        raise ValueError(f"a codebook is 2 to 256 values that rise, got an array of shape {code.shape}")
    flat = _flat(x)
    scaled, absmax = _scale(flat, blocksize)
    _require_finite(absmax, x)
    if rule == "nearest":
        places = np.searchsorted(asarray(midpoints(code), like=scaled), scaled)
    else:
        grid = np.searchsorted(midpoints(code.astype(np.float64)), np.linspace(-1, 1, 1 << 16))
        step = (np.clip(scaled, -1, 1) + np.float32(1)) * np.float32(0.5) * np.float32(65535) + np.float32(0.5)
        places = asarray(grid, like=scaled)[step.astype(np.int64)]
        places[np.repeat(absmax == 0, blocksize)[:places.size]] = 0  # 0 / 0 there
    codes = places.astype(np.uint8).reshape(x.shape)
    return codes, QuantState(absmax, x.shape, x.dtype, asarray(code, like=codes), blocksize)


def dequantize_blockwise(codes: Array, state: QuantState) -> Array:
    """The numbers again, of the shape and dtype that they had."""
    values = state.code[codes.reshape(-1)]
    _multiply(values, state.absmax, state.blocksize)
    return values.astype(state.dtype, copy=False).reshape(codes.shape)


# ---- what both have in common ---------------------------------------------------------------------------------------

def check_options(blocksize: Any, rule: str, blocksizes: tuple[int, ...] | None = None) -> int:
    """The block size as an int.

    Raises:
        ValueError: it is none of those allowed (None: any from 1), or the rule is unknown.
    """
    if not isinstance(blocksize, int | np.integer) or blocksize < 1 or (blocksizes and blocksize not in blocksizes):
        allowed = f"one of {', '.join(map(str, blocksizes))}" if blocksizes else "a positive integer"
        raise ValueError(f"blocksize must be {allowed}, got {blocksize!r}")
    if rule not in RULES:
        raise ValueError(f'rule must be "nearest" or "native", got {rule!r}')
    return int(blocksize)


def _flat(x: Array) -> Array:
    """The numbers in their order, row after row."""
    if getattr(getattr(x, "dtype", None), "kind", None) != "f":
        raise TypeError(f"expected an array of floats, got {getattr(x, 'dtype', type(x).__name__)}")
    if not x.size:
        raise ValueError(f"there is nothing to quantize in an array of shape {x.shape}")
    return x.reshape(-1)


def _scale(x: Array, blocksize: int) -> tuple[Array, Array]:
    """Numbers divided by the largest magnitude of their block, and these magnitudes, in float32.

    (A maximum so divided may be an ulp above 1.)
    """
    with np.errstate(over="ignore", invalid="ignore"):  # reported by _require_finite, in words
        x = x.astype(np.float32, copy=False)
        whole = x.size // blocksize * blocksize
        blocks = x[:whole].reshape(-1, blocksize)
        absmax = np.abs(blocks).max(axis=1)
        scaled = blocks * (np.float32(1) / _divisor(absmax))[:, None]
        scaled = scaled.reshape(-1)
        if whole < x.size:  # the rest is divided: bitsandbytes multiplies by the inverse in whole blocks only
            rest = np.abs(x[whole:]).max(keepdims=True)
            absmax = np.append(absmax, rest)
            scaled = np.append(scaled, x[whole:] / _divisor(rest))
        return scaled, absmax


def _divisor(absmax: Array) -> Array:
    """The maxima, at least 1e-38 as in bitsandbytes; 1 for a block of zeros. (GPUs take 1e-38 for zero.)"""
    return np.where(absmax > 0, np.maximum(absmax, np.float32(1e-38)), np.float32(1))


def _multiply(values: Array, absmax: Array, blocksize: int) -> None:
    """Multiply each block by its maximum, in place."""
    whole = values.size // blocksize * blocksize
    blocks = values[:whole].reshape(-1, blocksize)
    blocks *= absmax[:len(blocks), None]
    values[whole:] *= absmax[len(blocks):len(blocks) + 1]


def _require_finite(absmax: Array, x: Array) -> None:
    if not np.isfinite(absmax).all():
        raise ValueError(f"cannot quantize an array of shape {x.shape} that holds nan, an infinity or a number beyond float32: "
                         "the whole block would be lost. Look for the broken weights before quantizing")
