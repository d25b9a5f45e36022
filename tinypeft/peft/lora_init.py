"""How LoRA's A and B start. With W (out, in) the weight and s the scaling, W stays the sum of what is left and s B A:

    True        A ~ U(-1/sqrt(in), 1/sqrt(in)), B = 0          (peft's default: the Kaiming rule of torch's Linear)
    False       B too ~ U(-1/sqrt(r), 1/sqrt(r)): not the identity; for tests
    "gaussian"  A ~ N(0, 1/r^2), B = 0
    "pissa"     B A = the r largest singular directions of W, divided by s    (Meng et al. 2024, 2404.02948)
    "olora"     B A = Q[:, :r] R[:r], with Q R = W                            (Buyukakyuz 2024, 2406.01775)

The last two start from the weight, and leave W - s B A in its place: the model's output is at first unchanged.
"""

from __future__ import annotations

import numpy as np

from tinypeft.backend import Array, asarray

INITS = ("gaussian", "pissa", "olora")


def initial_factors(kind: bool | str, W: Array, r: int, scaling: float, random: np.random.Generator
                    ) -> tuple[Array, Array, Array]:
    """A (r, in), B (out, r), and what is left of W (W itself, unless `kind` is "pissa" or "olora"); see above.

    >>> A, B, left = initial_factors("pissa", np.diag([3.0, 2.0, 1.0]), 1, 2.0, np.random.default_rng(0))
    >>> np.allclose(left, np.diag([0.0, 2.0, 1.0])), np.allclose(left + 2.0 * B @ A, np.diag([3.0, 2.0, 1.0]))
    (True, True)
    """
    dtype = W.dtype if W.dtype == np.float64 else np.dtype(np.float32)
    if kind in ("pissa", "olora"):
        wide = W.astype(dtype)
        A, B = (_pissa if kind == "pissa" else _olora)(wide, r, scaling)
        return A, B, (wide - scaling * (B @ A)).astype(W.dtype)
    n_out, n_in = W.shape
    A = random.standard_normal((r, n_in)) / r if kind == "gaussian" else random.uniform(-1, 1, (r, n_in)) * n_in**-0.5
    B = random.uniform(-1, 1, (n_out, r)) * r**-0.5 if kind is False else np.zeros((n_out, r))
    return asarray(A, like=W).astype(dtype), asarray(B, like=W).astype(dtype), W


def _pissa(W: Array, r: int, scaling: float) -> tuple[Array, Array]:
    """W = U S V: A = sqrt(S_r / s) V_r, B = U_r sqrt(S_r / s)."""
    U, S, V = np.linalg.svd(W, full_matrices=False)
    root = np.sqrt(S[:r] / scaling)  # (r,)
    return root[:, None] * V[:r], U[:, :r] * root


def _olora(W: Array, r: int, scaling: float) -> tuple[Array, Array]:
    """W = Q R: A = R[:r], B = Q[:, :r]."""
    Q, R = np.linalg.qr(W)
    return np.ascontiguousarray(R[:r]), np.ascontiguousarray(Q[:, :r])
