"""Exercise 06: weights in few bits (Dettmers et al. 2022, 2208.07339, and 2023, 2305.14314).

    absmax = max|x|        code = the place of the allowed value nearest to x / absmax        x ~ value[code] * absmax

Write each function with NumPy (and `statistics`, if you like); codes need exactly the dtype that is named.
`tinypeft test 06` says how far you are, `tinypeft hint 06` gives a hint.
"""

import numpy as np


def absmax_int8_quantize(x: np.ndarray) -> dict:
    """8 bits a number, with one maximum for all.  x of any shape.

    Returns:
        {"codes": int8, of the shape of x: round(127 x / absmax), halves to even as np.round has it,
         "absmax": float, the largest magnitude in x}. If x is all zeros, so are the codes and absmax.
    """
    raise NotImplementedError


def absmax_int8_dequantize(codes: np.ndarray, absmax: float) -> np.ndarray:
    """The numbers that such codes stand for, of the same shape."""
    raise NotImplementedError


def nf4_codebook() -> np.ndarray:
    """The 16 values of NF4, rising from -1 to 1.

    8 above zero, 7 below, and zero: quantiles of the normal distribution at equal steps of probability, from 0.9677083 for the
    outermost ones to 0.5, which is zero; all divided by the largest.

    Returns:
        (16,) computed, not copied from a table: those in circulation are rounded to float32.
    """
    raise NotImplementedError


def quantize_blockwise(x: np.ndarray, code: np.ndarray, blocksize: int) -> dict:
    """4 bits a number, with one maximum for each block of `blocksize` numbers; the last block may be shorter.

    Args:
        x: (n,)
        code: (16,) the allowed values, rising from -1 to 1, 0 among them.

    Returns:
        {"codes": uint8 (n,), the place in `code` of the value nearest to x / absmax, of two equally near ones the lower,
         "absmax": (blocks,), the largest magnitude in each}. A block of zeros has absmax 0, and the code of 0.
    """
    raise NotImplementedError


def dequantize_blockwise(codes: np.ndarray, absmax: np.ndarray, code: np.ndarray, blocksize: int) -> np.ndarray:
    """The numbers again.  codes uint8 (n,), absmax (blocks,), code (16,) -> (n,)."""
    raise NotImplementedError


def pack(codes: np.ndarray) -> np.ndarray:
    """Two codes in a byte, the first of them in its high half.

    Args:
        codes: uint8 (n,), each below 16. If n is odd, a 7 (NF4's zero) is added.

    Returns:
        uint8 (ceil(n / 2),)
    """
    raise NotImplementedError


def unpack(packed: np.ndarray, n: int) -> np.ndarray:
    """The first n codes again.  packed uint8 (ceil(n / 2),) -> uint8 (n,)."""
    raise NotImplementedError


def double_quantize(absmax: np.ndarray, blocksize: int) -> dict:
    """The blocks' maxima (n,) in 8 bits too: their mean is taken off, the rest is stored as int8 codes.

    Args:
        blocksize: how many maxima share a maximum of their own; the last of these blocks may be shorter.

    Returns:
        {"offset": float, the mean of all, "codes": int8 (n,) of absmax - offset, in blocks, each as in absmax_int8_quantize,
         "absmax": (ceil(n / blocksize),) the largest magnitude in each block of absmax - offset}.
    """
    raise NotImplementedError


def bits_per_parameter(blocksize: int, nested_blocksize: int | None) -> float:
    """All that is stored for a weight in 4 bits: its code, and its share of the blocks' maxima.

    Args:
        nested_blocksize: None: the maxima are float32. Otherwise they have 8 bits, and each block of so many of them a float32.
            (The one mean of all maxima does not count.)
    """
    raise NotImplementedError
