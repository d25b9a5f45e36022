"""Exercise 03: a step of full fine-tuning, and what is measured afterwards.

    AdamW: Loshchilov & Hutter 2019, 1711.05101        clipping: Pascanu et al. 2013, 1211.5063

Write each function with NumPy. `tinypeft test 03` says how far you are, `tinypeft hint 03` gives a hint.
"""

import numpy as np


def adamw_step(p: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray, t: int, lr: float, beta1: float, beta2: float,
               eps: float, weight_decay: float) -> list:
    """One step of AdamW, with decoupled weight decay.

    Args:
        p, g, m, v: parameter, its gradient, the running means of gradients and of their squares; of one shape, any.
        t: number of this step; the first is 1.
        eps: added to the root of the corrected v.

    Returns:
        [p, m, v] after the step, new arrays of that shape. m and v as they are kept, without correction.
    """
    raise NotImplementedError


def clip_gradients(gradients: list, max_norm: float) -> dict:
    """Scale all gradients by one factor, so that their common norm is max_norm, if it was larger; else leave them as they are.

    Args:
        gradients: arrays of any shapes; all of them may be zero.

    Returns:
        {"gradients": list of arrays, "norm": float, their common norm before}. PyTorch adds 1e-6 to the norm that it divides
        by; here nothing is added.
    """
    raise NotImplementedError


def bits_per_character(nats: float, tokens: int, characters: int) -> float:
    """A loss that does not depend on the tokenizer.

    Args:
        nats: mean loss of a token, natural logarithm.
        tokens, characters: how many the text has.
    """
    raise NotImplementedError


def forgetting(before: dict, after: dict) -> dict:
    """How much the loss of each task rose by training on another one.

    Args:
        before, after: task -> loss, of the same tasks, in any order.

    Returns:
        {task: how much its loss rose, 0.0 where it fell}.
    """
    raise NotImplementedError
