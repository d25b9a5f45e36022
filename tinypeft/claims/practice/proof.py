"""The proof that LoRA starts as the base model, and three more: their lines in order, the reason of each, a case to run.

A proof is a list of lines and, for each, those that have to stand before it. Every order that keeps to this is right.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tinypeft.autograd import Tensor
from tinypeft.claims.practice.kinds import kind, numeric, pick
from tinypeft.claims.practice.lora_updates import LORA, layer_with, small, written
from tinypeft.claims.questions import Matching, Mistake, Need, Numeric, Ordering, Step
from tinypeft.training import SGD

SECTION = "04_lora/zero-start"
LETTERS = "ABCDEFGHIJ"  # of reasons
NUMBERS = "123456789"  # of lines


@dataclass(frozen=True)
class Line:
    """A line of a proof.

    Attributes:
        id: short, unique in its proof.
        text: what it says.
        reason: why that holds.
        after: ids of the lines that it needs: what it follows from, and what introduces its letters.
    """

    id: str
    text: str
    reason: str
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proof:
    """A statement and its lines, in an order that is right."""

    name: str
    statement: str
    lines: tuple[Line, ...]


PROOFS = (
    Proof("same-output", "With B = 0 the adapted layer computes what the base layer computes, whatever A is.", (
        Line("given", "Let B = 0, and let A (r, in) and x (in) be any.", "the assumption, and nothing else"),
        Line("forward", "The adapted layer computes h = W x + s B (A x), with s = alpha/r.", "the definition of LoRA",
             ("given",)),
        Line("inner", "u = A x is some vector of r finite numbers.", "a matrix times a vector is a vector", ("given",)),
        Line("zero", "B u = 0.", "each entry of it is a sum of products with zero", ("inner",)),
        Line("scaled", "s B u = 0.", "any number times the zero vector is the zero vector", ("zero",)),
        Line("sum", "h = W x + 0.", "what was found is put into the definition", ("forward", "scaled")),
        Line("end", "So h = W x, for every A and every x.", "A and x were arbitrary", ("sum",)))),
    Proof("same-weight", "With B = 0 merging changes no weight, whatever A is.", (
        Line("given", "Let B = 0 (out, r), and let A (r, in) be any.", "the assumption, and nothing else"),
        Line("merge", "Merging replaces W by W' = W + s B A, with s = alpha/r.", "the definition of merging", ("given",)),
        Line("entry", "The entry (i, j) of B A is the sum over k of B_ik A_kj.", "the definition of a matrix product",
             ("given",)),
        Line("terms", "Every term of that sum is 0.", "one of the two factors is zero", ("entry",)),
        Line("product", "B A is the zero matrix (out, in).", "all of its entries are zero", ("terms",)),
        Line("sum", "W' = W + s 0.", "what was found is put into the definition", ("merge", "product")),
        Line("end", "So W' = W, for every A and every s.", "adding zero changes nothing, and A and s were arbitrary",
             ("sum",)))),
    Proof("first-step", "If B = 0 and A is random, the first step of gradient descent moves B but not A.", (
        Line("forward", "h = W x + s B A x, with s = alpha/r; the loss L depends on h.", "the definition of LoRA"),
        Line("output", "Write g for the gradient dL/dh, a vector of out numbers.", "a name for what the layers above send",
             ("forward",)),
        Line("rule-a", "dL/dA = s B^T g x^T.", "the chain rule, for the factor beside x", ("output",)),
        Line("rule-b", "dL/dB = s g (A x)^T.", "the chain rule, for the factor on the left", ("output",)),
        Line("a-zero", "With B = 0, dL/dA = 0.", "B^T g is a product with a zero matrix", ("rule-a",)),
        Line("b-not", "With A random, A x is not 0, and dL/dB is not 0 unless g is.", "a random matrix sends a given x other "
             "than 0 to zero with probability 0", ("rule-b",)),
        Line("end", "So the step p - lr dL/dp changes B and leaves A.", "both gradients are put into the rule of gradient "
                                                                        "descent",
             ("a-zero", "b-not")))),
    Proof("rank", "The change of weights that LoRA of rank r makes has at most rank r.", (
        Line("shapes", "Let A be (r, in), B (out, r), and r at most in and out.", "the assumption, and nothing else"),
        Line("change", "The change of weights is D = s B A, with s = alpha/r.", "the definition of LoRA", ("shapes",)),
        Line("factored", "For every x, D x = B (s A x).", "matrix products may be bracketed in any way", ("change",)),
        Line("inner", "s A x is a vector of r numbers.", "A has r rows", ("shapes",)),
        Line("span", "So D x is a combination of the r columns of B.", "a matrix times a vector combines the matrix's columns",
             ("factored", "inner")),
        Line("dimension", "All these D x together span a space of at most r dimensions.",
             "r vectors span no more than r dimensions", ("span",)),
        Line("end", "So the rank of D is at most r.", "the rank is the dimension of the space that a matrix reaches",
             ("dimension",)))))


@functools.lru_cache(maxsize=len(PROOFS))
def right_orders(proof: Proof) -> tuple[tuple[int, ...], ...]:
    """All orders of the lines, by their places in the proof, that keep to what each line needs; the proof's own is the first.

    >>> len(right_orders(PROOFS[0]))
    4
    """
    ids = [line.id for line in proof.lines]
    needs = [{ids.index(other) for other in line.after} for line in proof.lines]

    def extend(order: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if len(order) == len(ids):
            yield order
        for i in range(len(ids)):
            if i not in order and needs[i] <= set(order):
                yield from extend((*order, i))

    return tuple(extend(()))


@kind("proof-order", "proof", "a proof's lines, put in order", 2)
def proof_order(rng: np.random.Generator) -> Ordering:
    proof = pick(rng, PROOFS)
    shown = [int(i) for i in rng.permutation(len(proof.lines))]  # place on the screen -> place in the proof
    number = {place: NUMBERS[i] for i, place in enumerate(shown)}
    lines = proof.lines
    places = {line.id: place for place, line in enumerate(lines)}
    needs = tuple(Need(number[places[earlier]], number[place], f"“{line.text}” builds upon “{lines[places[earlier]].text}”",
                       f"{line.id}-before-{earlier}") for place, line in enumerate(lines) for earlier in line.after)
    return Ordering(
        kind="", topic="", lines=tuple(lines[place].text for place in shown), needs=needs, section=SECTION,
        orders=tuple("".join(number[place] for place in order) for order in right_orders(proof)),
        prompt=f"W is (out, in), A (r, in), B (out, r). To be proved: {proof.statement} Put the lines of the proof in order. "
               f"({len(right_orders(proof))} orders are right: where neither of two lines needs the other, either may stand "
               "first.)",
        steps=tuple(Step(line.text.rstrip("."), "", line.reason) for line in lines))


@kind("proof-reasons", "proof", "the reason of each line of a proof", 2)
def proof_reasons(rng: np.random.Generator) -> Matching:
    proof = pick(rng, PROOFS)
    places = sorted(int(i) for i in rng.permutation(len(proof.lines))[:5])  # five lines are enough to think about
    others = [line for other in PROOFS for line in other.lines
              if other is not proof and line.reason not in [own.reason for own in proof.lines]]
    asked = [proof.lines[place] for place in places]
    reasons = [*asked, others[int(rng.integers(len(others)))]]
    shown = [reasons[int(i)] for i in rng.permutation(len(reasons))]
    letter = {line.reason: LETTERS[i] for i, line in enumerate(shown)}
    return Matching(
        kind="", topic="", lines=tuple(line.text for line in asked), reasons=tuple(line.reason for line in shown),
        right="".join(letter[line.reason] for line in asked), section=SECTION,
        remarks=tuple(f"“{line.reason}” is why “{line.text}”" + ("" if line in asked else " That is a line of another proof.")
                      for line in shown),
        ids=tuple(f"reason-{line.id}" if line in asked else "reason-of-another-proof" for line in shown),
        prompt=f"W is (out, in), A (r, in), B (out, r). To be proved: {proof.statement} Here are lines of the proof, in order. "
               "Name the reason of each; one reason is left over.",
        steps=tuple(Step(line.text.rstrip("."), "", line.reason) for line in asked))


@kind("proof-run", "proof", "the proof, run on numbers", 2)
def proof_run(rng: np.random.Generator) -> Numeric:
    W, A, x = small(rng, 2, 2), small(rng, 2, 2), small(rng, 2)
    alpha, g, i, k = 2 * pick(rng, (1, 2, 3, 4, 8)), small(rng, 2), int(rng.integers(2)), int(rng.integers(2))
    start = bool(rng.integers(2))
    layer = layer_with(W, {"default": (A, np.zeros((2, 2)), alpha)})
    out = layer(Tensor(x[None].astype(np.float64)))
    (out * g.astype(np.float64)).sum().backward()
    h, gradient, s = out.data[0], layer.lora_B["default"].weight.grad, alpha / 2
    assert gradient is not None
    given = f"W = {written(W)}, A = {written(A)}, B = 0 (2, 2), alpha = {alpha}, r = 2, x = {written(x)}"
    place = ("first", "second")
    if start:
        wrong = W @ x + s * A @ x
        return numeric(
            f"{LORA}\n\n{given}. What is the {place[i]} number of h = W x + (alpha/r) B A x?", h[i],
            [Step("B A x", "0 x (A x)", "0, whatever A x is"), Step(f"W x, {place[i]} number", f"{written(W[i])} . "
                                                                                               f"{written(x)}",
                                                                    f"{h[i]:g}")],
            [Mistake("as-if-b-were-one", wrong[i], "That adds A x, as if B were the identity. B is zero, and so is B A x."),
             Mistake("w-and-a", ((W + A) @ x)[i], "That adds A to W. A does nothing while B is zero."),
             Mistake("other-row", h[1 - i], f"That is the {place[1 - i]} number."),
             Mistake("transposed", (W.T @ x)[i], f"That takes a column of W. The {place[i]} number comes from row {i + 1}."),
             Mistake("scaled-base", s * h[i], "That scales W x by alpha/r. The factor stands before B A x only.")],
            tolerance=0.001, section=SECTION)
    lr = pick(rng, (0.1, 0.01))
    optimizer = SGD([layer.lora_B["default"].weight], lr=lr)
    optimizer.step()
    moved, low = layer.lora_B["default"].weight.data, A @ x
    return numeric(
        f"{LORA}\n\n{given}. The gradient of the loss with respect to h is g = {written(g)}. One step of plain gradient "
        f"descent is taken with learning rate {lr:g}. What stands in row {i + 1}, column {k + 1} of B afterwards? (A has not "
        "moved: its gradient is zero while B is.)",
        moved[i, k],
        [Step("A x", "", written(low)), Step("alpha / r", f"{alpha} / 2", f"{s:g}"),
         Step("dL/dB = (alpha/r) g (A x)^T, that entry", f"{s:g} x {g[i]} x {low[k]}", f"{gradient[i, k]:g}"),
         Step("B after the step", f"0 - {lr:g} x {gradient[i, k]:g}", f"{moved[i, k]:g}")],
        [Mistake("ascent", -moved[i, k], "That goes up the gradient. The learning rate times the gradient is taken off."),
         Mistake("no-scale", moved[i, k] / s, "That leaves out alpha/r, which stands in the gradient of B too."),
         Mistake("gradient", gradient[i, k], "That is the gradient. B moves by the learning rate times it, downward."),
         Mistake("other-entry", moved[k, i], f"That stands in row {k + 1}, column {i + 1}."),
         Mistake("x-for-ax", -lr * s * g[i] * x[k], "That takes x for A x. B sees what A has made of the input."),
         Mistake("scale-twice", s * moved[i, k], "That has alpha/r in it twice.")],
        tolerance=0.002, section="04_lora/first-step")
