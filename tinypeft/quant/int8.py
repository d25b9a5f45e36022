"""LLM.int8() (Dettmers et al. 2022, 2208.07339): each row of a matrix divided by its largest magnitude and rounded to int8.

    x ~ codes * absmax / 127        x W^T ~ (codes_x codes_W^T) * (absmax_x absmax_W) / 127^2

The product is one of integers. Large language models have a few features ("outliers") that are far larger than all others in
every row, and would leave those no precision; columns of x that hold one are computed in floating point instead.

Names and results are bitsandbytes', but for a slip in its CPU code, which has 6.200124e-05 for 1/127^2 = 6.2000124e-05.
"""

from __future__ import annotations

import numpy as np

from tinypeft.backend import Array

EXACT = 1024  # so many products of two int8 add up exactly in float32: 1024 * 127^2 < 2^24


def int8_vectorwise_quant(x: Array, threshold: float = 0.0) -> tuple[Array, Array, Array | None]:
    """Quantize each row of a matrix.

    Args:
        x: (rows, columns), floats.
        threshold: elements of this magnitude and more do not count for absmax, and their columns become 0; 0 for none.

    Returns:
        codes int8 (rows, columns), absmax float32 (rows,), and which columns hold outliers; None without a threshold.

    Raises:
        ValueError: x is no matrix, or holds nan or an infinity.
    """
    if x.ndim != 2 or not x.size:
        raise ValueError(f"expected a matrix that is not empty, got shape {x.shape}")
    wide = x.astype(np.float32, copy=False)
    outliers = np.abs(wide) >= threshold if threshold else None
    inner = wide if outliers is None else np.where(outliers, np.float32(0), wide)
    absmax = np.abs(inner).max(axis=1)
    if not np.isfinite(absmax).all():
        raise ValueError("cannot quantize a matrix that holds nan or an infinity: its whole row would be lost")
    scale = np.float32(1) / np.where(absmax == 0, np.float32(1), absmax) * np.float32(127)  # torch's way of 127 / absmax
    codes = np.rint(inner * scale[:, None]).astype(np.int8)
    if outliers is None:
        return codes, absmax, None
    columns = np.flatnonzero(outliers.any(axis=0))
    codes[:, columns] = 0
    return codes, absmax, columns


def int8_vectorwise_dequant(codes: Array, absmax: Array) -> Array:
    """The numbers again, float32."""
    return codes * absmax[:, None] * np.float32(1 / 127)


def int8_linear_matmul(a: Array, b: Array) -> Array:
    """a b^T of int8 matrices (n, k) and (m, k): exact, int32 (n, m)."""
    out = np.zeros_like(a, np.int32, shape=(len(a), len(b)))
    for start in range(0, a.shape[1], EXACT):  # in float32, for which there is a fast product
        left, right = (x[:, start:start + EXACT].astype(np.float32) for x in (a, b))
        out += (left @ right.T).astype(np.int32)
    return out


def int8_mm_dequant(product: Array, absmax_a: Array, absmax_b: Array) -> Array:
    """What an int32 product stands for, float32 (n, m)."""
    return product.astype(np.float32) * (absmax_a[:, None] * absmax_b) * np.float32(1 / 127**2)


def int8_mixed_scaled_mm(x: Array, codes_x: Array, codes_w: Array, absmax_x: Array, absmax_w: Array, columns: Array | None
                         ) -> Array:
    """x W^T from what `int8_vectorwise_quant` made of x (n, in), outlier columns included, and of W (out, in).

    Returns:
        (n, out) in the dtype of x, in which the outliers' part is computed.
    """
    y = int8_mm_dequant(int8_linear_matmul(codes_x, codes_w), absmax_x, absmax_w).astype(x.dtype, copy=False)
    if columns is not None and columns.size:
        y += x[:, columns] @ int8_vectorwise_dequant(codes_w[:, columns], absmax_w).astype(x.dtype, copy=False).T
    return y
