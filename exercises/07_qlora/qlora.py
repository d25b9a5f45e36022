"""Exercise 07: LoRA on a base of four bits (Dettmers et al. 2023, 2305.14314).

    y = x W^T + (alpha / r) (x A^T) B^T        W (out, in) frozen, in 4-bit codes; A (r, in), B (out, r) in floats

In all functions the base is given as
    packed     uint8 (ceil(out * in / 2),): two codes in a byte, the first of them in its high half
    absmax     (blocks,): what each run of `blocksize` numbers is multiplied by; the last run may be shorter
    code       (16,): the value of each code, rising from -1 to 1
    shape      [out, in]: the numbers fill it row by row, and a block may run on from one row to the next

Write each function with NumPy. `tinypeft test 07` says how far you are, `tinypeft hint 07` gives a hint.
"""

import numpy as np


def qlora_forward(x: np.ndarray, packed: np.ndarray, absmax: np.ndarray, code: np.ndarray, blocksize: int, shape: list,
                  A: np.ndarray, B: np.ndarray, alpha: float) -> np.ndarray:
    """The layer's output.  x (..., in), A (r, in), B (out, r) -> (..., out)."""
    raise NotImplementedError


def qlora_backward(x: np.ndarray, packed: np.ndarray, absmax: np.ndarray, code: np.ndarray, blocksize: int, shape: list,
                   A: np.ndarray, B: np.ndarray, alpha: float, g: np.ndarray) -> dict:
    """Gradients, by hand: no finite differences.

    Args:
        g: gradient of the loss with respect to the output, (..., out).

    Returns:
        {"x": (..., in), "A": (r, in), "B": (out, r)}. The base is frozen and gets none.
    """
    raise NotImplementedError


def merge_loss(packed: np.ndarray, absmax: np.ndarray, code: np.ndarray, blocksize: int, shape: list,
               A: np.ndarray, B: np.ndarray, alpha: float) -> float:
    """What gets lost if the adapter is merged into the base, and the sum is stored in four bits again.

    The sum is quantized with the same codebook and block size: each block is divided by its largest magnitude, and the nearest
    values are taken. No block of it is all zeros.

    Returns:
        |change made - change wanted| / |change wanted|, in the Frobenius norm: 0 if the merge is exact, 1 if nothing of the
        adapter is left, more if rounding changes more than the adapter did.
    """
    raise NotImplementedError


def memory_breakdown(quantized: int, kept: int, adapter: int, bits: float, kept_bytes: int, adapter_bytes: int) -> dict:
    """Bytes of fine-tuning with AdamW, whose two numbers for each trained one are float32; activations apart.

    Args:
        quantized, kept: how many numbers of the base are quantized and how many are not (embeddings, norms).
        adapter: how many numbers are trained.
        bits: of a quantized number, with its share of the maxima, such as 4.5.
        kept_bytes: of a number of the base that is not quantized.
        adapter_bytes: of an adapter's number, and of its gradient.

    Returns:
        {"base", "adapter", "gradients", "optimizer", "total"}: floats.
    """
    raise NotImplementedError
