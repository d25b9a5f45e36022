"""Exercise 09: prefixes and prompts by hand (Li and Liang 2021, 2101.00190; Lester et al. 2021, 2104.08691).

    prefix tuning    attention(q, [prefix_k; k], [prefix_v; v])        p trained keys and values in every layer
    prompt tuning    model([prompt; embeds])                           p trained vectors among the embedded tokens

B batch, T time, h heads, h_kv heads of keys and values, d width (of a head, where there are heads), p virtual tokens.
Write each function with NumPy. `tinypeft test 09` says how far you are, `tinypeft hint 09` gives a hint.
"""

import numpy as np


def attention_with_prefix(q: np.ndarray, k: np.ndarray, v: np.ndarray, prefix_k: np.ndarray, prefix_v: np.ndarray
                          ) -> np.ndarray:
    """Causal attention in which every query sees all of the prefix too.

    Args:
        q: (B, T, h, d).
        k, v: (B, T, h_kv, d), h a multiple of h_kv: the first h / h_kv heads of queries use the first head of keys, and so on.
        prefix_k, prefix_v: (p, h_kv, d), the same for every row of the batch.

    Returns:
        (B, T, h, d). Scores are divided by sqrt(d); they may be so large, of either sign, that exp of them is infinite or 0.
    """
    raise NotImplementedError


def prefix_parameters(p: int, layers: int, kv_heads: int, head_dim: int) -> int:
    """How many numbers are trained: a prefix of p keys and values in each layer."""
    raise NotImplementedError


def prefix_share(q: np.ndarray, k: np.ndarray, prefix_k: np.ndarray) -> np.ndarray:
    """How much of its attention one query gives to the prefix: between 0 and 1.

    Args:
        q: (h, d), one query, which sees everything.
        k: (T, h, d).
        prefix_k: (p, h, d).

    Returns:
        (h,). As above, exp of a score may be infinite.
    """
    raise NotImplementedError


def interpolate(without: np.ndarray, prefix_only: np.ndarray, share: np.ndarray) -> np.ndarray:
    """One query's attention with a prefix, from its attention without it and that over the prefix alone.

    without (h, d), prefix_only (h, d), share (h,), as prefix_share gives it: from 0 to 1 -> (h, d)
    """
    raise NotImplementedError


def prepend(prompt: np.ndarray, embeds: np.ndarray, labels: np.ndarray, attention_mask: np.ndarray) -> dict:
    """What the model is given when the prompt stands before every row.

    Args:
        prompt: (p, d).
        embeds: (B, T, d).
        labels: (B, T) int64, -100 where nothing is learned. The model itself moves them by one.
        attention_mask: (B, T) int64, 1 for tokens and 0 for padding.

    Returns:
        {"embeds": (B, p + T, d), "labels": (B, p + T) int64, "attention_mask": (B, p + T) int64,
        "position_ids": (1, p + T) int64}: nothing is learned at the prompt, which is no padding; its positions start at 0,
        and those of the tokens go on from there.
    """
    raise NotImplementedError


def append(prompt: np.ndarray, embeds: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The prompt after what is given.

    Args:
        prompt: (p, d).
        embeds: (B, T, d), padded on the right.
        lengths: (B,) int64, the tokens of each row, from 0 to T.

    Returns:
        (B, T + p, d): in each row its tokens, then the prompt, then its padding, as it was.
    """
    raise NotImplementedError
