"""Compare gradients with central differences: (f(x + eps) - f(x - eps)) / 2 eps, one element at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinypeft.autograd.tensor import Tensor, no_grad


def gradcheck(fn: Callable[..., Tensor], *inputs: Tensor, eps: float = 1e-6, tol: float = 1e-6, seed: int = 0) -> bool:
    """Check the vjp of `fn` for each input that requires a gradient.

    The cotangent is random: with ones, a rule that ignores what comes from above, or is wrong by a sum that happens to
    vanish, would pass.

    Args:
        fn: a function of Tensors that returns one Tensor; it must give the same value each time.
        inputs: float64 Tensors (in float32 the differences drown in rounding).
        tol: allowed max |difference| / max(1, max |expected|).

    Returns:
        True; so that `assert gradcheck(...)` reads well.

    Raises:
        AssertionError: names the input, the index, the gradient received and the one expected.
        TypeError: an input is not a float64 Tensor.
        RuntimeError: no input requires a gradient.

    >>> gradcheck(lambda a, b: a * b, Tensor(np.ones((2, 1)), requires_grad=True), Tensor(np.ones(3), requires_grad=True))
    True
    """
    kinds = [str(x.dtype) if isinstance(x, Tensor) else type(x).__name__ for x in inputs]
    if set(kinds) != {"float64"}:
        raise TypeError(f"gradcheck needs float64 Tensors, got {', '.join(kinds)}")
    leaves = [Tensor(x.data.copy(), requires_grad=x.requires_grad) for x in inputs]
    out = fn(*leaves)
    cotangent = np.random.default_rng(seed).standard_normal(out.shape)
    out.backward(cotangent)
    for i, leaf in enumerate(leaves):
        if not leaf.requires_grad:
            continue
        received = np.zeros(leaf.shape) if leaf.grad is None else leaf.grad
        expected = np.zeros(leaf.shape)
        for index in np.ndindex(*leaf.shape):
            value, sides = leaf.data[index], []
            for moved in (value + eps, value - eps):
                leaf.data[index] = moved
                with no_grad():
                    sides.append((fn(*leaves).data * cotangent).sum())
            leaf.data[index], expected[index] = value, (sides[0] - sides[1]) / (2 * eps)
        error = np.abs(received - expected)
        if not error.max(initial=0) <= tol * max(1, np.abs(expected).max(initial=0)):
            worst = tuple(int(j) for j in np.unravel_index(error.argmax(), leaf.shape))
            raise AssertionError(f"gradient of input {i} (shape {leaf.shape}) at index {worst}: received "
                                 f"{received[worst]:.8g}, central differences give {expected[worst]:.8g}")
    return True
