"""How LoRA's A (r, in) and B (out, r) start; s is the scaling, W (out, in) the weight.

    True        A ~ U(-1/sqrt(in), 1/sqrt(in)), B = 0          (peft's default: the Kaiming rule of torch's Linear)
    False       B too ~ U(-1/sqrt(r), 1/sqrt(r)): not the identity; for tests
    "gaussian"  A ~ N(0, 1/r^2), B = 0
    "pissa"     s B A = the r largest singular directions of W               (Meng et al. 2024, 2404.02948)
    "olora"     B A = Q[:, :r] R[:r], with Q R = W                            (Buyukakyuz 2024, 2406.01775)

The last two start from the weight, and leave W - s B A in its place: the model's output is at first unchanged.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinypeft.backend import Array


def initial_A(kind: bool | str, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    """For True, False and "gaussian"."""
    r, n_in = shape
    return random.standard_normal(shape) / r if kind == "gaussian" else random.uniform(-1, 1, shape) * n_in**-0.5


def initial_B(kind: bool | str, shape: tuple[int, ...], random: np.random.Generator) -> Array | float:
    """For True, False and "gaussian"."""
    return random.uniform(-1, 1, shape) * shape[1] ** -0.5 if kind is False else 0.0


def pissa(W: Array, r: int, s: float) -> tuple[Array, Array, Array]:
    """W = U S V: A = sqrt(S_r / s) V_r, B = U_r sqrt(S_r / s), and what is left of W.

    >>> A, B, left = pissa(np.diag([3.0, 2.0, 1.0]), 1, 2.0)
    >>> np.allclose(left, np.diag([0.0, 2.0, 1.0])), np.allclose(left + 2.0 * B @ A, np.diag([3.0, 2.0, 1.0]))
    (True, True)
    """
    U, S, V = np.linalg.svd(W, full_matrices=False)
    root = np.sqrt(S[:r] / s)  # (r,)
    A, B = root[:, None] * V[:r], U[:, :r] * root
    return A, B, W - s * (B @ A)


def olora(W: Array, r: int, s: float) -> tuple[Array, Array, Array]:
    """W = Q R: A = R[:r], B = Q[:, :r], and what is left of W."""
    Q, R = np.linalg.qr(W)
    A, B = R[:r].copy(), Q[:, :r].copy()
    return A, B, W - s * (B @ A)


FROM_WEIGHT: dict[Any, Any] = {"pissa": pissa, "olora": olora}
INITS = ("gaussian", *FROM_WEIGHT)
