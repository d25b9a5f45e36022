"""Exercise 08: bottleneck adapters by hand (Houlsby et al. 2019, 1902.00751).

    adapter(h) = h + W_up relu(W_down h + b_down) + b_up
                                        h (..., d), W_down (m, d), b_down (m,), W_up (d, m), b_up (d,)

Write each function with NumPy. `tinypeft test 08` says how far you are, `tinypeft hint 08` gives a hint.
"""

import numpy as np


def adapter(h: np.ndarray, W_down: np.ndarray, b_down: np.ndarray, W_up: np.ndarray, b_up: np.ndarray) -> np.ndarray:
    """The adapter's output.  h (..., d), W_down (m, d), b_down (m,), W_up (d, m), b_up (d,) -> (..., d)."""
    raise NotImplementedError


def adapter_vjp(h: np.ndarray, W_down: np.ndarray, b_down: np.ndarray, W_up: np.ndarray, b_up: np.ndarray,
                g: np.ndarray) -> dict:
    """Gradients, by hand: no finite differences.

    Args:
        g: gradient of the loss with respect to the output, (..., d).

    Returns:
        {"h": (..., d), "W_down": (m, d), "b_down": (m,), "W_up": (d, m), "b_up": (d,)}.
    """
    raise NotImplementedError


def block(x: np.ndarray, weights: dict, adapters: dict) -> np.ndarray:
    """A small transformer block with two adapters: one after each sub-layer, before what it gives is added to x.

    Args:
        x: (T, d).
        weights: {"attention": (d, d), "mlp": (d, d)}: a matrix W stands for a whole sub-layer, x -> x W^T.
        adapters: {"attention": ..., "mlp": ...}: the adapter of each, a dict of "W_down", "b_down", "W_up" and "b_up".

    Returns:
        (T, d): x + adapter(x W^T) with those of attention, and then the same with those of mlp.
    """
    raise NotImplementedError


def near_identity(d: int, m: int, std: float, seed: int) -> dict:
    """An adapter as it starts: its output is almost its input.

    Returns:
        {"W_down": (m, d), "b_down": (m,), "W_up": (d, m), "b_up": (d,)}: both matrices normal with mean 0 and this standard
        deviation, drawn from np.random.default_rng(seed), both biases zero.
    """
    raise NotImplementedError


def count_parameters(d: int, m: int, layers: int) -> int:
    """How many numbers are trained in a model of this width and number of layers: two adapters a layer, with biases."""
    raise NotImplementedError
