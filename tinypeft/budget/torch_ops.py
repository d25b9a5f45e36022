"""What PyTorch's operations keep for the backward pass, and what they allocate: on arrays without values.

Written as our own operations are, value and vjp side by side, and run on our own tape; but here only the life of the arrays
matters. `x.copy()` stands for "an array like x". What a vjp names is what PyTorch saves ("saved tensors"); what it does not
name is free as soon as the forward pass has let go of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinypeft.autograd import Tensor
from tinypeft.autograd.tensor import Value, op
from tinypeft.backend import Array

SINGLE = np.dtype(np.float32)
BYTE = np.dtype(np.uint8)


def to(x: Tensor, dtype: np.dtype) -> Tensor:
    """x.to(dtype): itself, if it is of that dtype."""
    return x if x.dtype == dtype else cast(x, dtype=dtype)


@op
def cast(x: Array, *, dtype: np.dtype) -> Value:
    before = x.dtype
    return x.astype(dtype), lambda g, needs: (g.astype(before),)


@op
def add(a: Array, b: Array) -> Value:
    return np.add(a, b), lambda g, needs: (g, g)


@op
def scale(x: Array) -> Value:
    """x times a number, or plus one."""
    return x.copy(), lambda g, needs: (g.copy(),)


@op
def multiply(a: Array, b: Array, *, needs: tuple[bool, ...]) -> Value:
    """Each factor is kept for the gradient of the other."""
    kept: Any = b if needs[0] else None, a if needs[1] else None

    def vjp(g: Array, needs: tuple[bool, ...]) -> tuple[Any, ...]:
        return tuple(np.multiply(g, factor) if need else None for factor, need in zip(kept, needs, strict=True))

    return np.multiply(a, b), vjp


@op
def of_input(x: Array, *, needs: tuple[bool, ...]) -> Value:
    """pow, silu, gelu, relu's like: the input is kept."""
    kept: Any = x if needs[0] else None
    return x.copy(), lambda g, needs: (kept.copy(),)


@op
def of_output(x: Array, *, needs: tuple[bool, ...]) -> Value:
    """tanh, rsqrt, relu, softmax: the output is kept."""
    y = x.copy()
    kept: Any = y if needs[0] else None
    return y, lambda g, needs: (kept.copy(),)


@op
def softmax(x: Array, *, dtype: np.dtype, needs: tuple[bool, ...]) -> Value:
    """softmax(x, dtype=...)."""
    y = x.astype(dtype)
    kept: Any = y if needs[0] else None
    before = x.dtype
    return y, lambda g, needs: (kept.copy().astype(before, copy=False),)


@op
def mean(x: Array) -> Value:
    """Over the last axis, which stays."""
    shape = x.shape
    return x.mean(axis=-1, keepdims=True), lambda g, needs: (g._new(shape),)


@op
def dropout(x: Array, *, needs: tuple[bool, ...]) -> Value:
    """What was dropped is kept, in a byte each."""
    kept: Any = x.astype(BYTE)
    return x.copy(), lambda g, needs: (g.copy() if kept is not None else None,)


@op
def linear(x: Array, weight: Array, bias: Array | None = None, *, needs: tuple[bool, ...]) -> Value:
    """x W^T + b: the input is kept only if W is trained. weight (out, in)."""
    shape = x.shape
    kept: Any = x if needs[1] else None

    def vjp(g: Array, needs: tuple[bool, ...]) -> tuple[Any, ...]:
        trained = needs[1] and kept is not None
        return (g._new(shape) if needs[0] else None, g._new(weight.shape, weight.dtype) if trained else None,
                g._new(bias.shape, bias.dtype) if bias is not None and needs[2] else None)

    return x._new((*shape[:-1], len(weight))), vjp


@op
def linear_4bit(x: Array, *, weight: Any) -> Value:
    """bitsandbytes' MatMul4Bit: W is dequantized for each of the two products, and nothing is kept. x in the compute dtype."""
    shape, dtype = x.shape, x.dtype
    dequantized = weight.values().astype(dtype, copy=False)
    y = x._new((*shape[:-1], weight.matrix_shape[0]))
    del dequantized

    def vjp(g: Array, needs: tuple[bool, ...]) -> tuple[Any, ...]:
        dequantized = weight.values().astype(g.dtype, copy=False)
        return (g._new(shape) if dequantized is not None else None,)

    return y, vjp


@op
def linear_8bit(x: Array, *, weight: Any, needs: tuple[bool, ...]) -> Value:
    """bitsandbytes' MatMul8bitLt: x goes by float16 to int8; x itself is kept; W is dequantized in the backward pass."""
    shape = x.shape
    kept: Any = x if needs[0] else None
    codes = x.astype(np.float16), x.astype(BYTE)
    y = x._new((*shape[:-1], weight.matrix_shape[0]))
    del codes

    def vjp(g: Array, needs: tuple[bool, ...]) -> tuple[Any, ...]:
        dequantized = g._new(weight.matrix_shape)
        return (g._new(shape) if dequantized is not None and kept is not None else None,)

    return y, vjp


@op
def embedding(weight: Array, ids: Array) -> Value:
    shape, dtype = weight.shape, weight.dtype
    return weight._new((*ids.shape, shape[1])), lambda g, needs: (g._new(shape, dtype),)


@op
def layer_norm(x: Array, weight: Array, bias: Array, *, needs: tuple[bool, ...]) -> Value:
    """The input is kept, and each row's mean and inverse deviation."""
    rows = [x._new((*x.shape[:-1], 1), SINGLE) for _ in range(2)] if any(needs) else []
    kept: Any = x if any(needs) else None
    sizes = weight, bias

    def vjp(g: Array, needs: tuple[bool, ...]) -> tuple[Any, ...]:
        vectors = [g._new(w.shape, w.dtype) if need else None for w, need in zip(sizes, needs[1:], strict=True)]
        return (kept.copy() if needs[0] and rows else None, *vectors)

    return x.copy(), vjp


@op
def rotary(x: Array) -> Value:
    """x * cos + rotate_half(x) * sin: four arrays for a moment, none is kept."""
    def rotate(x: Array) -> Array:
        first, half = x.copy(), x.copy()
        second = half.copy()
        del half
        return np.add(first, second)

    return rotate(x), lambda g, needs: (rotate(g),)


@op
def repeat_heads(x: Array, *, times: int) -> Value:
    """Each key head for all queries of its group: (B, T, h_kv, d) -> (B, T, h, d)."""
    B, T, h_kv, d = shape = x.shape
    return x._new((B, T, h_kv * times, d)), lambda g, needs: (g._new(shape),)


@op
def fused_attention(q: Array, k: Array, v: Array, *, mask: Array | None = None, needs: tuple[bool, ...]) -> Value:
    """scaled_dot_product_attention: q, k, v, the output and a number for each row are kept, no scores. (B, T, h, d) each.

    A mask (B, T, S), where there is one, is kept too: the kernel copies it to rows of its own length.

    In the backward pass dq is summed up in float32, and where queries share key heads dk and dv have all heads at first.
    """
    B, T, h, d = q.shape
    out = q._new((B, T, h, d))
    rows = q._new((B, h, T), SINGLE)
    kept: Any = (q, k, v, out, rows, mask) if any(needs) else None

    def vjp(g: Array, needs: tuple[bool, ...]) -> tuple[Any, ...]:
        q, k, v, _, rows, _ = kept
        sums = [rows.copy(), q.astype(SINGLE)]
        dq = q.copy()
        whole = [q._new((B, k.shape[1], h, d)) for _ in range(2)] if k.shape[2] != h else []
        dk, dv = k.copy(), v.copy()
        return dq if sums and whole is not None else None, dk, dv

    return out, vjp


@op
def scores(q: Array, k: Array, *, needs: tuple[bool, ...]) -> Value:
    """q k^T: (B, T, h, d), (B, S, h, d) -> (B, h, T, S)."""
    kept: Any = k if needs[0] else None, q if needs[1] else None
    shapes, shape = (q.shape, k.shape), (q.shape[0], q.shape[2], q.shape[1], k.shape[1])

    def vjp(g: Array, needs: tuple[bool, ...]) -> tuple[Any, ...]:
        return tuple(g._new(shape) if need and kept else None for shape, need in zip(shapes, needs, strict=True))

    return q._new(shape), vjp


@op
def weighted_values(weights: Array, v: Array, *, needs: tuple[bool, ...]) -> Value:
    """weights v: (B, h, T, S), (B, S, h, d) -> (B, T, h, d), first in another order of axes."""
    kept: Any = v if needs[0] else None, weights if needs[1] else None
    shapes = weights.shape, v.shape
    B, h, T, _ = weights.shape
    first = v._new((B, h, T, v.shape[3]))
    out = v._new((B, T, h, v.shape[3]))
    del first

    def vjp(g: Array, needs: tuple[bool, ...]) -> tuple[Any, ...]:
        return tuple(g._new(shape) if need and kept else None for shape, need in zip(shapes, needs, strict=True))

    return out, vjp


@op
def concatenate(a: Array, b: Array) -> Value:
    """Along the axis of time."""
    first = a.shape[1]
    return np.concatenate([a, b], axis=1), lambda g, needs: (g[:, :first], g[:, first:])


@op
def cross_entropy(logits: Array, *, needs: tuple[bool, ...]) -> Value:
    """transformers' loss: in float32. The log-softmax is kept; two more arrays like it are there in the backward pass."""
    wide = logits.astype(SINGLE, copy=False)
    kept: Any = wide.copy()
    before, loss = logits.dtype, logits._new((), SINGLE)

    def vjp(g: Array, needs: tuple[bool, ...]) -> tuple[Any, ...]:
        one_hot = kept.copy()
        dlogits = one_hot.copy()
        del one_hot
        return (dlogits.astype(before, copy=False),)

    return loss, vjp


@op
def boundary(x: Array) -> Value:
    """Nothing: marks where a block ends."""
    return x, lambda g, needs: (g,)
