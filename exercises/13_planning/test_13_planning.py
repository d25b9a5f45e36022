"""The grader of exercise 13: what is asked of planning.py, what is right, and what typical mistakes give."""

from __future__ import annotations

import numpy as np

from tinypeft.grading.compare import compare, describe
from tinypeft.grading.submission import Misconception as M

FOUR_BITS = 1 / 2 + 1 / 64 + 4 / (64 * 256)  # bytes of a quantized number
ADAPTER_BYTES = 4  # of an adapter's number in a plan

# ---- what is right --------------------------------------------------------------------------------------------------


def numbers(shapes):
    return sum(out * n_in for out, n_in in shapes)


def base(shapes, other, quantized, each=None, other_bytes=2):
    """With other bytes for a number of a matrix, and for all others, if they are given."""
    return numbers(shapes) * ((FOUR_BITS if quantized else 2) if each is None else each) + float(other * other_bytes)


def training(parameters, weight_bytes):
    return float(parameters * (2 * weight_bytes + 8))


def sides(shapes):
    """Parameters of LoRA with rank 1."""
    return sum(out + n_in for out, n_in in shapes)


def smallest_side(shapes):
    return min(min(shape) for shape in shapes)


def largest(free, shapes, weight_bytes, each=None, limit=smallest_side):
    """With other bytes for each rank if they are given."""
    return max(0, min(limit(shapes), int(free // (each or training(sides(shapes), weight_bytes)))))


def frozen(model, method):
    return base(model["shapes"], model["other"], method == "qlora")


def trained(model, method, r):
    if method == "full":
        return training(numbers(model["shapes"]) + model["other"], 2)
    return training(r * sides(model["shapes"]), ADAPTER_BYTES)


def needed(model, method, r=1):
    """Bytes of a plan."""
    return (0 if method == "full" else frozen(model, method)) + trained(model, method, r) + model["activations"]


# ---- what is drawn --------------------------------------------------------------------------------------------------


def whole(rng, least, most):
    return int(rng.integers(least, most))


def shapes_of(rng):
    """Matrices of whole nested blocks. Two have the same shape, as in a model of equal layers."""
    wide = [[128 * whole(rng, 2, 20), 128 * whole(rng, 20, 40)] for _ in range(whole(rng, 2, 5))]
    return [*wide, wide[-1], *([128 * whole(rng, 20, 40), 128 * whole(rng, 2, 20)] for _ in range(whole(rng, 2, 5)))]


def once(shapes):
    """As they are if the same shape counts once."""
    return [list(shape) for shape in {tuple(shape) for shape in shapes}]


def many_shapes(rng):
    """The same; one matrix, neither the first nor the last, has few rows, or few columns."""
    for narrow, wide in ((4, True), (16, False), (32, True), (64, False)):
        thin, shapes = [narrow, 16384 // narrow * whole(rng, 1, 4)], shapes_of(rng)
        yield [shapes[0], thin if wide else thin[::-1], *shapes[1:]]


def bases(rng, quantized):
    return [(shapes, whole(rng, 10**5, 10**8), quantized) for shapes in many_shapes(rng)]


def models(rng):
    for shapes in many_shapes(rng):
        parameters = numbers(shapes)
        yield {"shapes": shapes, "other": whole(rng, parameters // 20, parameters // 3),
               "activations": whole(rng, parameters // 4, 2 * parameters)}


# ---- the tests: memory ----------------------------------------------------------------------------------------------


def bytes_of(**change):
    return lambda *case: base(*case, **change)


BASES = [
    M("base.other_missing", "the other parameters are missing", bytes_of(other_bytes=0)),
    M("base.other_only", "the matrices are missing", bytes_of(each=0)),
    M("base.bits", "bits are counted, and not bytes", lambda *case: 8 * base(*case)),
    M("base.sides_added", "the sides of a matrix are added; it has out * in numbers", lambda shapes, other, quantized: base(
        [[out + n_in, 1] for out, n_in in shapes], other, quantized)),
    M("base.each_shape_once", "a shape that two matrices have is counted once",
      lambda shapes, *rest: base(once(shapes), *rest)),
]


def test_base_in_16_bits(submission):
    submission.agrees("base_bytes", bases(submission.rng, False), base, [
        *BASES,
        M("base.float32", "every number has 4 bytes; here it has 2", bytes_of(each=4, other_bytes=4)),
        M("base.numbers", "the numbers are counted, and not their bytes", bytes_of(each=1, other_bytes=1)),
        M("base.always_quantized", "the matrices are quantized although quantized is false", bytes_of(each=FOUR_BITS)),
    ])


def test_base_in_4_bits(submission):
    submission.agrees("base_bytes", bases(submission.rng, True), base, [
        *BASES,
        M("base.never_quantized", "the matrices have 16 bits although quantized is true", bytes_of(each=2)),
        M("base.no_maxima", "the blocks' maxima are missing", bytes_of(each=1 / 2)),
        M("base.no_nested_maxima", "the float32 of each 256 blocks is missing", bytes_of(each=1 / 2 + 1 / 64)),
        M("base.float32_maxima", "each block has a float32: that is without double quantization",
          bytes_of(each=1 / 2 + 4 / 64)),
        M("base.float32_maxima", "each block has a float32 besides its 8 bits; 256 blocks share one",
          bytes_of(each=1 / 2 + 5 / 64)),
        M("base.nested_blocks", "there is a float32 for each 256 numbers; it is for 256 blocks",
          bytes_of(each=1 / 2 + 1 / 64 + 4 / 256)),
        M("base.nested_blocks", "there is one byte for each 256 blocks; it is a float32",
          bytes_of(each=1 / 2 + 1 / 64 + 1 / (64 * 256))),
        M("base.eight_bits", "a number has a byte; it is 4 bits", bytes_of(each=FOUR_BITS + 1 / 2)),
        M("base.other_quantized", "the other parameters are quantized too", bytes_of(other_bytes=FOUR_BITS)),
        M("base.other_quantized", "the other parameters have half a byte each", bytes_of(other_bytes=1 / 2)),
    ])


def test_adapter_training_bytes(submission):
    cases = [(whole(submission.rng, 10, 10**8), weight_bytes) for weight_bytes in (2, 4, 2, 4)]
    submission.agrees("adapter_training_bytes", cases, training, [
        M("training.no_gradients", "weights or gradients are missing; both have weight_bytes",
          lambda n, size: n * (size + 8.0)),
        M("training.no_gradients", "only AdamW's numbers are counted", lambda n, size: n * 8.0),
        M("training.no_optimizer", "only the weights are counted", lambda n, size: 1.0 * n * size),
        M("training.no_optimizer", "AdamW's numbers are missing", lambda n, size: n * 2.0 * size),
        M("training.one_moment", "AdamW keeps one number for each that is trained; it keeps two",
          lambda n, size: n * (2 * size + 4.0)),
        M("training.optimizer_width", "AdamW's numbers are as wide as the weights; they are float32",
          lambda n, size: n * 4.0 * size),
        M("training.master_copies", "float32 copies of the weights are counted too; none were asked for",
          lambda n, size: n * (2 * size + 12.0)),
        M("training.always_16_bytes", "a number has 16 bytes in all; that is so with weight_bytes 4, and with 2 it has 12",
          lambda n, size: n * 16.0),
    ])


# ---- the tests: the largest rank ------------------------------------------------------------------------------------


def per_rank(shapes, weight_bytes):
    return training(sides(shapes), weight_bytes)


def test_largest_rank(submission):
    """Exactly enough, half a byte too little for it, a byte too little for one more; a large rank, where errors add up."""
    rng, cases = submission.rng, []
    for weight_bytes in (2, 4, 4, 2):
        shapes, r = shapes_of(rng), whole(rng, 2, 20)  # far below all sides
        each = per_rank(shapes, weight_bytes)
        cases += [(free, shapes, weight_bytes) for free in (r * each, r * each - 0.5, (r + 1) * each - 1.0, 200.3 * each)]

    def of(change):
        """With other bytes for each rank: change(shapes, weight_bytes)."""
        return lambda free, shapes, size: largest(free, shapes, size, each=change(shapes, size))

    def counted(change):
        """With another way from the quotient to the rank."""
        return lambda free, shapes, size: max(0, min(smallest_side(shapes), int(change(free / per_rank(shapes, size)))))

    submission.agrees("largest_rank", cases, largest, [
        M("rank.rounded", "the quotient is rounded to the nearest rank: that one may not fit", counted(round)),
        M("rank.rounded", "the quotient is rounded up: that rank does not fit", counted(np.ceil)),
        M("rank.strictly", "a rank that takes exactly what is free is refused; it fits", counted(lambda q: np.ceil(q) - 1)),
        M("rank.one_more", "it is one too many", counted(lambda q: q // 1 + 1)),
        M("rank.one_more", "it is one too few", counted(lambda q: q // 1 - 1)),
        M("rank.weights_only", "only the weights are counted; training needs gradients and AdamW's numbers too",
          of(lambda shapes, size: size * sides(shapes))),
        M("rank.weights_only", "weights and gradients are counted, and AdamW's numbers are not",
          of(lambda shapes, size: 2 * size * sides(shapes))),
        M("rank.weights_only", "weights and AdamW's numbers are counted, and gradients are not",
          of(lambda shapes, size: (size + 8) * sides(shapes))),
        M("rank.whole_matrices", "a rank costs out * in numbers; it costs out + in",
          of(lambda shapes, size: training(numbers(shapes), size))),
        M("rank.one_matrix", "one matrix is adapted; all of them are", of(lambda shapes, size: per_rank(shapes[:1], size))),
        M("rank.one_matrix", "one matrix is adapted; all of them are", of(lambda shapes, size: per_rank(shapes[-1:], size))),
        M("rank.each_shape_once", "a shape that two matrices have is counted once",
          of(lambda shapes, size: per_rank(once(shapes), size))),
        M("rank.one_factor", "only one of A and B is counted",
          of(lambda shapes, size: training(sum(n_in for _, n_in in shapes), size))),
        M("rank.one_factor", "only one of A and B is counted",
          of(lambda shapes, size: training(sum(out for out, _ in shapes), size))),
        M("rank.weight_bytes_ignored", "a number has 16 bytes even if weight_bytes is 2: it has 12 then",
          of(lambda shapes, size: per_rank(shapes, 4))),
        M("rank.weight_bytes_ignored", "a number has 12 bytes even if weight_bytes is 4: it has 16 then",
          of(lambda shapes, size: per_rank(shapes, 2))),
    ])


def test_no_rank_fits(submission):
    cases = []
    for shapes, weight_bytes in zip(many_shapes(submission.rng), (2, 4, 2, 4), strict=True):
        each = per_rank(shapes, weight_bytes)
        cases += [(free, shapes, weight_bytes) for free in (each - 1, 0.0, -0.5 * each, -3.0 * each, each)]
    submission.agrees("largest_rank", cases, largest, [
        M("rank.at_least_one", "it is at least 1, even if that does not fit",
          lambda free, shapes, size: max(1, largest(free, shapes, size))),
        M("rank.negative", "it is negative where the base alone is too large; no rank fits then, which is 0",
          lambda free, shapes, size: int(free // per_rank(shapes, size))),
        M("rank.negative", "it is negative where the base alone is too large; no rank fits then, which is 0",
          lambda free, shapes, size: int(free / per_rank(shapes, size))),
    ])


def test_rank_up_to_the_smallest_side(submission):
    cases = []
    for shapes, weight_bytes in zip(many_shapes(submission.rng), (4, 2, 4, 2), strict=True):
        each, most = per_rank(shapes, weight_bytes), smallest_side(shapes)
        cases += [(free, shapes, weight_bytes) for free in (most * each, (most + 1) * each, 10_000.0 * each)]

    def up_to(limit):
        return lambda *case: largest(*case, limit=limit)

    submission.agrees("largest_rank", cases, largest, [
        M("rank.no_limit", "it may be larger than a side of a matrix", up_to(lambda shapes: 10**9)),
        M("rank.other_side", "it is at most the smallest side less 1", up_to(lambda shapes: smallest_side(shapes) - 1)),
        M("rank.other_side", "it is at most the largest side", up_to(lambda shapes: max(map(max, shapes)))),
        M("rank.other_side", "it is at most the smallest side of the first matrix", up_to(lambda shapes: min(shapes[0]))),
        M("rank.other_side", "it is at most the smallest side of the last matrix", up_to(lambda shapes: min(shapes[-1]))),
        M("rank.other_side", "it is at most the smallest of the larger sides", up_to(lambda shapes: min(map(max, shapes)))),
        M("rank.other_side", "only one side of each matrix is looked at", up_to(lambda shapes: min(out for out, _ in shapes))),
        M("rank.other_side", "only one side of each matrix is looked at", up_to(lambda shapes: min(n for _, n in shapes))),
    ])


# ---- the tests: a plan ----------------------------------------------------------------------------------------------
# Many plans are right. Each rule that one may break has a message of its own.

METHODS = ("full", "lora", "qlora")
PARTS = ("method", "r", "merged", "bytes")


def checked(submission, cases):
    for case in cases:
        _check(submission, submission.choose(*case), *case)


def _check(submission, plan, model, card, tasks, latency_critical):
    situation = (f"on a card of {card:,} bytes, {tasks} task{'s' * (tasks > 1)}, "
                 f"latency {'' if latency_critical else 'not '}critical")

    def rule(holds, says, mistake):
        submission.require(holds, "choose", f"{situation}: {says}.", mistake)

    rule(isinstance(plan, dict) and set(plan) == set(PARTS), f"expected a dict of {sorted(PARTS)}, received {describe(plan)}",
         "keys")
    method, r, merged = (_plain(plan[part]) for part in PARTS[:3])
    rule(isinstance(method, str) and method in METHODS, f"method is {describe(method)}, expected one of {', '.join(METHODS)}",
         "plan.method")
    rule(method == "full" or type(merged) is bool, f"merged is {describe(merged)}, expected True or False", "type")
    if method == "full":
        r = 0
    else:
        most = smallest_side(model["shapes"])
        rule(type(r) is int, f"r is {describe(r)}, expected an int", "type")
        rule(1 <= r <= most, f"r is {describe(r)}, expected 1 to {most}, the smallest side of all matrices", "plan.rank")
    plan_in_words = "full fine-tuning" if method == "full" else f"{method} with r={r}"
    need = needed(model, method, r)
    if difference := compare(plan["bytes"], need):
        mistake, why = _miscounted(plan["bytes"], card, model, method, r)
        rule(False, f"for {plan_in_words}, bytes is {difference.received}, expected {difference.expected}{why}", mistake)
    rule(need <= card, f"{plan_in_words} needs {need:,.0f} bytes, which is more than the card has", "plan.too_large")
    rule(method != "full" or tasks == 1, "full fine-tuning makes a whole model for each task; for several take an adapter",
         "plan.full_for_many")
    rule(method == "full" or merged == latency_critical,
         f"merged is {merged}: adapters are merged where latency is critical, and only there", "plan.merged")
    rule(method != "qlora" or needed(model, "lora", r) > card,
         f"qlora with r={r}, where lora with the same rank would fit ({needed(model, 'lora', r):,.0f} bytes)",
         "plan.qlora_needless")


def _plain(value):
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _miscounted(stated, card, model, method, r):
    """The mistake that gives the bytes stated, and how it is said."""
    need, weights = needed(model, method, r), trained(model, method, r)
    base_of, other = (0, "full") if method == "full" else (frozen(model, method), {"lora": "qlora", "qlora": "lora"}[method])
    parameters = numbers(model["shapes"]) + model["other"] if method == "full" else r * sides(model["shapes"])
    known = [("plan.no_activations", "the activations are missing", need - model["activations"]),
             ("plan.no_adapter", "only base and activations are counted, and nothing that is trained", need - weights),
             ("plan.no_base", "the frozen base is missing", need - base_of),
             *[("plan.bytes_each", f"a number that is trained has {each} bytes; with gradient and AdamW it has "
                f"{weights // parameters:.0f}", need - weights + parameters * each) for each in (2, 4, 6, 8, 12, 16, 20, 24)],
             ("plan.other_base", "the base is counted as in the other method", needed(model, other, r)),
             ("plan.what_is_free", "it is what is left on the card, not what is needed", card - need),
             ("plan.what_is_free", "it is the whole card, not what is needed", card)]
    return next(((mistake, f": it looks as if {says}") for mistake, says, wrong in known
                 if wrong not in (need, 0) and compare(stated, float(wrong)) is None), ("plan.bytes", ""))


def large_cards(model, rng):
    """Full fine-tuning fits with much to spare, exactly, and by a byte not; adapters fit with many ranks, and with some."""
    full, some = needed(model, "full"), whole(rng, 2, smallest_side(model["shapes"]))
    return [2 * full, full, full - 1, (full + needed(model, "lora")) / 2, needed(model, "lora", some)]


def small_cards(model):
    """LoRA fits with rank 1 exactly, and by a byte not; QLoRA exactly with rank 7, if no side is smaller, and with rank 1."""
    return [needed(model, "lora"), needed(model, "lora") - 1, needed(model, "qlora", 7), needed(model, "qlora")]


def test_plan_for_one_task(submission):
    checked(submission, [(model, int(card), 1, False) for model in models(submission.rng)
                         for card in large_cards(model, submission.rng)])


def test_plan_for_many_tasks(submission):
    rng = submission.rng
    checked(submission, [(model, int(card), tasks, False) for model in models(rng)
                         for card, tasks in zip(large_cards(model, rng), (2, whole(rng, 3, 9), 50, 2, 7), strict=True)])


def test_plan_on_a_small_card(submission):
    checked(submission, [(model, int(card), tasks, False) for model in models(submission.rng)
                         for card, tasks in zip(small_cards(model), (1, 3, 1, 4), strict=True)])


def test_plan_where_latency_counts(submission):
    rng = submission.rng
    checked(submission, [(model, int(card), tasks, True) for model in models(rng)
                         for card in (*large_cards(model, rng), *small_cards(model)) for tasks in (1, whole(rng, 2, 9))])
