"""Claims of "20-09 — Parameter-Efficient Fine-Tuning": its learning objectives, and section 1, why PEFT."""

from __future__ import annotations

import math

from tinypeft.budget import base_parameters, format_bytes
from tinypeft.claims.claim import Range, claim, editorial
from tinypeft.claims.experiments import GB80, STORED, base_bytes, full_training, lora_counts, of_seventy_billion, qlora_70b
from tinypeft.claims.judge import Computed, Verdict, computed, under

OBJECTIVES, WHY = "Learning objectives", "1. Why PEFT"
BYTES_EACH = "{each:g} bytes a parameter, for 70 billion. Llama-2-70B has {parameters:,}, and needs {real}."


# ---- learning objectives --------------------------------------------------------------------------------------------

editorial("d-lo1", OBJECTIVES + ", 1", "statement", "a reader will derive LoRA's update and prove that B = 0 changes nothing",
          Verdict.DEPENDS, stated="Derive W = W₀ + (α/r)·BA and prove it preserves the original model",
          reference="the document itself: its Problem 2 has the proof; section 2 writes alpha/r down without deriving it",
          why="One half is served. Why the update is divided by r, and what alpha does to a step of training, is nowhere "
              "derived.",
          correct="The proof is given; the factor alpha/r is defined, not derived.")
editorial("d-lo2", OBJECTIVES + ", 2", "statement", "a reader will analyse why the intrinsic dimension is small",
          Verdict.NOT_REPRODUCIBLE, stated="Analyze why the intrinsic dimension of fine-tuning is much smaller",
          reference="the document itself: two sentences in section 2 assert it; no derivation, data or exercise; the "
                    "prerequisite on singular values is never used",
          why="Nothing on the page can be analysed. It takes an experiment: training in random subspaces of growing dimension, "
              "or the singular values of a trained change.",
          correct="The document states that it is small, and does not show why.")


@claim("d-lo3", OBJECTIVES + ", 3", "statement", "a reader will be able to compute the memory that QLoRA saves",
       stated="Compute memory savings of QLoRA", expects=1.0, unit="x",
       why="What training a 70B model needs, divided by the document's figure. Gradients and Adam's states of full fine-tuning "
           "come out right; its totals leave out master weights, the constants of 4-bit blocks, the adapter's gradients and "
           "activations, and end in the wrong conclusion that 24 GB are enough.",
       correct="A reader can compute some of the savings; the totals need the parts that are left out.")
def _() -> Computed:
    figures = {"gradients, 140 GB": (of_seventy_billion("gradients"), 140e9),
               "optimizer states, 560 GB": (of_seventy_billion("optimizer states"), 560e9),
               "full fine-tuning, 840 GB": (of_seventy_billion(*STORED), 840e9),
               "4-bit base, 35 GB": (base_bytes("llama-2-70b"), 35e9),
               "QLoRA in all, 36 GB": (qlora_70b().total, 36e9)}
    return under({name: ours / theirs for name, (ours, theirs) in figures.items()})


editorial("d-lo4", OBJECTIVES + ", 4", "statement", "a reader will compare five methods by parameters, memory and overhead",
          Verdict.DEPENDS, stated="Compare the five major PEFT methods",
          reference="the document itself: the table of section 6, whose memory column has words only, and whose overhead "
                    "column the sentence below it contradicts",
          why="Parameters can be compared, apart from the grouped queries that the formulas ignore. The memory column is "
              "without numbers and in a wrong order, and prefix and prompt tuning are said to have no overhead, then to have "
              "some.",
          correct="Trainable parameters can be compared; memory and overhead have to be computed first.")
editorial("d-lo5", OBJECTIVES + ", 5", "statement",
          "a reader will design a configuration from model size, budget and task switching",
          Verdict.NOT_REPRODUCIBLE, stated="Design a PEFT configuration",
          reference="the document itself: Example 2 is its only budget and is wrong; no step leads from a budget to a rank",
          why="The inverse problem, the largest rank, model or number of tokens that fits, is neither posed nor solved.",
          correct="The document gives no procedure; `tinypeft plan` is one.")


# ---- section 1 ------------------------------------------------------------------------------------------------------

@claim("d-full-params", WHY + ", parameters", "memory", "70 billion 16-bit parameters take 140 GB",
       stated="140 GB", why=BYTES_EACH)
def _() -> Computed:
    return of_full_training("base weights")


@claim("d-full-grads", WHY + ", gradients", "memory", "their gradients take 140 GB", stated="140 GB", why=BYTES_EACH)
def _() -> Computed:
    return of_full_training("gradients")


@claim("d-full-mv", WHY + ", optimizer", "memory", "Adam's two means in float32 take 280 GB each",
       stated="280 GB + 280 GB", expects="560 GB", why=BYTES_EACH)
def _() -> Computed:
    return of_full_training("optimizer states")


def of_full_training(part: str) -> Computed:
    """A part of what full training of 70 billion parameters needs."""
    found = of_seventy_billion(part)
    return computed(found, each=found / 70e9, parameters=base_parameters("llama-2-70b"),
                    real=format_bytes(full_training().parts[part]))


@claim("d-full-total", WHY + ", total", "memory", "full fine-tuning of a 70B model needs 840 GB in all", stated="840 GB",
       why="The four rows are {listed:g} bytes a parameter: enough for training the 16-bit weights themselves, whose small "
           "updates are then rounded away. Mixed precision also keeps a float32 copy of the weights, which the updates are "
           "added to (Micikevicius et al. 2018, 1710.03740): {stored:g} bytes. Activations come on top.",
       correct="Full fine-tuning needs {all} in mixed precision, {sum} without master weights, and activations.")
def _() -> Computed:
    listed, stored = of_seventy_billion("base weights", "gradients", "optimizer states"), of_seventy_billion(*STORED)
    return under({"float32 master weights": stored, "no master weights": listed}, listed=listed / 70e9,
                 sum=f"{listed / 1e9:,.0f} GB", stored=stored / 70e9,
                 all=f"{stored / 1e9:,.0f} GB")


@claim("d-11-a100", WHY, "memory", "11 A100s of 80 GB are enough for full fine-tuning of a 70B model", stated="11+",
       expects=Range(high=11),
       why="How many it takes. 11 is 840 GB / 80 GB, rounded up ({gib} if the 80 are GiB). With activations Llama-2-70B needs "
           "{bare} without master weights and {total} with them, if nothing is stored twice.",
       correct="It takes {cards} A100s of 80 GB in mixed precision, in practice two machines of eight; {few} if the 16-bit "
               "weights themselves are trained.")
def _() -> Computed:
    total, bare = full_training().total, full_training(master_weights=False).total
    cards, few = (math.ceil(size / GB80) for size in (total, bare))
    return under({"float32 master weights": cards, "no master weights": few}, cards=cards, few=few,
                 gib=math.ceil(840e9 / (80 * 2**30)), total=format_bytes(total), bare=format_bytes(bare))


@claim("d-billions-millions", WHY, "parameter-count", "PEFT reduces trainable parameters from billions to millions",
       stated="from billions to millions", expects=Range(1e6, 1e9),
       why="LoRA on q, k, v and o. All parameters would be {small:,} and {large:,}.")
def _() -> Computed:
    return under({"Llama-2-7B, r=8": lora_counts("llama-2-7b", 8).trainable,
                  "Llama-2-70B, r=16": lora_counts("llama-2-70b", 16).trainable},
                 small=base_parameters("llama-2-7b"), large=base_parameters("llama-2-70b"))


editorial("d-ft-rare", WHY, "statement", "full fine-tuning is now rare", Verdict.NOT_REPRODUCIBLE,
          stated="Full fine-tuning is now rare", reference="the document gives no data and no source",
          why="How often which method is used cannot be computed, and the document does not say who counted.",
          correct="PEFT is common where memory is short; for how rare full fine-tuning is, the document has no source.")
