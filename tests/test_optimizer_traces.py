"""Five steps of real training, engine, LoRA and optimizer together, against what torch and peft recorded."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import GOLDEN, assert_close

from tinypeft import AutoModelForCausalLM, LoraConfig, get_peft_model
from tinypeft.training import SGD, AdamW, clip_grad_norm_

TRACES = {
    "adamw": (lambda p: AdamW(p, lr=1e-2, weight_decay=0.01), None),
    "sgdm": (lambda p: SGD(p, lr=0.1, momentum=0.9), None),
    "adamw_clip0.1": (lambda p: AdamW(p, lr=1e-2, weight_decay=0.01), 0.1),
}


@pytest.mark.parametrize(("dtype", "tag", "tol"), [("float64", "f64", 1e-10), ("float32", "f32", 1e-4)])
@pytest.mark.parametrize("name", TRACES)
def test_training_goes_where_torch_went(name, dtype, tag, tol):
    make_optimizer, max_norm = TRACES[name]
    recorded = np.load(GOLDEN / "optimizer_traces.npz")
    trace = {key.removeprefix(f"{name}_{tag}/"): recorded[key] for key in recorded if key.startswith(f"{name}_{tag}/")}
    ids, labels = recorded["input_ids"], recorded["labels"]
    base = AutoModelForCausalLM.from_pretrained(GOLDEN / "gpt2_base", dtype=dtype)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8))
    trained = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert {f"init/{key}" for key in trained} == {key for key in trace if key.startswith("init/")}
    for key, parameter in trained.items():
        parameter.data = trace[f"init/{key}"].astype(dtype)
    optimizer = make_optimizer(list(trained.values()))
    for step in range(5):
        optimizer.zero_grad()
        loss = model(ids, labels=labels).loss
        loss.backward()
        assert_close(loss, trace["losses"][step], tol, f"loss at step {step}")
        if max_norm is not None:
            assert_close(clip_grad_norm_(trained.values(), max_norm), trace[f"gradnorm{step}"], tol, "norm")
        if step == 0:
            for key, parameter in trained.items():
                assert_close(parameter.grad, trace[f"grad0/{key}"], min(tol, 1e-2 * np.abs(trace[f"grad0/{key}"]).max()), key)
        optimizer.step()
    assert_close(model(ids, labels=labels).loss, trace["final_loss"], tol, "final loss")
    for key, parameter in trained.items():
        assert_close(parameter, trace[f"final/{key}"], tol, key)
