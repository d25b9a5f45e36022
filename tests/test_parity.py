"""Live against transformers and peft (extra `parity`): the same files in, the same numbers out, in both directions."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from conftest import assert_close
from parity_tools import GPT2, LLAMA, LLAMA3_ROPE, batch, both, logits, make, peft, randomise, torch, transformers

from tinypeft import AutoModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from tinypeft.files import read_safetensors
from tinypeft.models.bundled import BUNDLED

pytestmark = pytest.mark.parity

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2, one wide layer, gelu": (
        "gpt2", {"n_layer": 1, "n_embd": 32, "n_head": 8, "n_inner": 20, "activation_function": "gelu"}),
    "gpt2, three layers, relu, untied": (
        "gpt2", {"n_layer": 3, "activation_function": "relu", "tie_word_embeddings": False}),
    "gpt2, tanh form, large eps": ("gpt2", {"activation_function": "gelu_pytorch_tanh", "layer_norm_epsilon": 0.1}),
    "llama, groups of three": ("llama", {}),
    "llama, multi-query, tied": ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "llama, multi-head, wide heads": ("llama", {"num_key_value_heads": 6, "head_dim": 10}),
    "llama, narrow heads, biases": ("llama", {"head_dim": 2, "attention_bias": True, "mlp_bias": True}),
    "llama, biases in attention only, gelu": (
        "llama", {"attention_bias": True, "hidden_act": "gelu", "num_hidden_layers": 3}),
    "llama, llama3 rope": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "llama, linear rope": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}}),
}


# --- models ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("case", CASES)
def test_logits_loss_and_gradients_are_those_of_transformers(case, seed, tmp_path):
    theirs, ours = both(*CASES[case], tmp_path, seed)
    ids, labels, mask = batch(seed)
    for options in ({}, {"attention_mask": mask},
                    {"attention_mask": mask, "position_ids": np.maximum(mask.cumsum(axis=1) - 1, 0)}):
        assert_close(logits(ours, ids, **options), logits(theirs, ids, **options), 1e-5, f"logits with {list(options)}")

    expected, received = theirs(torch.from_numpy(ids), labels=torch.from_numpy(labels)), ours(ids, labels=labels)
    assert_close(received.loss, expected.loss.item(), 1e-5, "loss")
    expected.loss.backward()
    received.loss.backward()
    grads = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    assert [name for name, _ in ours.named_parameters()] == list(grads)
    for name, parameter in ours.named_parameters():
        assert_close(parameter.grad, grads[name], 1e-4, name)


@pytest.mark.parametrize("case", ["gpt2", "llama, groups of three", "llama, multi-query, tied"])
def test_a_sharded_bf16_folder_loads_as_in_transformers(case, tmp_path):
    theirs = make(*CASES[case]).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) >= 3
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ours = AutoModelForCausalLM.from_pretrained(tmp_path)
    expected = {name: p.detach().numpy() for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert parameter.dtype == np.float32
        assert np.array_equal(parameter.data, expected[name])
    ids, _, _ = batch()
    assert_close(logits(ours, ids), logits(theirs, ids), 1e-5)


@pytest.mark.parametrize("case", CASES)
def test_transformers_loads_what_we_save(case, tmp_path):
    theirs, ours = both(*CASES[case], tmp_path)
    ours.save_pretrained(tmp_path / "ours")
    again, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    assert type(again) is type(theirs)
    assert again.dtype == torch.float32
    for (name, expected), (other, received) in zip(theirs.named_parameters(), again.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(expected, received)
    ids, _, _ = batch()
    assert np.array_equal(logits(again.eval(), ids), logits(transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "base").eval(), ids))
    kept = json.loads((tmp_path / "base/config.json").read_text())
    stored = json.loads((tmp_path / "ours/config.json").read_text())
    assert {key: stored.get(key) for key in kept} == kept


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_transformers_loads_a_model_that_began_here(family, tmp_path):
    config = {"model_type": family, **{"gpt2": GPT2, "llama": LLAMA}[family]}
    ours = AutoModelForCausalLM.from_config(config, seed=3).eval()
    ours.save_pretrained(tmp_path)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    ids, _, _ = batch()
    assert_close(logits(ours, ids), logits(theirs.eval(), ids), 1e-5)


def test_a_stored_dtype_of_older_configs_does_not_outlive_widening(tmp_path):
    """A BF16 folder with the older key `torch_dtype`, widened and saved here, is float32 for transformers too."""
    make("llama").to(torch.bfloat16).save_pretrained(tmp_path / "base")
    path = tmp_path / "base/config.json"
    values = json.loads(path.read_text())
    values["torch_dtype"] = values.pop("dtype")
    path.write_text(json.dumps(values))
    AutoModelForCausalLM.from_pretrained(tmp_path / "base").save_pretrained(tmp_path / "ours")
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").dtype == torch.float32


def test_the_bundled_model_is_a_llama_for_transformers():
    ours = AutoModelForCausalLM.from_pretrained("tinypeft/surnames")
    folder = BUNDLED["tinypeft/surnames"]
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert isinstance(theirs, transformers.LlamaForCausalLM)
    assert not any(report.values()), report
    assert [(name, tuple(p.shape)) for name, p in theirs.named_parameters()] == [
        (name, p.shape) for name, p in ours.named_parameters()]
    assert sum(p.numel() for p in theirs.parameters()) <= 490_000
    ids, labels, mask = batch(vocabulary=ours.config.vocab_size)
    ids, labels, mask = ids[:, :16], labels[:, :16], mask[:, :16]
    assert_close(logits(ours, ids), logits(theirs.eval(), ids), 1e-5)
    received, expected = (logits(model, ids, attention_mask=mask) for model in (ours, theirs))
    assert_close(received[mask == 1], expected[mask == 1], 1e-5)  # padding itself: their attentions differ on what it sees
    expected = theirs(torch.from_numpy(ids), labels=torch.from_numpy(labels)).loss.item()
    assert_close(ours(ids, labels=labels).loss, expected, 1e-5)


@pytest.mark.parametrize("case", ["gpt2", "llama, groups of three", "llama, llama3 rope", "llama, multi-query, tied"])
def test_greedy_batches_with_left_padding_go_on_as_in_transformers(case, tmp_path):
    theirs, ours = both(*CASES[case], tmp_path)
    ids, _, mask = batch()
    ids, mask = ids[:, :8].copy(), mask[:, :8]
    ids[mask == 0] = 0
    free = ours.generate(ids, attention_mask=mask, max_new_tokens=12)
    eos = int(free[0, 10])
    for options in ({}, {"eos_token_id": eos, "pad_token_id": 0}, {"eos_token_id": [36, eos], "pad_token_id": 0}):
        expected = theirs.generate(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), max_new_tokens=12,
                                   do_sample=False, **options).numpy()
        assert np.array_equal(ours.generate(ids, attention_mask=mask, max_new_tokens=12, **options), expected)


@pytest.mark.parametrize("options", [{"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.6}, {"top_k": 9, "top_p": 0.8},
                                     {"temperature": 2.0, "top_k": 20, "top_p": 0.7}], ids=str)
def test_sampling_keeps_the_tokens_that_transformers_keeps(options, tmp_path):
    """The random numbers differ, so the distributions are compared: ours by drawing 5,000 times."""
    theirs, ours = both("gpt2", None, tmp_path)
    ids, n = batch()[0][:1], 5000
    scores = theirs.generate(torch.from_numpy(ids), max_new_tokens=1, do_sample=True, return_dict_in_generate=True,
                             output_scores=True, **{"top_k": 0, **options}).scores[0][0].softmax(-1).double().numpy()
    share = np.bincount(ours.generate(np.repeat(ids, n, axis=0), max_new_tokens=1, do_sample=True, **options)[:, -1],
                        minlength=37) / n
    assert (share[scores == 0] == 0).all()
    assert (np.abs(share - scores) <= 5 * np.sqrt(scores / n) + 1e-6).all()


# --- adapters --------------------------------------------------------------------------------------------------------

LORA: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {"r": 4, "lora_alpha": 12}),  # the default targets
    "gpt2, all layers, rank stabilised": (
        "gpt2", {"r": 4, "lora_alpha": 3, "use_rslora": True, "target_modules": "all-linear"}),
    "gpt2, patterns": (
        "gpt2", {"r": 4, "lora_alpha": 8, "target_modules": ["c_attn", "mlp.c_proj"], "rank_pattern": {"c_proj": 2},
                 "alpha_pattern": {"h.1.attn.c_attn": 20}}),
    "gpt2, one layer": (
        "gpt2", {"r": 2, "target_modules": ["c_fc"], "layers_to_transform": [1], "layers_pattern": "h"}),
    "llama": ("llama", {"r": 4, "lora_alpha": 12}),
    "llama, all-linear": ("llama", {"r": 3, "target_modules": "all-linear", "lora_dropout": 0.3}),
    "llama, rank stabilised, by expression": (
        "llama", {"r": 6, "use_rslora": True, "target_modules": r".*\.(q|o)_proj"}),
    "llama, patterns": (
        "llama", {"r": 4, "target_modules": ["q_proj", "down_proj", "k_proj"], "exclude_modules": ["k_proj"],
                  "rank_pattern": {r"layers\.1\..*q_proj": 8, "down_proj": 2}, "alpha_pattern": {"down_proj": 5}}),
    "llama, the head too": ("llama", {"r": 2, "target_modules": ["v_proj", "lm_head"]}),
}


def their_config(options: dict[str, Any]) -> Any:
    return peft.LoraConfig(task_type="CAUSAL_LM", **options)


@pytest.mark.parametrize("case", LORA)
def test_an_adapter_of_peft_gives_here_what_it_gives_there(case, tmp_path, capsys):
    family, options = LORA[case]
    theirs, ours = both(family, None, tmp_path)
    theirs = peft.get_peft_model(theirs, their_config(options))
    randomise(theirs)
    theirs.eval().save_pretrained(tmp_path / "adapter")
    ids, labels, mask = batch()
    frozen = PeftModel.from_pretrained(ours, tmp_path / "adapter")
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert_close(logits(frozen, ids), logits(theirs, ids), 1e-5, "as loaded: in eval mode, like its base")
    ours = PeftModel.from_pretrained(frozen.unload(), tmp_path / "adapter", is_trainable=True).eval()

    assert [(name, tuple(p.shape), p.requires_grad) for name, p in theirs.named_parameters()] == [
        (name, p.shape, p.requires_grad) for name, p in ours.named_parameters()]
    theirs.print_trainable_parameters()
    line = capsys.readouterr().out
    ours.print_trainable_parameters()
    assert capsys.readouterr().out == line
    assert ours.get_nb_trainable_parameters() == theirs.get_nb_trainable_parameters()

    assert_close(logits(ours, ids, attention_mask=mask), logits(theirs, ids, attention_mask=mask), 1e-5)
    theirs(torch.from_numpy(ids), labels=torch.from_numpy(labels)).loss.backward()
    ours(ids, labels=labels).loss.backward()
    grads = {name: p.grad.numpy() for name, p in theirs.named_parameters() if p.requires_grad}
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            assert_close(parameter.grad, grads[name], 1e-4, name)
        else:
            assert parameter.grad is None

    with theirs.disable_adapter(), ours.disable_adapter():
        assert_close(logits(ours, ids), logits(theirs, ids), 1e-5, "adapter disabled")
    merged = theirs.merge_and_unload()
    expected = {name: p.detach().numpy() for name, p in merged.named_parameters()}
    plain = ours.merge_and_unload()
    assert [name for name, _ in plain.named_parameters()] == list(expected)
    for name, parameter in plain.named_parameters():
        assert_close(parameter, expected[name], 1e-6, name)


@pytest.mark.parametrize("case", LORA)
def test_an_adapter_made_here_gives_in_peft_what_it_gives_here(case, tmp_path):
    family, options = LORA[case]
    base, ours = both(family, None, tmp_path)
    ours = get_peft_model(ours, LoraConfig(task_type="CAUSAL_LM", **options))
    randomise(ours)
    ours.eval().save_pretrained(tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert [(name, tuple(p.shape)) for name, p in theirs.named_parameters()] == [
        (name, p.shape) for name, p in ours.named_parameters()]
    ids, _, mask = batch()
    assert_close(logits(ours, ids, attention_mask=mask), logits(theirs, ids, attention_mask=mask), 1e-5)

    theirs.save_pretrained(tmp_path / "again")  # what peft writes is what we wrote
    ours_config, theirs_config = (json.loads((tmp_path / name / "adapter_config.json").read_text())
                                  for name in ("adapter", "again"))
    assert ours_config.keys() == theirs_config.keys()
    for key in theirs_config.keys() - {"target_modules", "exclude_modules", "base_model_name_or_path", "auto_mapping"}:
        assert ours_config[key] == theirs_config[key], key
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors"]
    received, expected = (read_safetensors(tmp_path / name / "adapter_model.safetensors")
                          for name in ("adapter", "again"))
    assert received.keys() == {name for name in expected if "base_layer" not in name}  # peft adds the frozen head
    assert all(np.array_equal(received[name], expected[name]) for name in received)
