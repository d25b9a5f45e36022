"""Objective 1: the LoRA update W = W0 + (alpha / r) B A, its shapes and scaling, and what holds when training starts."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinypeft.budget import adapted
from tinypeft.claims.questions import Step
from tinypeft.claims.quiz.family import Table, asked, family, unlike
from tinypeft.claims.quiz.runs import OPTIMIZERS, base_logits, first_change, first_gradients, first_shift
from tinypeft.peft import BottleneckConfig, LoraConfig, PrefixTuningConfig

LAYOUT = "W is (out, in), A is (r, in), B is (out, r)."


@family("gradients", objective=1, topic="lora", methods=("lora",), also=("pissa",), section="04_lora/first-step")
def gradients() -> Table:
    """Which gradients vanish at the first step: measured."""
    starts = {
        "default": first_gradients(LoraConfig()),
        "embedding": first_gradients(LoraConfig(target_modules=["embed_tokens"])),
        "zeros": first_gradients(LoraConfig(), lambda name, values: np.zeros_like(values)),
        "pissa": first_gradients(LoraConfig(init_lora_weights="pissa")),
    }
    key = {name: {(True, False): "A", (False, True): "B", (True, True): "both", (False, False): "none"}[A == 0, B == 0]
           for name, (A, B) in starts.items()}
    seen = {name: (Step("largest |gradient| of any A, and of any B, measured on a small Llama", value=f"{A:.2g} and {B:.2g}"),)
            for name, (A, B) in starts.items()}
    return Table(
        hint="The gradient of A is s B^T G, that of B is s G A^T, with G the gradient of W and s the scaling",
        options={"A": "The gradient of A is zero, that of B is not", "B": "The gradient of B is zero, that of A is not",
                 "both": "The gradients of A and of B are both zero",
                 "none": "The gradients of A and of B both differ from zero"},
        prompts=[
            asked(key["default"],
                  "LoRA is put on a linear layer with peft's defaults and trained. What holds in the first backward pass? "
                  f"{LAYOUT}",
                  "B starts at zero and stands in the gradient of A, which so is zero; A starts random and stands in that of "
                  "B. The first update moves B only.",
                  B="zero-start-of-A: This is what would hold if A were the one that starts at zero. In a linear layer it is "
                    "B.",
                  both="zero-output-zero-gradient: The update B A is zero, its gradient is not: B is multiplied by A x, which "
                       "is not zero.",
                  none="both-learn-at-once: The gradient of A is a product with B, and B is exactly zero until it has been "
                       "updated once.",
                  steps=seen["default"]),
            asked(key["embedding"],
                  "LoRA is put on the token embedding with peft's defaults: the matrix named A is (r, V), that named B is (d, "
                  "r). What holds in the first backward pass?",
                  "On an embedding peft swaps the roles: A starts at zero and B at random. So B, the one that is multiplied by "
                  "zeros, gets no gradient at first.",
                  A="embedding-like-linear: That is the linear layer's case. For an embedding it is A that starts at zero.",
                  both="zero-output-zero-gradient: Only one of the two factors is zero, so the other's zero does not reach its "
                       "own gradient: A has one by way of B.",
                  none="both-learn-at-once: One of the factors has to start at zero for the output to be unchanged, and its "
                       "partner then gets no gradient.",
                  steps=seen["embedding"]),
            asked(key["zeros"],
                  "To be sure that the model starts unchanged, somebody sets A = 0 and B = 0 in a linear layer's LoRA. What "
                  f"holds in the first backward pass? {LAYOUT}",
                  "Each gradient is a product with the other factor, and both factors are zero: no update will ever move this "
                  "adapter.",
                  A="as-by-default: So it is when A is random. Here the gradient of B is a product with A = 0.",
                  B="partner-of-a-random-B: For that B would have to be other than zero: it stands in the gradient of A.",
                  none="saddle-unseen: At A = B = 0 the loss has a saddle: it is flat in A and in B taken singly, and changes "
                       "only when both move.",
                  steps=seen["zeros"]),
            asked(key["pissa"],
                  "LoRA is put on a linear layer with init_lora_weights=\"pissa\", and the first output is the base model's. "
                  f"What holds in the first backward pass? {LAYOUT}",
                  "PiSSA takes A and B from the weight's largest singular directions and leaves the rest in the frozen weight. "
                  "The output is unchanged though no factor is zero, so both learn from the start.",
                  A="identity-needs-zero-B: An unchanged first output does not need B = 0: PiSSA takes out of the frozen "
                    "weight what it puts into B A.",
                  B="identity-needs-zero-A: Neither factor is zero here: both hold roots of singular values, and the frozen "
                    "weight lacks their product.",
                  both="zero-output-zero-gradient: The output has not changed, but A and B are as large as the weight's "
                       "largest singular directions, and so are far from a point where nothing moves.",
                  steps=seen["pissa"], methods=("pissa",)),
        ])


@family("scaling", objective=1, topic="lora", methods=("lora", "rslora"), section="04_lora/scaling")
def scaling() -> Table:
    """alpha / r, alpha / sqrt(r), and a pattern that gives one module another rank."""
    alpha, r, other = 32, 16, 64

    def scales(use_rslora: bool) -> dict[str, float]:
        config = LoraConfig(r=r, lora_alpha=alpha, use_rslora=use_rslora, rank_pattern={"v_proj": other})
        layers: list[Any] = list(adapted("llama-2-7b", config).layers())
        return {layer.path.rpartition(".")[2]: layer.lora_scaling["default"] for layer in layers}

    plain, root = scales(False), scales(True)
    values = {"q": plain["q_proj"], "v": plain["v_proj"], "rs_q": root["q_proj"], "rs_v": root["v_proj"]}
    unlike(values)
    given = f'LoraConfig(r={r}, lora_alpha={alpha}, target_modules=["q_proj", "v_proj"], rank_pattern={{"v_proj": {other}}}'
    ask = "By which factor is B A multiplied in the layers"
    per_r, per_root = f"{alpha} / {r}", f"{alpha} / sqrt({r})"
    return Table(
        hint="LoRA multiplies by alpha / r, rsLoRA by alpha / sqrt(r), with the rank that the layer really has",
        options={name: f"{value:g}" for name, value in values.items()},
        prompts=[
            asked("q",
                  f"{given}). {ask} q_proj?",
                  f"The pattern does not name q_proj, so its rank is {r}, and LoRA divides alpha by it.",
                  v=f"pattern-everywhere: That is {alpha} / {other}, the factor of v_proj: the pattern is for names that end "
                    "in v_proj.",
                  rs_q=f"root-of-the-rank: That is {per_root}, as rsLoRA has it. Without use_rslora=True it is {per_r}.",
                  rs_v=f"root-and-pattern: That is {alpha} / sqrt({other}): the other module's rank, and its root besides.",
                  steps=(Step("q_proj has r", per_r, f"{values['q']:g}"),)),
            asked("v",
                  f"{given}). {ask} v_proj?",
                  f"The pattern gives v_proj the rank {other}, while alpha stays {alpha}: a larger rank is divided by, so that "
                  "the update is scaled down. (alpha_pattern would raise alpha along.)",
                  q=f"alpha-follows-the-rank: That is {per_r}, the factor of q_proj. rank_pattern changes v_proj's rank and "
                    "leaves its alpha.",
                  rs_q=f"root-and-pattern: That is {per_root}: neither the rank nor the rule is that of v_proj here.",
                  rs_v=f"root-of-the-rank: That is {alpha} / sqrt({other}), rsLoRA's rule, which has to be asked for.",
                  steps=(Step("v_proj has the pattern's r", f"{alpha} / {other}", f"{values['v']:g}"),)),
            asked("rs_q",
                  f"{given}, use_rslora=True). {ask} q_proj?",
                  f"rsLoRA divides by the root of the rank, and q_proj has r = {r}.",
                  q=f"rslora-ignored: That is {per_r}, plain LoRA's. use_rslora=True divides by sqrt({r}) instead.",
                  v=f"pattern-everywhere: That is {alpha} / {other}: plain LoRA's factor in v_proj.",
                  rs_v=f"pattern-everywhere-with-root: That is {alpha} / sqrt({other}), right for v_proj. q_proj has r = {r}.",
                  steps=(Step("q_proj has r", per_root, f"{values['rs_q']:g}"),)),
            asked("rs_v",
                  f"{given}, use_rslora=True). {ask} v_proj?",
                  f"v_proj has the pattern's rank {other}, and rsLoRA divides by its root: from rank {r} to {other} the factor "
                  "falls to a half, where plain LoRA's falls to a quarter.",
                  q=f"alpha-follows-the-rank: That is {per_r}: plain LoRA, and the rank of q_proj.",
                  v=f"rslora-ignored: That is {alpha} / {other}. The rank is right; rsLoRA takes its root.",
                  rs_q=f"pattern-ignored: That is {per_root}. The rule is right, the rank is that of q_proj.",
                  steps=(Step("v_proj has the pattern's r", f"{alpha} / sqrt({other})", f"{values['rs_v']:g}"),)),
        ])


@family("first-update", objective=1, topic="alpha", methods=("lora",), section="04_lora/scaling")
def first_update() -> Table:
    """How the first change of the weight grows with alpha, under Adam and under SGD: measured."""
    def grows(optimizer: str, alpha: float, rate: float) -> float:
        changes = [first_change(8 * times, 1e-3 * lr, OPTIMIZERS[optimizer]) for times, lr in ((1, 1), (alpha, rate))]
        return round(changes[1] / changes[0], 3)

    values = {"adam_cut": grows("Adam", 3, 1 / 3), "adam": grows("Adam", 3, 1), "sgd": grows("SGD", 3, 1),
              "sgd_raised": grows("SGD", 3, 3)}
    unlike(values)
    rule = "The change of W is s B A with s = alpha / r"
    ask = "How many times as large is the change of W after the first update, W0 and A being the same? (r is unchanged too.)"
    adam, sgd = "Under Adam the first step of B has size lr, however large the gradient", \
        "Under SGD the step of B is lr times its gradient, which carries a factor s"
    return Table(
        hint=f"{rule}; B = 0 at first, so what matters is how far one update moves B",
        options={name: f"{value:g}x" for name, value in values.items()},
        prompts=[
            asked("adam_cut",
                  f"lora_alpha is raised from 8 to 24, the learning rate of Adam is cut to a third. {ask}",
                  f"{adam}, here a third; s makes three times as much of it. Under Adam alpha and the learning rate can stand "
                  "in for each other at the start.",
                  adam="learning-rate-forgotten: That is the effect of alpha alone. B has moved a third as far.",
                  sgd="gradient-scales-too: The gradient of B is three times as large too, but Adam divides by its size.",
                  sgd_raised="all-factors-multiply: Each factor of 3 counted as a gain: s, the gradient and a rate that in "
                             "truth is cut.",
                  steps=(Step("Adam: s times lr", "3 x 1/3", f"{values['adam_cut']:g}"),)),
            asked("adam",
                  f"lora_alpha is raised from 8 to 24, nothing else changes, and the optimizer is Adam. {ask}",
                  f"{adam}; only the factor s in front of B A grows.",
                  adam_cut="adam-cancels-alpha: Adam cancels the size of the gradient. The factor s in front of B A stays, and "
                           "is three times as large.",
                  sgd="sgd-for-adam: A second factor of 3 is in the gradient of B, and SGD would keep it; Adam divides it "
                      "out.",
                  sgd_raised="cube-of-alpha: There are at most two factors s: one in the forward pass, one in the gradient of "
                             "B. Adam removes the second.",
                  steps=(Step("Adam: s only", "3", f"{values['adam']:g}"),)),
            asked("sgd",
                  f"lora_alpha is raised from 8 to 24, nothing else changes, and the optimizer is plain SGD. {ask}",
                  f"{sgd}; and B A is multiplied by s once more: the square. So the largest stable learning rate falls with "
                  "the square of s.",
                  adam_cut="alpha-is-neutral: alpha is no mere convention that training undoes: it enters the first update "
                           "twice.",
                  adam="alpha-enters-once: That counts s in front of B A, and leaves out that the gradient of B carries it "
                       "too.",
                  sgd_raised="cube-of-alpha: s enters twice, by the forward and by the backward pass; a third time only if the "
                             "learning rate grew as well.",
                  steps=(Step("SGD: s squared", "3 x 3", f"{values['sgd']:g}"),)),
            asked("sgd_raised",
                  f"lora_alpha is raised from 8 to 24, the learning rate of plain SGD is tripled. {ask}",
                  f"{sgd}, and the rate is three times as large; s in front of B A is the third factor.",
                  adam_cut="alpha-is-neutral: Nothing here shrinks: the rate, the gradient of B and s all grow.",
                  adam="only-the-rate: That is one of three factors of 3.",
                  sgd="alpha-enters-once: That is s once and the rate once. The gradient of B carries a second s.",
                  steps=(Step("SGD: s squared, times lr", "3 x 3 x 3", f"{values['sgd_raised']:g}"),)),
        ])


@family("first-output", objective=1, topic="initialization", methods=("lora",), also=("pissa", "houlsby", "prefix"),
        section="04_lora/zero-start")
def first_output() -> Table:
    """How far the first output is from the base's: measured."""
    shifts = {"lora": first_shift(LoraConfig()), "pissa": first_shift(LoraConfig(init_lora_weights="pissa")),
              "houlsby": first_shift(BottleneckConfig(style="houlsby")),
              "prefix": first_shift(PrefixTuningConfig(num_virtual_tokens=8, init_weights="zero"))}
    unlike(shifts)
    spread = f"{float(base_logits().std()):.1f}"
    ask = ("is put into a small Llama, not yet trained. How far are the logits from the base model's, on average? (float32; "
           f"the logits' standard deviation is {spread}.)")
    return Table(
        hint="Ask what the new parameters compute with the values they start from, and whether rounding comes in",
        options={name: f"{shift:.1g}" for name, shift in shifts.items()},
        prompts=[
            asked("lora",
                  f"LoRA with peft's defaults {ask}",
                  "B = 0, so that B A x = 0 for every A, and adding zero changes no bit.",
                  pissa="zero-is-rounded: W0 x + 0 is W0 x without rounding. Errors of that size come from weights that were "
                        "taken apart, as in PiSSA.",
                  houlsby="random-A-leaks: A is random, but what it computes is multiplied by B = 0; no small remainder is "
                          "left.",
                  prefix="new-parameters-disturb: Random parameters were added, but behind a factor of zero."),
            asked("pissa",
                  f'LoRA with init_lora_weights="pissa" {ask}',
                  "s B A holds the largest singular directions of W, and W - s B A stands in the frozen weight: together W, "
                  "but for the rounding of a difference and a sum.",
                  lora="exact-in-floats: Exact in real numbers; in float32 the weight is split in two and added up again, "
                       "which rounds.",
                  houlsby="pissa-is-approximate: Nothing is left out: what B A lacks of W is kept in the frozen weight, "
                          "whatever the rank.",
                  prefix="directions-counted-twice: That would need B A to be added to the whole W. PiSSA takes it out of W "
                         "first.",
                  methods=("pissa",)),
            asked("houlsby",
                  f"A Houlsby adapter of the adapters library's defaults, h + W_up act(W_down h), {ask}",
                  "W_down and W_up start as N(0, 0.02^2), biases at zero: the adapter adds little to h, but something. The "
                  "skip keeps the rest.",
                  lora="adapter-starts-exact: So it is with W_up = 0, as parallel adapters and LoRA's B start. Here W_up is "
                       "small and random.",
                  pissa="small-is-rounding: A bottleneck of weights near 0.02 adds far more than the last bits of float32.",
                  prefix="adapter-without-skip: An adapter without its own skip would replace h and disturb that much; with it "
                         "h goes through unchanged.",
                  methods=("houlsby",)),
            asked("prefix",
                  f'Prefix tuning with 8 virtual tokens and init_weights="zero" {ask}',
                  "A key of zero has the score 0, not minus infinity: softmax gives it weight, and takes it from the tokens. "
                  "Its value of zero then pulls the output down.",
                  lora="zero-keys-are-ignored: Only masked positions get no attention. exp(0) = 1 is as much as many a token "
                       "has.",
                  pissa="zero-adds-nothing: The values add zero, but the weights of all others shrink, by far more than "
                        "rounding.",
                  houlsby="prefix-starts-small: Numbers of zero do not make a small effect: the weight that a zero key draws "
                          "is set by the other scores.",
                  methods=("prefix",)),
        ])


@family("shapes", objective=1, topic="lora", methods=("lora",), section="04_lora/low-rank")
def shapes() -> Table:
    """The shapes of A and B in four layers of one model."""
    r, names = 8, ["q", "k", "up", "down"]
    model = adapted("llama-3-8b", LoraConfig(r=r, target_modules=[f"{name}_proj" for name in names]))
    layers: dict[str, Any] = {layer.path.rpartition(".")[2]: layer for layer in model.layers()}
    texts = {name: " and ".join(str(factor.shape) for factor in layers[f"{name}_proj"].factors("default")) for name in names}
    config: Any = model.get_base_model().config
    d, inner, kv = config.hidden_size, config.intermediate_size, config.num_key_value_heads * config.head_dim
    given = (f"Llama-3-8B has the width {d}, {config.num_attention_heads} heads of {config.head_dim}, "
             f"{config.num_key_value_heads} key-value heads, and a feed-forward part of {inner}. With LoRA of rank {r}, which "
             "shapes do A and B have in")
    return Table(
        hint="A is (r, in) and B is (out, r), with in and out those of the layer, as y = W x has them", options=texts,
        prompts=[
            asked("q",
                  f"{given} q_proj?",
                  f"Queries have all {config.num_attention_heads} heads: {d} in, {d} out.",
                  k=f"query-heads-grouped: {kv} are the features of the keys, which {config.num_key_value_heads} heads share; "
                    "queries are not grouped.",
                  up=f"wrong-sublayer: {inner} is the width of the feed-forward part.",
                  down=f"wrong-sublayer-and-side: {inner} features come into down_proj, in the feed-forward part."),
            asked("k",
                  f"{given} k_proj?",
                  f"Keys have {config.num_key_value_heads} heads of {config.head_dim}: {d} in, {kv} out. Only B shrinks.",
                  q="grouped-queries-ignored: That is right where every query head has a key head of its own. Here there are "
                    f"{config.num_key_value_heads}, so {kv} out.",
                  up=f"wrong-sublayer: {inner} is the width of the feed-forward part.",
                  down=f"wrong-sublayer-and-side: {inner} features come into down_proj, in the feed-forward part."),
            asked("up",
                  f"{given} up_proj?",
                  f"up_proj goes from {d} to {inner}: the wide side is out, and belongs to B.",
                  q="square-feed-forward: Only the query and output projections are square here.",
                  k=f"wrong-sublayer: {kv} is the number of the keys' features.",
                  down="in-and-out-swapped: That is down_proj, which goes the other way: A meets the input, B gives the "
                       "output."),
            asked("down",
                  f"{given} down_proj?",
                  f"down_proj goes from {inner} back to {d}: the wide side is in, and belongs to A.",
                  q="square-feed-forward: Only the query and output projections are square here.",
                  k=f"wrong-sublayer: {kv} is the number of the keys' features.",
                  up="in-and-out-swapped: That is up_proj. A meets the input, which here is the wide side."),
        ])
