"""The shape of the project: what stands at the top, which room may import which, and how large each may grow."""

import ast
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tinypeft"
TOP_LEVEL = {
    "README.md", "pyproject.toml", "LICENSE", ".gitignore", ".ci", "tinypeft", "lessons", "exercises", "tests",
}

# In reading order: a room imports only from rooms above it.
ROOMS = [
    "backend", "autograd", "viz", "files", "nn", "quant", "peft", "models", "training", "budget", "claims", "grading",
    "commands", "cli",
]

# Most lines of code (no blanks, comments, docstrings) that these rooms together may have.
ROOM_BUDGETS = [
    (("autograd",), 515),
    (("nn",), 800),
    (("quant",), 620),
    (("peft",), 2025),
    (("files", "models"), 680),
    (("training",), 505),
]
NOT_METHODS = {"__init__.py", "model.py", "targets.py", "combine.py"}  # of peft/: every other file keeps a method's size
METHOD_BUDGET = 200
LORA_BUDGET = 150
MOST_LINES = 350  # of any file, all lines counted

# Only imported when used: `import tinypeft` stays quick, and works where an extra is not installed.
HEAVY = {"matplotlib", "scipy", "torch", "transformers", "tokenizers", "tqdm", "typer", "rich", "faker", "names",
         "IPython", "pytest", "hypothesis", "cupy", "dask", "distributed", "gguf", "jinja2"}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# --- top level -----------------------------------------------------------------------------------------------------


def test_the_top_level_is_the_designed_one():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    assert {file.split("/")[0] for file in files if file} == TOP_LEVEL


def test_nothing_refers_to_files_outside_the_project():
    outside = "../" + "shared"
    suffixes = {".py", ".md", ".toml", ".ipynb", ".json", ".sh", ""}
    folders = [ROOT / top for top in TOP_LEVEL]
    files = [file for folder in folders for file in ([folder] if folder.is_file() else folder.rglob("*"))]
    texts = [file for file in files if file.is_file() and file.suffix in suffixes]
    assert texts
    assert [name(file) for file in texts if outside in file.read_text(encoding="utf-8", errors="ignore")] == []


# --- imports -------------------------------------------------------------------------------------------------------


def imported_modules(code: str, package: str) -> set[str]:
    """Full names of all modules that `code`, in `package`, imports: at the top, in functions, relative, by string."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            # `from tinypeft import nn` imports a room, `from tinypeft.nn import Linear` imports from one
            found |= {f"{base}.{alias.name}" for alias in node.names} if base == "tinypeft" else {base}
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                found.add(str(node.args[0].value))
    return found


def forbidden_imports(room: str, modules: set[str]) -> set[str]:
    """Those of `modules` that a file of `room` may not import: rooms below it, and the package that gathers all."""
    if room in ("commands", "cli"):  # the last ones, which may use the public names of `tinypeft` too
        return set()
    allowed = ROOMS[: ROOMS.index(room) + 1]
    inside = {module for module in modules if module.split(".")[0] == "tinypeft"}
    return {module for module in inside if module.split(".")[1:2] == [] or module.split(".")[1] not in allowed}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import tinypeft.nn.layers", {"tinypeft.nn.layers"}),
        ("from tinypeft.nn import Linear", {"tinypeft.nn"}),
        ("from tinypeft import nn", {"tinypeft.nn"}),
        ("from .. import nn", {"tinypeft.nn"}),
        ("from ..nn.layers import Linear", {"tinypeft.nn.layers"}),
        ("from .lora import LoraConfig", {"tinypeft.peft.lora"}),
        ("from . import lora", {"tinypeft.peft"}),
        ("def f():\n    if True:\n        from tinypeft.nn import x", {"tinypeft.nn"}),
        ("import importlib\nimportlib.import_module('tinypeft.nn')", {"importlib", "tinypeft.nn"}),
    ],
)
def test_imports_are_seen(code, expected):
    assert imported_modules(code, package="tinypeft.peft") == expected


def test_forbidden_imports_are_seen():
    modules = {"numpy", "tinypeft", "tinypeft.autograd.ops", "tinypeft.nn", "tinypeft.training.loop", "tinypeft.oddity"}
    assert forbidden_imports("nn", modules) == {"tinypeft", "tinypeft.training.loop", "tinypeft.oddity"}


def test_every_file_belongs_to_a_room():
    allowed = {"__init__.py", "__main__.py", "_course", *ROOMS, *(f"{room}.py" for room in ROOMS)}
    found = {path.relative_to(PACKAGE).parts[0] for path in sources()}
    assert found - allowed == set()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_rooms_above(room):
    files = [path for path in sources() if path.relative_to(PACKAGE).with_suffix("").parts[0] == room]
    wrong = {
        name(path): bad
        for path in files
        if (bad := forbidden_imports(room, imported_modules(path.read_text("utf-8"), ".".join(
            path.relative_to(ROOT).parent.parts))))
    }
    assert wrong == {}


def test_importing_tinypeft_is_light():
    code = "import sys, tinypeft; print(*{module.split('.')[0] for module in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    loaded = set(run.stdout.split())
    assert {"numpy", "tinypeft"} <= loaded
    assert loaded & HEAVY == set()


# --- size ----------------------------------------------------------------------------------------------------------


def code_lines(path: Path) -> int:
    """Number of lines that hold code: not blank, not only a comment, not in a docstring."""
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
              tokenize.ENCODING}
    with open(path, "rb") as file:
        tokens = [token for token in tokenize.tokenize(file.readline) if token.type not in layout]
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            lines -= set(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return len(lines)


def test_code_lines_are_counted(tmp_path):
    path = tmp_path / "example.py"
    path.write_text('''"""Docstring
    of two lines."""

import os  # counted

# not counted


def f(
    x,
):
    """Docstring."""
    text = """a string

    of three lines, one of them blank"""
    return text, x
''')
    assert code_lines(path) == 8


@pytest.mark.parametrize(("rooms", "budget"), ROOM_BUDGETS, ids=["+".join(rooms) for rooms, _ in ROOM_BUDGETS])
def test_a_room_keeps_its_budget(rooms, budget):
    counts = {name(path): code_lines(path) for path in sources() if path.relative_to(PACKAGE).parts[0] in rooms}
    assert sum(counts.values()) <= budget, f"{sum(counts.values())} lines of code in {rooms}: {counts}"


def test_a_method_keeps_its_budget():
    methods = [path for path in (PACKAGE / "peft").glob("*.py") if path.name not in NOT_METHODS]
    counts = {path.name: code_lines(path) for path in methods}
    over = {
        file: count for file, count in counts.items() if count > (LORA_BUDGET if file == "lora.py" else METHOD_BUDGET)
    }
    assert over == {}


def test_a_file_can_be_read_in_one_sitting():
    counts = {name(path): len(path.read_text("utf-8").splitlines()) for path in sources()}
    assert {file: count for file, count in counts.items() if count > MOST_LINES} == {}
