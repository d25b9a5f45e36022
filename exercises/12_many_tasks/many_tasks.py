"""Exercise 12: one base, many tasks: adapters added up, task vectors, batches of many tasks.

    D = sum_i w_i s_i B_i A_i with s_i = alpha_i / r_i        what a weighted sum of adapters changes in one layer
    tuned - base                                              a task vector (Ilharco et al. 2022, 2212.04089)

An adapter of a layer (out, in) is {"A": (r, in), "B": (out, r), "alpha": float}; its r is the number of rows of A.
Write each function with NumPy. `tinypeft test 12` says how far you are, `tinypeft hint 12` gives a hint.
"""

import numpy as np


def weighted_delta(adapters: list, weights: list) -> np.ndarray:
    """The exact weighted sum of the changes that adapters make to the weight.

    Args:
        adapters: dicts as above. Their ranks may differ.
        weights: a float for each of them; it may be negative, or 0.

    Returns:
        (out, in)
    """
    raise NotImplementedError


def linear_combination(adapters: list, weights: list) -> dict:
    """One adapter for all, as peft's add_weighted_adapter makes it with combination_type="linear": cheap, not exact.

    Args:
        adapters: all of one rank r.

    Returns:
        {"A": (r, in), "B": (out, r)}, to be used with the scale 1: sums over the adapters, of their A, with the factor
        sign(w) sqrt(|w s|), and of their B, with the factor sqrt(|w s|).
    """
    raise NotImplementedError


def concatenate(adapters: list, weights: list) -> dict:
    """One adapter for all that is exact, as combination_type="cat": its rank is the sum of the ranks, which may differ.

    Returns:
        {"A": (sum of r, in), "B": (out, sum of r)}, to be used with the scale 1: B A is weighted_delta(adapters, weights).
    """
    raise NotImplementedError


def task_vector(base: dict, tuned: dict) -> dict:
    """What fine-tuning has changed.  Dicts name -> array, with the same names and shapes, in whichever order."""
    raise NotImplementedError


def apply_task_vectors(base: dict, vectors: list, weights: list) -> dict:
    """The base with weighted task vectors in it.

    Args:
        base: dict name -> array.
        vectors: list of dicts with the same names.
        weights: a float for each vector. A negative one makes the model forget a task.

    Returns:
        dict name -> array
    """
    raise NotImplementedError


def mixed_batch(x: np.ndarray, W: np.ndarray, adapters: dict, names: list) -> np.ndarray:
    """A layer's output for a batch in which each row has an adapter of its own.

    Args:
        x: (N, in)
        W: (out, in), for all rows.
        adapters: name -> adapter. Not all need be in use, and their ranks may differ.
        names: N names, one for each row; "__base__" for a row without an adapter.

    Returns:
        (N, out), in the order of x: row i is x_i W^T + s (x_i A^T) B^T with the adapter names[i].
    """
    raise NotImplementedError
