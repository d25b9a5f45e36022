"""Live against peft (extra `parity`): every method that both libraries have, trained in one and loaded in the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assert_close
from parity_tools import batch, both, logits, make, peft, randomise, stir, torch

import tinypeft
from tinypeft import AutoModelForCausalLM, PeftModel, get_peft_model
from tinypeft.files import read_json, read_safetensors

pytestmark = pytest.mark.parity

ADALORA = {"init_r": 4, "target_r": 2, "total_step": 12, "tinit": 2, "tfinal": 3, "deltaT": 2, "lora_alpha": 8}
BOTH: dict[str, tuple[str, dict[str, Any]]] = {  # for gpt2 and llama alike: name -> the config's class and arguments
    "LoRA": ("LoraConfig", {"r": 3, "lora_alpha": 6}),
    "LoRA, all biases": ("LoraConfig", {"r": 3, "bias": "all"}),
    "LoRA, its biases": ("LoraConfig", {"r": 3, "bias": "lora_only"}),
    "LoRA, the head in a copy": ("LoraConfig", {"r": 2, "modules_to_save": ["lm_head"]}),
    "gaussian": ("LoraConfig", {"r": 3, "init_lora_weights": "gaussian", "target_modules": "all-linear"}),
    "PiSSA": ("LoraConfig", {"r": 3, "lora_alpha": 6, "init_lora_weights": "pissa"}),
    "DoRA": ("LoraConfig", {"r": 3, "lora_alpha": 12, "use_dora": True, "target_modules": "all-linear"}),
    "AdaLoRA": ("AdaLoraConfig", {**ADALORA, "orth_reg_weight": 0.2}),
    "VeRA": ("VeraConfig", {"r": 12, "target_modules": "all-linear"}),
    "VeRA, projection from its seed": ("VeraConfig", {"r": 7, "projection_prng_key": 11, "save_projection": False}),
    "IA3": ("IA3Config", {}),
    "LN tuning": ("LNTuningConfig", {}),
    "prefix": ("PrefixTuningConfig", {"num_virtual_tokens": 4}),
    "prefix of zeros": ("PrefixTuningConfig", {"num_virtual_tokens": 3, "init_weights": "zero"}),
    "prefix, projected": (
        "PrefixTuningConfig", {"num_virtual_tokens": 4, "prefix_projection": True, "encoder_hidden_size": 9}),
    "prompt": ("PromptTuningConfig", {"num_virtual_tokens": 4}),
    "prompt of tokens": ("PromptTuningConfig", {"num_virtual_tokens": 4, "prompt_tuning_init": "SAMPLE_VOCAB"}),
}
ONE: dict[str, tuple[str, str, dict[str, Any]]] = {  # for one family
    "gpt2, the tables": ("gpt2", "LoraConfig", {"r": 3, "target_modules": ["wte", "wpe", "c_attn"]}),
    "gpt2, norms in copies": (
        "gpt2", "LoraConfig", {"r": 3, "target_modules": ["c_fc"], "modules_to_save": ["ln_f", "ln_1"]}),
    "llama, the table": ("llama", "LoraConfig", {"r": 3, "use_rslora": True, "target_modules": ["embed_tokens", "q_proj"]}),
    "llama, a whole part in a copy": (
        "llama", "LoraConfig", {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["mlp"]}),
    "llama, OLoRA": ("llama", "LoraConfig", {"r": 3, "lora_alpha": 2, "init_lora_weights": "olora"}),
    "llama, DoRA and its biases": ("llama", "LoraConfig", {"r": 2, "use_dora": True, "bias": "lora_only"}),
    "llama, IA3 at two inputs": ("llama", "IA3Config", {"target_modules": ["v_proj", "o_proj", "up_proj"],
                                                        "feedforward_modules": ["o_proj", "up_proj"]}),
    "llama, two norms": ("llama", "LNTuningConfig", {"target_modules": ["input_layernorm", "model.norm"]}),
    "gpt2, VeRA and its biases": ("gpt2", "VeraConfig", {"r": 5, "bias": "vera_only", "d_initial": 1.0}),
}
CASES = {f"{family}, {name}": (family, *case) for name, case in BOTH.items() for family in ("gpt2", "llama")} | ONE
SOFT = ("PrefixTuningConfig", "PromptTuningConfig")
# Biases in both; and heads of their own, since what is merged into a tied one changes the token table in peft.
ARCHITECTURE = {"gpt2": {"tie_word_embeddings": False}, "llama": {"attention_bias": True}}


def config(library: Any, name: str, options: dict[str, Any]) -> Any:
    return getattr(library, name)(task_type="CAUSAL_LM", **options)


def step(model: Any, ids: np.ndarray, labels: np.ndarray, rate: float = 0.05) -> float:
    """One step of plain gradient descent in either library; gives the loss."""
    model.zero_grad()
    if isinstance(model, torch.nn.Module):
        loss = model(torch.from_numpy(ids), labels=torch.from_numpy(labels)).loss
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= rate * parameter.grad
        return loss.item()
    loss = model(ids, labels=labels).loss
    loss.backward()
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.data = parameter.data - np.float32(rate) * parameter.grad
    return float(loss.data)


def same_values(ours: Any, theirs: Any) -> None:
    """Give our adapters the values that peft's have, by name."""
    values = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        if name in values:
            parameter.data = values[name].detach().numpy().copy()


def gradients(model: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(p.grad) for name, p in model.named_parameters() if p.grad is not None}


# --- through files ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("case", CASES)
def test_what_is_trained_here_goes_on_in_peft(case, tmp_path):
    family, name, options = CASES[case]
    base, ours = both(family, ARCHITECTURE[family], tmp_path)
    ids, labels, mask = batch()
    ours = get_peft_model(ours, config(tinypeft, name, options)).train()
    stir(ours, np.random.default_rng(4))
    losses = [step(ours, ids, labels) for _ in range(4)]
    assert losses[-1] < losses[0]
    ours.eval().save_pretrained(tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    tol = 1e-5 if options.get("init_lora_weights") != "pissa" else 1e-4  # torch's singular vectors are less exact than ours
    assert_close(logits(ours, ids, attention_mask=mask), logits(theirs, ids, attention_mask=mask), tol)
    if name not in SOFT:
        assert_close(logits(ours.merge_and_unload(), ids), logits(theirs.merge_and_unload(), ids), tol, "merged")


@pytest.mark.parametrize("case", CASES)
def test_what_is_trained_in_peft_goes_on_here(case, tmp_path):
    family, name, options = CASES[case]
    theirs, ours = both(family, ARCHITECTURE[family], tmp_path)
    ids, labels, mask = batch()
    torch.manual_seed(0)
    theirs = peft.get_peft_model(theirs, config(peft, name, options)).train()
    stir(theirs, np.random.default_rng(4))
    losses = [step(theirs, ids, labels) for _ in range(4)]
    assert losses[-1] < losses[0]
    theirs.save_pretrained(tmp_path / "adapter")
    ours = PeftModel.from_pretrained(ours, tmp_path / "adapter", is_trainable=True)
    tol = 1e-5 if options.get("init_lora_weights") != "pissa" else 1e-4
    assert_close(logits(ours, ids, attention_mask=mask), logits(theirs.eval(), ids, attention_mask=mask), tol)
    if options.get("prefix_projection"):  # the file has its result only, which is what goes on being trained
        return
    ours.train()
    theirs.train()
    for _ in range(2):
        assert_close(step(ours, ids, labels), step(theirs, ids, labels), tol, "loss")
    received, expected = gradients(ours), gradients(theirs)
    assert received.keys() == expected.keys() or name in SOFT
    for key in expected:
        assert_close(received[key], expected[key], 10 * tol, key)
    assert_close(logits(ours.eval(), ids), logits(theirs.eval(), ids), 10 * tol, "after more steps")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_network_of_a_projected_prefix_is_trained_as_in_peft(family, tmp_path):
    theirs, ours = both(family, None, tmp_path)
    ids, labels, mask = batch()
    options = BOTH["prefix, projected"][1]
    theirs = peft.get_peft_model(theirs, config(peft, "PrefixTuningConfig", options)).train()
    ours = get_peft_model(ours, config(tinypeft, "PrefixTuningConfig", options)).train()
    randomise(theirs)
    same_values(ours, theirs)
    assert ours.get_nb_trainable_parameters() == theirs.get_nb_trainable_parameters()
    for _ in range(3):
        assert_close(step(ours, ids, labels), step(theirs, ids, labels), 1e-5, "loss")
        received, expected = gradients(ours), gradients(theirs)
        assert received.keys() == expected.keys()
        assert any("transform" in key for key in expected)
        for key in expected:
            assert_close(received[key], expected[key], 1e-4, key)
    assert_close(logits(ours.eval(), ids, attention_mask=mask), logits(theirs.eval(), ids, attention_mask=mask), 1e-4)


@pytest.mark.parametrize("targets", [None, "all-linear"])
@pytest.mark.parametrize("key", [0, 1, 12345])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_random_matrices_of_vera_are_those_of_torch(family, key, targets, tmp_path):
    """Bit for bit, so that a file without them means the same."""
    options = {"r": 13, "projection_prng_key": key, "target_modules": targets}
    theirs, ours = both(family, None, tmp_path)
    peft.get_peft_model(theirs, config(peft, "VeraConfig", options)).save_pretrained(tmp_path / "theirs")
    get_peft_model(ours, config(tinypeft, "VeraConfig", options)).save_pretrained(tmp_path / "ours")
    received, expected = (read_safetensors(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "theirs"))
    assert received.keys() == expected.keys()
    for name in ("base_model.vera_A", "base_model.vera_B"):
        assert np.array_equal(received[name], expected[name]), name


# --- AdaLoRA's budget ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("changes", [{}, {"deltaT": 1, "tinit": 0, "tfinal": 1, "beta1": 0.4, "beta2": 0.9},
                                     {"target_r": 1, "tfinal": 6, "beta1": 0.9, "beta2": 0.3}], ids=str)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_adalora_gives_its_budget_to_the_same_triplets(family, changes, tmp_path):
    """Twelve steps in both; then the trimmed file of each in the other."""
    theirs, ours = both(family, None, tmp_path)
    options = {**ADALORA, **changes, "orth_reg_weight": 0.1, "target_modules": "all-linear"}
    theirs = peft.get_peft_model(theirs, config(peft, "AdaLoraConfig", options)).train()
    ours = get_peft_model(ours, config(tinypeft, "AdaLoraConfig", options)).train()
    randomise(theirs)
    same_values(ours, theirs)
    masks = []
    for number in range(1, 13):
        ids, labels, _ = batch(number)
        assert_close(step(ours, ids, labels), step(theirs, ids, labels), 1e-5, f"loss of step {number}")
        (ours if number % 2 else ours.base_model).update_and_allocate(number)
        theirs.base_model.update_and_allocate(number)
        mine, other = (dict(model.named_parameters()) for model in (ours, theirs))
        for name in mine:
            if ".lora_" in name:
                assert_close(mine[name], other[name].detach().numpy(), 1e-5, f"{name} after step {number}")
        masks.append(np.concatenate([np.ravel(p.data) == 0 for name, p in mine.items() if ".lora_E." in name]))
    pattern = read_pattern(ours, tmp_path / "ours")
    assert pattern == read_pattern(theirs, tmp_path / "theirs")
    assert not masks[options["tinit"] - 1].any() or not options["tinit"]
    assert 0 < masks[3].sum() < masks[-1].sum() == len(pattern) * (options["init_r"] - options["target_r"])
    received, expected = (read_safetensors(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "theirs"))
    assert {name: x.shape for name, x in received.items()} == {name: x.shape for name, x in expected.items()}
    assert {x.shape[0] for name, x in received.items() if name.endswith("lora_E")} != {options["init_r"]}
    live = logits(ours.eval(), ids)
    assert_close(live, logits(theirs.eval(), ids), 1e-5)
    there = peft.PeftModel.from_pretrained(make(family), tmp_path / "ours").eval()
    here = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "theirs")
    assert_close(logits(there, ids), live, 1e-5, "our file in peft")
    assert_close(logits(here, ids), live, 1e-5, "peft's file here")


def read_pattern(model: Any, folder: Path) -> dict[str, list[bool]]:
    """Saves an adapter, and reads its rank_pattern."""
    model.save_pretrained(folder)
    return read_json(folder / "adapter_config.json")["rank_pattern"]


# --- weighted sums ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize(("kind", "ranks"), [("svd", (4, 4)), ("svd", (4, 2)), ("cat", (4, 2)), ("cat", (3, 3)),
                                             ("linear", (4, 4))], ids=str)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_weighted_sums_are_those_of_peft(family, kind, ranks, rslora, tmp_path):
    """With rsLoRA, peft 0.21.2 gives the sum use_rslora and alpha = r, and so makes it sqrt(r) too strong."""
    theirs, ours = both(family, None, tmp_path)
    ids, _, _ = batch()
    first, second = ({"r": r, "lora_alpha": 6, "use_rslora": rslora, "target_modules": "all-linear"} for r in ranks)
    theirs = peft.get_peft_model(theirs, config(peft, "LoraConfig", first), "first")
    theirs.add_adapter("second", config(peft, "LoraConfig", second))
    ours = get_peft_model(ours, config(tinypeft, "LoraConfig", first), "first")
    ours.add_adapter("second", config(tinypeft, "LoraConfig", second))
    for name in ("second", "first"):
        theirs.set_adapter(name)
        randomise(theirs, seed=len(name))
    same_values(ours, theirs)
    weights = [0.7, -1.3] if kind != "cat" else [0.7, 1.3]
    for model in (ours, theirs.base_model):
        model.add_weighted_adapter(["first", "second"], weights, "sum", combination_type=kind)
        model.set_adapter("sum")
    r = sum(ranks) if kind == "cat" else max(ranks)
    strength = r**0.5 if rslora else 1.0
    if not rslora:
        assert_close(logits(ours, ids), logits(theirs.eval(), ids), 2e-5)
    before = {name: p.data.copy() for name, p in AutoModelForCausalLM.from_pretrained(tmp_path / "base").named_parameters()}
    merged = {name: p.detach().numpy() for name, p in theirs.merge_and_unload().named_parameters()}
    changed = 0
    for name, parameter in ours.merge_and_unload().named_parameters():
        delta = merged[name] - before[name]
        assert_close(strength * (parameter.data - before[name]), delta, 1e-5, name)
        changed += int(np.abs(delta).max() > 0.01)
    assert changed == {"gpt2": 8, "llama": 14}[family]


# --- generation ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method", ["prefix", "prefix, projected", "prompt", "LoRA", "DoRA", "IA3", "VeRA", "AdaLoRA"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_greedy_texts_are_those_of_peft(family, method, tmp_path):
    name, options = BOTH[method]
    theirs, ours = both(family, None, tmp_path)
    theirs = peft.get_peft_model(theirs, config(peft, name, options)).eval()
    randomise(theirs, seed=3)
    theirs.save_pretrained(tmp_path / "adapter")
    ours = PeftModel.from_pretrained(ours, tmp_path / "adapter")
    ids = batch()[0][:, :8]
    expected = theirs.generate(input_ids=torch.from_numpy(ids), attention_mask=torch.ones(ids.shape, dtype=torch.long),
                               max_new_tokens=12, do_sample=False, pad_token_id=0).numpy()
    if expected.shape[1] == 12:
        expected = np.concatenate([ids, expected], axis=1)
    for use_cache in (True, False):
        assert np.array_equal(ours.generate(ids, max_new_tokens=12, use_cache=use_cache), expected)
