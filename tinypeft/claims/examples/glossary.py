"""The QLoRA script of "PEFT (Parameter-Efficient Fine-Tuning)", a glossary: what it loads, and what it prints."""

from __future__ import annotations

import contextlib
import io

from tinypeft.budget import build, count_parameters, format_bytes, memory, parse_size
from tinypeft.budget.weights import BLOCKSIZE, bare_model
from tinypeft.claims.examples.engine import Steps, example, shaped, show
from tinypeft.claims.examples.weights import holds_for, stored_parts
from tinypeft.claims.judge import Range
from tinypeft.claims.settings import lora
from tinypeft.peft import LoraConfig, LoraLayer, PeftModel, get_peft_model
from tinypeft.quant import BitsAndBytesConfig, prepare_model_for_kbit_training, replace_with_bnb_linear
from tinypeft.quant.blockwise import NESTED_BLOCKSIZE
from tinypeft.quant.linear import Params4bit

MODEL = "meta-llama/Meta-Llama-3-8B"
BNB_CONFIG = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype="bfloat16",
                                bnb_4bit_use_double_quant=True)
PLACE = "QLoRA fine-tuning: train Llama 3 8B on a single GPU with 24GB VRAM"


@example("qlora-load", "An 8B model in four bits", "b", PLACE,
         "A script loads Llama-3 8B in 4 bits, NF4 with double quantization, and trains r=16 on q, k, v and o. How much "
         "memory does the model take, and how much in 16 bits? Does training fit in 24 GB?",
         ["b-16gb", "b-4bit-5gb", "b-8b-24gb"])
def _(steps: Steps) -> str:
    half = memory(MODEL, training=False).parts["base weights"]
    total, codes, constants, kept = stored_parts(MODEL)
    bare = bare_model(MODEL, BNB_CONFIG)
    quantized = sum(p.size for p in bare.parameters() if isinstance(p, Params4bit))
    others = sum(p.size for p in bare.parameters()) - quantized
    table = bare.get_input_embeddings().weight
    steps.add("The model in 16 bits", f"{quantized + others:,} x 2 bytes", half, stated="16GB")
    steps.add("Codes of its linear layers", f"{quantized:,} x 4 bits", codes, unit="GB")
    steps.add("Constants of their blocks", f"1 byte for {BLOCKSIZE} weights, 4 bytes for {NESTED_BLOCKSIZE} of those",
              constants, unit="GB")
    steps.add("What stays in 16 bits", f"embeddings, head and norms: {others:,} x 2 bytes", kept, unit="GB")
    steps.add("The model in 4 bits", "the sum of these", total, stated="~5GB",
              why=f"The vocabulary is large: embeddings and head, {shaped(each=table)}, stay in 16 bits and take "
                  f"{kept / total:.0%} of it all.")
    prepared = memory(MODEL, lora(16), quantization=BNB_CONFIG, prepared=True)
    narrow = memory(MODEL, lora(16), quantization=BNB_CONFIG, prepared=True, adapter_dtype="bfloat16")
    steps.add("After prepare_model_for_kbit_training", "what was in 16 bits, in 32", prepared.parts["base weights"], unit="GB",
              note="The script's next line: peft casts all weights that are not quantized to float32.")
    steps.add("Training", f"one row of {prepared.conditions['tokens']:,} tokens, checkpointing, AdamW", prepared.total,
              stated="on a GPU with 24GB", expects=Range(high=parse_size("24GB")), unit="GB",
              note=f"{holds_for(prepared)} The script leaves the adapter in float32; in bfloat16, as in QLoRA's paper, it is "
                   f"{format_bytes(narrow.total)}.")
    return (f"Llama-3 8B takes {show(total, 'GB')} in 4 bits and {show(half, 'GB')} in 16; "
            f"{show(prepared.parts['base weights'], 'GB')} once it is prepared. Training takes {show(prepared.total, 'GB')} "
            "and fits in 24 GB.")


def script() -> PeftModel:
    """The document's script, on a model without values."""
    model = replace_with_bnb_linear(build(MODEL), BNB_CONFIG)
    model = prepare_model_for_kbit_training(model)
    lora_config = LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "v_proj", "k_proj", "o_proj"], lora_dropout=0.05,
                             bias="none", task_type="CAUSAL_LM")
    return get_peft_model(model, lora_config)


@example("printed-parameters", "What print_trainable_parameters prints", "b", PLACE,
         "The script puts LoRA with r=16 on q, k, v and o of Llama-3 8B. How many parameters does it train, of how many, and "
         "which share is that?",
         ["b-print-trainable", "b-print-all", "b-print-pct"])
def _(steps: Steps) -> str:
    model = script()
    layers = {path: module for path, module in model.named_modules() if isinstance(module, LoraLayer)}
    first = {path.rpartition(".")[2]: layer for path, layer in layers.items() if ".layers.0." in path}
    for name, text in (("q_proj", "Queries of a layer; outputs the same"), ("k_proj", "Keys of a layer; values the same")):
        A, B = first[name].factors("default")
        steps.add(text, f"{shaped(A=A, B=B)}: {A.size:,} + {B.size:,}", A.size + B.size,
                  note="" if name == "q_proj" else f"{model.config.num_attention_heads} query heads share "
                                                   f"{model.config.num_key_value_heads} heads of keys and values.")
    rank = first["q_proj"].factors("default")[0].shape[0]
    in_layer = sum(p.size for layer in first.values() for p in layer.factors("default"))
    depth = len(layers) // len(first)
    trainable, total = model.get_nb_trainable_parameters()
    r8, qv = count_parameters(MODEL, lora(8)).trainable, count_parameters(MODEL, lora(16, ["q_proj", "v_proj"])).trainable
    steps.add("A layer", "q, k, v and o together", in_layer)
    steps.add("trainable params", f"{in_layer:,} x {depth} layers", trainable, stated="6,815,744",
              why=f"{r8:,} is the count of r=8, and that of r=16 on q and v alone ({qv:,}).")
    base, stated, stated_all = total - trainable, 6_815_744, 8_037_224_448
    steps.add("all params", f"{base:,} of the base + {trainable:,}", total, stated="8,037,224,448", follows=base + stated,
              why=f"Less the printed adapter it leaves {stated_all - stated:,}, {stated_all - stated - base:,} more than the "
                  f"base has. No rank gives this total: each takes {trainable // rank:,}.")
    steps.add("trainable%", f"100 x {trainable:,} / {total:,}", 100 * trainable / total, stated="0.0848",
              follows=100 * stated / stated_all)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        model.print_trainable_parameters()
    return f"The script prints: {printed.getvalue().strip()}"
