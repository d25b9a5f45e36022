"""What both model families' attention needs besides the operation itself: rotary angles and the key-value cache."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinypeft.autograd import Tensor
from tinypeft.backend import Array, asarray


class KeyValueCache:
    """The keys and values of the tokens seen so far, for each layer: a new token computes only its own.

    Buffers double when they are full, so that appending a token copies nothing but the token.

    Attributes:
        length: tokens that every layer has seen.
        virtual: how many of them stand for no token of the text: soft prompts.
        mask: (B, length), which of them may be read; None for all.
    """

    differentiable = False  # what is kept are constants: gradients through them would be missing

    def __init__(self) -> None:
        self.length = 0
        self.virtual = 0
        self.mask: Array | None = None
        self._buffers: dict[int, list[Array]] = {}

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values of new tokens, (B, T, h_kv, head_dim); return all so far, (B, length + T, h_kv, head_dim)."""
        end = self.length + k.shape[1]
        new = [k.data, v.data]
        buffers = self._buffers.get(layer)
        if buffers is not None and len(buffers[0]) != k.shape[0]:
            raise ValueError(f"the cache holds {len(buffers[0])} rows, the new tokens are for {k.shape[0]}")
        if buffers is None or buffers[0].shape[1] < end:
            grown = [np.empty_like(x, shape=(x.shape[0], 2 * end, *x.shape[2:])) for x in new]
            for old, buffer in zip(buffers or [], grown, strict=False):
                buffer[:, :self.length] = old[:, :self.length]
            self._buffers[layer] = buffers = grown
        for buffer, x in zip(buffers, new, strict=True):
            buffer[:, self.length:end] = x
        return Tensor(buffers[0][:, :end]), Tensor(buffers[1][:, :end])


ROPE_TYPES = {  # rope_type -> the numbers that it needs besides rope_theta
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


def inverse_frequencies(head_dim: int, rope: dict[str, Any]) -> np.ndarray:
    """Angle per position of each pair of features, (head_dim / 2,): theta^(-2i/d) (Su et al. 2021, 2104.09864).

    Args:
        rope: `rope_theta` and `rope_type`; "linear" divides all by `factor`, "llama3" divides the slow ones (Llama 3.1).

    Raises:
        ValueError: another rope_type, or a number is missing.
    """
    kind = rope.get("rope_type", "default")
    if kind not in ROPE_TYPES:
        raise ValueError(f"rope_type {kind!r} is not supported; supported: {', '.join(ROPE_TYPES)}")
    if rope.get("partial_rotary_factor", 1) != 1:
        raise ValueError(f"partial_rotary_factor {rope['partial_rotary_factor']} is not supported: all features are rotated")
    if missing := [key for key in ("rope_theta", *ROPE_TYPES[kind]) if not isinstance(rope.get(key), int | float)]:
        raise ValueError(f"rope_parameters {rope}: {', '.join(missing)} must be given, as numbers")
    frequencies = 1.0 / rope["rope_theta"] ** (np.arange(0, head_dim, 2) / head_dim)
    if kind == "linear":
        return frequencies / rope["factor"]
    if kind == "llama3":
        turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)  # over the original context
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        smooth = np.clip((turns - low) / (high - low), 0, 1)
        return frequencies * (smooth + (1 - smooth) / rope["factor"])
    return frequencies


def rotary_tables(frequencies: np.ndarray, positions: Array, like: Tensor) -> tuple[Array, Array]:
    """cos and sin of the angles at `positions` (B, T), as (B, T, 1, head_dim / 2); computed in float64, then rounded."""
    angles = (asarray(positions, like.data)[..., None] * asarray(frequencies, like.data))[:, :, None, :]
    return np.cos(angles).astype(like.dtype), np.sin(angles).astype(like.dtype)
