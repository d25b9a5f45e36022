"""What the other methods train: AdaLoRA, VeRA, ULoRA, (IA)3, bottleneck adapters, BitFit, norms, a random subspace."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tinypeft.budget.units import format_count
from tinypeft.claims.practice.kinds import kind, numeric, pick
from tinypeft.claims.practice.lora_counts import named
from tinypeft.claims.practice.recorded import GAIN, LEARNED_BY_DIMENSION
from tinypeft.claims.practice.shapes import ATTENTION, MLP, Shape, all_parameters, draw_gpt2, draw_llama, once, trained
from tinypeft.claims.questions import Mistake, Numeric, Step
from tinypeft.nn import LlamaConfig, LlamaForCausalLM
from tinypeft.peft import (
    AdaLoraConfig,
    BitFitConfig,
    BottleneckConfig,
    IA3Config,
    LNTuningConfig,
    SubspaceConfig,
    ULoraConfig,
    VeraConfig,
    get_peft_model,
)


def one_layer(value: float, shape: Shape) -> Mistake:
    return Mistake("one-layer", value / shape.layers, f"That is one layer; there are {shape.layers}.")


# ---- LoRA's relatives -----------------------------------------------------------------------------------------------

@kind("adalora-budget", "adalora", "the budget of ranks while it falls", 3)
def adalora_budget(rng: np.random.Generator) -> Numeric:
    matrices, target = 4 * int(rng.integers(6, 41)), pick(rng, (2, 4, 8))
    init, tinit = target * 3 // 2 + int(rng.integers(0, 5)), 100 * int(rng.integers(1, 5))
    tfinal = 100 * int(rng.integers(2, 6))
    end = tinit + 1000 * int(rng.integers(1, 5))
    step, total = tinit + (end - tinit) * pick(rng, (1, 2, 3)) // 4, end + tfinal
    config = AdaLoraConfig(init_r=init, target_r=target, tinit=tinit, tfinal=tfinal, total_step=total)
    answer = config.budget(matrices, step)
    first, last, left = init * matrices, target * matrices, 1 - (step - tinit) / (end - tinit)

    def fallen(share: float, power: int = 3) -> float:
        return int((first - last) * max(share, 0) ** power + last)

    return numeric(
        f"AdaLoRA adapts {matrices} matrices. Each starts with rank init_r = {init}; at the end target_r = {target} are left "
        f"on average. Training takes total_step = {total:,} steps. The budget stays at its first value for tinit = {tinit} "
        f"steps, at its last for the final tfinal = {tfinal}, and between them\n\n    budget = (first - last) c^3 + "
        "last\n\nwith c the share of that time which is left (rounded down to a whole number). How many singular values may "
        f"all matrices together have after step {step:,}?", answer,
        [Step("first and last budget", f"{matrices} x {init} and {matrices} x {target}", f"{first:,} and {last:,}"),
         Step("c", f"1 - ({step:,} - {tinit}) / ({total:,} - {tfinal} - {tinit})", f"{left:g}"),
         Step("budget, rounded down", f"({first:,} - {last:,}) x {left:g}^3 + {last:,}", f"{answer:,}")],
        [Mistake("linear", fallen(left, 1), "That lets the budget fall in a straight line; it falls with the cube of the time "
                                            "that is left."),
         Mistake("time-gone", fallen(1 - left), "That takes for c the share of time that has gone, not what is left."),
         Mistake("square", fallen(left, 2), "That squares c; it is to the third power."),
         Mistake("whole-training", fallen(1 - step / total), "That measures the time over the whole training. The fall begins "
                                                             "after tinit and ends tfinal steps before the end."),
         Mistake("per-matrix", answer / matrices, f"That is the mean of a matrix; there are {matrices}."),
         Mistake("no-last", answer - last, "That leaves out the last budget, to which it falls: not to zero."),
         Mistake("last", last, "That is the budget at the end of training."),
         Mistake("first", first, "That is the budget at the start.")], section="11_optimization")


@kind("vera-model", "vera", "what VeRA trains", 2)
def vera_model(rng: np.random.Generator) -> Numeric:
    shape, targets = draw_llama(rng), pick(rng, (("q_proj", "v_proj"), ATTENTION, (*ATTENTION, *MLP)))
    r = pick(rng, (128, 256))
    total = trained(shape, VeraConfig(r=r, target_modules=list(targets)))
    sides = [shape.sides(name) for name in targets]
    outputs, count = sum(n_out for n_out, _ in sides), len(targets)
    largest_in, largest_out = max(n_in for _, n_in in sides), max(n_out for n_out, _ in sides)
    each = outputs + count * r
    return numeric(
        f"{shape.words()}.\n\nVeRA is put on {named(targets)} of every layer: y = W x + b * (B (d * (A x))), with A (r, in) "
        f"and B (out, r) random, frozen and shared by all layers, and r = {r}. A matrix trains d (r numbers) and b (out "
        "numbers). How many parameters are trained?", total,
        [Step("all d of a layer", f"{count} x {r}", f"{count * r:,}"),
         Step("all b of a layer", " + ".join(f"{n_out:,}" for n_out, _ in sides), f"{outputs:,}"),
         Step("all layers", f"{shape.layers} x {each:,}", f"{total:,}")],
        [Mistake("with-projections", total + r * (largest_in + largest_out), "That adds A and B, which are random and never "
                                                                             "trained."),
         Mistake("lora", shape.layers * r * sum(n_out + n_in for n_out, n_in in sides), "That is LoRA of this rank, with A and "
                                                                                        "B trained in each matrix."),
         Mistake("b-only", shape.layers * outputs, f"That counts the b's alone; each matrix has d, {r} numbers, as well."),
         Mistake("d-only", shape.layers * count * r, "That counts the d's alone; each matrix has b, a number for each output."),
         Mistake("inputs", shape.layers * (sum(n_in for _, n_in in sides) + count * r), "That takes b as long as the input; it "
                                                                                        "scales the outputs."),
         Mistake("shared", r + largest_out, "That counts d and b once. A and B are shared, the vectors are not."),
         one_layer(total, shape)], section="04_lora/low-rank")


@kind("ulora-tasks", "ulora", "numbers stored for many tasks", 2)
def ulora_tasks(rng: np.random.Generator) -> Numeric:
    shape, targets, r = draw_llama(rng), pick(rng, (("q_proj", "v_proj"), ATTENTION)), pick(rng, (8, 16))
    tasks, at_input = int(rng.integers(5, 101)), bool(rng.integers(2))
    method = ULoraConfig(r=r, vector="input" if at_input else "rank", target_modules=list(targets))
    first = trained(shape, method)
    later = shape.layers * once((replace(shape, layers=1, vocab=64), repr(method), "second task"),
                                        lambda: _second_task(replace(shape, layers=1, vocab=64), method))
    factors, total = first - later, first + (tasks - 1) * later
    length = "as long as the input of its matrix (vector=\"input\")" if at_input else f"of r = {r} numbers (vector=\"rank\")"
    other = shape.layers * len(targets) * (r if at_input else shape.width)
    return numeric(
        f"{shape.words()}.\n\nULoRA with r = {r} is put on {named(targets)} of every layer: one A (r, in) and one B (out, r) "
        f"for each matrix, which all tasks share, and for each task and matrix a vector {length}. How many numbers are stored "
        f"for {tasks} tasks, factors included?", total,
        [Step("A and B, once", f"{shape.layers} layers x {r} x "
                               f"({' + '.join(f'{sum(shape.sides(name)):,}' for name in targets)})",
              f"{factors:,}"),
         Step("the vectors of one task", f"{shape.layers} layers x {len(targets)} matrices x "
                                         f"{later // shape.layers // len(targets)}",
              f"{later:,}"),
         Step("together", f"{factors:,} + {tasks} x {later:,}", f"{total:,}")],
        [Mistake("factors-each", tasks * first, "That stores A and B for each task. They are shared: once is enough."),
         Mistake("vectors-only", tasks * later, "That leaves out A and B, without which the vectors mean nothing."),
         Mistake("one-task", first, f"That is one task; there are {tasks}, each with vectors of its own."),
         Mistake("last-task", later, "That is what one more task adds."),
         Mistake("other-vector", factors + tasks * other, "That takes the vectors of the other kind: " + (
             "as long as the rank." if at_input else "as long as the input.")),
         Mistake("one-layer", total / shape.layers, f"That is one layer; there are {shape.layers}.")], section="12_many_tasks")


def _second_task(shape: Shape, method: ULoraConfig) -> int:
    """What a task trains that finds the factors there."""
    model = get_peft_model(shape.build(), method, "first")
    model.add_adapter("second", method)
    model.set_adapter("second")
    return model.get_nb_trainable_parameters()[0]


@kind("ia3-model", "ia3", "what (IA)3 trains", 2)
def ia3_model(rng: np.random.Generator) -> Numeric:
    shape = draw_llama(rng)
    shape = replace(shape, inner=shape.inner // 64 * pick(rng, (48, 64, 80)))
    total, d, kv = trained(shape, IA3Config()), shape.width, shape.kv_width
    each = 2 * kv + shape.inner
    return numeric(
        f"{shape.words()}.\n\n(IA)3 multiplies the outputs of k_proj and v_proj, and the input of down_proj (the feed-forward "
        "part's last matrix), by learned factors, one for each feature. How many parameters are trained?", total,
        [Step("keys, and values", f"{shape.kv_heads} heads x {shape.head_dim}", f"{kv:,} each"),
         Step("input of down_proj", "", f"{shape.inner:,}"),
         Step("all layers", f"{shape.layers} x ({kv:,} + {kv:,} + {shape.inner:,})", f"{total:,}")],
        [Mistake("down-output", shape.layers * (2 * kv + d), f"That takes down_proj's output, d = {d:,}. Its input is scaled, "
                                                             f"which has {shape.inner:,} features."),
         Mistake("all-heads", shape.layers * (2 * d + shape.inner), f"That takes keys and values as wide as d. They have "
                                                                    f"{shape.kv_heads} heads of {shape.head_dim} features."),
         Mistake("one-of-two", shape.layers * (kv + shape.inner), "That scales keys or values; both are scaled."),
         Mistake("no-ffn", shape.layers * 2 * kv, "That leaves out the feed-forward part."),
         Mistake("all-width", shape.layers * 3 * d, "That takes three vectors of length d. Neither keys nor the feed-forward "
                                                    "part need be that wide."),
         one_layer(total, shape),
         Mistake("matrices", shape.layers * d * each, "That counts matrices. A feature has one factor, not one for each of d "
                                                      "inputs.")],
        section="10_bitfit_norms_ia3")


# ---- adapters, biases, norms ----------------------------------------------------------------------------------------

@kind("bottleneck-model", "bottleneck", "parameters of bottleneck adapters", 2)
def bottleneck_model(rng: np.random.Generator) -> Numeric:
    shape, style = draw_llama(rng), pick(rng, ("houlsby", "pfeiffer"))
    factor = pick(rng, [f for f in (4, 8, 16, 32, 64) if shape.width % f == 0])
    d, m, places = shape.width, shape.width // factor, 2 if style == "houlsby" else 1
    total = trained(shape, BottleneckConfig(style=style, reduction_factor=factor))
    one = total // shape.layers // places
    where = ("one after the attention and one after the feed-forward part of each layer (Houlsby)" if places == 2 else
             "one after the feed-forward part of each layer (Pfeiffer)")
    return numeric(
        f"{shape.words()}.\n\nBottleneck adapters are put into it: {where}. Each computes h + W_up act(W_down h + b_down) + "
        f"b_up with a bottleneck of m = {m}, W_down (m, d) and W_up (d, m). How many parameters are trained, biases "
        "included?", total,
        [Step("W_down and W_up", f"2 x {m} x {d:,}", f"{2 * m * d:,}"), Step("biases", f"{m} + {d:,}", f"{m + d:,}"),
         Step("an adapter", "", f"{one:,}"),
         Step("all", f"{shape.layers} layers x {places} x {one:,}", f"{total:,}")],
        [Mistake("other-places", total / places * (3 - places), "That has one adapter in each layer; there are "
                                                                "two." if places == 2
                 else "That has two adapters in each layer, as Houlsby's. Pfeiffer's are after the feed-forward part only."),
         Mistake("one-matrix", shape.layers * places * m * d, "That counts one of the two matrices: down to m, and up again to "
                                                              "d."),
         one_layer(total, shape),
         Mistake("one-adapter", one, f"That is one adapter; there are {shape.layers * places}."),
         Mistake("square", shape.layers * places * d * d, "That is a full matrix d x d, without a bottleneck."),
         Mistake("no-biases", total - shape.layers * places * (m + d), "That leaves out the biases: m after W_down, d after "
                                                                       "W_up.")],
        tolerance=0.001, section="08_adapters")


@kind("bitfit-gpt2", "bitfit", "the biases of a GPT-2", 2)
def bitfit_gpt2(rng: np.random.Generator) -> Numeric:
    shape = draw_gpt2(rng)
    d, total = shape.width, trained(shape, BitFitConfig())
    linear, norms = 3 * d + d + shape.inner + d, 2 * d
    return numeric(
        f"{shape.words()}. A layer has the linear layers c_attn (d to 3d: queries, keys and values in one), attn.c_proj (d to "
        f"d), c_fc (d to {shape.inner:,}) and mlp.c_proj ({shape.inner:,} to d), and two LayerNorms; one more LayerNorm "
        "follows the last layer. BitFit trains all biases. How many are there?", total,
        [Step("linear layers of one layer: a bias for each output", f"{3 * d:,} + {d:,} + {shape.inner:,} + {d:,}",
              f"{linear:,}"),
         Step("its two LayerNorms", f"2 x {d:,}", f"{norms:,}"),
         Step("all layers, and the last LayerNorm", f"{shape.layers} x {linear + norms:,} + {d:,}", f"{total:,}")],
        [Mistake("no-norms", shape.layers * linear, "That leaves out the LayerNorms, whose shifts are biases too."),
         Mistake("no-last-norm", total - d, "That leaves out the LayerNorm after the last layer."),
         Mistake("attention-once", shape.layers * (linear - 2 * d + norms) + d, "That gives c_attn d biases. Queries, keys and "
                                                                                "values are 3d outputs."),
         Mistake("scales-too", total + shape.layers * norms + d, "That adds the norms' scales. BitFit trains their shifts "
                                                                 "only."),
         Mistake("narrow-ffn", shape.layers * (linear - shape.inner + d + norms) + d, f"That gives c_fc d biases; it has "
                                                                                      f"{shape.inner:,} outputs."),
         Mistake("one-layer", linear + norms, f"That is one layer; there are {shape.layers}, and a last LayerNorm.")],
        tolerance=0.0002, section="10_bitfit_norms_ia3")


@kind("norms-model", "norms", "what norm tuning trains")
def norms_model(rng: np.random.Generator) -> Numeric:
    llama = bool(rng.integers(2))
    shape = draw_llama(rng) if llama else draw_gpt2(rng)
    d, each, total = shape.width, 1 if llama else 2, trained(shape, LNTuningConfig())
    norm = "an RMSNorm, which has scales only" if llama else "a LayerNorm, with a scale and a shift for each feature"
    return numeric(
        f"{shape.words()}. It has two norms in each layer and one after the last; each is {norm}. Norm tuning trains these, "
        "all of them. How many parameters are that?", total,
        [Step("norms", f"2 x {shape.layers} + 1", str(2 * shape.layers + 1)),
         Step("a norm", f"{each} x {d:,}" if each > 1 else "", f"{each * d:,}"),
         Step("all", f"{2 * shape.layers + 1} x {each * d:,}", f"{total:,}")],
        [Mistake("no-last-norm", total - each * d, "That leaves out the norm after the last layer."),
         Mistake("shifts", total * 2, "That gives every norm a shift as well. An RMSNorm has none.") if llama else
         Mistake("scales-only", total / 2, "That counts the scales. A LayerNorm has shifts too."),
         Mistake("one-a-layer", each * d * (shape.layers + 1), "That has one norm in each layer; there is one before the "
                                                               "attention and one before the feed-forward part."),
         Mistake("matrices", total * d, "That is d x d for each norm; it has a number for each feature."),
         Mistake("one-layer", 2 * each * d, f"That is one layer; there are {shape.layers}, and a last norm.")],
        tolerance=0.0005, section="10_bitfit_norms_ia3")


# ---- a random subspace ----------------------------------------------------------------------------------------------

@kind("subspace-share", "subspace", "the share of the weights that a random subspace is")
def subspace_share(rng: np.random.Generator) -> Numeric:
    shape = draw_llama(rng)
    base, d = all_parameters(shape), int(rng.integers(1, 161)) * 100
    ours = once((d, "subspace"), lambda: _in_subspace(d))
    share = ours / base
    return numeric(
        f"A model has D = {base:,} weights. Training in a random subspace of d = {d:,} dimensions moves all of them at once, "
        "theta = theta_0 + P z, with P (D, d) random and frozen. What share of D is the number of trained parameters? (In "
        "percent.)", share,
        [Step("trained is z", "", f"{ours:,}"), Step("share", f"{ours:,} / {base:,}", format_count(100 * share) + " %")],
        [Mistake("inverse", base / ours, "That is how many weights there are for each trained number; the share is the "
                                         "inverse."),
         Mistake("projection", float(ours), "That takes P as trained, D x d numbers. It is drawn once and never changes; z "
                                            "alone is trained."),
         Mistake("all", 1.0, "All weights move, but only z is trained: they cannot move independently."),
         Mistake("square", share**2, "That divides by D twice.")], unit="%", section="05_intrinsic_dimension")


def _in_subspace(dimension: int) -> int:
    """What is trained in a subspace of so many dimensions, of whatever model."""
    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    return get_peft_model(LlamaForCausalLM(config), SubspaceConfig(dimension=dimension)).get_nb_trainable_parameters()[0]


@kind("intrinsic-dimension", "subspace", "an intrinsic dimension, read from measurements", 2, fewest_mistakes=1)
def intrinsic_dimension(rng: np.random.Generator) -> Numeric:
    start, full = 3 + float(rng.integers(0, 150)) / 100, 1.5 + float(rng.integers(0, 100)) / 100
    threshold = pick(rng, (20, 40, 45, 60, 70, 75, 80, 85, 88))
    losses = {d: round(start - share * (start - full), 3) for d, share in LEARNED_BY_DIMENSION.items()}
    needed = start - threshold / 100 * (start - full)
    enough = [d for d, loss in losses.items() if loss <= needed]
    answer = enough[0]
    sizes = list(losses)
    shown = "\n".join(f"    d = {d:,}: {loss:.3f}" for d, loss in losses.items())
    return numeric(
        f"A base model has a loss of {start:.3f} on a task; training everything brings it to {full:.3f}. Training in random "
        f"subspaces of d dimensions brings it to\n\n{shown}\n\n(The shares of the gain are those measured by {GAIN}.) What is "
        f"d{threshold}, the smallest of these d that reaches {threshold}% of full fine-tuning's gain?", answer,
        [Step("the gain of full fine-tuning", f"{start:.3f} - {full:.3f}", f"{start - full:.3f}"),
         Step("the loss to reach", f"{start:.3f} - {threshold / 100:g} x {start - full:.3f}", f"{needed:.3f}"),
         Step("the first d at or below it", "", f"{answer:,}, with {losses[answer]:.3f}")],
        [Mistake("not-enough", sizes[max(sizes.index(answer) - 1, 0)], "That one stops short of the loss to reach."),
         *(Mistake("more-than-needed", d, "That reaches it, but a smaller d does so too.") for d in enough[1:2]),
         Mistake("loss-ratio", next((d for d, loss in losses.items() if loss <= full / (threshold / 100)), 0),
                 "That compares losses as such, full / loss. Asked is for the share of the gain over the base.")],
        tolerance=0.001, section="05_intrinsic_dimension")
