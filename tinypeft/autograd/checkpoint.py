"""Gradient checkpointing: forget the activations, and compute them again when they are needed (Chen et al., 1604.06174)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinypeft.autograd.tensor import Node, Tensor, set_tape, tape
from tinypeft.backend import Array


def checkpoint(fn: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """`fn(*inputs)`, keeping no activations: they are computed again in the backward pass.

    The gradients are those of `fn(*inputs)`, of its inputs and of every tensor that `fn` uses besides, dropout included: the
    second pass sees the random numbers of the first. Inputs may be frozen while something inside `fn` is trained.

    Args:
        fn: a function of Tensors that returns one Tensor.
        inputs: Tensors, all that comes from the graph so far; parameters and constants `fn` may close over.
    """
    seen: dict[int, tuple[np.random.Generator, Any]] = {}
    with set_tape(probing=True, generators=seen):
        value = fn(*inputs)
    if tape.generators is not None:  # inside another checkpoint, which must return to these states too
        tape.generators.update({key: state for key, state in seen.items() if key not in tape.generators})
    out = Tensor(value.data, requires_grad=value.requires_grad)
    arrays, needs = [x.data for x in inputs], tuple(x.requires_grad for x in inputs)

    def vjp(g: Array, _: tuple[bool, ...]) -> tuple[Any, ...]:
        leaves = [Tensor(array, requires_grad=need) for array, need in zip(arrays, needs, strict=True)]
        now = [(generator, generator.bit_generator.state) for generator, _ in seen.values()]
        _set_states(list(seen.values()))
        with set_tape(recording=True, probing=False, generators=None):
            again = fn(*leaves)
        _set_states(now)
        again.backward(g)
        return tuple(leaf.grad for leaf in leaves)

    if out.requires_grad and not tape.probing:
        out.node = Node("checkpoint", inputs, needs, vjp)
    return out


def uses_generator(generator: np.random.Generator) -> None:
    """To be called by an operation before it draws: a checkpoint notes the state, so as to draw the same again."""
    if tape.generators is not None:
        tape.generators.setdefault(id(generator), (generator, generator.bit_generator.state))


def _set_states(states: list[tuple[np.random.Generator, Any]]) -> None:
    for generator, state in states:
        generator.bit_generator.state = state
