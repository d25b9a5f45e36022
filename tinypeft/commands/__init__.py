"""What the commands of `tinypeft` do, one file each."""

import os
import sys
from pathlib import Path

from tinypeft import BitsAndBytesConfig

# How QLoRA stores the base: its paper's choice.
NF4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)


def program(name: str) -> str:
    """What to type for a program of this Python environment: its path from here, where the bare name would not be found.

    >>> program("no-such-program")
    'no-such-program'
    """
    beside = Path(sys.executable).parent / name
    found_by_name = any(Path(folder) == beside.parent for folder in os.environ.get("PATH", "").split(os.pathsep))
    if found_by_name or not beside.exists():
        return name
    return str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside)
