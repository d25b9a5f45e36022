"""Claims of "20-09 — Parameter-Efficient Fine-Tuning", section 2: LoRA."""

from __future__ import annotations

import numpy as np

from tinypeft.claims.claim import claim, editorial
from tinypeft.claims.experiments import growth_of_first_change, largest_stable_rate
from tinypeft.claims.judge import Computed, Verdict, computed, under
from tinypeft.claims.settings import LINEAR, lora
from tinypeft.claims.small_models import first_layer, inputs, largest, logits, toy_lora
from tinypeft.models import AutoModelForCausalLM
from tinypeft.peft import get_peft_model

LORA = "2. LoRA"


@claim("d-lora-shapes", LORA, "shape", "B (d x r) and A (r x k) fit h = W0 x + B A x, for W0 of d x k",
       stated="B ∈ ℝ^{d×r}, A ∈ ℝ^{r×k}", expects=((16, 4), (4, 32), (16, 32), 16),
       why="Shapes of B, A and W0, and the numbers in h, of a layer with d = {d}, k = {k} and r = {r}. With alpha = r, h "
           "differs from W0 x + B A x by at most {off:.1g}.")
def _() -> Computed:
    layer = first_layer(toy_lora(lora(4), trained=True), "v_proj")
    (A, B), W0, x = layer.factors("default"), layer.base_layer.weight, inputs(32, rows=1)
    h = layer(x).data[0]
    return computed((B.shape, A.shape, W0.shape, h.size), d=W0.shape[0], k=W0.shape[1], r=A.shape[0],
                    off=largest(h - (W0.data @ x.data[0] + B.data @ A.data @ x.data[0])))


@claim("d-alpha-eq-r", LORA, "formula", "alpha = r takes the scaling away", stated="α = r removes the scaling entirely",
       expects=1.0,
       why="The factor before B A x in what a layer adds, measured.")
def _() -> Computed:
    return under({f"r=alpha={r}": _factor(r, alpha=r) for r in (2, 8, 16)})


def _factor(r: int, alpha: float) -> float:
    """s in s B A x, by least squares from a layer's output."""
    layer, x = first_layer(toy_lora(lora(r, lora_alpha=alpha), trained=True), "v_proj"), inputs(32)
    A, B = layer.factors("default")
    added, unscaled = layer(x).data - layer.base_layer(x).data, x.data @ A.data.T @ B.data.T
    return float((added * unscaled).sum() / (unscaled**2).sum())


@claim("d-alpha-stable", LORA, "property", "a larger alpha allows larger updates without instability",
       stated="larger updates without instability", expects=1.0, unit="x",
       why="How the largest learning rate at which gradient descent on B is stable changes when alpha grows: by 1 / s^2 with "
           "s = alpha/r, as the factor is in the output and again in the gradient. The larger alpha, the smaller the steps "
           "that training can bear.",
       correct="Raising alpha by a factor lowers the largest stable learning rate of gradient descent by its square.")
def _() -> Computed:
    at_r = largest_stable_rate(alpha=2)
    return under({f"alpha = {times}r": largest_stable_rate(alpha=2 * times) / at_r for times in (2, 4)})


@claim("d-alpha-lr", LORA, "property", "alpha acts as a learning-rate multiplier of the LoRA path",
       stated="α acts as a learning-rate multiplier", expects=2.0, unit="x",
       why="How much larger the first change of a weight is with alpha doubled. A learning rate would double it with either "
           "optimizer; alpha doubles it under Adam, and squares the factor under SGD.",
       correct="alpha/r is a multiplier of the first change under Adam; under SGD its square is.")
def _() -> Computed:
    return under({name: growth_of_first_change(name) for name in ("Adam", "SGD")})


@claim("d-init", LORA + ", initialization", "property", "with A Gaussian and B zero the model starts as the pretrained one",
       stated="B: ZEROS, so BA = 0", expects=0.0,
       why="The largest difference in the logits of the bundled model of surnames, with LoRA on all linear layers. (peft draws "
           "A from a uniform distribution.) In the first step A's gradient is {A:g}, as it passes through B; B's is up to "
           "{B:.1g}.")
def _() -> Computed:
    ids, found, gradients = np.arange(3, 25).reshape(2, 11), {}, {"lora_A": 0.0, "lora_B": 0.0}
    for title, start in (("A Gaussian", "gaussian"), ("A uniform", True)):
        model = AutoModelForCausalLM.from_pretrained("tinypeft/surnames", dtype="float64")
        before = logits(model, ids)
        peft_model = get_peft_model(model, lora(8, LINEAR, init_lora_weights=start))
        found[title] = largest(logits(peft_model, ids) - before)
        peft_model(ids, labels=ids).loss.backward()
        for name, parameter in peft_model.named_parameters():
            if (kind := name.split(".")[-3]) in gradients:
                gradients[kind] = max(gradients[kind], largest(parameter.grad))
    return under(found, A=gradients["lora_A"], B=gradients["lora_B"])


editorial("d-intrinsic-hundreds", LORA + ", why low rank works", "property",
          "the intrinsic dimension of tasks is in the hundreds", Verdict.DEPENDS, stated="measured in hundreds, not billions",
          reference="Aghajanyan et al. 2020 (2012.13255), abstract and table 1",
          why="The paper's abstract has about 200 dimensions for RoBERTa on MRPC, at 90 % of the full performance. The number "
              "depends on the task, the model, and on how much performance is asked for; smaller models and larger tasks need "
              "thousands.",
          correct="The intrinsic dimension goes from hundreds to many thousands, by task and model; far below the parameter "
                  "count.")
editorial("d-regularization", LORA + ", why low rank works", "statement",
          "a low rank is implicit regularization, which prevents overfitting", Verdict.DEPENDS,
          stated="a form of implicit regularization — it prevents overfitting",
          reference="the document itself, whose Example 2 warns that r=256 may overfit; Hu et al. 2021 (2106.09685) claim no "
                    "such effect",
          why="Regularization is called implicit if nothing in the model states it. A rank of at most r is stated: a hard "
              "limit. It leaves fewer ways to overfit, and how few depends on r and on the data.",
          correct="A low rank is an explicit limit on the change; it makes overfitting harder, it does not prevent it.")
editorial("d-ranks", LORA + ", common practice", "statement", "typical ranks are 4, 8, 16, 32, 64", Verdict.DEPENDS,
          stated="r ∈ {4, 8, 16, 32, 64}",
          reference="the document itself: its Summary says r=8-64",
          why="Two ranges on one page. Both are in use; neither comes with a model or a task.",
          correct="Ranks from 4 to 64 are in common use.")
