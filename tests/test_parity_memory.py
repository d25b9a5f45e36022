"""What `activations` says, against the tensors that PyTorch saves (extra `parity`): transformers and peft on tiny models.

Each storage counts once, parameters do not. What one more block keeps must agree to the byte, but for two things: a CPU's layer
norm has its row statistics in the input's dtype, a GPU's in float32; and peft's IA3 keeps its vectors of ones as well.
"""

from __future__ import annotations

from typing import Any

import pytest
from parity_tools import peft, torch, transformers

from tinypeft.budget import activations
from tinypeft.nn import CausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from tinypeft.peft import IA3Config, LNTuningConfig, LoraConfig, PromptTuningConfig, VeraConfig

pytestmark = pytest.mark.parity
BATCH, TOKENS = 2, 48
LLAMA: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 176, "num_attention_heads": 8, "vocab_size": 96,
                         "max_position_embeddings": 128, "bos_token_id": None, "eos_token_id": None}
GPT2: dict[str, Any] = {"n_embd": 64, "n_head": 8, "vocab_size": 96, "n_positions": 128, "attn_pdrop": 0.0, "resid_pdrop": 0.0,
                        "embd_pdrop": 0.0, "bos_token_id": None, "eos_token_id": None}
METHODS: dict[str, tuple[Any, Any]] = {
    "full": (None, None),
    "lora": (LoraConfig(r=4, target_modules="all-linear"), lambda: peft.LoraConfig(r=4, target_modules="all-linear")),
    "default lora": (LoraConfig(r=4), lambda: peft.LoraConfig(r=4)),
    "ia3": (IA3Config(), lambda: peft.IA3Config(task_type="CAUSAL_LM")),
    "norms": (LNTuningConfig(), lambda: peft.LNTuningConfig(task_type="CAUSAL_LM")),
    "vera": (VeraConfig(r=8), lambda: peft.VeraConfig(r=8)),
    "prompt": (PromptTuningConfig(num_virtual_tokens=5),
               lambda: peft.PromptTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM")),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def both(family: str, layers: int, kv_heads: int, method: str, dtype: str, attention: str) -> tuple[Any, CausalLM]:
    if family == "llama":
        shape = {**LLAMA, "num_hidden_layers": layers, "num_key_value_heads": kv_heads}
        theirs, ours = transformers.LlamaConfig(**shape), LlamaForCausalLM(LlamaConfig(**shape))
    else:
        shape = {**GPT2, "n_layer": layers}
        theirs, ours = transformers.GPT2Config(**shape), GPT2LMHeadModel(GPT2Config(**shape))
    model = transformers.AutoModelForCausalLM.from_config(theirs, attn_implementation=attention, dtype=DTYPES[dtype])
    model.config.use_cache = False
    return (model if METHODS[method][1] is None else peft.get_peft_model(model, METHODS[method][1]())), ours


def saved(model: Any, checkpointing: bool) -> int:
    """Bytes of all storages that a forward pass with a loss saves."""
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Any] = {}

    def pack(x: Any) -> Any:
        if x.untyped_storage().data_ptr() not in parameters:
            kept[x.untyped_storage().data_ptr()] = x  # held, so that no address comes twice
        return x

    ids = torch.zeros((BATCH, TOKENS), dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = model(input_ids=ids, labels=ids).loss
    assert loss.requires_grad
    return sum(x.untyped_storage().nbytes() for x in kept.values())


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("family", "kv_heads"), [("gpt2", 8), ("llama", 8), ("llama", 2)])
@pytest.mark.parametrize("method", METHODS)
def test_saved_tensors(method, family, kv_heads, dtype, attention, checkpointing):
    if checkpointing and method not in ("full", "lora", "prompt"):
        pytest.skip("what enters a block is the same for the other methods")
    if (kv_heads, dtype, attention) == (2, "float32", "sdpa"):
        pytest.skip("grouped heads in float32 have a fused kernel on a CPU, and none on a GPU, which is what memory() is about")
    theirs = []
    for layers in (2, 3):
        model, ours = both(family, layers, kv_heads, method, dtype, attention)
        theirs.append(saved(model, checkpointing))
    said = activations(ours, METHODS[method][0], batch=BATCH, tokens=TOKENS, dtype=dtype, attention=attention,
                       checkpointing=checkpointing)
    exact = checkpointing or not (method == "ia3" or (family == "gpt2" and dtype == "bfloat16"))
    assert said.block == pytest.approx(theirs[1] - theirs[0], rel=0 if exact else 0.005, abs=0)
    if not (checkpointing and attention == "eager" and family == "gpt2"):  # which keeps a mask of so tiny a model, too
        assert said.total == pytest.approx(theirs[1], rel=0.02)
