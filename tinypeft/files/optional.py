"""Libraries that only the real models need (extra `real`): imported when used, never by `import tinypeft`."""

from importlib import import_module
from typing import Any


def optional(module: str, purpose: str) -> Any:
    """Import a module of the extra `real`.

    Args:
        purpose: what needs it, the subject of the error's sentence.

    Raises:
        ImportError: it is not installed; the message has the command that installs it.

    >>> optional("gguff", "reading model.gguf")
    Traceback (most recent call last):
    ImportError: reading model.gguf needs the library gguff: pip install '.[real]' in tinypeft's folder
    """
    try:
        return import_module(module)
    except ImportError as error:
        library = module.split(".")[0]
        raise ImportError(f"{purpose} needs the library {library}: pip install '.[real]' in tinypeft's folder") from error
