"""Exercise 02: the parts of a transformer (Vaswani et al. 2017, 1706.03762; Radford et al. 2019, GPT-2).

    attention = softmax(q k^T / sqrt(d)) v, each query with the keys up to its own position

B batch, T queries, S keys, h heads, d width of a head, N rows, V vocabulary. `tinypeft test 02` says how far you are,
`tinypeft hint 02` gives a hint.
"""

import numpy as np


def gelu(x: np.ndarray) -> np.ndarray:
    """GELU in the form with tanh, which GPT-2 uses (Hendrycks & Gimpel 2016, 1606.08415), of each number, large or small.

    Args:
        x: any shape.
    """
    raise NotImplementedError


def causal_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Attention of the last T of S positions: query t sees the keys 0 ... S - T + t. Scores may be some thousand large.

    Args:
        q: (B, T, h, d).
        k, v: (B, S, h, d), S >= T; S > T where keys of earlier positions were cached.

    Returns:
        (B, T, h, d).
    """
    raise NotImplementedError


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -log softmax(logits)[label], in nats, over the rows that count. Logits may be some thousand large.

    Args:
        logits: (N, V).
        labels: (N,) int64; rows with -100 do not count. At least one does.
    """
    raise NotImplementedError


def parameter_count(config: dict) -> int:
    """Parameters of a GPT-2, with its biases and layer norms.

    Args:
        config: "vocab_size", "n_positions", "n_embd", "n_layer". The output head is the embedding (tied), and the feed-forward
            part is 4 n_embd wide.
    """
    raise NotImplementedError
