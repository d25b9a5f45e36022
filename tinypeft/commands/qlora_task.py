'''The task of `tinypeft qlora`: a function's first lines become a card in a fixed JSON form.

    def copyfile(src, dst, *, follow_symlinks=True):           {"name": "shutil.copyfile",
        """Copy data from src to dst."""                 ->     "summary": "Copy data from src to dst.",
                                                                "required": ["src", "dst"],
                                                                "optional": ["follow_symlinks"]}

The functions are those of Python's own standard library, read from its source files, none of which is imported. Which part
a function falls into depends on its top-level module alone (a hash): no held-out function comes from a module that was
trained on, and a function stays where it is whatever the version of Python.
'''

from __future__ import annotations

import ast
import functools
import hashlib
import itertools
import json
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STRINGS, LISTS = ("name", "summary"), ("required", "optional")  # the form: keys with a string, and with a list of strings
HELD_OUT = 0.45  # share of the modules
LEAST = 400  # functions; Python 3.11 to 3.13 have about 600
# Folders of the standard library that hold tests, programs and tables rather than functions to call.
_LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "tkinter", "turtledemo", "ensurepip", "encodings", "pydoc_data", "msilib"}

ASK = 'Describe this function of the Python module {module} as JSON.\n\ndef {signature}:\n    """{summary}"""'
SPELLED_OUT = """ Answer with one JSON object and nothing else. It has exactly these keys:
"name": a string, the module and the function
"summary": a string, what the function does
"required": a list of strings, the parameters without a default
"optional": a list of strings, the parameters with a default"""


@dataclass(frozen=True)
class Function:
    """A function of the standard library: what its source says before its body."""

    module: str
    signature: str  # "copyfile(src, dst, *, follow_symlinks=True)"
    summary: str  # the first line of its docstring
    required: tuple[str, ...]
    optional: tuple[str, ...]

    @property
    def name(self) -> str:
        """"shutil.copyfile"."""
        return f"{self.module}.{self.signature.partition('(')[0]}"

    @property
    def card(self) -> dict[str, Any]:
        """What is to be answered."""
        return {"name": self.name, "summary": self.summary, "required": list(self.required), "optional": list(self.optional)}

    def question(self, *, spelled_out: bool = False) -> str:
        """What is asked; with the form that the answer is to have only if that is wanted."""
        ask, _, lines = ASK.format(module=self.module, signature=self.signature, summary=self.summary).partition("\n")
        return f"{ask}{SPELLED_OUT if spelled_out else ''}\n{lines}"


EXAMPLES = (  # made up, so that they are neither trained on nor held out
    Function("colors", "mix(first, second, ratio=0.5)", "Return the color between two others.", ("first", "second"),
             ("ratio",)),
    Function("tides", "next_low(harbor)", "Return the time of the next low tide.", ("harbor",), ()),
)


# ---- the answers ----------------------------------------------------------------------------------------------------

def parse(answer: str) -> dict[str, Any] | None:
    """The card that an answer is; None unless it is one JSON object of exactly the form, with no text around it.

    >>> parse('{"name": "a.f", "summary": "Do.", "required": ["x"], "optional": []}')["required"]
    ['x']
    >>> parse('Sure: {"name": "a.f", "summary": "Do.", "required": ["x"], "optional": []}') is None
    True
    """
    try:
        pairs = json.loads(answer, object_pairs_hook=tuple)  # a tuple of pairs, since a dict would hide a key said twice
    except (ValueError, RecursionError):
        return None
    if not isinstance(pairs, tuple) or sorted(key for key, _ in pairs) != sorted(STRINGS + LISTS):
        return None
    card = dict(pairs)
    lists = [card[key] for key in LISTS]
    if not all(isinstance(value, list) for value in lists):
        return None
    strings = [*(card[key] for key in STRINGS), *itertools.chain(*lists)]
    return card if all(isinstance(value, str) for value in strings) else None


def parameters(card: dict[str, Any]) -> list[str]:
    """All that a card lists, sorted."""
    return sorted(card["required"] + card["optional"])


# ---- the functions --------------------------------------------------------------------------------------------------

@functools.cache
def functions() -> tuple[tuple[Function, ...], tuple[Function, ...]]:
    """Those to train on, and the held-out ones; each in an order that is random and always the same.

    Raises:
        ImportError: this Python comes without the source of its standard library.
    """
    found = sorted(_read_library(), key=lambda function: _place(function.name))
    if len(found) < LEAST:
        raise ImportError(f"{len(found)} functions in {sysconfig.get_path('stdlib')}, where about 600 were expected: this "
                          "Python comes without the source of its standard library")
    held_out = [_place(function.module.partition(".")[0]) < HELD_OUT for function in found]
    train, test = (tuple(f for f, out in zip(found, held_out, strict=True) if out is part) for part in (False, True))
    return train, test


def _place(name: str) -> float:
    """A number in [0, 1) that depends on the name alone, and is uniform over names."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def _read_library() -> Iterator[Function]:
    """Every public, short, documented function of the standard library's public modules."""
    library = Path(sysconfig.get_path("stdlib"))
    for file in library.rglob("*.py"):
        *packages, stem = file.relative_to(library).with_suffix("").parts
        parts = packages if stem == "__init__" else [*packages, stem]
        if (not parts or parts[0] not in sys.stdlib_module_names or _LEFT_OUT.intersection(parts)
                or any(part.startswith("_") for part in parts)):
            continue
        for node in ast.parse(file.read_bytes()).body:
            if isinstance(node, ast.FunctionDef) and (function := _read_function(".".join(parts), node)):
                yield function


def _read_function(module: str, node: ast.FunctionDef) -> Function | None:
    """None unless it is public, takes 1 to 6 named parameters, and fits a short prompt."""
    a = node.args
    plain = [arg.arg for arg in (*a.posonlyargs, *a.args)]
    first_default = len(plain) - len(a.defaults)
    defaults = {arg.arg: default is not None for arg, default in zip(a.kwonlyargs, a.kw_defaults, strict=True)}
    required = (*plain[:first_default], *(name for name, has in defaults.items() if not has))
    optional = (*plain[first_default:], *(name for name, has in defaults.items() if has))
    signature, summary = f"{node.name}({ast.unparse(a)})", (ast.get_docstring(node) or "").partition("\n")[0]
    if (node.name.startswith("_") or a.vararg or a.kwarg or not 1 <= len(required + optional) <= 6 or len(signature) > 80
            or not 10 <= len(summary) <= 70 or not summary.endswith(".")):
        return None
    return Function(module, signature, summary, required, optional)
