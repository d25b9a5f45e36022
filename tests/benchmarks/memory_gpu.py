"""Peaks of real training steps on a GPU, transformers with peft and bitsandbytes, beside what `memory(engine="torch")` says.

    python tests/benchmarks/memory_gpu.py [results.json]        needs torch with CUDA, transformers, peft and bitsandbytes

Weights are random, of the shapes of well-known models. The peak is torch.cuda.max_memory_allocated() over the second step;
each step is zero_grad, forward, backward, AdamW (fused), and only the loss outlives the forward pass.
"""

from __future__ import annotations

import gc
import json
import sys
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from tinypeft.budget import memory
from tinypeft.budget.catalog import build
from tinypeft.peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig
from tinypeft.quant import BitsAndBytesConfig

NF4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                         bnb_4bit_compute_dtype="bfloat16")
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Case:
    model: str
    method: str  # "full", "lora", "ia3", "prompt", "prefix"
    batch: int = 1
    tokens: int = 2048
    quantized: bool = False
    prepared: bool = False
    dtype: str = "bfloat16"
    adapter_dtype: str = "float32"
    checkpointing: bool = True
    attention: str = "sdpa"
    training: bool = True


CASES = [
    Case("gpt2", "full", 8, 1024, dtype="float32"), Case("gpt2", "full", 8, 1024, dtype="float32", checkpointing=False),
    Case("gpt2", "lora", 8, 1024, checkpointing=False), Case("gpt2", "lora", 8, 1024, checkpointing=False, attention="eager"),
    Case("smollm2-135m", "full", 4, dtype="float32"), Case("smollm2-135m", "full", 4, dtype="float32", checkpointing=False),
    Case("smollm2-135m", "lora", 4, checkpointing=False), Case("smollm2-135m", "ia3", 4, checkpointing=False),
    Case("smollm2-135m", "prompt", 4, checkpointing=False), Case("smollm2-135m", "prefix", 4, checkpointing=False),
    Case("llama-2-7b", "lora"), Case("llama-2-7b", "lora", adapter_dtype="bfloat16"),
    Case("llama-2-7b", "lora", checkpointing=False), Case("llama-2-7b", "prefix", checkpointing=False),
    Case("llama-2-7b", "lora", attention="eager"), Case("llama-2-7b", "lora", quantized=True),
    Case("llama-2-7b", "lora", quantized=True, prepared=True), Case("llama-2-7b", "lora", 4, quantized=True),
    Case("llama-3-8b", "lora", quantized=True), Case("llama-3-8b", "lora", quantized=True, prepared=True),
    Case("llama-3-8b", "lora", quantized=True, checkpointing=False),
]


def our_method(name: str) -> Any:
    return {"full": None, "lora": LoraConfig(r=16, target_modules="all-linear"), "ia3": IA3Config(),
            "prompt": PromptTuningConfig(num_virtual_tokens=20), "prefix": PrefixTuningConfig(num_virtual_tokens=20)}[name]


def predicted(case: Case) -> Any:
    return memory(case.model, our_method(case.method), batch=case.batch, tokens=case.tokens, dtype=case.dtype,
                  adapter_dtype=case.adapter_dtype, quantization=NF4 if case.quantized else None, prepared=case.prepared,
                  checkpointing=case.checkpointing, attention=case.attention)


def their_model(case: Case) -> Any:
    """The model with its adapter, on the GPU."""
    config = build(case.model).config.to_dict()
    kind = {"gpt2": transformers.GPT2Config, "llama": transformers.LlamaConfig}[config.pop("model_type")]
    with torch.device("cuda"):
        model = transformers.AutoModelForCausalLM.from_config(kind(**config), attn_implementation=case.attention,
                                                              dtype=DTYPES[case.dtype])
    model.config.use_cache = False
    if case.quantized:
        quantize(model)
    if case.method != "full":
        model = adapt(model, case)
    model.train()
    if case.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def quantize(model: Any) -> None:
    """As from_pretrained with a quantization_config does, weight by weight."""
    import bitsandbytes as bnb

    for path, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and path != "lm_head":
            new = bnb.nn.Linear4bit(module.in_features, module.out_features, bias=False, compute_dtype=torch.bfloat16,
                                    quant_type="nf4", device="meta")
            codes = bnb.nn.Params4bit(module.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True)
            new.weight = codes._quantize(torch.device("cuda"))
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, new)
    model.is_loaded_in_4bit = True
    gc.collect()
    torch.cuda.empty_cache()


def adapt(model: Any, case: Case) -> Any:
    import peft

    if case.prepared:
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    options: dict[str, Any] = {"task_type": "CAUSAL_LM"}
    config = {"lora": lambda: peft.LoraConfig(r=16, target_modules="all-linear", **options),
              "ia3": lambda: peft.IA3Config(**options),
              "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=20, **options),
              "prefix": lambda: peft.PrefixTuningConfig(num_virtual_tokens=20, **options)}[case.method]()
    return peft.get_peft_model(model, config, autocast_adapter_dtype=case.adapter_dtype == "float32")


def measured(case: Case) -> tuple[int, int]:
    """Bytes of the model, and at the peak of the second step."""
    gc.collect()
    torch.cuda.empty_cache()
    model = their_model(case)
    before = torch.cuda.memory_allocated()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    ids = torch.randint(0, 1000, (case.batch, case.tokens), device="cuda")
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        del loss
        optimizer.step()
    return before, torch.cuda.max_memory_allocated()


def main() -> None:
    rows = []
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "transformers", transformers.__version__)
    for case in CASES:
        try:
            model, peak = measured(case)
        except Exception as error:
            print(case, f"{type(error).__name__}: {error}"[:300], flush=True)
            continue
        said = predicted(case)
        weights = said.parts["base weights"] + said.parts["adapter weights"]
        rows.append({"case": vars(case), "model": model, "peak": peak, "weights": weights, "predicted": said.to_dict()})
        print(f"{case}\n    weights {weights / 1e9:.3f} of {model / 1e9:.3f} GB; peak {said.total / 1e9:.3f} of "
              f"{peak / 1e9:.3f} GB, ratio {said.total / peak:.3f}, at {said.peak}", flush=True)
    if len(sys.argv) > 1:
        with open(sys.argv[1], "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
