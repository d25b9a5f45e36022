"""Gradient checkpointing: forget the activations, and compute them again when they are needed (Chen et al., 1604.06174)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinypeft.autograd.tensor import Node, Tensor, set_tape, tape
from tinypeft.backend import Array


def checkpoint(fn: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """`fn(*inputs)`, keeping no activations: they are computed again in the backward pass.

    The gradients are those of `fn(*inputs)`, of its inputs and of every tensor that `fn` uses besides, dropout included: the
    second pass sees the random numbers of the first. Inputs may be frozen while something inside `fn` is trained.

    Args:
        fn: a function that returns one Tensor, and changes nothing but random generators.
        inputs: what it is called with; it may close over others.
    """
    seen: dict[int, tuple[np.random.Generator, Any]] = {}
    outside: dict[int, Tensor] = {}
    with set_tape(probing=True, generators=seen, outside=outside):
        value = fn(*inputs)
    if value.node is not None:  # it is one of those, untouched
        outside[id(value)] = value
    if tape.probing:  # inside another checkpoint, which must return to these states and find these tensors too
        tape.generators.update(seen | tape.generators)
        tape.outside.update(outside)
    out, used = Tensor(value.data, requires_grad=value.requires_grad), list(outside.values())

    def vjp(g: Array, _: tuple[bool, ...]) -> tuple[Any, ...]:
        now = [(generator, generator.bit_generator.state) for generator, _ in seen.values()]
        _set_states(list(seen.values()))
        nodes = [x.node for x in used]
        for x in used:  # a leaf, for this pass: its own past is for the walk that called us
            x.node = None
        try:
            with set_tape(recording=True, probing=False):
                fn(*inputs).backward(g)
            return tuple(x.grad for x in used)
        finally:
            _set_states(now)
            for x, node in zip(used, nodes, strict=True):
                x.node, x.grad = node, None

    if out.requires_grad and not tape.probing:
        out.node = Node("checkpoint", tuple(used), (True,) * len(used), vjp)
    return out


def uses_generator(generator: np.random.Generator) -> None:
    """To be called by an operation before it draws: a checkpoint notes the state, so as to draw the same again."""
    if tape.probing:
        tape.generators.setdefault(id(generator), (generator, generator.bit_generator.state))


def _set_states(states: list[tuple[np.random.Generator, Any]]) -> None:
    for generator, state in states:
        generator.bit_generator.state = state
