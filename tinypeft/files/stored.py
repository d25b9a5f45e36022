"""Arrays that stay on disk until somebody asks for their values."""

from collections.abc import Callable
from typing import Any

import numpy as np


class StoredArray:
    """An array of a file: its shape, and its values as soon as NumPy asks for them, each time anew.

    So a checkpoint can be checked before any of it is read, and be read, converted and forgotten a tensor at a time.

    >>> stored = StoredArray((2, 3), lambda: np.zeros((2, 3), np.float32))
    >>> stored.shape, np.asarray(stored).sum()
    ((2, 3), np.float32(0.0))
    """

    def __init__(self, shape: tuple[int, ...], read: Callable[[], np.ndarray]):
        self.shape, self._read = tuple(shape), read

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = self._read()
        return values if dtype is None else values.astype(dtype, copy=False)
