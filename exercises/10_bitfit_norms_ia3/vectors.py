"""Exercise 10: biases, norms and (IA)3 by hand (Ben Zaken et al. 2021, 2106.10199; Liu et al. 2022, 2205.05638).

    BitFit      train the biases that are there
    norms       train the scales and shifts of the norms that are there
    (IA)3       y = l * (W x + b)      keys and values, l (out,)
                y = W (l * x) + b      the feed-forward layer's last matrix, l (in,)

Write each function with NumPy. `tinypeft test 10` says how far you are, `tinypeft hint 10` gives a hint.
"""

import numpy as np


def trainable_names(names: list, method: str) -> list:
    """Which parameters are trained, by their names in Hugging Face's models.

    A name such as "transformer.h.0.ln_1.weight" is a path of modules, and the parameter's own name at its end. A bias is a
    parameter whose own name is "bias". A norm is a module whose name starts with "ln_", or has "norm" in it in upper or lower
    case ("LayerNorm", "input_layernorm"); its parameters are those that stand directly in it, whatever they are called.

    Args:
        names: list of str.
        method: "bitfit" for all biases, those of norms too; "norms" for all parameters of norms.

    Returns:
        List of str, sorted as Python sorts text.
    """
    raise NotImplementedError


def ia3_forward(x: np.ndarray, W: np.ndarray, b: np.ndarray, l: np.ndarray, feedforward: bool) -> np.ndarray:
    """The scaled layer's output.  x (..., in), W (out, in), b (out,), l (out,), or (in,) if feedforward -> (..., out)."""
    raise NotImplementedError


def ia3_vjp(x: np.ndarray, W: np.ndarray, b: np.ndarray, l: np.ndarray, feedforward: bool, g: np.ndarray) -> dict:
    """Gradients, by hand: no finite differences.

    Args:
        g: gradient of the loss with respect to the output, (..., out).

    Returns:
        {"x": (..., in), "l": of l's shape}. W and b are frozen and get none.
    """
    raise NotImplementedError


def fold(W: np.ndarray, b: np.ndarray, l: np.ndarray, feedforward: bool) -> dict:
    """A plain layer that does what the scaled one does.

    Returns:
        {"W": (out, in), "b": (out,)}, so that x W^T + b is ia3_forward's output.
    """
    raise NotImplementedError


def ia3_parameters(layers: int, key_width: int, value_width: int, feedforward_width: int) -> int:
    """How many numbers are trained: in each layer one for each feature of the keys, the values and the hidden activations."""
    raise NotImplementedError
