"""Exercise 11: what the optimizer makes of it: learning rates, alpha / r, and DoRA's direction and length.

    LoRA+      lr(A) = lr, lr(B) = ratio * lr                         Hayou et al. 2024, 2402.12354
    LoRA       W = W0 + s B A with s = alpha / r: what is a step on B worth, on the scale of W?
    DoRA       W = m V / ||V||, V = W0 + s B A, row by row            Liu et al. 2024, 2402.09353

Write each function with NumPy. `tinypeft test 11` says how far you are, `tinypeft hint 11` gives a hint.
"""

import numpy as np


def loraplus_groups(names: list, lr: float, ratio: float) -> dict:
    """The learning rate of each parameter of an adapter.

    A name such as "base_model.model.layers.0.q_proj.lora_B.default.weight" is a path of modules, then the adapter's name (here
    "default"; people choose others), and the parameter's own name at its end. A bias is a parameter whose own name is "bias".

    Args:
        names: list of str: of the matrices in modules called "lora_A" and "lora_B", of biases, and of other matrices that are
            trained whole, such as a classifier's.

    Returns:
        {name: lr * ratio for what is in a lora_B, and for every bias; lr for all else}.
    """
    raise NotImplementedError


def first_update(alpha: float, r: int, lr: float, optimizer: str, x: np.ndarray, A: np.ndarray, g: np.ndarray) -> np.ndarray:
    """How far the first step moves the layer's weight.

    The layer is y = x (W0 + (alpha / r) B A)^T, with B = 0 before the step: so A gets no gradient, and B is what moves.

    Args:
        optimizer: "sgd", or "adam" with eps = 0, whose first step is lr in every number, whatever the size of its gradient.
        x: (N, in)
        A: (r, in)
        g: gradient of the loss with respect to y, (N, out). The loss is summed over the rows: nothing is averaged.

    Returns:
        (out, in): (alpha / r) B A after the step.
    """
    raise NotImplementedError


def largest_stable_rate(alpha: float, r: int, curvature: float) -> float:
    """The learning rate up to which gradient descent on b does not blow up.

    In one direction, the loss is curvature / 2 * w^2, where the weight w = (alpha / r) b, and b is what is trained (a number of
    B, with A of length 1). The rate at which the size of b stays the same from step to step: above it, b grows.
    """
    raise NotImplementedError


def dora_weight(W: np.ndarray, A: np.ndarray, B: np.ndarray, alpha: float, magnitude: np.ndarray) -> np.ndarray:
    """DoRA's weight: each row has the direction of W + (alpha / r) B A, and the length that `magnitude` says.

    A magnitude is a trained number as others are: it may become 0, and one below 0 turns its row round.

    W (out, in), A (r, in), B (out, r), magnitude (out,) -> (out, in).
    """
    raise NotImplementedError


def dora_magnitude_gradient(W: np.ndarray, A: np.ndarray, B: np.ndarray, alpha: float, magnitude: np.ndarray, g: np.ndarray
                            ) -> np.ndarray:
    """The gradient of `magnitude`, by hand.

    Args:
        g: gradient of the loss with respect to DoRA's weight, (out, in).

    Returns:
        (out,)
    """
    raise NotImplementedError
