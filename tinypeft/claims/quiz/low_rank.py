"""Objective 2: how few dimensions a change needs, and what "dimension" means: rank, degrees of freedom, random subspaces."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinypeft import viz
from tinypeft.budget import base_parameters, count_parameters
from tinypeft.claims.questions import Step
from tinypeft.claims.quiz.family import Table, asked, family, unlike
from tinypeft.claims.quiz.runs import BUNDLED, bundled
from tinypeft.peft import LoraConfig, SubspaceConfig, best_low_rank, get_peft_model

# Measured by `tinypeft compare --task surnames-pl`, with and without --intrinsic, on the bundled model: the README's tables.
BASE_BITS, FULL_BITS = 3.633, 2.719  # of the base, and after full fine-tuning, a character
GAINS = {64: 0.23, 256: 0.48, 1024: 0.76, 4096: 0.900}  # dimensions -> share of full fine-tuning's gain


@family("degrees", objective=2, topic="low rank", methods=("lora",), section="04_lora/low-rank")
def degrees() -> Table:
    """The numbers that LoRA trains, and how many dimensions its changes have: ranks of Jacobians."""
    out, n_in, r = 12, 10, 3
    random = np.random.default_rng(0)
    A, B = random.standard_normal((r, n_in)), random.standard_normal((out, r))
    by_A, by_B = np.kron(B, np.eye(n_in)), np.kron(np.eye(out), A.T)  # of the numbers of B A, by those of A and by those of B
    changes = np.stack([np.ravel(random.standard_normal((out, r)) @ random.standard_normal((r, n_in))) for _ in range(200)])
    values = {"stored": A.size + B.size, "set": _rank(np.concatenate([by_A, by_B], axis=1)), "span": _rank(changes),
              "B_only": _rank(by_B)}
    unlike(values)
    given = f"LoRA of rank {r} on a matrix of {out} x {n_in}"
    return Table(
        hint="B A does not change when A becomes M A and B becomes B M^-1, for any invertible r x r matrix M",
        options={name: str(value) for name, value in values.items()},
        prompts=[
            asked("stored",
                  f"{given}: how many numbers are trained?",
                  f"A has {r} x {n_in}, B has {out} x {r} numbers, and the optimizer sees all of them.",
                  set=f"redundancy-left-out: That many directions of change there are. The {r} x {r} that make no difference "
                      "to B A are trained and stored all the same.",
                  span="matrix-for-factors: That is the whole matrix, which LoRA does not train.",
                  B_only="one-factor: That is B alone, as long as A stays frozen. Here A is trained too.",
                  steps=(Step("A and B", f"{r} x ({out} + {n_in})", str(values["stored"])),)),
            asked("set",
                  f"{given}: in how many independent directions can the change B A move, from a point where A and B have full "
                  "rank?",
                  f"r (out + in - r): of the trained numbers, {r} x {r} only turn A and B against each other and leave B A as "
                  "it is.",
                  stored=f"parameters-are-dimensions: So many numbers are trained, but {r} x {r} of them move along directions "
                         "in which B A stays the same.",
                  span="set-for-its-span: All matrices of that rank together span so much, but from one of them only some "
                       "directions keep the rank.",
                  B_only="one-factor: So it is while A stays frozen. A moves the row space too.",
                  steps=(Step("rank of B A's derivative by A and B", f"{r} x ({out} + {n_in} - {r})", str(values["set"])),)),
            asked("span",
                  f"{given}: what is the dimension of the smallest linear subspace that contains every change B A it can "
                  "make?",
                  "Sums of matrices of low rank have any rank: they fill the whole space. So LoRA's changes form no subspace, "
                  "but a curved set inside it.",
                  stored="set-for-subspace: LoRA is often called a subspace of so many dimensions. Add two of its changes, and "
                         "the rank doubles: the set is not closed under addition.",
                  set="set-for-its-span: That is the dimension of the curved set at one of its points, not of what it spans.",
                  B_only="frozen-A: With A frozen the changes do form a linear subspace, of that dimension. Here A is free.",
                  steps=(Step("rank of 200 random changes B A, each written as a row", value=str(values["span"])),)),
            asked("B_only",
                  f"{given}, of which A stays at its random start and only B is trained: what is the dimension of the set of "
                  "changes?",
                  "The rows of the change stay combinations of A's rows, one such combination for each output: a linear "
                  "subspace.",
                  stored="frozen-counted: That counts the numbers of A, which never move.",
                  set="curved-set: That is the dimension when A moves too; then the set is curved.",
                  span="random-A-reaches-all: A random A mixes the inputs, but its rows span only as many directions as it has "
                       "rows.",
                  steps=(Step("B's numbers", f"{out} x {r}", str(values["B_only"])),)),
        ])


@family("ranks", objective=2, topic="low rank", methods=("lora", "weighted merging"), also=("dora",),
        section="04_lora/spectrum")
def ranks() -> Table:
    """The rank of what several adapters change together: measured."""
    model = get_peft_model(bundled(), LoraConfig(r=8, init_lora_weights=False, target_modules=["q_proj"]), "a")
    for name, r in (("b", 8), ("c", 16)):
        model.add_adapter(name, LoraConfig(r=r, init_lora_weights=False, target_modules=["q_proj"]))
    model.add_weighted_adapter(["a", "c"], [1.0, 1.0], "svd", "svd")
    model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "linear", "linear")
    layer: Any = model.layers()[0]
    dora = get_peft_model(bundled(), LoraConfig(r=8, init_lora_weights=False, use_dora=True, target_modules=["q_proj"]))
    trained: Any = dora.layers()[0]
    magnitude = next(p for name, p in dora.named_parameters() if "magnitude" in name)
    magnitude.data = magnitude.data * np.linspace(1.1, 1.3, magnitude.size)  # as training would change it
    delta = layer.delta_weight
    values = {"linear": _rank(delta("linear")), "svd": _rank(delta("svd")), "both": _rank(delta("a") + delta("c")),
              "dora": _rank(trained.merged_values(["default"])["weight"] - trained.base_layer.weight.data)}
    unlike(values)
    side = layer.base_layer.out_features
    ask = f"what is the rank of the change of a {side} x {side} query matrix, with trained adapters?"
    return Table(
        hint="The rank of a product is at most that of its factors, the rank of a sum at most the sum of the ranks",
        options={name: str(value) for name, value in values.items()},
        prompts=[
            asked("both",
                  f"Two LoRA adapters, of ranks 8 and 16, are active together: {ask}",
                  "Their changes add up, B1 A1 + B2 A2, and trained factors share no directions: the ranks add up.",
                  svd="larger-rank-wins: A sum is not kept within the larger of the ranks; add_weighted_adapter with svd would "
                      "cut it to that.",
                  linear="smaller-rank-wins: Nothing cuts the larger adapter down to the rank of the smaller one.",
                  dora="sum-is-full: Only as many directions as the two have together can change, far fewer than the matrix "
                       "has.",
                  steps=(Step("ranks of a sum", "8 + 16", str(values["both"])),)),
            asked("svd",
                  'LoRA adapters of ranks 8 and 16 are combined by add_weighted_adapter(combination_type="svd"), svd_rank left '
                  f"at its default: {ask}",
                  "The weighted sum is approximated by its largest singular directions, as many as the largest of the ranks.",
                  both='svd-is-exact: The exact sum needs that rank, and "cat" keeps it. "svd" cuts.',
                  linear="smaller-rank-wins: The default is the largest of the ranks, not the smallest.",
                  dora="svd-is-full: The decomposition of the sum has that many directions; only the largest are kept.",
                  steps=(Step("svd_rank=None: the largest of the ranks", "max(8, 16)", str(values["svd"])),)),
            asked("linear",
                  f'Two LoRA adapters of rank 8 are combined by add_weighted_adapter(combination_type="linear"): {ask}',
                  "The A's are added up, and so are the B's: one product of rank 8, which contains products of one's B with "
                  "the other's A besides.",
                  both="ranks-pile-up: No factor here has more than 8 rows; even cat, which stacks them, would have 16.",
                  svd='linear-for-cat-of-equals: That is the rank of the true sum, which "cat" keeps. "linear" adds the '
                      "factors, not the products.",
                  dora="sum-is-full: Both factors are thin, and so is what their product can change.",
                  steps=(Step("(B1 + B2)(A1 + A2) has the rank of its factors", value=str(values["linear"])),)),
            asked("dora",
                  f"DoRA of rank 8 has been trained, its magnitudes too: {ask}",
                  "Each row of W0 + s B A is scaled by its own factor, so that the difference to W0 contains a multiple of "
                  "W0's own rows: full rank.",
                  linear="dora-has-lora-rank: The direction is changed by a matrix of rank 8, but the magnitudes scale the "
                         "rows of W0 itself.",
                  svd="dora-doubles: The magnitudes are no second pair of factors: they are a diagonal matrix of full rank.",
                  both="dora-triples: The magnitudes are a diagonal matrix in front of all of W0, not a few further "
                       "directions.",
                  steps=(Step("rank of diag(m / |W0 + s B A|) (W0 + s B A) - W0", value=str(values["dora"])),),
                  methods=("dora",)),
        ])


def _rank(matrix: np.ndarray) -> int:
    return int(np.linalg.matrix_rank(matrix.astype(np.float64), tol=3e-6 * np.linalg.norm(matrix, 2)))


@family("spectrum", objective=2, topic="low rank", methods=("lora",), section="04_lora/spectrum")
def spectrum() -> Table:
    """How much of a change a rank keeps, by its norm and by its square."""
    singular_values, falls = 0.8 ** np.arange(48), 0.8
    random = np.random.default_rng(0)
    U, V = (np.linalg.qr(random.standard_normal((size, 48)))[0] for size in (48, 64))
    change = U * singular_values @ V.T

    def smallest(lost: float) -> int:
        return next(r for r in range(1, 48) if best_low_rank(change, r)[2] <= lost)

    values = {"half": smallest(0.5), "squares": smallest(0.1**0.5), "tenth": smallest(0.1), "hundredth": smallest(0.01)}
    unlike(values)
    lost = {name: best_low_rank(change, r)[2] for name, r in values.items()}

    def draw() -> viz.Picture:
        index = np.arange(1, 25)
        return viz.plot_curves({"singular value": (index.tolist(), singular_values[:24].tolist())}, "index, from 1 "
                                                                                                    "on", "singular value",
                               "The first 24 singular values of a change")

    given = (f"The singular values of a change, 48 x 64, begin with 1, and each is {falls:g} times the one before (figure). "
             "Which is the smallest rank r such that the best B A of this rank")
    share = f"what is left over begins at the (r+1)-th value, so that |change - B A| / |change| is {falls:g}^r"
    return Table(
        hint="The best B A keeps the r largest singular values (Eckart and Young 1936), and norms are roots of sums of squares",
        options={name: f"r = {value}" for name, value in values.items()},
        prompts=[
            asked("tenth",
                  f"{given} misses at most 10% of the change's Frobenius norm?",
                  f"In norm, {share}: the first r at which this is below 0.1.",
                  squares=f"square-for-norm: This rank loses {lost['squares']**2:.0%} of the sum of squares; its root, the "
                          f"share of the norm, is {lost['squares']:.0%}.",
                  half="large-values-only: This keeps the values of at least half the largest, and the tail behind them weighs "
                       "more than a tenth.",
                  hundredth=f"norm-squared-twice: That loses {lost['hundredth']:.1%} of the norm: the 10% have been squared "
                            "though they are of the norm already.",
                  steps=(Step("smallest r", f"{falls:g}^r <= 0.1", str(values["tenth"])),), draw=draw),
            asked("squares",
                  f"{given} keeps at least 90% of the sum of the squared singular values?",
                  f"What is lost of the squares is {falls * falls:g}^r, since squares fall faster than the values themselves.",
                  tenth=f"norm-for-square: This rank loses {lost['tenth']:.0%} of the norm, and {lost['tenth']**2:.1%} of the "
                        "squares: less than was allowed.",
                  half=f"half-is-most: This loses {lost['half']**2:.0%} of the squares, and {lost['half']:.0%} of the norm.",
                  hundredth=f"norm-for-square-twice: That loses {lost['hundredth']:.1%} of the norm, and next to nothing of "
                            "the squares.",
                  steps=(Step("smallest r", f"{falls * falls:g}^r <= 0.1", str(values["squares"])),), draw=draw),
            asked("hundredth",
                  f"{given} misses at most 1% of the change's Frobenius norm?",
                  f"In norm, {share}: each further digit costs as many ranks as the first.",
                  tenth=f"square-for-norm: This rank loses {lost['tenth']**2:.1%} of the squares, but {lost['tenth']:.0%} of "
                        "the norm.",
                  squares=f"percent-of-the-squares: That keeps {1 - lost['squares']**2:.0%} of the squares, and misses "
                          f"{lost['squares']:.0%} of the norm.",
                  half=f"large-values-only: This rank misses {lost['half']:.0%} of the norm.",
                  steps=(Step("smallest r", f"{falls:g}^r <= 0.01", str(values["hundredth"])),), draw=draw),
            asked("half",
                  f"{given} misses at most half of the change's Frobenius norm?",
                  f"In norm, {share}: a few values do, since the norm is ruled by the largest.",
                  squares=f"tenth-of-the-squares: That loses {lost['squares']**2:.0%} of the squares, {lost['squares']:.0%} of "
                          "the norm: better than was asked for.",
                  tenth=f"tenth-for-half: That misses {lost['tenth']:.0%} of the norm, far less than half.",
                  hundredth="half-the-values: Nearly half of all values need not be kept: those at the end weigh next to "
                            "nothing.",
                  steps=(Step("smallest r", f"{falls:g}^r <= 0.5", str(values["half"])),), draw=draw),
        ])


@family("intrinsic", objective=2, topic="intrinsic dimension", methods=("subspace",), section="05_intrinsic_dimension")
def intrinsic() -> Table:
    """What has to be reached for a dimension to count as the intrinsic one."""
    gain = BASE_BITS - FULL_BITS
    values = {"d90": BASE_BITS - 0.9 * gain, "d50": BASE_BITS - 0.5 * gain, "near": 1.1 * FULL_BITS, "tenth": 0.9 * BASE_BITS}
    unlike(values, 1.01)

    def draw() -> viz.Picture:
        bits = [BASE_BITS - share * gain for share in GAINS.values()]
        return viz.plot_by_dimension(list(GAINS), bits, "bits per character", "Training in a random subspace of d dimensions",
                                     {"untouched base": BASE_BITS, "full fine-tuning": FULL_BITS})

    given = (f"A base needs {BASE_BITS} bits per character of a new task, after full fine-tuning {FULL_BITS}; in random "
             "subspaces of d dimensions it gets as far as the figure shows. Which level must be reached for")
    reached = next(d for d, share in GAINS.items() if share >= 0.9)
    return Table(
        hint="The intrinsic dimension is the smallest d that reaches a stated share of what full fine-tuning gains over the "
             "base",
        options={name: f"{value:.3f} bits" for name, value in values.items()},
        prompts=[
            asked("d90",
                  f"{given} d to count as d90, the intrinsic dimension?",
                  f"90% of the way from the base to full fine-tuning. Here a subspace of {reached:,} dimensions is the first "
                  f"to get there, {reached / base_parameters(BUNDLED):.1%} of all weights.",
                  d50="half-is-enough: That is half of the way; the definition asks for 90%.",
                  near="percent-of-the-loss: That is a loss 10% above full fine-tuning's. The 90% are of the gain, which a "
                       "loss that is large to begin with does not show.",
                  tenth="gain-over-base-alone: That is 90% of the base's loss, a level that ignores what full fine-tuning "
                        "reaches.",
                  steps=(Step("base - 90% of the gain", f"{BASE_BITS} - 0.9 x {gain:.3f}", f"{values['d90']:.3f}"),),
                  draw=draw),
            asked("d50",
                  f"{given} d to count as d50, half of full fine-tuning's gain?",
                  "Halfway from the base to full fine-tuning.",
                  d90="ninety-for-fifty: That is the level of d90, 90% of the way.",
                  near="percent-of-the-loss: That is a loss 10% above full fine-tuning's, and more than half of the way.",
                  tenth="gain-over-base-alone: That is 10% below the base, whatever full fine-tuning reaches.",
                  steps=(Step("base - 50% of the gain", f"{BASE_BITS} - 0.5 x {gain:.3f}", f"{values['d50']:.3f}"),),
                  draw=draw),
            asked("near",
                  f"{given} d to have a loss of at most 10% above that of full fine-tuning?",
                  "A tenth of full fine-tuning's own loss is added to it; what the base needs plays no part.",
                  d90="gain-for-loss: That leaves out 10% of the gain, a stricter level, since the gain is smaller than the "
                      "loss.",
                  d50="half-is-near: That leaves out half of the gain.",
                  tenth="wrong-end: That is a tenth below the base, not a tenth above full fine-tuning.",
                  steps=(Step("full fine-tuning + 10%", f"1.1 x {FULL_BITS}", f"{values['near']:.3f}"),), draw=draw),
            asked("tenth",
                  f"{given} d to lower the base's loss by 10%?",
                  "A tenth of the base's own loss is taken off; what full fine-tuning reaches plays no part.",
                  d90="gain-for-loss: That is 90% of the possible gain, far more than a tenth of the loss.",
                  d50="half-of-the-gain: That is half of the possible gain, which is more than 10% of the loss.",
                  near="wrong-end: That is a tenth above full fine-tuning, not a tenth below the base.",
                  steps=(Step("base - 10%", f"0.9 x {BASE_BITS}", f"{values['tenth']:.3f}"),), draw=draw),
        ])


@family("coordinates", objective=2, topic="intrinsic dimension", methods=("subspace",), also=("lora",),
        section="05_intrinsic_dimension")
def coordinates() -> Table:
    """What a random subspace trains, moves and would have to store."""
    d = 1024
    everything = base_parameters(BUNDLED)
    lora = LoraConfig(r=8, target_modules="all-linear")
    values = {"trained": count_parameters(BUNDLED, SubspaceConfig(dimension=d)).trainable, "moved": everything,
              "directions": d * everything, "lora": count_parameters(BUNDLED, lora).trainable}
    unlike(values)
    given = (f"A model of {everything:,} weights is adapted as theta = theta_0 + P z, with z of {d:,} numbers and P random, "
             "drawn from a seed.")
    return Table(
        hint="z is trained, P is drawn again from its seed whenever it is needed, and every weight has a row of P",
        options={name: f"{value:,}" for name, value in values.items()},
        prompts=[
            asked("trained",
                  f"{given} How many numbers does the file of a task hold?",
                  "z alone: P follows from the seed, and theta_0 is the base that all tasks share.",
                  moved="moved-is-stored: All weights move, but they follow from z.",
                  directions="directions-stored: P would be that large, and this is why it is drawn anew.",
                  lora="as-lora: That is what LoRA of rank 8 on all linear layers trains in this model."),
            asked("moved",
                  f"{given} How many weights are different after training?",
                  "Every weight has a row of P, and moves as soon as z does: few coordinates, yet no weight stays where it "
                  "was.",
                  trained="few-weights-selected: That many numbers are trained. They select no weights, they are coordinates "
                          "along directions that mix all.",
                  directions="entries-of-P: P has that many entries; they stay as drawn.",
                  lora="as-lora: LoRA of rank 8 trains that many numbers beside the weights."),
            asked("directions",
                  f"{given} How many entries has P?",
                  "A row for each weight and a column for each coordinate; so it is never written out, but multiplied with by "
                  "fast transforms.",
                  trained="square-of-one: That is the number of its columns; each has an entry for every weight.",
                  moved="one-column: That is the number of its rows; each has an entry for every coordinate.",
                  lora="as-lora: That is what LoRA of rank 8 trains; P is a matrix of all weights by all coordinates.",
                  steps=(Step("rows x columns", f"{everything:,} x {d:,}", f"{values['directions']:,}"),)),
            asked("lora",
                  f"A model of {everything:,} weights gets LoRA of rank 8 on all its linear layers instead of a random "
                  f"subspace of {d:,} dimensions. How many numbers are trained?",
                  "r (in + out) for each of the matrices, counted by building it: many times the subspace, whose directions "
                  "are not fitted to the layers.",
                  trained="subspace-size: That is the number of coordinates of the subspace.",
                  moved="all-weights: LoRA freezes these, and trains factors beside them.",
                  directions="product-for-sum: LoRA's count grows with in + out of a matrix, not with a product of sizes.",
                  methods=("lora",)),
        ])
