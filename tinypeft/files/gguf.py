"""GGUF, llama.cpp's format: a whole model in one file, its tensors quantized (https://github.com/ggml-org/ggml,
docs/gguf.md).

A file is a list of typed metadata (the model's shape, its tokenizer), then a table of tensors, then their blocks. The
library `gguf` (extra `real`) reads it; here its content becomes plain values and float32 arrays.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tinypeft.files.optional import optional
from tinypeft.files.stored import StoredArray
from tinypeft.files.tensors import unreadable
from tinypeft.files.text import existing


def read_gguf(path: str | Path) -> tuple[dict[str, Any], dict[str, StoredArray]]:
    """Open a GGUF file: its metadata, and its tensors, which stay quantized on disk until they are asked for.

    Returns:
        metadata: key -> bool, int, float, string or a list of them.
        tensors: name -> float32 values, row-major as everywhere in Python (llama.cpp lists dimensions the other way).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, corrupt or no GGUF file; or, once a tensor is asked for, it is of a type that
            the library cannot dequantize.
        ImportError: the library `gguf` is not installed.
    """
    gguf = optional("gguf", f"reading {path}")
    path = existing(path)

    class Reader(gguf.GGUFReader):  # type: ignore[name-defined]
        """The library's, which otherwise reads past the end without noticing, endlessly if a length is damaged."""

        def _get(self, offset: int, dtype: Any, count: int = 1, *order: Any, **options: Any) -> np.ndarray:
            values: np.ndarray = super()._get(offset, dtype, count, *order, **options)
            if len(values) < count:
                raise ValueError(f"{count} values from byte {offset} on reach beyond its end")
            return values

    try:
        reader = Reader(path)
        metadata = {key: field.contents() for key, field in reader.fields.items()
                    if not key.startswith("GGUF.")}  # so the library calls what the file's header says
    except Exception as error:  # the library checks little: damage surfaces as whatever its slices run into
        raise unreadable(path, "GGUF", error) from error
    return metadata, {tensor.name: StoredArray(tuple(map(int, tensor.shape[::-1])), partial(_values, path, tensor))
                      for tensor in reader.tensors}


def _values(path: Path, tensor: Any) -> np.ndarray:
    """One tensor's values, dequantized."""
    dequantize = optional("gguf.quants", f"reading {path}").dequantize
    try:
        # A copy, since dequantizing float32 gives a view of the file, which nobody could write to.
        return np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    except NotImplementedError as error:
        raise ValueError(f"{path}: tensor {tensor.name!r} is of type {tensor.tensor_type.name}, which the library gguf "
                         "cannot turn into numbers: convert the file to F16 or Q8_0") from error
