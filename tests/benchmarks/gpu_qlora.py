"""Seconds and memory of a QLoRA step of a model of Llama-2-7B's shape, on a GPU.

    python tests/benchmarks/gpu_qlora.py [--tokens 512] [--steps 3]

Random weights, NF4 with double quantization, LoRA r=16 on all linear layers, gradient checkpointing, float32 arithmetic. CuPy
comes with `pip install -e '.[gpu]'`. No peer: what is printed depends on the card.
"""

from __future__ import annotations

import argparse
import time

import cupy
import numpy as np

from tinypeft import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    LlamaConfig,
    LoraConfig,
    get_peft_model,
    prepare_model_for_kbit_training,
)
from tinypeft.quant import replace_with_bnb_linear


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--steps", type=int, default=3)
    arguments = parser.parse_args()
    model = AutoModelForCausalLM.from_config(LlamaConfig(), device="meta")
    replace_with_bnb_linear(model, BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
                                                      bnb_4bit_use_double_quant=True))
    for parameter in model.parameters():
        if parameter.quantized:
            parameter.quantize(cupy.random.standard_normal(parameter.values_shape, dtype=np.float32) * np.float32(0.02))
        elif parameter.init == "ones":
            parameter.data = cupy.ones(parameter.shape, np.float32)
        else:
            parameter.data = cupy.random.standard_normal(parameter.shape, dtype=np.float32) * np.float32(0.02)
    memory = cupy.get_default_memory_pool()
    memory.free_all_blocks()
    print(f"base: {memory.used_bytes() / 1e9:.2f} GB")
    peft_model = get_peft_model(prepare_model_for_kbit_training(model), LoraConfig(r=16, target_modules="all-linear"))
    peft_model.print_trainable_parameters()
    peft_model.train(seed=0)
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (1, arguments.tokens))
    for _ in range(arguments.steps):
        start = time.perf_counter()
        loss = peft_model(ids, labels=ids).loss
        loss.backward()
        cupy.cuda.Device().synchronize()
        print(f"step of {arguments.tokens} tokens: {time.perf_counter() - start:.2f} s, loss {loss.item():.3f}, "
              f"{memory.total_bytes() / 1e9:.2f} GB taken in all")
        peft_model.zero_grad()


if __name__ == "__main__":
    main()
