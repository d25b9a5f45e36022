"""The layers that transformers are made of, with torch's and Hugging Face's names and layouts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinypeft.autograd import Tensor, functional as F, ops
from tinypeft.backend import Array, asarray
from tinypeft.nn.module import Module, Parameter


def check_width(x: Tensor, layer: Linear | Conv1D) -> None:
    if x.shape[-1] != layer.in_features:
        raise ValueError(f"the input has shape {x.shape}: its last axis must be the layer's {layer.in_features} features")


class Linear(Module):
    """y = x W^T + b, weight (out_features, in_features)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter((out_features, in_features))
        self.bias = Parameter((out_features,), init="zeros") if bias else None

    def forward(self, x: Tensor) -> Tensor:
        check_width(x, self)
        return F.linear(x, self.weight, self.bias)  # (..., in) -> (..., out)


class Conv1D(Module):
    """A linear layer that GPT-2 stores transposed: y = x W + b, weight (in_features, out_features)."""

    def __init__(self, out_features: int, in_features: int):
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter((in_features, out_features))
        self.bias = Parameter((out_features,), init="zeros")

    def forward(self, x: Tensor) -> Tensor:
        check_width(x, self)
        return F.linear(x, self.weight.T, self.bias)  # (..., in) -> (..., out)


class Embedding(Module):
    """Row `id` of a table, weight (num_embeddings, embedding_dim)."""

    def __init__(self, num_embeddings: int, embedding_dim: int):
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.weight = Parameter((num_embeddings, embedding_dim))

    def forward(self, ids: Array) -> Tensor:
        return F.embedding(self.weight, ids)  # (...) -> (..., d)


class LayerNorm(Module):
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axis."""

    def __init__(self, size: int, eps: float = 1e-5):
        self.eps = eps
        self.weight = Parameter((size,), init="ones")
        self.bias = Parameter((size,), init="zeros")

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight, self.bias, eps=self.eps)


class RMSNorm(Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis."""

    def __init__(self, size: int, eps: float = 1e-6):
        self.eps = eps
        self.weight = Parameter((size,), init="ones")

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight, eps=self.eps)


class Add(Module):
    """x + h, what a sub-layer adds to the stream: a module, so that an adapter can stand in its place."""

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return x + h


class Dropout(Module):
    """In training, zeroes elements with probability p and scales the others by 1/(1-p); otherwise does nothing."""

    def __init__(self, p: float):
        if not 0 <= p < 1:
            raise ValueError(f"a dropout probability lies in [0, 1), got {p}")
        self.p = p
        self.generator: np.random.Generator | None = None  # given by Module.train

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p:
            return x
        if self.generator is None:
            raise RuntimeError("dropout has no random stream yet: switch training on with model.train(seed=...)")
        return F.dropout(x, p=self.p, generator=self.generator)

    def mask(self, shape: tuple[int, ...], like: Tensor) -> Array | None:
        """The factors themselves, for attention weights, which exist only inside an operation. None: keep everything."""
        if not self.training or not self.p:
            return None
        return self.forward(Tensor(np.ones_like(like.data, shape=shape))).data


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": F.gelu, "gelu_pytorch_tanh": F.gelu, "gelu": F.gelu_exact, "relu": ops.relu, "silu": F.silu,
    "swish": F.silu, "tanh": ops.tanh,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The activation function that a Hugging Face config calls `name`."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def as_ids(ids: object, like: Tensor | Array, name: str = "input_ids") -> Array:
    """Token ids (an array, a Tensor or nested lists) as an int64 array (B, T) where `like` lives."""
    try:
        array = asarray(ids.data if isinstance(ids, Tensor) else ids, like=like.data if isinstance(like, Tensor) else like)
    except ValueError as error:
        raise ValueError(f"{name}: the rows differ in length; pad them, and say where in attention_mask") from error
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} must have shape (batch, time), neither of them 0; got {array.shape}")
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {array.dtype}")
    return array.astype(np.int64, copy=False)
