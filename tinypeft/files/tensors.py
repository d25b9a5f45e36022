"""Safetensors: named arrays in one file, without pickle (https://huggingface.co/docs/safetensors).

A file is a JSON header (name, dtype, shape, byte range of every tensor) followed by the bytes. A large model is split
over several such shards, and `model.safetensors.index.json` says which tensor lies in which.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from tinypeft.files.atomic import replace_file
from tinypeft.files.stored import StoredArray
from tinypeft.files.text import existing, read_json

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}
_WRITABLE = {np.dtype(code) for name, code in _DTYPES.items() if name != "BF16"}


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Read every tensor of a safetensors file: name -> array of its own shape and dtype, BF16 widened to float32.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, corrupt or no safetensors file, or holds a dtype that NumPy lacks (float8, ...).
    """
    return {name: np.asarray(tensor) for name, tensor in open_safetensors(path).items()}


def open_safetensors(path: str | Path) -> dict[str, StoredArray]:
    """As `read_safetensors`, but each tensor is read when its values are asked for: a model can be quantized on the way in."""
    path = existing(path)
    try:
        with safetensors.safe_open(path, framework="np"):  # checks the header, and whether the file is complete
            pass
    except safetensors.SafetensorError as error:
        raise unreadable(path, "safetensors", error) from error
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {name: _stored(path, name, 8 + length, **entry) for name, entry in sorted(header.items())}


def read_safetensors_metadata(path: str | Path) -> dict[str, str]:
    """Read a file's free text metadata, such as `{"format": "pt"}`; empty if it has none. No tensor is read.

    Raises FileNotFoundError and ValueError as `read_safetensors` does.
    """
    path = existing(path)
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return dict(file.metadata() or {})
    except safetensors.SafetensorError as error:
        raise unreadable(path, "safetensors", error) from error


def write_safetensors(
    path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named arrays to a safetensors file, atomically.

    Args:
        path: the file; its folder is made if it is missing.
        tensors: name -> array of a float, integer or bool dtype, in any memory layout.
        metadata: free text, added to `{"format": "pt"}`, without which transformers and peft refuse a file.

    Raises:
        TypeError: something is not an array of such a dtype; nothing is written.
    """
    for name, array in tensors.items():
        if not isinstance(array, np.ndarray) or array.dtype.newbyteorder("<") not in _WRITABLE:
            found = f"dtype {array.dtype}" if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
            raise TypeError(f"cannot write {name!r} to {path}: {found}; expected a float, integer or bool NumPy array")
    # The library writes an array's buffer as it lies in memory, so transposes and slices must be laid out first.
    # (Not ascontiguousarray: it turns a scalar into a vector.)
    contiguous = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    with replace_file(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        safetensors.numpy.save_file(contiguous, temporary, metadata={"format": "pt", **(metadata or {})})
        temporary.chmod(mode)  # the library's own files are closed to everyone but their owner


def read_checkpoint(folder: str | Path) -> dict[str, StoredArray]:
    """A model folder's tensors: of `model.safetensors`, or of all shards of `model.safetensors.index.json`.

    Raises:
        FileNotFoundError: the folder has neither, or a shard is missing.
        ValueError: the index and the shards disagree on which tensor lies where; or as `read_safetensors`.
    """
    folder = Path(folder)
    if (folder / "model.safetensors").is_file():
        return open_safetensors(folder / "model.safetensors")
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        pickled = [name for name in ("pytorch_model.bin", "pytorch_model.bin.index.json") if (folder / name).exists()]
        hint = f"; {pickled[0]} is a pickle, which is never opened here: save it as safetensors" if pickled else ""
        raise FileNotFoundError(f"{folder} has neither model.safetensors nor {index.name}{hint}")

    shards = _shards(index)
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise FileNotFoundError(f"{index} lists shards that are not in its folder: {', '.join(missing)}")
    tensors: dict[str, StoredArray] = {}
    for shard, listed in shards.items():
        found = open_safetensors(folder / shard)
        if absent := sorted(listed - found.keys()):
            raise ValueError(f"{folder / shard} lacks tensors that {index.name} lists there: {', '.join(absent)}")
        if unlisted := sorted(found.keys() - listed):
            raise ValueError(f"{folder / shard} holds tensors that {index.name} lists elsewhere or not at all: "
                             f"{', '.join(unlisted)}")
        tensors |= found
    return tensors


def _shards(index: Path) -> dict[str, set[str]]:
    """The index turned around: file name of each shard -> names of its tensors."""
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f'{index} has no "weight_map" from tensor names to shard files')
    shards: dict[str, set[str]] = {}
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard:  # an index must not lead out of its folder
            raise ValueError(f"{index} places {tensor!r} in {shard!r}; expected the name of a file beside it")
        shards.setdefault(shard, set()).add(tensor)
    return shards


def _stored(path: Path, name: str, start: int, dtype: str, shape: list[int], data_offsets: list[int]) -> StoredArray:
    """One tensor of a file whose data begin at byte `start`; the other arguments are its entry in the header."""
    if dtype not in _DTYPES:
        raise ValueError(f"{path}: tensor {name!r} has dtype {dtype}; expected one of {', '.join(_DTYPES)}")

    def read() -> np.ndarray:
        with open(path, "rb") as file:
            file.seek(start + data_offsets[0])
            array = np.fromfile(file, dtype=_DTYPES[dtype], count=math.prod(shape)).reshape(shape)
        if dtype == "BF16":  # a bfloat16 is the upper half of a float32
            array = (array.astype(np.uint32) << 16).view(np.float32)
        return array

    return StoredArray(tuple(shape), read)


def unreadable(path: Path, kind: str, error: Exception) -> ValueError:
    """The error for a file that is damaged or of another `kind`, such as "GGUF"."""
    return ValueError(f"{path} ({path.stat().st_size} bytes) is not a complete {kind} file: {error}. It may be truncated, "
                      "corrupt or of another format; copy or download it again.")
