"""NumPy or CuPy: the only place that asks.

An array knows its library: `np.exp(x)` of a CuPy array is computed by CuPy, through NumPy's dispatch protocol. What
protocols cannot do stands here: creating arrays beside another one, bringing them back, naming dtypes, and keeping
memory warm.
"""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any  # an ndarray of NumPy or of CuPy

float32, float16, float64 = "float32", "float16", "float64"
bfloat16 = "bfloat16"  # NumPy has no such dtype: as a compute dtype it means float32 on a CPU

_told_about_bfloat16 = False


def array_module(x: Array) -> Any:
    """The library, `numpy` or `cupy`, that array `x` belongs to; another kind of array says so itself."""
    if isinstance(x, np.ndarray | np.generic):
        return np
    return sys.modules.get("cupy") if type(x).__module__.startswith("cupy") else x.__array_namespace__()


def asarray(x: Any, like: Array) -> Array:
    """`x` as an array of the same library (and so of the same device) as `like`."""
    return array_module(like).asarray(x)


def to_numpy(x: Array) -> np.ndarray:
    """A NumPy array with the values of `x`; no copy if it is one already."""
    return x if isinstance(x, np.ndarray) else x.get()


def take_into(table: np.ndarray, indices: Array, out: Array) -> None:
    """out[...] = table[indices], for indices that are known to lie within the table."""
    if isinstance(out, np.ndarray):
        table.take(indices, out=out, mode="clip")  # which writes into `out` at once; by default a copy is made and checked
    else:
        asarray(table, like=out).take(indices, out=out)


def chunk_size(x: Array) -> int:
    """How many numbers to work on at a time in several passes: what a core's cache holds; on a GPU all, two to each of x.

    A power of two, and so a multiple of every block size; two to each, since x may be bytes that hold two codes.
    """
    return 1 << 16 if isinstance(x, np.ndarray) else max(1 << 16, 2 << int(x.size).bit_length())


def as_dtype(name: Any) -> np.dtype:
    """The floating-point NumPy dtype that `name` (a string, a NumPy dtype, None for float32) stands for.

    bfloat16 gives float32, with a warning once: NumPy cannot compute in it.

    Raises:
        ValueError: `name` is not one of float16, float32, float64, bfloat16.

    >>> as_dtype("float64"), as_dtype(None)
    (dtype('float64'), dtype('float32'))
    """
    global _told_about_bfloat16
    if isinstance(name, str) and name == bfloat16:
        if not _told_about_bfloat16:
            _told_about_bfloat16 = True
            warnings.warn("bfloat16 is computed in float32 here: NumPy has no bfloat16 arithmetic", stacklevel=3)
        return np.dtype(np.float32)
    try:
        dtype = np.dtype(np.float32 if name is None or name == "auto" else name)
    except TypeError:
        dtype = np.dtype(object)
    if dtype not in (np.float16, np.float32, np.float64):
        raise ValueError(f"dtype {name!r} is not one of float16, float32, float64, bfloat16")
    return dtype


def few_threads(tensors: Iterable[Any]) -> AbstractContextManager[Any]:
    """A context in which NumPy multiplies matrices on one core, if the largest of these tensors is small.

    Cores that share a small product spend more time waiting for each other than computing. Measured, a training step of the
    bundled model on two cores, both busy with something else as well, takes ten times as long as on one.
    """
    if max((tensor.size for tensor in tensors), default=0) > 1 << 20:  # a matrix of 1024 x 1024
        return nullcontext()
    from threadpoolctl import threadpool_limits  # here, since it takes a moment to load

    return threadpool_limits(limits=1, user_api="blas")


def keep_freed_memory() -> bool:
    """Ask glibc to keep freed buffers, so that the next training step reuses warm pages. True if it was done.

    By default glibc returns every large freed array to the kernel, and the next step faults all its pages in again:
    measured, a small training step takes 1.8 times as long. `import tinypeft` calls this; set TINYPEFT_KEEP_MEMORY=0 to
    prevent it. Elsewhere than on glibc nothing happens.
    """
    if os.environ.get("TINYPEFT_KEEP_MEMORY", "1") == "0" or not sys.platform.startswith("linux"):
        return False
    m_trim_threshold, m_mmap_threshold = -1, -3
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # a C library without mallopt (musl)
        return False
    kept = mallopt(m_mmap_threshold, 1 << 30) or mallopt(m_mmap_threshold, 1 << 25)  # older glibc allows 32 MiB at most
    return bool(kept and mallopt(m_trim_threshold, 1 << 30))
