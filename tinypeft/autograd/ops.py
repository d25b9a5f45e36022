"""Every differentiable operation: its value and, beside it, its vector-Jacobian product (vjp).

Given g = dL/dy, a vjp returns dL/dx for each input x, or None where `needs` says that nobody wants it; `@op` (tensor.py)
does the rest. First the arithmetic, then the fused operations of a transformer, of the size at which a person thinks and a
CPU is fast. Shapes: B batch, T time (queries), S time (keys), d width, h heads, V vocabulary; `...` any leading axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinypeft.autograd.tensor import Piece, Tensor, Vjp, op, uses_generator
from tinypeft.backend import Array, array_module, asarray

Value = tuple[Array, Vjp]


def _constant(x: Any) -> Any:
    """A NumPy scalar as a Python number: `x * np.sqrt(2)` of a float32 tensor stays float32."""
    return x.item() if isinstance(x, np.generic) else x


# ---- arithmetic, with broadcasting ----------------------------------------------------------------------------------

@op
def add(a: Array, b: Array) -> Value:
    return _constant(a) + _constant(b), lambda g, needs: (g, g)


@op
def subtract(a: Array, b: Array) -> Value:
    return _constant(a) - _constant(b), lambda g, needs: (g, -g if needs[1] else None)


@op
def multiply(a: Array, b: Array) -> Value:
    a, b = _constant(a), _constant(b)
    return a * b, lambda g, needs: (g * b if needs[0] else None, g * a if needs[1] else None)


@op
def divide(a: Array, b: Array) -> Value:
    a, b = _constant(a), _constant(b)
    y = a / b
    return y, lambda g, needs: (g / b if needs[0] else None, -g * y / b if needs[1] else None)


@op
def negative(x: Array) -> Value:
    return -x, lambda g, needs: (-g,)


@op
def power(x: Array, *, exponent: float) -> Value:
    return x**exponent, lambda g, needs: (g * (exponent * x ** (exponent - 1)),)


@op
def exp(x: Array) -> Value:
    y = np.exp(x)
    return y, lambda g, needs: (g * y,)


@op
def log(x: Array) -> Value:
    return np.log(x), lambda g, needs: (g / x,)


@op
def sqrt(x: Array) -> Value:
    y = np.sqrt(x)
    return y, lambda g, needs: (g / (2 * y),)


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
def where(a: Array, b: Array, *, condition: Array) -> Value:
    """a where `condition` (a boolean array) holds, else b."""
    return np.where(condition, a, b), lambda g, needs: (
        np.where(condition, g, 0) if needs[0] else None, np.where(condition, 0, g) if needs[1] else None)


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


@op
def max(x: Array, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Value:
    """The largest; places that share it share its gradient."""
    top = x.max(axis=axis, keepdims=True)

    def vjp(g: Array, needs: tuple[bool, ...]) -> tuple[Array]:
        hit = x == top
        return (_expand(g, x.shape, axis, keepdims) * (hit / hit.sum(axis=axis, keepdims=True, dtype=x.dtype)),)

    return top if keepdims else top.reshape(x.max(axis=axis).shape), vjp


# ---- shape ----------------------------------------------------------------------------------------------------------

@op
def reshape(x: Array, *, shape: Sequence[int]) -> Value:
    before = x.shape
    return x.reshape(shape), lambda g, needs: (g.reshape(before),)


@op
def transpose(x: Array, *, axes: Sequence[int] | None = None) -> Value:
    """Reorder the axes (reversed without `axes`), a view."""
    back = None if axes is None else tuple(int(i) for i in np.argsort([a % x.ndim for a in axes]))
    return x.transpose(axes), lambda g, needs: (g.transpose(back),)


@op
def getitem(x: Array, *, index: Any) -> Value:
    """x[index], for slices, integers and index arrays."""
    return x[index], lambda g, needs: (Piece(index, g),)


@op
def broadcast_to(x: Array, *, shape: Sequence[int]) -> Value:
    return np.broadcast_to(x, shape), lambda g, needs: (g,)


@op
def _concatenate(*arrays: Array, axis: int) -> Value:
    ends = np.cumsum([a.shape[axis] for a in arrays])[:-1]
    return np.concatenate(arrays, axis=axis), lambda g, needs: tuple(np.split(g, ends.tolist(), axis=axis))


def concatenate(tensors: Sequence[Tensor | Array], axis: int = 0) -> Tensor:
    """Join along an existing axis."""
    return _concatenate(*tensors, axis=axis)


# ---- activations ----------------------------------------------------------------------------------------------------

@op
def gelu(x: Array, *, needs: tuple[bool, ...]) -> Value:
    """GELU in its tanh form, "gelu_new" (Hendrycks and Gimpel 2016, 1606.08415; GPT-2).

    x s with s = (1 + tanh(k0 x + k1 x^3)) / 2, k0 = sqrt(2/pi), k1 = 0.044715 k0, so dy/dx = s + 2 y (1-s) (k0 + 3 k1 x^2).
    Cubes are products: `x**3` would take four times as long as all the rest.
    """
    k0, k1 = (2 / np.pi) ** 0.5, 0.044715 * (2 / np.pi) ** 0.5
    s = x * x
    slope = s * (6 * k1) if needs[0] else None  # becomes dy/dx: kept instead of x and s
    s *= k1
    s += k0
    s *= x
    np.tanh(s, out=s)
    s += 1
    s *= 0.5
    y = x * s
    if slope is not None:
        slope += 2 * k0
        slope *= y
        slope -= slope * s
        slope += s
    return y, lambda g, needs: (g * slope,)


@op
def gelu_exact(x: Array, *, needs: tuple[bool, ...]) -> Value:
    """GELU, x Phi(x) with the normal distribution function Phi; dy/dx = Phi(x) + x phi(x)."""
    if array_module(x) is np:
        from scipy.special import erf  # imported here: nothing else in the library needs SciPy
    else:
        from cupyx.scipy.special import erf
    phi = erf(x * 0.5**0.5) * 0.5 + 0.5
    slope = phi + x * np.exp(x * x * -0.5) * (2 * np.pi) ** -0.5 if needs[0] else None
    return x * phi, lambda g, needs: (g * slope,)


@op
def silu(x: Array, *, needs: tuple[bool, ...]) -> Value:
    """x sigmoid(x), also called swish; dy/dx = s + y (1 - s) with s = sigmoid(x)."""
    s = x * 0.5
    np.tanh(s, out=s)
    s *= 0.5
    s += 0.5
    y = x * s
    slope = s + y * (1 - s) if needs[0] else None
    return y, lambda g, needs: (g * slope,)


@op
def softmax(x: Array) -> Value:
    """exp(x) normalised over the last axis; dx = y (g - sum(g y))."""
    y = np.exp(x - x.max(axis=-1, keepdims=True))
    y /= y.sum(axis=-1, keepdims=True)
    return y, lambda g, needs: (y * (g - (g * y).sum(axis=-1, keepdims=True)),)


@op
def log_softmax(x: Array) -> Value:
    """log softmax over the last axis; dx = g - softmax(x) sum(g)."""
    y = x - x.max(axis=-1, keepdims=True)
    y -= np.log(np.exp(y).sum(axis=-1, keepdims=True))
    return y, lambda g, needs: (g - np.exp(y) * g.sum(axis=-1, keepdims=True),)


@op
def dropout(x: Array, *, p: float, generator: np.random.Generator) -> Value:
    """Zero each element with probability p, scale the others by 1/(1-p)."""
    uses_generator(generator)
    kept = asarray((generator.random(x.shape, dtype=np.float32) >= p) * (1 / (1 - p)), like=x).astype(x.dtype)
    return x * kept, lambda g, needs: (g * kept,)


# ---- layers ---------------------------------------------------------------------------------------------------------

@op
def linear(x: Array, weight: Array, bias: Array | None = None, *, needs: tuple[bool, ...]) -> Value:
    """y = x W^T + b.  x (..., in), weight (out, in), bias (out,) -> (..., out).

    dx = g W, dW = g^T x, db = sum g. A frozen weight needs no x, so x is not kept for it: most of what LoRA saves.
    """
    rows = x.reshape(-1, x.shape[-1])  # (N, in)
    y = rows @ weight.T  # (N, in) @ (in, out) -> (N, out)
    if bias is not None:
        y += bias
    shape, kept = x.shape, rows if needs[1] else None

    def vjp(g: Array, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
        g = g.reshape(-1, g.shape[-1])  # (N, out)
        return ((g @ weight).reshape(shape) if needs[0] else None,
                g.T @ kept if needs[1] else None,
                _column_sums(g) if len(needs) > 2 and needs[2] else None)

    return y.reshape(*shape[:-1], y.shape[-1]), vjp


@op
def embedding(weight: Array, ids: Array) -> Value:
    """Rows of a table.  weight (V, d), ids integers of any shape (...) -> (..., d)."""
    if ids.dtype.kind not in "iu":
        raise TypeError(f"token ids must be integers, got {ids.dtype}")
    if ids.size and (ids.min() < 0 or ids.max() >= len(weight)):
        bad = ids.max() if ids.max() >= len(weight) else ids.min()
        raise ValueError(f"token id {bad} is outside the table of {len(weight)} rows (0 to {len(weight) - 1}): "
                         "does the tokenizer belong to this model?")

    def vjp(g: Array, needs: tuple[bool, ...]) -> tuple[Array]:
        dw = np.zeros_like(weight)
        np.add.at(dw, ids.reshape(-1), g.reshape(-1, g.shape[-1]))
        return (dw,)

    return weight[ids], vjp


def _row_means(x: Array) -> Array:
    """(N, d) -> (N, 1). A product with a column of 1/d: six times as fast as x.mean(axis=1)."""
    return x @ np.full_like(x, 1 / x.shape[1], shape=(x.shape[1], 1))


def _row_dots(x: Array, y: Array) -> Array:
    """(N, d), (N, d) -> (N, 1): the inner product of each row of x with that of y."""
    return np.einsum("nd,nd->n", x, y)[:, None]


def _column_sums(x: Array) -> Array:
    """(N, d) -> (d,)."""
    return np.ones_like(x, shape=(x.shape[0],)) @ x


@op
def layer_norm(x: Array, weight: Array, bias: Array, *, eps: float = 1e-5) -> Value:
    """(x - mean) / sqrt(var + eps) * w + b over the last axis (Ba et al. 2016, 1607.06450).  x (..., d), w and b (d,)."""
    rows = x.reshape(-1, x.shape[-1])
    normed = rows - _row_means(rows)
    scale = 1 / np.sqrt(_row_dots(normed, normed) * (1 / x.shape[-1]) + eps)  # (N, 1)
    normed *= scale
    y = normed * weight
    y += bias

    def vjp(g: Array, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
        g = g.reshape(normed.shape)
        dx = None
        if needs[0]:  # dx = (dn - mean(dn) - n mean(dn n)) / std, with n the normalised rows and dn = g w
            dx = g * weight
            dot = _row_dots(dx, normed) * (1 / normed.shape[1])
            dx -= _row_means(dx)
            dx -= normed * dot
            dx *= scale
            dx = dx.reshape(x_shape)
        return dx, np.einsum("nd,nd->d", g, normed) if needs[1] else None, _column_sums(g) if needs[2] else None

    x_shape = x.shape
    return y.reshape(x_shape), vjp


@op
def rms_norm(x: Array, weight: Array, *, eps: float = 1e-6) -> Value:
    """x / sqrt(mean(x^2) + eps) * w over the last axis (Zhang and Sennrich 2019, 1910.07467).  x (..., d), w (d,)."""
    x_shape, rows = x.shape, x.reshape(-1, x.shape[-1])
    scale = 1 / np.sqrt(_row_dots(rows, rows) * (1 / x.shape[-1]) + eps)  # (N, 1)
    normed = rows * scale

    def vjp(g: Array, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
        g = g.reshape(normed.shape)
        dx = None
        if needs[0]:  # dx = (dn - n mean(dn n)) / rms
            dx = g * weight
            dx -= normed * (_row_dots(dx, normed) * (1 / normed.shape[1]))
            dx *= scale
            dx = dx.reshape(x_shape)
        return dx, np.einsum("nd,nd->d", g, normed) if needs[1] else None

    return (normed * weight).reshape(x_shape), vjp


@op
def rotary(x: Array, *, cos: Array, sin: Array) -> Value:
    """Rotate pairs of features by an angle that grows with the position (Su et al. 2021, 2104.09864).

    Feature i is paired with feature i + half, as in Hugging Face's `rotate_half`. The vjp of a rotation is the rotation back.
    x (B, T, h, d), cos and sin (B or 1, T, 1, d/2).
    """
    def rotate(x: Array, sin: Array) -> Array:
        half = x.shape[-1] // 2
        first, second = x[..., :half], x[..., half:]
        y = np.empty_like(x, shape=x.shape)
        np.multiply(first, cos, out=y[..., :half])
        y[..., :half] -= second * sin
        np.multiply(second, cos, out=y[..., half:])
        y[..., half:] += first * sin
        return y

    return rotate(x, sin), lambda g, needs: (rotate(g, -sin),)


@op
def attention(q: Array, k: Array, v: Array, *, mask: Array | None = None, drop: Array | None = None) -> Value:
    """softmax(q k^T / sqrt(d) + causal mask) v, with grouped queries (Vaswani et al. 2017, 1706.03762; 2305.13245).

    Query t of T sees the keys 0 ... S - T + t, so that cached keys (S > T) are seen by all. A query that may see nothing
    (padding) looks at all keys alike, as in transformers.

    Args:
        q: (B, T, h, d); k, v: (B, S, h_kv, d) with h a multiple of h_kv; query head i reads key head i // (h / h_kv).
        mask: booleans (B, S), False for keys that nobody may see (padding).
        drop: a dropout mask for the attention weights, (B, h, T, S), already scaled.

    Returns:
        (B, T, h, d).
    """
    B, T, h, d = q.shape
    S, h_kv = k.shape[1], k.shape[2]
    group = h // h_kv

    def fold(x: Array) -> Array:  # (B, T, h, d) -> (B, h_kv, group * T, d): the queries of a group share one product
        return x.reshape(B, T, h_kv, group, d).transpose(0, 2, 3, 1, 4).reshape(B, h_kv, group * T, d)

    def unfold(x: Array) -> Array:  # and back, contiguous
        return np.ascontiguousarray(x.reshape(B, h_kv, group, T, d).transpose(0, 3, 1, 2, 4)).reshape(B, T, h, d)

    q = fold(q) * d**-0.5
    k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)  # (B, h_kv, S, d)
    weights = q @ k.swapaxes(-1, -2)  # (B, h_kv, group * T, S)
    _hide(weights.reshape(B, h, T, S), mask)
    weights -= weights.max(axis=-1, keepdims=True)
    np.exp(weights, out=weights)
    weights *= 1 / weights.sum(axis=-1, keepdims=True)
    if drop is not None:
        drop = drop.reshape(weights.shape)
    out = (weights if drop is None else weights * drop) @ v  # (B, h_kv, group * T, d)

    def vjp(g: Array, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
        g = fold(g)
        dq = dk = dv = None
        if needs[2]:
            dv = ((weights if drop is None else weights * drop).swapaxes(-1, -2) @ g).transpose(0, 2, 1, 3)
        if needs[0] or needs[1]:
            scores = g @ v.swapaxes(-1, -2)  # becomes the gradient of the scores: w (dw - sum(w dw)), and sum(w dw) = g . out
            if drop is not None:
                scores *= drop
            scores -= np.einsum("bhtd,bhtd->bht", g, out)[..., None]
            scores *= weights
            if needs[0]:
                dq = unfold((scores @ k) * d**-0.5)
            if needs[1]:
                dk = (scores.swapaxes(-1, -2) @ q).transpose(0, 2, 1, 3)
        return dq, dk, dv

    return unfold(out), vjp


def _hide(scores: Array, mask: Array | None) -> None:
    """Overwrite the scores (B, h, T, S) of keys that a query may not see with the lowest number."""
    T, S = scores.shape[-2:]
    lowest = np.finfo(scores.dtype).min
    hidden = None
    if T > 1:
        hidden = ~np.tri(T, S, S - T, dtype=bool)[None, None]
    if mask is not None:
        masked = ~mask[:, None, None, :]
        hidden = masked if hidden is None else asarray(hidden, like=scores) | masked
    if hidden is not None:
        np.copyto(scores, asarray(lowest, like=scores).astype(scores.dtype), where=asarray(hidden, like=scores))


@op
def cross_entropy(logits: Array, labels: Array, *, ignore_index: int = -100, needs: tuple[bool, ...]) -> Value:
    """Mean of -log softmax(logits)[label] over the labels that are not `ignore_index`.  logits (..., V), labels (...).

    d loss / d logits = (softmax(logits) - one_hot(label)) / count, computed with the loss in cache-sized chunks of rows. If
    every label is ignored the loss is nan, as in torch.
    """
    rows, labels = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    kept = np.flatnonzero(labels != ignore_index)
    targets = labels[kept]
    if kept.size and (targets.min() < 0 or targets.max() >= rows.shape[1]):
        raise ValueError(f"labels must lie in 0 to {rows.shape[1] - 1} or be {ignore_index} (ignored), got "
                         f"{targets.min()} to {targets.max()}")
    count = int(kept.size)
    dlogits = np.zeros_like(rows) if needs[0] else None
    total = np.zeros_like(rows, shape=())
    chunk = 1 + 65536 // rows.shape[1]
    for start in range(0, count, chunk):
        places, target = kept[start:start + chunk], targets[start:start + chunk]
        here = np.arange(len(places))
        z = rows[places]
        z -= z.max(axis=-1, keepdims=True)
        total -= z[here, target].sum()
        np.exp(z, out=z)
        sums = z.sum(axis=-1, keepdims=True)
        total += np.log(sums).sum()
        if dlogits is not None:
            z *= 1 / (sums * count)
            z[here, target] -= 1 / count
            dlogits[places] = z
    loss = total / count if count else np.full_like(total, np.nan)
    shape = logits.shape
    return loss, lambda g, needs: ((dlogits * g).reshape(shape),)
