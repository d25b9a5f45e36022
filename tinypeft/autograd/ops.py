"""The arithmetic of Tensors: each operation's value and, beside it, its vector-Jacobian product (vjp).

Given g = dL/dy, a vjp returns dL/dx for each input x, or None where `needs` says that nobody wants it; `@op` (tensor.py)
does the rest. The larger operations of a transformer are written in the same way, in functional.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinypeft.autograd.tensor import Piece, Tensor, Value, op
from tinypeft.backend import Array

# ---- arithmetic, with broadcasting ----------------------------------------------------------------------------------

@op
def add(a: Array, b: Array) -> Value:
    return a + b, lambda g, needs: (g, g)


@op
def subtract(a: Array, b: Array) -> Value:
    return a - b, lambda g, needs: (g, -g if needs[1] else None)


@op
def multiply(a: Array, b: Array) -> Value:
    return a * b, lambda g, needs: (g * b if needs[0] else None, g * a if needs[1] else None)


@op
def divide(a: Array, b: Array) -> Value:
    y = a / b
    return y, lambda g, needs: (g / b if needs[0] else None, -g * y / b if needs[1] else None)


@op
def power(x: Array, *, exponent: float) -> Value:
    return x**exponent, lambda g, needs: (g * (exponent * x ** (exponent - 1)) if exponent else np.zeros_like(x),)


@op
def exp(x: Array) -> Value:
    y = np.exp(x)
    return y, lambda g, needs: (g * y,)


@op
def log(x: Array) -> Value:
    return np.log(x), lambda g, needs: (g / x,)


@op
def tanh(x: Array) -> Value:
    y = np.tanh(x)
    return y, lambda g, needs: (g * (1 - y * y),)


@op
def sigmoid(x: Array) -> Value:
    y = 0.5 * np.tanh(0.5 * x) + 0.5  # 1 / (1 + exp(-x)) without overflow
    return y, lambda g, needs: (g * (y * (1 - y)),)


@op
def relu(x: Array) -> Value:
    return np.maximum(x, 0), lambda g, needs: (g * (x > 0),)


@op
def matmul(a: Array, b: Array) -> Value:
    """Matrix product, (..., n, k) @ (..., k, m) -> (..., n, m), leading axes broadcast."""
    if a.ndim < 2 or b.ndim < 2:
        raise ValueError(f"matmul takes matrices, got shapes {a.shape} and {b.shape}; reshape vectors to (1, n) or (n, 1)")
    return a @ b, lambda g, needs: (g @ b.swapaxes(-1, -2) if needs[0] else None,
                                    a.swapaxes(-1, -2) @ g if needs[1] else None)


# ---- reductions -----------------------------------------------------------------------------------------------------

def _expand(g: Array, shape: tuple[int, ...], axis: int | tuple[int, ...] | None, keepdims: bool) -> Array:
    """Repeat what a reduction over `axis` left, so that it has `shape` again."""
    if axis is not None and not keepdims:
        g = np.expand_dims(g, axis)
    return np.broadcast_to(g, shape)


@op
def sum(x: Array, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Value:
    shape = x.shape
    return x.sum(axis=axis, keepdims=keepdims), lambda g, needs: (_expand(g, shape, axis, keepdims),)


@op
def mean(x: Array, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Value:
    shape, y = x.shape, x.mean(axis=axis, keepdims=keepdims)
    return y, lambda g, needs: (_expand(g * (y.size / x.size), shape, axis, keepdims),)


# ---- shape ----------------------------------------------------------------------------------------------------------

@op
def reshape(x: Array, *, shape: Sequence[Any]) -> Value:
    before = x.shape
    return x.reshape(*shape), lambda g, needs: (g.reshape(before),)


@op
def transpose(x: Array, *, axes: Sequence[Any] = ()) -> Value:
    """Reorder the axes (reversed without `axes`), a view."""
    back = np.argsort(np.ravel(axes) % x.ndim).tolist() if axes else ()
    return x.transpose(*axes), lambda g, needs: (g.transpose(*back),)


@op
def getitem(x: Array, *, index: Any) -> Value:
    """x[index], for slices, integers and index arrays."""
    return x[index], lambda g, needs: (Piece(index, g),)


@op
def _concatenate(*arrays: Array, axis: int) -> Value:
    ends = np.cumsum([a.shape[axis] for a in arrays])[:-1]
    return np.concatenate(arrays, axis=axis), lambda g, needs: tuple(np.split(g, ends.tolist(), axis=axis))


def concatenate(tensors: Sequence[Tensor | Array], axis: int = 0) -> Tensor:
    """Join along an existing axis."""
    return _concatenate(*tensors, axis=axis)
