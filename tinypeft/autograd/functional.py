"""The larger operations of a transformer: of the size at which a person thinks and a CPU is fast.

Written as in ops.py, value and vjp side by side; the names are those of torch.nn.functional. Buffers that an operation has
made itself are changed in place: on a CPU, moving memory costs as much as computing. Shapes: B batch, T time (queries),
S time (keys), d width (in attention and rotary: of one head), h heads, N rows, V vocabulary; `...` any leading axes.
"""

from __future__ import annotations

import functools

import numpy as np

from tinypeft.autograd.checkpoint import uses_generator
from tinypeft.autograd.tensor import Value, op
from tinypeft.backend import Array, asarray


@op
def gelu(x: Array, *, needs: tuple[bool, ...]) -> Value:
    """GELU in its tanh form, "gelu_new" (Hendrycks and Gimpel 2016, 1606.08415; GPT-2).

    x s with s = (1 + tanh(k0 x + k1 x^3)) / 2, k0 = sqrt(2/pi), k1 = 0.044715 k0, so dy/dx = s + 2 y (1-s) (k0 + 3 k1 x^2).
    Cubes are products: `x**3` would take four times as long as all the rest.
    """
    k0, k1 = (2 / np.pi) ** 0.5, 0.044715 * (2 / np.pi) ** 0.5
    bounded = np.clip(x, -100, 100)  # tanh is 1 long before; a float16 would overflow, and 0 times infinity be nan
    square = bounded * bounded
    s = 0.5 * np.tanh(bounded * (k0 + k1 * square)) + 0.5
    y = x * s
    slope = y * (1 - s) * (2 * k0 + 6 * k1 * square) + s if needs[0] else None  # kept instead of x and s
    return y, lambda g, needs: (g * slope,)


@op
def gelu_exact(x: Array, *, needs: tuple[bool, ...]) -> Value:
    """GELU, x Phi(x) with the normal distribution function Phi; dy/dx = Phi(x) + x phi(x)."""
    from scipy.special import erf  # here, since `import tinypeft` is to be quick; CuPy arrays answer to it too

    phi = 0.5 * erf(x * 0.5**0.5) + 0.5
    slope = phi + x * np.exp(x * x * -0.5) * (2 * np.pi) ** -0.5 if needs[0] else None
    return x * phi, lambda g, needs: (g * slope,)


@op
def silu(x: Array, *, needs: tuple[bool, ...]) -> Value:
    """x sigmoid(x), also called swish; dy/dx = s + y (1 - s) with s = sigmoid(x)."""
    with np.errstate(over="ignore"):  # exp may reach infinity, and s then 0, as it should
        s = 1 / (1 + np.exp(-x))
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
                column_sums(g) if len(needs) > 2 and needs[2] else None)

    return y.reshape(*shape[:-1], y.shape[-1]), vjp


@op
def embedding(weight: Array, ids: Array) -> Value:
    """Rows of a table.  weight (V, d), ids integers of any shape (...) -> (..., d)."""
    if ids.size and not 0 <= ids.min() <= ids.max() < len(weight):
        raise ValueError(f"token ids run from {ids.min()} to {ids.max()}, the table has {len(weight)} rows: wrong tokenizer?")

    def vjp(g: Array, needs: tuple[bool, ...]) -> tuple[Array]:
        dw = np.zeros_like(weight)
        np.add.at(dw, ids.reshape(-1), g.reshape(-1, g.shape[-1]))
        return (dw,)

    return weight[ids], vjp


def _row_means(x: Array) -> Array:
    """(..., d) -> (..., 1). A product with a column of 1/d: six times as fast as x.mean(axis=-1)."""
    return x @ np.full_like(x, 1 / x.shape[-1], shape=(x.shape[-1], 1))


def _row_dots(x: Array, y: Array) -> Array:
    """(..., d), (..., d) -> (..., 1): the inner product of each row of x with that of y."""
    return np.einsum("...d,...d->...", x, y)[..., None]


def column_sums(x: Array) -> Array:
    """(..., d) -> (d,)."""
    return x.reshape(-1, x.shape[-1]).sum(axis=0)


def _rms_norm(x: Array, weight: Array, eps: float) -> Value:
    """n w with n = x / rms; dx = (dn - n mean(dn n)) / rms with dn = g w, dw = sum(g n)."""
    wide = x.astype(np.float32) if x.dtype == np.float16 else x  # the squares of a float16 row overflow at 65504
    scale = (1 / np.sqrt(_row_dots(wide, wide) * (1 / x.shape[-1]) + eps)).astype(x.dtype, copy=False)  # 1 / rms, (..., 1)
    normed = x * scale

    def vjp(g: Array, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
        dx = None
        if needs[0]:
            dx = g * weight
            dx -= normed * (_row_dots(dx, normed) * (1 / normed.shape[-1]))
            dx *= scale
        return dx, column_sums(g * normed) if needs[1] else None

    return normed * weight, vjp


@op
def rms_norm(x: Array, weight: Array, *, eps: float = 1e-6) -> Value:
    """x / sqrt(mean(x^2) + eps) * w over the last axis (Zhang and Sennrich 2019, 1910.07467).  x (..., d), w (d,)."""
    return _rms_norm(x, weight, eps)


@op
def layer_norm(x: Array, weight: Array, bias: Array, *, eps: float = 1e-5) -> Value:
    """(x - mean) / sqrt(var + eps) * w + b over the last axis (Ba et al. 2016, 1607.06450).  x (..., d), w and b (d,).

    That is rms_norm of the centred x, plus b; and the vjp of centring is centring.
    """
    y, normed_vjp = _rms_norm(x - _row_means(x), weight, eps)
    y += bias

    def vjp(g: Array, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
        dx, dw = normed_vjp(g, needs)
        if dx is not None:
            dx -= _row_means(dx)
        return dx, dw, column_sums(g) if needs[2] else None

    return y, vjp


@op
def rotary(x: Array, *, cos: Array, sin: Array) -> Value:
    """Rotate pairs of features by an angle that grows with the position (Su et al. 2021, 2104.09864).

    Feature i is paired with feature i + half, as in Hugging Face's `rotate_half`. The vjp of a rotation is the rotation back.
    x (B, T, h, d), cos and sin (B or 1, T, 1, d/2).
    """
    def rotate(x: Array, sin: Array) -> Array:
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    return rotate(x, sin), lambda g, needs: (rotate(g, -sin),)


@op
def attention(q: Array, k: Array, v: Array, *, mask: Array | None = None, drop: Array | None = None) -> Value:
    """softmax(q k^T / sqrt(d) + causal mask) v, with grouped queries (Vaswani et al. 2017, 1706.03762; 2305.13245).

    Query t of T sees the keys 0 ... S - T + t, so that cached keys (S > T) are seen by all. A query that may see nothing
    (padding) looks at all keys alike, as in transformers' eager attention, and has that one's gradient too.

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
        return x.reshape(B, h_kv, group, T, d).transpose(0, 3, 1, 2, 4).copy().reshape(B, T, h, d)

    q = fold(q) * d**-0.5
    k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)  # (B, h_kv, S, d)
    weights = q @ k.swapaxes(-1, -2)  # (B, h_kv, group * T, S)
    by_head = weights.reshape(B, h, T, S)
    by_head += asarray(_causal(T, S, q.dtype), like=q)
    if mask is not None:
        np.copyto(by_head, np.finfo(q.dtype).min, where=~mask[:, None, None, :])
    weights -= weights.max(axis=-1, keepdims=True)
    np.exp(weights, out=weights)
    # The softmax is normalised after the product with v, which is narrower, and so is its gradient.
    norm = 1 / (weights.reshape(-1, S) @ np.ones_like(q, shape=(S, 1))).reshape(B, h_kv, group * T, 1)
    dropped = weights if drop is None else weights * drop.reshape(weights.shape)
    out = dropped @ v  # (B, h_kv, group * T, d)
    out *= norm

    def vjp(g: Array, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
        g = fold(g) * norm
        dq = dk = dv = None
        if needs[2]:
            dv = (dropped.swapaxes(-1, -2) @ g).transpose(0, 2, 1, 3)
        if needs[0] or needs[1]:
            scores = g @ v.swapaxes(-1, -2)  # becomes the gradient of the scores, w (dw - sum(w dw)): the sum is g . out
            if drop is not None:
                scores *= drop.reshape(scores.shape)
            scores -= np.einsum("bhtd,bhtd->bht", g, out)[..., None]
            scores *= weights
            if needs[0]:
                dq = unfold((scores @ k) * d**-0.5)
            if needs[1]:
                dk = (scores.swapaxes(-1, -2) @ q).transpose(0, 2, 1, 3)
        return dq, dk, dv

    return unfold(out), vjp


@functools.lru_cache(maxsize=8)
def _causal(T: int, S: int, dtype: np.dtype) -> np.ndarray:
    """What is added to the scores (T, S): 0 for what a query may see, the lowest number for what comes later."""
    return np.where(np.tri(T, S, S - T, dtype=bool), 0, np.finfo(dtype).min).astype(dtype)


@op
def cross_entropy(logits: Array, labels: Array, *, ignore_index: int = -100, needs: tuple[bool, ...]) -> Value:
    """Mean of -log softmax(logits)[label] over the labels that are not `ignore_index`.  logits (..., V), labels (...).

    d loss / d logits = (softmax(logits) - one_hot(label)) / count: all of it is there once the loss is. If every label is
    ignored the loss is nan, as in torch.
    """
    if labels.shape != logits.shape[:-1]:
        raise ValueError(f"labels have shape {labels.shape}, logits {logits.shape}: expected one label for each row")
    shape, rows, labels = logits.shape, logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    kept = np.flatnonzero(labels != ignore_index)
    count, place, labels = kept.size, np.arange(kept.size), labels[kept]
    if not count:
        return np.full_like(rows, np.nan, shape=()), lambda g, needs: (np.zeros_like(logits),)
    if labels.min() < 0 or labels.max() >= rows.shape[1]:
        raise ValueError(f"labels must lie in 0 to {rows.shape[1] - 1} or be {ignore_index} (ignored), got "
                         f"{labels.min()} to {labels.max()}")
    z = rows[kept]
    z -= z.max(axis=-1, keepdims=True)
    chosen = z[place, labels]
    np.exp(z, out=z)
    sums = z.sum(axis=-1, keepdims=True)
    loss = (np.log(sums[:, 0]) - chosen).mean()
    dlogits = np.zeros_like(rows) if needs[0] else None
    if dlogits is not None:
        z *= 1 / (sums * count)
        z[place, labels] -= 1 / count
        dlogits[kept] = z
    return loss, lambda g, needs: ((dlogits * g).reshape(shape),)
