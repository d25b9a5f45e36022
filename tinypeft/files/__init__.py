"""Files: safetensors, GGUF, JSON and atomic writes. Knows arrays and plain data, and no model.

Whatever is written here appears whole or not at all; whatever is read here is either right or an error that names the
file. Nothing is unpickled.
"""

from tinypeft.files.atomic import new_folder, replace_file
from tinypeft.files.gguf import read_gguf
from tinypeft.files.optional import optional
from tinypeft.files.rows import read_rows
from tinypeft.files.stored import StoredArray
from tinypeft.files.tensors import read_checkpoint, read_safetensors, read_safetensors_metadata, write_safetensors
from tinypeft.files.text import read_json, write_json, write_text

__all__ = ["StoredArray", "new_folder", "optional", "read_checkpoint", "read_gguf", "read_json", "read_rows",
           "read_safetensors", "read_safetensors_metadata", "replace_file", "write_json", "write_safetensors", "write_text"]
