"""Claims of "20-09 — Parameter-Efficient Fine-Tuning", the summary and the key terms, and what they repeat."""

from __future__ import annotations

import math

from tinypeft.budget import format_bytes
from tinypeft.budget.planner import card_sold
from tinypeft.claims.audit.chapter_problem_3 import TRAINING
from tinypeft.claims.audit.chapter_qlora import reduction
from tinypeft.claims.claim import Range, claim, editorial
from tinypeft.claims.experiments import GB, GB24, GB80, before_activations, full_training, qlora_70b, training
from tinypeft.claims.judge import Computed, Verdict, under

SUMMARY, TERMS = "Summary, point ", "Key Terms"


@claim("d-sum-fullprec", SUMMARY + "3", "statement", "QLoRA trains the adapters in full precision, 4 bytes a number",
       stated="full precision", expects="4 bytes",
       why="Its own table has 0.17 GB for r = 64, which is {count:,} parameters of 2 bytes, and section 3 says BF16/FP16, as "
           "does QLoRA's paper. The Key Terms repeat it. (peft does make adapters 32 bits wide unless told otherwise, but this "
           "document's figures are not of those.)",
       correct="The adapters are in 16 bits, as the document has them elsewhere, and in BF16 in the paper.")
def _() -> Computed:
    count = qlora_70b().trainable
    return under({"its 0.17 GB, for each parameter": 0.17 * GB / count}, count=count)


@claim("d-sum-consumer", SUMMARY + "3", "memory", "QLoRA fine-tunes 70B on a consumer GPU, of 24 GB", stated="24GB",
       expects=Range(high=GB24), unit="GB",
       why="The 4-bit weights alone are {base}. Split evenly over cards of 24 GB it takes at least {cards} of them.",
       correct="It takes one card of {card} or more, or {cards} of 24 GB that share the model.")
def _() -> Computed:
    budget = qlora_70b()
    return under({"r=64 on q, 2,048 tokens": budget.total}, base=format_bytes(budget.parts["base weights"]),
                 card=format_bytes(card_sold(budget.total) or 0, 0), cards=math.ceil(budget.total / GB24))


@claim("d-sum-23x", SUMMARY + "3", "memory", "QLoRA needs 23 times less memory than full fine-tuning", stated="~23x",
       why="The number of section 3 once more. With master weights on one side and all of QLoRA's parts on the other, 70B goes "
           "from {full} to {qlora} with r=64 on q.",
       correct="QLoRA needs {least:.0f} to {most:.0f} times less memory, by the modules that are adapted.")
def _() -> Computed:
    return reduction()


editorial("d-adapter-dtype", "Section 3, LoRA adapters BA", "statement", "QLoRA's adapters are stored and trained in 16 bits",
          Verdict.CONFIRMED, stated="BF16/FP16",
          reference="Dettmers et al. 2023, 2305.14314, equation 5 and the end of section 3: \"we only compute "
                    "weight gradients for the LoRA parameters which use 16-bit BrainFloat\"",
          why="That is how QLoRA's paper defines it. It is a choice: peft makes adapters 32 bits wide unless told otherwise.")


@claim("d-fp-110", TRAINING + ", compared with full fine-tuning", "memory", "full fine-tuning of 70B needs 840 GB, 11 cards of "
       "80 GB", stated="840 GB",
       why="16-bit weights are too coarse to add small updates to, so mixed precision trains a float32 copy: {each:.0f} bytes "
           "a parameter instead of {least:.0f}. That is {cards} cards, before any activations. Training without the copy is "
           "possible, and loses updates.",
       correct="Full fine-tuning in mixed precision takes {nominal} for 70 billion parameters, {real} for Llama-2-70B, and "
               "activations.")
def _() -> Computed:
    budget, bare = full_training(), full_training(master_weights=False)
    each, least = before_activations(budget) / budget.trainable, before_activations(bare) / bare.trainable
    return under({"float32 master weights": 70e9 * each, "no master weights": 70e9 * least}, each=each, least=least,
                 cards=math.ceil(70e9 * each / GB80), nominal=f"{70 * each:,.0f} GB",
                 real=f"{before_activations(budget) / GB:,.0f} GB")


@claim("d-sum-tens", SUMMARY + "1", "memory", "freezing the base brings memory from hundreds of GB down to tens",
       stated="from hundreds of GB to tens", expects=Range(10 * GB, 100 * GB), unit="GB",
       why="Full fine-tuning needs {large:,.0f} GB for 70B and {small:,.0f} GB for 13B. Freezing is enough for "
           "13B. For 70B the 16-bit base alone is more than tens; there it takes the 4 bits of QLoRA too.",
       correct="Freezing removes gradients and optimizer states; the base itself shrinks by quantization only.")
def _() -> Computed:
    unquantized = {f"{size}, LoRA over 16 bits": training(model, 16, base="16 bits").total
                   for size, model in (("13B", "llama-2-13b"), ("70B", "llama-2-70b"))}
    return under({**unquantized, "70B, QLoRA": qlora_70b().total}, large=full_training().total / GB,
                 small=full_training("llama-2-13b").total / GB)


editorial("d-term-intrinsic", TERMS + ", intrinsic dimension", "statement", "the intrinsic dimension is the number of "
          "parameters that good performance takes at least", Verdict.DEPENDS, stated="minimum number of parameters",
          reference="Li et al. 2018, 1804.08838, and Aghajanyan et al. 2020, 2012.13255: the smallest dimension of a random "
                    "subspace in which training reaches 90 % of full training's score, d90",
          why="What is good, and which parameters, is left open. The definition has a threshold, usually 90 %, and counts the "
              "dimensions of a random subspace of all weights; another threshold is another number.",
          correct="The intrinsic dimension is the smallest of a random subspace that reaches a given share, usually 90 %, of "
                  "full fine-tuning.")

editorial("d-pitfalls-empty", "Pitfalls", "statement", "there is a section of pitfalls", Verdict.MEANINGLESS, stated="empty",
          reference="the document itself: nothing stands between the headings \"Pitfalls\" and \"Key Terms\"",
          why="The heading has no text under it, though a question of the quiz asks for a pitfall.")
