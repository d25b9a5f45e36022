"""Automatic mutants: a correct solution with one small defect each. What a grader lets pass is a hole in it, or equivalent.

    operators    + - * / ** % @ and or, comparisons; one side of a sum or product alone; a sign lost; operands exchanged
    constants    one more, one less, doubled, not: with them axes, indices, exponents and slices off by one
    arrays       a transpose left out, a mean for a sum, a floor for a ceiling and so on
    gradients    of every vjp in the contract: sign flipped, upstream gradient ignored, axes reversed; all or a part
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tinypeft.grading.contract import COTANGENT, Signature

OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot,
    ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In}
OPPOSITES: dict[type[ast.cmpop], type[ast.cmpop]] = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}
FUNCTIONS = {"sum": "mean", "mean": "sum", "max": "min", "min": "max", "maximum": "minimum", "minimum": "maximum",
             "floor": "ceil", "ceil": "floor", "argmax": "argmin", "argmin": "argmax", "zeros": "ones", "ones": "zeros",
             "tril": "triu", "triu": "tril", "round": "floor", "rint": "floor", "sin": "cos", "cos": "sin"}
TRANSPOSES = ("T", "mT")
TRANSPOSING = ("swapaxes", "transpose", "moveaxis")
UNTOUCHED = ("annotation", "returns", "decorator_list")  # what does not compute
SIGNLESS = ("abs", "norm", "square")  # functions for which a - b is as good as b - a
CHECKS = ("strict",)  # keywords that make a difference to a mistake only


@dataclass(frozen=True)
class Mutant:
    """A solution with one defect.

    Attributes:
        name: "function: text -> other text"; stable as long as the line is.
        source: the whole file.
    """

    name: str
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """All mutants of a file, by its syntax; none twice, and none equal to the file.

    >>> for mutant in mutants("def f(x): return x.T + 1"):
    ...     print(mutant.name)
    f: return x.T + 1 -> return x.T - 1
    f: return x.T + 1 -> return x.T
    f: return x.T + 1 -> return 1
    f: x.T + 1 -> x + 1
    f: x.T + 1 -> x.T + 2
    f: x.T + 1 -> x.T + 0
    """
    tree = ast.parse(source)
    seen, names = {ast.unparse(tree)}, set[str]()
    for statement in tree.body:
        for holder, name, place, node in _places(statement):
            before = ast.unparse(holder)
            for changed in _changes(node, holder):
                _put(holder, name, place, changed)
                mutated, after = ast.unparse(tree), ast.unparse(holder)
                _put(holder, name, place, node)
                if mutated in seen:
                    continue
                seen.add(mutated)
                title = _title(statement, *_shown(before, after, node, changed))
                names.add(title := _numbered(title, names))
                yield Mutant(title, mutated)


def vjp_mutants(source: str, signatures: dict[str, Signature]) -> Iterator[Mutant]:
    """For every vjp: the mistakes that a gradient check must notice, made from outside."""
    for signature in (one for one in signatures.values() if one.is_vjp):
        for part in (None, *(signature.parts if len(signature.parts) > 1 else ())):
            what = signature.name if part is None else f"{signature.name}[{part!r}]"
            for mistake, change in {"sign flipped": "-np.asarray(of)", "upstream gradient ignored": "ignored",
                                    "axes reversed": "reverse(np.asarray(of))"}.items():
                yield Mutant(f"{what}: {mistake}", source + _WRAPPER.format(
                    name=signature.name, part=part, change=change, place=signature.arguments.index(COTANGENT)))


_WRAPPER = '''

_right_{name} = {name}


def {name}(*arguments):
    import numpy as np

    found = _right_{name}(*arguments)
    ones = [np.ones_like(value) if i == {place} else value for i, value in enumerate(arguments)]
    without = _right_{name}(*ones)

    def reverse(array):
        return array.T if array.ndim > 1 else array[::-1]

    def changed(key, of, ignored):
        return {change} if {part!r} in (None, key) else of

    if isinstance(found, dict):
        return {{key: changed(key, found[key], without[key]) for key in found}}
    if isinstance(found, (list, tuple)):
        return [changed(key, *both) for key, both in enumerate(zip(found, without))]
    return changed(None, found, without)
'''


# ---- where, and into what -------------------------------------------------------------------------------------------

Place = tuple[ast.AST, str, int | None, Any]  # a node, the name of its field, the place in it, what stands there


def _places(node: ast.AST) -> Iterator[Place]:
    """Every expression below a node, outermost first; docstrings are none."""
    for name, value in ast.iter_fields(node):
        if name in UNTOUCHED:
            continue
        for place, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            docstring = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            if not isinstance(child, ast.AST) or docstring or (isinstance(child, ast.keyword) and child.arg in CHECKS):
                continue
            yield node, name, place, child
            if not _is_negative(child):  # -1 is one constant
                yield from _places(child)


def _put(holder: ast.AST, name: str, place: int | None, node: Any) -> None:
    if place is None:
        setattr(holder, name, node)
    else:
        getattr(holder, name)[place] = node


def _changes(node: Any, holder: ast.AST) -> Iterator[Any]:
    """What may stand in the place of a node."""
    if isinstance(node, ast.BinOp):
        yield from _operations(node, _called(holder))
    elif isinstance(node, ast.AugAssign) and type(node.op) in OPERATORS:
        yield ast.AugAssign(node.target, OPERATORS[type(node.op)](), node.value)
    elif isinstance(node, ast.Compare):
        yield from _comparisons(node)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        yield from node.values
    elif _is_negative(node):
        yield from (ast.Constant(0), node.operand)
        if _called(holder) != "reshape":  # for which all negative numbers are the same
            yield ast.UnaryOp(ast.USub(), ast.Constant(node.operand.value + 1))
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Constant):
        yield from (ast.Constant(value) for value in _constants(node.value))
    elif isinstance(node, ast.Attribute) and node.attr in TRANSPOSES:
        yield node.value
    elif isinstance(node, ast.Call):
        yield from _calls(node)
    elif isinstance(node, ast.Slice):
        yield from _slices(node)
    elif isinstance(node, ast.IfExp):
        yield from (node.body, node.orelse)


def _operations(node: ast.BinOp, caller: str) -> Iterator[Any]:
    if type(node.op) in OPERATORS:
        yield ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right)
    if isinstance(node.op, ast.Add | ast.Mult):
        yield from (node.left, node.right)
    elif isinstance(node.op, ast.Sub | ast.Div | ast.Pow):
        yield node.left
        if not (isinstance(node.op, ast.Sub) and caller in SIGNLESS):
            yield ast.BinOp(node.right, node.op, node.left)
    elif isinstance(node.op, ast.MatMult):
        yield ast.BinOp(node.right, node.op, node.left)
    elif isinstance(node.op, ast.FloorDiv):
        yield ast.BinOp(node, ast.Add(), ast.Constant(1))


def _comparisons(node: ast.Compare) -> Iterator[ast.Compare]:
    for i, operator in enumerate(node.ops):
        for table in (COMPARISONS, OPPOSITES):
            if type(operator) in table:
                yield ast.Compare(node.left, [*node.ops[:i], table[type(operator)](), *node.ops[i + 1:]], node.comparators)


def _constants(value: Any) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value - 1)
    elif isinstance(value, float):
        yield from (2 * value, value / 2) if value else (1.0,)


def _calls(node: ast.Call) -> Iterator[Any]:
    name = _called(node)
    if name in FUNCTIONS:
        other = FUNCTIONS[name]
        if isinstance(node.func, ast.Attribute):
            yield ast.Call(ast.Attribute(node.func.value, other), node.args, node.keywords)
        elif name in ("max", "min"):
            yield ast.Call(ast.Name(other), node.args, node.keywords)
    elif name in TRANSPOSING and isinstance(node.func, ast.Attribute):
        module = isinstance(node.func.value, ast.Name) and node.func.value.id == "np"
        yield node.args[0] if module else node.func.value
    elif name == "einsum" and isinstance(node.args[0], ast.Constant) and len(str(node.args[0].value).split("->")[-1]) > 1:
        subscripts = str(node.args[0].value)
        swapped = subscripts[:-2] + subscripts[:-3:-1]  # the last two axes of the result
        yield ast.Call(node.func, [ast.Constant(swapped), *node.args[1:]], node.keywords)
    elif name in ("range", "arange") and node.args and not isinstance(node.args[-1], ast.Constant):
        for operator in (ast.Add, ast.Sub):
            last = ast.BinOp(node.args[-1], operator(), ast.Constant(1))
            yield ast.Call(node.func, [*node.args[:-1], last], node.keywords)


def _slices(node: ast.Slice) -> Iterator[ast.Slice]:
    for end in ("lower", "upper"):
        value = getattr(node, end)
        if value is None or isinstance(value, ast.Constant) or _is_negative(value):  # constants are changed as such
            continue
        for operator in (ast.Add, ast.Sub):
            ends = {"lower": node.lower, "upper": node.upper} | {end: ast.BinOp(value, operator(), ast.Constant(1))}
            yield ast.Slice(ends["lower"], ends["upper"], node.step)


def _called(node: Any) -> str:
    """The last word of what a call calls; "" of anything else."""
    function = node.func if isinstance(node, ast.Call) else None
    return getattr(function, "attr", getattr(function, "id", ""))


def _is_negative(node: Any) -> bool:
    """Whether it is a constant such as -1."""
    return (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant)
            and isinstance(node.operand.value, int | float))


# ---- names ----------------------------------------------------------------------------------------------------------

def _shown(before: str, after: str, node: Any, changed: Any) -> tuple[str, str]:
    """What surrounds a small change is shown too; of a statement that holds others, only the change."""
    if "\n" in before or len(before) > 100:
        return ast.unparse(node), ast.unparse(changed)
    return before.strip(), after.strip()


def _title(statement: ast.stmt, before: str, after: str) -> str:
    return f"{getattr(statement, 'name', 'module')}: {before} -> {after}"


def _numbered(title: str, names: set[str]) -> str:
    """The second of equal names ends with (2), and so on."""
    number, found = 1, title
    while found in names:
        number += 1
        found = f"{title} ({number})"
    return found


__all__ = ["Mutant", "mutants", "vjp_mutants"]
