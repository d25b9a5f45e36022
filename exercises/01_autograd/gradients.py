"""Exercise 01: gradients by hand, and the order in which a tape is walked back.

    vector-Jacobian product: from g = d loss / d result to d loss / d input, which has the input's shape

Write each function with NumPy, without finite differences. `tinypeft test 01` says how far you are, `tinypeft hint 01`
gives a hint.
"""

import numpy as np


def add_vjp(a: np.ndarray, b: np.ndarray, g: np.ndarray) -> list:
    """Of a + b, which broadcast against each other.

    Args:
        g: of the broadcast shape.

    Returns:
        [da, db], of the shapes of a and b.
    """
    raise NotImplementedError


def matmul_vjp(a: np.ndarray, b: np.ndarray, g: np.ndarray) -> list:
    """Of a @ b.  a (..., n, k), b (..., k, m) with equal leading axes, g (..., n, m) -> [da, db]."""
    raise NotImplementedError


def softmax_vjp(x: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Of the softmax of x over its last axis; rows may be near 10,000 or -10,000.  x (..., n), g (..., n) -> dx (..., n)."""
    raise NotImplementedError


def layer_norm_vjp(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float, g: np.ndarray) -> list:
    """Of (x - mean) / sqrt(variance + eps) * weight + bias, with mean and variance (divided by d) over the last axis.

    Args:
        x, g: (..., d); there may be no axis before the last.
        weight, bias: (d,).

    Returns:
        [dx (..., d), dweight (d,), dbias (d,)].
    """
    raise NotImplementedError


def topological_order(edges: list, output: int) -> list:
    """The order in which gradients are passed back.

    Args:
        edges: [result, input] pairs of node numbers, in no order; the same pair may come twice (x * x). Numbers say nothing of
            the order. A path may be some thousand edges long.
        output: where the gradient starts.

    Returns:
        The nodes that the output depends on, once each: itself first, every node before its inputs. Many orders can be right.
    """
    raise NotImplementedError


def accumulate(edges: list, slopes: list, output: int) -> dict:
    """The derivatives of the output with respect to all that it depends on.

    Args:
        edges: as above.
        slopes: d result / d input of each edge, floats.

    Returns:
        {str(node): d output / d node} for the nodes of topological_order.
    """
    raise NotImplementedError
