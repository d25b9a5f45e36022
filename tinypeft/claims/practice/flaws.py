"""Proofs with a flaw: which line does not follow? What the flawed line claims is tried on a drawn case, beside the solution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tinypeft.autograd import Tensor
from tinypeft.claims.practice.kinds import choice, kind, pick
from tinypeft.claims.practice.lora_updates import layer_with
from tinypeft.claims.questions import Choice, Option, Step
from tinypeft.peft.lora import LoraLayer

SECTION = "04_lora/zero-start"


@dataclass(frozen=True)
class Case:
    """A drawn layer: out, in, r, alpha, and random numbers for W and x."""

    n_out: int
    n_in: int
    r: int
    alpha: int

    @property
    def s(self) -> float:
        return self.alpha / self.r

    def layer(self, A: float, B: float) -> LoraLayer:
        """A layer whose A and B are random numbers of these sizes."""
        rng = np.random.default_rng(0)
        W, a, b = (rng.standard_normal(shape) for shape in ((self.n_out, self.n_in), (self.r, self.n_in), (self.n_out, self.r)))
        return layer_with(W, {"default": (A * a, B * b, self.alpha)})

    def x(self) -> np.ndarray:
        return np.random.default_rng(1).standard_normal((4, self.n_in))

    def output(self, layer: LoraLayer) -> np.ndarray:
        out: np.ndarray = layer(Tensor(self.x())).data
        return out

    def gradients(self, layer: LoraLayer) -> tuple[float, float]:
        """Sizes of the gradients of A and B, for a random gradient of the output."""
        g = np.random.default_rng(2).standard_normal((4, self.n_out))
        (layer(Tensor(self.x())) * g).sum().backward()
        found = [parameter.grad for parameter in (layer.lora_A["default"].weight, layer.lora_B["default"].weight)]
        sizes = [0.0 if gradient is None else float(np.linalg.norm(gradient)) for gradient in found]
        return sizes[0], sizes[1]


@dataclass(frozen=True)
class Flawed:
    """A false proof.

    Attributes:
        statement: what it claims to prove.
        lines: (text, remark): why it holds, or for the flawed one why it does not.
        flaw: the number of the flawed line, from 0.
        tried: what the library finds about it.
    """

    name: str
    statement: str
    lines: tuple[tuple[str, str], ...]
    flaw: int
    tried: Callable[[Case], Step]


def _difference(case: Case, A: float, B: float) -> float:
    layer = case.layer(A, B)
    return float(np.abs(case.output(layer) - case.x() @ layer.base_layer.weight.data.T).max())


def _unscaled(case: Case) -> Step:
    layer = case.layer(1.0, 1.0)
    (A, B), W = layer.factors("default"), layer.base_layer.weight.data
    error = np.abs(case.output(layer) - case.x() @ (W + B.data @ A.data).T).max()
    return Step(f"tried with alpha/r = {case.s:g}: largest difference between (W + B A) x and h", "", f"{error:.3g}")


def _gradients(A: float, B: float, what: str) -> Callable[[Case], Step]:
    def tried(case: Case) -> Step:
        of_A, of_B = case.gradients(case.layer(A, B))
        return Step(f"tried with {what}: sizes of the gradients of A and B", "", f"{of_A:.3g} and {of_B:.3g}")

    return tried


def _sum_of_two(case: Case) -> Step:
    rng = np.random.default_rng(3)
    D = [rng.standard_normal((case.n_out, case.r)) @ rng.standard_normal((case.r, case.n_in)) for _ in range(2)]
    ranks = [int(np.linalg.matrix_rank(matrix)) for matrix in (*D, D[0] + D[1])]
    return Step("tried: ranks of two such updates, and of their sum", "", f"{ranks[0]}, {ranks[1]} and {ranks[2]}")


def _alpha(case: Case) -> Step:
    sizes = [Case(case.n_out, case.n_in, case.r, factor * case.alpha) for factor in (1, 4)]
    of_B = [one.gradients(one.layer(1.0, 0.0))[1] for one in sizes]
    return Step("tried: the gradient of B with four times the alpha is larger by", "", f"{of_B[1] / of_B[0]:.3g}x")


def _base_moved(case: Case) -> Step:
    return Step("tried: largest difference of the outputs once B has moved a little", "", f"{_difference(case, 1.0, 0.01):.3g}")


def _swapped(case: Case) -> Step:
    return Step("shapes", f"A ({case.r}, {case.n_in}) times B ({case.n_out}, {case.r})",
                f"no product: {case.n_in} columns meet {case.n_out} rows")


DEFINITION = ("h = W x + (alpha/r) B A x.", "That is the definition of LoRA.")
FLAWS = (
    Flawed("small-is-zero", "If A and B both start as small random numbers, the adapted layer computes what the base does.", (
        DEFINITION, ("A x is small, since A is small.", "That holds: for an x of a given size, A x is as small as A."),
        ("B (A x) is smaller still, since B is small too.", "That holds: two small factors."),
        ("So (alpha/r) B A x = 0.", "A small number is not zero. With B = 0 the term vanishes exactly, for every A and x; with "
         "a small B the first output is another one."),
        ("So h = W x.", "That follows from the line before, and would be right if that one were.")), 3,
        lambda case: Step("tried with A and B of size 0.01: largest difference from W x", "",
                          f"{_difference(case, 0.01, 0.01):.3g}")),
    Flawed("both-zero", "If A = 0 and B = 0, LoRA starts at the base model and learns from there.", (
        DEFINITION, ("With B = 0, h = W x: it starts at the base model.", "That holds, for every A, zero too."),
        ("The gradient of B is (alpha/r) g (A x)^T, with g = dL/dh.", "That is the chain rule."),
        ("So B gets a gradient and leaves zero, even though A is zero.", "With A = 0, A x = 0, so that the gradient of B is "
         "zero, as is that of A while B is zero. Nothing moves, ever: one of the two has to start elsewhere."),
        ("Once B has moved, A gets a gradient too.", "That is right: A's gradient is (alpha/r) B^T g x^T.")), 3,
        _gradients(0.0, 0.0, "A = B = 0")),
    Flawed("b-has-no-gradient", "With B = 0 and A random, LoRA cannot learn, and one has to start B elsewhere.", (
        DEFINITION, ("The gradient of A is (alpha/r) B^T g x^T, with g = dL/dh.", "That is the chain rule."),
        ("With B = 0 it is zero: A does not move in the first step.", "That holds."),
        ("The gradient of B is zero as well, since B is.", "A gradient does not vanish because its parameter does: that of B "
         "is (alpha/r) g (A x)^T, which has no B in it."),
        ("So neither moves.", "That follows from the line before, and would be right if that one were.")), 3,
        _gradients(1.0, 0.0, "B = 0 and A random")),
    Flawed("swapped", "With B = 0 the adapted layer computes what the base does.", (
        ("B = 0 (out, r), and A (r, in) is any.", "That is the assumption."),
        ("The update of the weight is (alpha/r) A B.", "It is (alpha/r) B A. A B does not even have a shape unless out = in, "
         "and then it would be r x r, not out x in."),
        ("A product with a zero matrix is zero, so that the update is zero.", "That a product with zero is zero holds, in any "
                                                                              "order."),
        ("So h = W x.", "That is true; but it was not shown, since one of the lines is wrong.")), 1, _swapped),
    Flawed("merge-unscaled", "Merging puts W + B A in the place of W, and h stays what it was.", (
        DEFINITION, ("B A x = (B A) x.", "Matrix products may be bracketed in any way."),
        ("So h = (W + B A) x.", "The factor alpha/r is lost on the way: h = (W + (alpha/r) B A) x. Only where alpha = r is it "
                                "1."),
        ("A layer whose weight is this sum computes h with one product.", "That holds for whatever sum stands "
                                                                          "there.")), 2, _unscaled),
    Flawed("sum-of-ranks", "Updates of rank r are a linear subspace of all matrices: their sums are such updates again.", (
        ("A matrix has rank at most r exactly if it is a product B A with r columns in B.", "That holds: it is what the rank "
                                                                                            "is."),
        ("A multiple of B A is (c B) A, and has rank at most r too.", "That holds for every number c."),
        ("B1 A1 + B2 A2 = (B1 + B2) (A1 + A2).", "Multiplied out, the right side has B1 A2 and B2 A1 as well. The sum may have "
                                                 "rank 2r."),
        ("So sums have rank at most r.", "That follows from the line before, and would be right if that one "
                                         "were.")), 2, _sum_of_two),
    Flawed("alpha-does-nothing", "alpha does not matter for training.", (
        DEFINITION, ("With B = 0, h = W x, whatever alpha is.", "That holds: at the start alpha has no effect on the output."),
        ("So alpha has no effect on the gradients either.", "The gradient of B is (alpha/r) g (A x)^T. That the term is zero "
         "does not make its derivative independent of alpha."),
        ("Equal gradients lead to equal steps.", "That holds, for the same optimizer and learning rate.")), 2, _alpha),
    Flawed("never-forgets", "LoRA cannot forget what the base knows.", (
        ("W is frozen: training does not change it.", "That holds."),
        ("With B = 0 the adapted model is the base model.", "That holds, at the start; and so it does for full fine-tuning "
                                                            "before its first step."),
        ("So the adapted model keeps computing what the base computes.", "Only while B is zero. After the first step h has "
         "another term, on every input, and the base's abilities can get worse. They are back once the adapter is switched "
         "off."),
        ("Switching the adapter off gives the base model again.", "That holds: W is what it was.")), 2, _base_moved))


@kind("proof-flaw", "proof", "the flawed line of a false proof", 3)
def proof_flaw(rng: np.random.Generator) -> Choice:
    case = Case(8 * int(rng.integers(3, 17)), 8 * int(rng.integers(17, 33)), pick(rng, (2, 3, 4, 6)), 0)
    case = Case(case.n_out, case.n_in, case.r, case.r * pick(rng, (2, 3, 4, 8)))
    proof = pick(rng, FLAWS)
    options = [Option(text, remark, "" if i == proof.flaw else f"line-{i + 1}-holds")
               for i, (text, remark) in enumerate(proof.lines)]
    return choice(
        f"W is ({case.n_out}, {case.n_in}), A ({case.r}, {case.n_in}), B ({case.n_out}, {case.r}), alpha = {case.alpha}. "
        f"Somebody claims: “{proof.statement}” The lines of the proof follow. Which is the first that is "
        "wrong?", options, rng, shuffle=False,
        steps=[proof.tried(case)], section=SECTION)
