"""Exercise 05: how few numbers can learn a task? (Li et al. 2018, 1804.08838; Aghajanyan et al. 2020, 2012.13255)

    W = U diag(s) V^T                   how many directions does a change of weights have?
    theta = theta_0 + P z               how many numbers z must be free to learn a task?

Write each function with NumPy. `tinypeft test 05` says how far you are, `tinypeft hint 05` gives a hint.
"""

import numpy as np


def effective_rank(W: np.ndarray, share: float) -> int:
    """The fewest singular values of W (n, m) whose squares hold at least this share of the squares of all.

    (There are other measures of this name; tinypeft's own `effective_rank` is one. This one asks for a share.)

    Args:
        share: between 0 and 1, both excluded.
    """
    raise NotImplementedError


def best_rank_r(W: np.ndarray, r: int) -> np.ndarray:
    """The matrix of rank r that is nearest to W (n, m) -> (n, m); Eckart and Young 1936.  1 <= r <= min(n, m)."""
    raise NotImplementedError


def relative_error(W: np.ndarray, r: int) -> float:
    """How far that matrix is from W (n, m), divided by the norm of W, both in the Frobenius norm.  1 <= r < min(n, m)."""
    raise NotImplementedError


def project(theta: np.ndarray, P: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The model's weights at z.  theta (N,) where it starts, P (N, d) as given, z (d,) -> (N,)."""
    raise NotImplementedError


def subspace_gradient(g: np.ndarray, P: np.ndarray) -> np.ndarray:
    """The gradient of z.  g (N,) that of the loss with respect to the weights, P (N, d) -> (d,)."""
    raise NotImplementedError


def intrinsic_dimension(dimensions: list, scores: list, full: float, share: float) -> int | None:
    """The smallest dimension that is enough: whose score is at least share * full.

    Args:
        dimensions: rising ints.
        scores: a float for each of them, higher is better, perhaps negative. They need not rise all the way: training is noisy.
        full: the score of full fine-tuning, which need not be the best.
        share: 0.9 in the literature's d90.

    Returns:
        One of the dimensions; None if none is enough.
    """
    raise NotImplementedError
