"""Exercise 04: LoRA by hand (Hu et al. 2021, 2106.09685).

    y = x W^T + (alpha / r) (x A^T) B^T        W (out, in) frozen, A (r, in), B (out, r), x (..., in)

Write each function with NumPy. `tinypeft test 04` says how far you are, `tinypeft hint 04` gives a hint.
"""

import numpy as np


def lora_init(in_features: int, out_features: int, r: int, seed: int) -> dict:
    """A and B as LoRA starts.

    Returns:
        {"A": (r, in) uniform between -1/sqrt(in) and 1/sqrt(in), drawn from np.random.default_rng(seed), "B": (out, r) zeros}.
    """
    raise NotImplementedError


def lora_forward(x: np.ndarray, W: np.ndarray, A: np.ndarray, B: np.ndarray, alpha: float) -> np.ndarray:
    """The layer's output.  x (..., in), W (out, in), A (r, in), B (out, r) -> (..., out)."""
    raise NotImplementedError


def lora_backward(x: np.ndarray, W: np.ndarray, A: np.ndarray, B: np.ndarray, alpha: float, g: np.ndarray) -> dict:
    """Gradients, by hand: no finite differences.

    Args:
        g: gradient of the loss with respect to the output, (..., out).

    Returns:
        {"x": (..., in), "A": (r, in), "B": (out, r)}. W is frozen and gets none.
    """
    raise NotImplementedError


def merge(W: np.ndarray, A: np.ndarray, B: np.ndarray, alpha: float) -> np.ndarray:
    """One matrix (out, in) that does what W and the adapter do together."""
    raise NotImplementedError


def unmerge(W: np.ndarray, A: np.ndarray, B: np.ndarray, alpha: float) -> np.ndarray:
    """The base's matrix again, from a merged W (out, in)."""
    raise NotImplementedError


def count_parameters(shapes: list, r: int) -> int:
    """How many numbers are trained if matrices of these shapes, [out, in] each, are adapted with rank r."""
    raise NotImplementedError


def rslora_scaling(alpha: float, r: int) -> float:
    """The factor that rsLoRA puts in the place of alpha / r (Kalajdzievski 2023, 2312.03732)."""
    raise NotImplementedError
