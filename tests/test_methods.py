"""Every method: equal to what peft and the adapters library recorded, and the properties that all methods have."""

from __future__ import annotations

import json
import tracemalloc
import warnings
from typing import Any

import numpy as np
import pytest
from conftest import GOLDEN, assert_close, some
from hypothesis import given, settings, strategies as st
from peft_cases import (
    CASES,
    adapted,
    assert_same,
    base,
    config_of,
    logits,
    scramble,
    snapshot,
)

from tinypeft import (
    AutoModelForCausalLM,
    BitFitConfig,
    BottleneckConfig,
    GPT2Config,
    IA3Config,
    LlamaConfig,
    LNTuningConfig,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
    create_loraplus_optimizer,
    get_peft_model,
)
from tinypeft.budget import build
from tinypeft.files import read_json, read_safetensors
from tinypeft.training import AdamW

RECORDED = sorted(path.name for path in (GOLDEN / "adapters").iterdir() if path.is_dir())
PRECISIONS = pytest.mark.parametrize(("dtype", "tag", "tol", "grad_tol"),
                                     [("float64", "f64", 1e-10, 1e-10), ("float32", "f32", 1e-5, 1e-4)])


# ---- what other libraries recorded ----------------------------------------------------------------------------------


def recorded_gradients(golden: Any, tag: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(f"{tag}/grad/"): golden[key] for key in golden if key.startswith(f"{tag}/grad/")}


def assert_gradients(peft_model: PeftModel, expected: dict[str, np.ndarray], tol: float) -> None:
    gradients = {name: p.grad for name, p in peft_model.named_parameters() if p.grad is not None}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert_close(gradient, expected[name], tol, name)


def test_all_cases_are_there():
    assert len(RECORDED) == 21


@pytest.mark.parametrize("case", RECORDED)
@PRECISIONS
def test_saved_adapters_of_peft_give_its_values(case, dtype, tag, tol, grad_tol):
    golden, kind = np.load(GOLDEN / "adapters" / case / "golden.npz"), case.split("_")[0]
    peft_model = PeftModel.from_pretrained(base(kind, dtype), GOLDEN / "adapters" / case, is_trainable=True)
    if projected := case == "gpt2_prefix_proj":  # the file holds the prefix in float32, without the network it came from
        tol = max(tol, 1e-6)
    else:
        assert peft_model.get_nb_trainable_parameters() == (golden["n_trainable"], golden["n_total"])
    out = peft_model(golden["input_ids"], labels=golden["labels"])
    out.loss.backward()
    assert_close(out.logits, golden[f"{tag}/logits"], tol, "logits")
    assert_close(out.loss, golden[f"{tag}/loss"], tol, "loss")
    if not projected:
        assert_gradients(peft_model, recorded_gradients(golden, tag), grad_tol)
    if tag == "f64":
        mask = np.load(GOLDEN / f"{kind}_base/golden.npz")["attention_mask_leftpad"]
        padded = logits(peft_model, golden["input_ids"], attention_mask=mask)
        assert_close(padded, golden["f64/logits_leftpad_default_pos"], tol)
        assert ("f64/logits_disabled" in golden) == ("prefix" not in case and "prompt" not in case)
        with peft_model.disable_adapter():
            plain = logits(peft_model, golden["input_ids"])
        # peft trains the base's own biases, and so records another "disabled" than the base for those
        if "f64/logits_disabled" in golden and "bias" not in case:
            assert_close(plain, golden["f64/logits_disabled"], tol)
        assert_same(plain, logits(base(kind), golden["input_ids"]))
    if f"{tag}/logits_merged" in golden:
        merged = peft_model.merge_and_unload(safe_merge=True)
        assert_close(logits(merged, golden["input_ids"]), golden[f"{tag}/logits_merged"], tol)


@PRECISIONS
def test_a_projected_prefix_and_its_gradients_are_those_of_peft(dtype, tag, tol, grad_tol):
    """The network's values, which the file lacks, are drawn again as make_golden.py drew them."""
    folder = GOLDEN / "adapters/gpt2_prefix_proj"
    golden = np.load(folder / "golden.npz")
    config = PrefixTuningConfig(num_virtual_tokens=5, prefix_projection=True, encoder_hidden_size=16)
    peft_model = get_peft_model(base("gpt2", dtype), config)
    random = np.random.default_rng(113)
    for name in recorded_gradients(golden, tag):
        parameter = dict(peft_model.named_parameters())[name]
        parameter.data = (0.4 * random.standard_normal(parameter.shape)).astype(np.float32).astype(dtype)
    assert peft_model.get_nb_trainable_parameters() == (golden["n_trainable"], golden["n_total"])
    out = peft_model(golden["input_ids"], labels=golden["labels"])
    out.loss.backward()
    assert_close(out.logits, golden[f"{tag}/logits"], tol)
    assert_close(out.loss, golden[f"{tag}/loss"], tol)
    assert_gradients(peft_model, recorded_gradients(golden, tag), grad_tol)


@pytest.mark.parametrize("case", RECORDED)
def test_what_we_save_is_what_peft_saved(case, tmp_path):
    """Key for key and byte for byte, config included."""
    folder = GOLDEN / "adapters" / case
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PeftModel.from_pretrained(base(case.split("_")[0], "float32"), folder).save_pretrained(tmp_path)
    ours, theirs = (read_safetensors(path / "adapter_model.safetensors") for path in (tmp_path, folder))
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert (ours[key].dtype, ours[key].shape, ours[key].tobytes()) == (value.dtype, value.shape, value.tobytes()), key
    ours_config, theirs_config = read_json(tmp_path / "adapter_config.json"), read_json(folder / "adapter_config.json")
    del ours_config["base_model_name_or_path"], theirs_config["base_model_name_or_path"]
    for key in {"target_modules", "feedforward_modules"} & theirs_config.keys():  # sets to peft: their order is random
        theirs_config[key] = sorted(theirs_config[key])
    assert ours_config == theirs_config


@pytest.mark.parametrize(("case", "style"), [("double_seq_bn", "houlsby"), ("seq_bn", "pfeiffer"), ("par_bn", "parallel")])
def test_bottleneck_adapters_are_those_of_the_adapters_library(case, style, tmp_path):
    golden, weights = np.load(GOLDEN / "bottleneck" / case / "golden.npz"), GOLDEN / "bottleneck" / case / "weights.safetensors"
    (tmp_path / "adapter_model.safetensors").write_bytes(weights.read_bytes())
    BottleneckConfig(style=style, reduction_factor=4).save_pretrained(tmp_path)
    ids, labels = (np.load(GOLDEN / "gpt2_base/golden.npz")[name] for name in ("input_ids", "labels"))
    assert_close(logits(PeftModel.from_pretrained(base("gpt2", "float32"), tmp_path), ids), golden["f32/logits"], 1e-5)
    peft_model = PeftModel.from_pretrained(base(), tmp_path, is_trainable=True)
    out = peft_model(ids, labels=labels)
    out.loss.backward()
    assert_close(out.logits, golden["f64/logits"], 1e-10)
    assert_close(out.loss, golden["f64/loss"], 1e-10)
    assert peft_model.get_nb_trainable_parameters()[0] == sum(w.size for w in read_safetensors(weights).values())
    # Where its parameters stand in a file, gradients have the library's names: write them as if they were values.
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.grad
    peft_model.save_pretrained(tmp_path / "gradients")
    gradients = read_safetensors(tmp_path / "gradients/adapter_model.safetensors")
    expected = {key.replace(".adapters.h.", ".adapters.default."): g for key, g in recorded_gradients(golden, "f64").items()}
    assert gradients.keys() == expected.keys()
    for key, gradient in gradients.items():
        assert_close(gradient, expected[key], 1e-10, key)


@pytest.mark.parametrize(("dtype", "tag", "tol"), [("float64", "f64", 1e-10), ("float32", "f32", 1e-4)])
@pytest.mark.parametrize(("name", "decay"), [("loraplus", 0.0), ("loraplus_wd", 0.01)])
def test_loraplus_trains_as_in_peft(name, decay, dtype, tag, tol):
    recorded = np.load(GOLDEN / "optimizer_traces.npz")
    trace = {key.removeprefix(f"{name}_{tag}/"): recorded[key] for key in recorded if key.startswith(f"{name}_{tag}/")}
    model = get_peft_model(base("gpt2", dtype), LoraConfig(r=4, lora_alpha=8))
    named = {key: p for key, p in model.named_parameters() if p.requires_grad}
    for key, parameter in named.items():
        parameter.data = trace[f"init/{key}"].astype(dtype)
    # The groups' weight decay, 0 unless given, holds; that of the optimizer does not (measured in peft).
    optimizer = create_loraplus_optimizer(model, AdamW, lr=1e-2, loraplus_lr_ratio=16.0, loraplus_weight_decay=decay,
                                          weight_decay=0.5)
    for step in range(5):
        optimizer.zero_grad()
        loss = model(recorded["input_ids"], labels=recorded["labels"]).loss
        loss.backward()
        assert_close(loss, trace["losses"][step], tol, f"loss at step {step}")
        optimizer.step()
    assert_close(model(recorded["input_ids"], labels=recorded["labels"]).loss, trace["final_loss"], tol, "final loss")
    for key, parameter in named.items():
        assert_close(parameter, trace[f"final/{key}"], tol, key)


def test_the_groups_of_loraplus_are_those_of_peft():
    made: dict[str, Any] = {}

    def spy(groups: list[dict[str, Any]], **options: Any) -> AdamW:
        made["groups"] = [(len(g["params"]), g["lr"], g["weight_decay"]) for g in groups]
        return AdamW([g for g in groups if g["params"]], **options)

    create_loraplus_optimizer(get_peft_model(base(), LoraConfig(r=4)), spy, lr=1e-2, loraplus_lr_ratio=16.0)
    assert_close(np.array(made["groups"]), np.load(GOLDEN / "optimizer_traces.npz")["loraplus_groups"], 1e-15)
    config = LoraConfig(r=4, bias="all", target_modules=["wte", "c_attn"])  # 2 c_attn, 1 wte; 13 biases
    create_loraplus_optimizer(get_peft_model(base(), config), spy, lr=1.0, loraplus_lr_ratio=8.0, loraplus_weight_decay=0.1,
                              loraplus_lr_embedding=0.5)
    assert made["groups"] == [(2, 1.0, 0.1), (2, 0.5, 0.1), (2, 8.0, 0.1), (13, 8.0, 0.0)]
    create_loraplus_optimizer(get_peft_model(base(), LNTuningConfig()), spy, lr=1.0, loraplus_lr_ratio=8.0,
                              loraplus_weight_decay=0.1)
    assert made["groups"] == [(0, 1.0, 0.1), (0, 1e-6, 0.1), (0, 8.0, 0.1), (10, 8.0, 0.0)]
    for name in ("lr", "loraplus_lr_ratio", "loraplus_lr_embedding"):
        with pytest.raises(ValueError, match=f"{name} must be above 0, got -1"):
            create_loraplus_optimizer(adapted("lora"), AdamW, **({"lr": 1.0, "loraplus_lr_ratio": 2.0} | {name: -1}))
    with pytest.raises(ValueError, match="nothing|no param|frozen|empty"):
        create_loraplus_optimizer(base().requires_grad_(False), AdamW, lr=1.0, loraplus_lr_ratio=2.0)


# ---- weighted sums --------------------------------------------------------------------------------------------------

COMBINED = np.load(GOLDEN / "adapter_combinations.npz")
C_ATTN = "base_model.model.transformer.h.0.attn.c_attn.base_layer.weight"


def recorded_pair() -> PeftModel:
    peft_model = get_peft_model(base(), LoraConfig(r=4, lora_alpha=8), "a")
    peft_model.add_adapter("b", LoraConfig(r=4, lora_alpha=2))
    for name, parameter in peft_model.named_parameters():
        if "lora_" in name:
            parameter.data = COMBINED[f"weights/{name}"]
    return peft_model


def delta(peft_model: PeftModel, name: str) -> np.ndarray:
    """What an adapter adds to the first c_attn, as merging shows it."""
    weight = dict(peft_model.named_parameters())[C_ATTN].data
    peft_model.merge_adapter([name])
    change = dict(peft_model.named_parameters())[C_ATTN].data - weight
    peft_model.unmerge_adapter()
    return change


def test_two_adapters_alone_together_and_mixed_are_those_of_peft():
    peft_model, ids = recorded_pair(), np.load(GOLDEN / "gpt2_base/golden.npz")["input_ids"]
    for active, key in (("a", "a"), ("b", "b"), (["a", "b"], "a+b_active")):
        peft_model.set_adapter(active)
        assert_close(logits(peft_model, ids), COMBINED[f"logits/{key}"], 1e-10, key)
    peft_model.set_adapter("a")
    for names, key in ((["a", "__base__"], "row0=a_row1=base"), (["b", "a"], "row0=b_row1=a")):
        assert_close(logits(peft_model, ids, adapter_names=names), COMBINED[f"logits/mixed_batch_{key}"], 1e-10, key)


# peft computed these from weights rounded to float32, but for "cat"
@pytest.mark.parametrize(("kind", "weights", "key", "tol"), [
    ("linear", [0.7, 0.3], "linear_0p7_0p3", 1e-6), ("cat", [0.7, 0.3], "cat_0p7_0p3", 1e-10),
    ("svd", [0.7, 0.3], "svd_0p7_0p3", 1e-6), ("linear", [1.0, -0.5], "linear_1p0_m0p5", 1e-6)])
def test_weighted_sums_are_those_of_peft(kind, weights, key, tol, tmp_path):
    peft_model, ids = recorded_pair(), np.load(GOLDEN / "gpt2_base/golden.npz")["input_ids"]
    before = logits(peft_model)
    peft_model.add_weighted_adapter(["a", "b"], weights, "sum", kind)
    assert_same(logits(peft_model), before)  # there, but not active
    peft_model.set_adapter("sum")
    assert_close(logits(peft_model, ids), COMBINED[f"logits/{key}"], tol)
    assert_close(delta(peft_model, "sum"), COMBINED[f"delta_h0/{key}"], tol)
    r, alpha, scaling = COMBINED[f"r_alpha_scaling/{key}"]
    config = peft_model.peft_config["sum"]
    assert (config.r, config.lora_alpha, config.lora_alpha / config.r) == (r, alpha, scaling)
    peft_model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(base(), tmp_path / "sum")
    assert_same(logits(again), logits(peft_model))


def test_what_the_kinds_of_weighted_sums_lose():
    """"cat" nothing; "svd" what is beyond its rank, which is least; "linear" adds products that belong to nobody."""
    peft_model = recorded_pair()
    exact = 0.7 * delta(peft_model, "a") + 0.3 * delta(peft_model, "b")
    for kind in ("cat", "svd", "linear"):
        peft_model.add_weighted_adapter(["a", "b"], [0.7, 0.3], kind, kind)
    lost = {kind: np.linalg.norm(delta(peft_model, kind) - exact) / np.linalg.norm(exact) for kind in ("cat", "svd", "linear")}
    s = np.linalg.svd(exact, compute_uv=False)
    assert lost["cat"] < 1e-12
    assert abs(lost["svd"] - (s[4:] ** 2).sum() ** 0.5 / np.linalg.norm(s)) < 1e-12
    assert 0.4 < lost["linear"] < 0.46
    peft_model.add_weighted_adapter(["a", "b"], [0.7, 0.3], "rank8", "svd", svd_rank=8)
    assert_close(delta(peft_model, "rank8"), exact, 1e-12)
    A, B = ({name: COMBINED[f"weights/{C_ATTN.removesuffix('base_layer.weight')}lora_{x}.{name}.weight"] for name in "ab"}
            for x in "AB")
    cross = (0.7 * 2 * 0.3 * 0.5) ** 0.5 * (B["a"] @ A["b"] + B["b"] @ A["a"]).T
    assert_close(delta(peft_model, "linear"), exact + cross, 1e-12)


@pytest.mark.parametrize("kind", ["linear", "cat", "svd"])
@pytest.mark.parametrize("method", ["lora", "rslora", "lora_embedding"])
def test_the_sum_of_one_adapter_is_that_adapter(kind, method):
    peft_model = adapted(method)
    expected = logits(peft_model)
    peft_model.add_weighted_adapter(["default"], [1.0], "same", kind)
    peft_model.set_adapter("same")
    assert_close(logits(peft_model), expected, 1e-10)


def test_ranks_may_differ_where_a_sum_allows_it():
    peft_model = adapted("lora")  # r=3, everywhere
    peft_model.add_adapter("wide", LoraConfig(r=5, lora_alpha=7, target_modules=["c_attn"], use_rslora=True))
    peft_model.set_adapter("wide")
    scramble(peft_model, 3)
    exact = 0.5 * delta(peft_model, "default") - 2 * delta(peft_model, "wide")
    before = snapshot(peft_model)
    with pytest.raises(ValueError, match=r'"linear" adds .* at transformer.h.0.attn.c_attn the ranks are \[3, 5\]: use "cat"'):
        peft_model.add_weighted_adapter(["default", "wide"], [0.5, -2], "sum", "linear")
    for arguments, message in (
            ((["default"], [1.0, 2.0], "sum"), "as many finite weights as adapters"), (([], [], "sum"), "at least one"),
            ((["default"], [float("nan")], "sum"), "finite"),
            ((["other"], [1.0], "sum"), "no adapter 'other'; there are: default, wide"),
            ((["default"], [1.0], "sum", "ties"), "'ties' is not implemented; svd, cat, linear are"),
            ((["default"], [1.0], "wide"), "is an adapter 'wide' already")):
        with pytest.raises(ValueError, match=message):
            peft_model.add_weighted_adapter(*arguments)
    assert snapshot(peft_model) == before
    peft_model.add_weighted_adapter(["default", "wide"], [0.5, -2], "cat", "cat")
    assert_close(delta(peft_model, "cat"), exact, 1e-12)
    peft_model.add_weighted_adapter(["default", "wide"], [0.5, -2], "svd", "svd")
    U, s, V = np.linalg.svd(exact, full_matrices=False)
    assert_close(delta(peft_model, "svd"), U[:, :5] * s[:5] @ V[:5], 1e-12)


@pytest.mark.parametrize("method", ["dora", "pissa", "lora_biases", "modules_to_save", "vera", "prompt", "adalora"])
def test_only_plain_loras_have_weighted_sums(method):
    peft_model = adapted(method)
    before = snapshot(peft_model)
    with pytest.raises(ValueError, match="'default' is not a plain LoRA .* only sums of B A can be weighted"):
        peft_model.add_weighted_adapter(["default"], [1.0], "sum", "cat")
    assert snapshot(peft_model) == before


# ---- counts ---------------------------------------------------------------------------------------------------------

COUNTED = {"llama3-8b": "llama-3-8b", "llama2-7b": "llama-2-7b", "gpt2-medium": "gpt2-medium", "gpt2": "gpt2"}
QKVO = ["q_proj", "k_proj", "v_proj", "o_proj"]
COUNTS = json.loads((GOLDEN / "param_counts.json").read_text())


def counted_config(method: str) -> Any:
    """From such a description as "lora r=8 qkvo"."""
    kind, *words = method.split()
    numbers = {word[0]: int(word[2:]) for word in words if word[1:2] == "="}
    if kind in ("lora", "dora"):
        targets: Any = "all-linear" if "all-linear" in words else QKVO if "qkvo" in words else None
        return LoraConfig(r=numbers["r"], target_modules=targets, use_dora=kind == "dora")
    if kind == "prefix":
        return PrefixTuningConfig(num_virtual_tokens=numbers["p"], prefix_projection="projection" in words)
    if kind == "prompt":
        return PromptTuningConfig(num_virtual_tokens=numbers["p"])
    return {"ia3": IA3Config(), "ln": LNTuningConfig(), "bitfit": BitFitConfig(), "vera": VeraConfig()}[kind]


@pytest.mark.parametrize("key", some(COUNTS, [key for key in COUNTS if key.startswith(("gpt2 ", "llama3-8b "))]))
def test_parameter_counts_of_large_models_are_those_of_peft(key, capsys):
    name, _, method = key.partition(" ")
    tracemalloc.start()
    try:
        peft_model = get_peft_model(build(COUNTED[name]), counted_config(method))
        counted = peft_model.get_nb_trainable_parameters()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100e6
    assert counted == (COUNTS[key]["trainable"], COUNTS[key]["all"])
    peft_model.print_trainable_parameters()
    assert capsys.readouterr().out == (f"trainable params: {counted[0]:,} || all params: {counted[1]:,} || "
                                       f"trainable%: {100 * counted[0] / counted[1]:.4f}\n")


def closed_formula(kind: str, method: str, d: int, m: int, kv: int, layers: int, V: int) -> tuple[int, int]:
    """(parameters of an adapter, those of them that stand in the place of the base's) for the configs of peft_cases.py."""
    gpt2 = kind == "gpt2"
    linear = [(3 * d, d), (d, d), (m, d), (d, m)] if gpt2 else [(d, d), (kv, d), (kv, d), (d, d), (m, d), (m, d), (d, m)]
    default = linear[:1] if gpt2 else [linear[0], linear[2]]
    biases = layers * (7 * d + m) + d if gpt2 else 0
    norms, scales = layers * 2 * d + d, (2 if gpt2 else 1)  # a LayerNorm has a bias too

    def pairs(shapes: list[tuple[int, int]], r: int, more: Any = lambda out, n_in: 0) -> int:
        return layers * sum(r * (n_in + out) + more(out, n_in) for out, n_in in shapes)

    def bottlenecks(width: int) -> int:
        return layers * (2 * d * width + d + width)

    count = {
        "lora": pairs(linear, 3), "pissa": pairs(linear, 3), "olora": pairs(linear, 3), "rslora": pairs(default, 3),
        "gaussian": pairs(default, 3), "dora": pairs(linear, 3, lambda out, n_in: out), "lora_head": 3 * (d + V),
        "lora_biases": pairs(default, 3) + biases, "lora_only_biases": pairs(default, 3, lambda out, n_in: out),
        "lora_embedding": pairs(default, 3) + 3 * (V + d), "modules_to_save": pairs(default, 3) + 2 * d,
        "adalora": pairs(linear, 4, lambda out, n_in: 4), "vera": layers * sum(6 + out for out, _ in linear),
        "ulora_rank": pairs(default, 3, lambda out, n_in: 3), "ulora_input": pairs(linear, 3, lambda out, n_in: n_in),
        "ia3": layers * (3 * d + m if gpt2 else 2 * kv + m), "ln": norms * scales, "bitfit": biases,
        "bitfit_norms": biases + norms, "subspace": 12, "houlsby": 2 * bottlenecks(d // 4), "pfeiffer": bottlenecks(d // 4),
        "parallel": bottlenecks(d // 2), "prefix": 3 * 2 * layers * kv, "prompt": 3 * d, "prompt_appended": 3 * d,
        "prefix_projected": 3 * kv + kv * kv + kv + (kv + 1) * 2 * layers * kv,
    }[method]
    instead = {"lora_biases": biases, "lora_only_biases": layers * 3 * d, "bitfit": biases, "bitfit_norms": biases + norms}
    return count, instead.get(method, 0)


@settings(max_examples=100)
@given(st.sampled_from(CASES), st.integers(1, 3), st.sampled_from([(2, 2), (4, 2), (4, 1)]), st.integers(12, 40),
       st.integers(20, 50))
def test_counts_are_those_of_the_closed_formulas(case, layers, heads, m, V):
    (kind, method), (h, h_kv) = case, heads
    config = (GPT2Config(vocab_size=V, n_embd=8 * h, n_layer=layers, n_head=h, n_inner=m) if kind == "gpt2" else
              LlamaConfig(vocab_size=V, hidden_size=8 * h, intermediate_size=m, num_hidden_layers=layers, num_attention_heads=h,
                          num_key_value_heads=h_kv))
    model = AutoModelForCausalLM.from_config(config, device="meta")
    total = sum(p.size for p in model.parameters())
    if method in ("pissa", "olora"):  # these look at the weights
        with pytest.raises(RuntimeError, match=f"'{method}' starts from the weights' values"):
            get_peft_model(model, config_of(method))
        model = AutoModelForCausalLM.from_config(config).init_weights()
    count, instead = closed_formula(kind, method, 8 * h, m, 8 * (h if kind == "gpt2" else h_kv), layers, V)
    assert get_peft_model(model, config_of(method)).get_nb_trainable_parameters() == (count, total + count - instead)
