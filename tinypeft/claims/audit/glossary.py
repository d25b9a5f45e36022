"""Claims of the glossary entry "PEFT (Parameter-Efficient Fine-Tuning)"."""

from __future__ import annotations

from tinypeft.budget import count_parameters
from tinypeft.claims.claim import claim
from tinypeft.claims.judge import Computed, computed
from tinypeft.claims.settings import lora

PRINTED = "QLoRA script, printed line"


@claim("b-print-trainable", PRINTED, "code-output", "r=16 on q, k, v and o of Llama-3-8B trains 6,815,744 parameters",
       stated="6,815,744",
       why="{r8:,} is the count of r=8, and that of r=16 on q and v alone ({qv:,}); k and v are narrow in this model, since "
           "groups of four query heads share them.",
       correct="trainable params: {r16:,}")
def _() -> Computed:
    r16 = count_parameters("llama-3-8b", lora(16)).trainable
    return computed(r16, r16=r16, r8=count_parameters("llama-3-8b", lora(8)).trainable,
                    qv=count_parameters("llama-3-8b", lora(16, ["q_proj", "v_proj"])).trainable)
