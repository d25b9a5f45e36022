"""What is particular to a method, computed again by other means: AdaLoRA's budget, shared factors, random subspaces."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from conftest import assert_close
from hypothesis import given, strategies as st
from peft_cases import IDS, adapted, assert_same, base, distance, logits, scramble, snapshot, trainable

from tinypeft import (
    AdaLoraConfig,
    IA3Config,
    LoraConfig,
    PeftModel,
    PromptTuningConfig,
    SubspaceConfig,
    Tensor,
    ULoraConfig,
    VeraConfig,
    get_peft_model,
)
from tinypeft.files import read_json, read_safetensors, write_safetensors
from tinypeft.nn import Parameter
from tinypeft.peft import best_low_rank, effective_rank
from tinypeft.training import AdamW, TrainingArguments, train

# ---- AdaLoRA --------------------------------------------------------------------------------------------------------

SCHEDULE = {"init_r": 5, "target_r": 2, "tinit": 2, "tfinal": 3, "total_step": 12}


def adalora(kind: str = "gpt2", **options: object) -> PeftModel:
    targets = ["c_attn", "c_fc"] if kind == "gpt2" else ["q_proj", "down_proj"]
    peft_model = get_peft_model(base(kind), AdaLoraConfig(**({"target_modules": targets} | SCHEDULE | options)))
    return scramble(peft_model).train(seed=0)


def singular_values(peft_model: PeftModel) -> dict[str, Parameter]:
    return {name: p for name, p in peft_model.named_parameters() if "lora_E" in name}


def by_the_paper(step: int, matrices: int, init_r: int, target_r: int, tinit: int, tfinal: int, total_step: int) -> int:
    """Equation 12 of Zhang et al. 2023, for all matrices together."""
    first, last = init_r * matrices, target_r * matrices
    if step < tinit:
        return first
    if step >= total_step - tfinal:
        return last
    return int(last + (first - last) * (1 - (step - tinit) / (total_step - tfinal - tinit)) ** 3)


@pytest.mark.parametrize(("kind", "options"), [("gpt2", {}), ("llama", {}), ("gpt2", {"deltaT": 3, "beta1": 0.6, "beta2": 0.4}),
                                               ("gpt2", {"init_r": 8, "target_r": 1, "tinit": 0, "tfinal": 0})])
def test_the_least_important_triplets_go_as_the_budget_falls(kind, options):
    """Importance in a few lines of its own: s = |w g|, its running mean I, the running mean U of |s - I|; sums of I U."""
    settings = SCHEDULE | {"beta1": 0.85, "beta2": 0.85, "deltaT": 1} | options
    peft_model = adalora(kind, **options)
    optimizer = AdamW([p for p in peft_model.parameters() if p.requires_grad], lr=1e-2)
    named = {name: p for name, p in peft_model.named_parameters() if p.requires_grad}
    mean, spread = dict.fromkeys(named, 0.0), dict.fromkeys(named, 0.0)
    schedule = {key: settings[key] for key in SCHEDULE}
    end, kept = settings["total_step"] - settings["tfinal"], None
    for step in range(1, settings["total_step"] + 1):
        optimizer.zero_grad()
        peft_model(IDS, labels=IDS).loss.backward()
        optimizer.step()
        expected = {name: p.data.copy() for name, p in singular_values(peft_model).items()}
        if step < end:
            for name, p in named.items():
                s = np.abs(p.data * p.grad)
                mean[name] = settings["beta1"] * mean[name] + (1 - settings["beta1"]) * s
                spread[name] = settings["beta2"] * spread[name] + (1 - settings["beta2"]) * np.abs(s - mean[name])
        budget = by_the_paper(step, len(expected), **schedule)
        if step == end or (settings["tinit"] < step < end and step % settings["deltaT"] == 0):
            scores = {name: (mean[name] * spread[name])[:, 0]
                      + (mean[name.replace("_E", "_A")] * spread[name.replace("_E", "_A")]).mean(axis=1)
                      + (mean[name.replace("_E", "_B")] * spread[name.replace("_E", "_B")]).mean(axis=0) for name in expected}
            ranked = np.sort(np.concatenate(list(scores.values())))[::-1]
            kept = {name: score >= ranked[budget - 1] for name, score in scores.items()}
        peft_model.base_model.update_and_allocate(step)  # peft's place for it
        if kept is not None and (step >= end or step % settings["deltaT"] == 0):
            for name, mask in kept.items():
                expected[name][~mask] = 0
            assert sum(mask.sum() for mask in kept.values()) == budget
        for name, p in singular_values(peft_model).items():
            assert_same(p.data, expected[name])
    assert np.mean([np.count_nonzero(p.data) for p in singular_values(peft_model).values()]) == settings["target_r"]


@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 8), st.integers(0, 8), st.integers(2, 30), st.integers(1, 12))
def test_the_budget_falls_with_the_cube_of_the_time_left(target_r, more, tinit, tfinal, steps, matrices):
    schedule = {"init_r": target_r + more, "target_r": target_r, "tinit": tinit, "tfinal": tfinal,
                "total_step": tinit + tfinal + steps}
    config = AdaLoraConfig(**schedule)
    budgets = [config.budget(matrices, step) for step in range(schedule["total_step"] + 1)]
    assert budgets == [by_the_paper(step, matrices, **schedule) for step in range(schedule["total_step"] + 1)]
    assert budgets == sorted(budgets, reverse=True)


def test_adaloras_penalty_is_that_of_the_paper():
    peft_model = adalora()
    factors = {name: p for name, p in peft_model.named_parameters() if "lora_A" in name or "lora_B" in name}

    def penalty() -> float:
        products = [p.data @ p.data.T if "lora_A" in name else p.data.T @ p.data for name, p in factors.items()]
        return 0.5 * float(np.mean([np.linalg.norm(M - np.eye(5)) for M in products]))

    def loss(training: bool) -> float:
        return float(peft_model.train(training)(IDS, labels=IDS).loss.data)

    assert abs(loss(True) - loss(False) - penalty()) < 1e-12  # in training only
    gradients = {}
    for training in (True, False):
        peft_model.zero_grad()
        peft_model.train(training)(IDS, labels=IDS).loss.backward()
        gradients[training] = {name: p.grad for name, p in factors.items()}
    random, eps = np.random.default_rng(0), 1e-6
    for name, p in factors.items():
        start, direction, sides = p.data, random.standard_normal(p.shape), []
        for sign in (1, -1):
            p.data = start + sign * eps * direction
            sides.append(penalty())
        p.data = start
        slope = ((gradients[True][name] - gradients[False][name]) * direction).sum()
        assert abs(slope - (sides[0] - sides[1]) / (2 * eps)) < 1e-7
    peft_model.train(seed=0)
    with peft_model.disable_adapter():
        assert loss(True) == base()(IDS, labels=IDS).loss.item()


def test_the_penalty_of_orthonormal_factors_has_a_gradient():
    peft_model = adalora(init_r=1, target_r=1)
    for name, p in peft_model.named_parameters():
        if "lora_A" in name:
            p.data = np.eye(1, p.shape[1])
    peft_model(IDS, labels=IDS).loss.backward()
    assert all(np.isfinite(p.grad).all() for p in peft_model.parameters() if p.requires_grad)


def test_what_adalora_has_left_is_what_it_saves(tmp_path):
    peft_model = adalora()
    with pytest.raises(RuntimeError, match=r"after backward\(\) and before zero_grad\(\)"):
        peft_model.update_and_allocate(1)
    rows = [{"input_ids": [int(i) for i in row], "labels": [int(i) for i in row]} for row in IDS]
    args = TrainingArguments(max_steps=12, learning_rate=1e-2, disable_tqdm=True)
    train(peft_model, rows, args, pad_token_id=0, on_step_end=lambda step, history: peft_model.update_and_allocate(step))
    peft_model.eval().save_pretrained(tmp_path)
    left = {name: np.count_nonzero(p.data) for name, p in singular_values(peft_model).items()}
    saved = read_safetensors(tmp_path / "adapter_model.safetensors")
    pattern = read_json(tmp_path / "adapter_config.json")["rank_pattern"]
    assert {key: sum(mask) for key, mask in pattern.items()} == {
        name.removeprefix("base_model.model.").replace(".default", ""): count for name, count in left.items()}
    assert len(set(left.values())) > 1
    for name, count in left.items():
        stem = name.removesuffix("lora_E.default")
        assert [saved[f"{stem}lora_{x}"].shape[axis] for x, axis in (("A", 0), ("E", 0), ("B", 1))] == [count] * 3
    again = PeftModel.from_pretrained(base(), tmp_path, is_trainable=True)
    assert_close(logits(again), logits(peft_model), 1e-12)
    assert again.get_nb_trainable_parameters()[0] == sum(array.size for array in saved.values())
    train(again, rows, TrainingArguments(max_steps=2, disable_tqdm=True), pad_token_id=0,
          on_step_end=lambda step, history: again.update_and_allocate(step))
    again.eval().save_pretrained(tmp_path / "later")
    assert_close(logits(PeftModel.from_pretrained(base(), tmp_path / "later")), logits(again), 1e-12)


# ---- VeRA -----------------------------------------------------------------------------------------------------------


def test_veras_projections_are_shared_frozen_and_follow_from_a_key(tmp_path):
    """Every delta is diag(b) B diag(d) A with parts of one A and one B, as the file holds them."""
    config = VeraConfig(r=6, target_modules=["c_attn", "mlp.c_proj"], projection_prng_key=7)
    peft_model = scramble(get_peft_model(base(), config))
    assert all("vera_lambda" in name for name in trainable(peft_model))
    peft_model.save_pretrained(tmp_path)
    saved = read_safetensors(tmp_path / "adapter_model.safetensors")
    A, B = saved.pop("base_model.vera_A"), saved.pop("base_model.vera_B")
    assert (A.shape, B.shape) == ((6, 128), (96, 6))  # as the widest input, and the widest output, need them
    bounds = [(6 / fan_in) ** 0.5 for fan_in in (128, 6)]
    for array, bound in zip((A, B), bounds, strict=True):
        assert 0.9 * bound < np.abs(array).max() <= bound * (1 + 1e-6)
    plain = dict(base().named_parameters())
    peft_model.merge_adapter()
    weights = {name.replace(".base_layer", ""): p.data for name, p in peft_model.named_parameters()}
    for layer in peft_model.get_layer_status():
        key = f"base_model.model.{layer.name}."
        b, d = saved.pop(f"{key}vera_lambda_b"), saved.pop(f"{key}vera_lambda_d")
        n_in, n_out = plain[f"{layer.name}.weight"].shape  # a Conv1D
        delta = np.diag(b) @ B[:n_out] @ np.diag(d) @ A[:, :n_in]
        assert_close(weights[f"{key}weight"] - plain[f"{layer.name}.weight"].data, delta.T, 1e-6)
    assert not saved
    peft_model.unmerge_adapter()
    other = scramble(get_peft_model(base(), VeraConfig(r=6, target_modules=["c_attn", "mlp.c_proj"], projection_prng_key=8)))
    assert distance(logits(other), logits(peft_model)) > 0.01


def test_veras_projections_need_not_be_saved_and_are_taken_from_a_file_that_has_them(tmp_path):
    peft_model = scramble(get_peft_model(base(dtype="float32"), VeraConfig(r=6, save_projection=False)))
    peft_model.save_pretrained(tmp_path / "without")
    assert not any("vera_A" in key for key in read_safetensors(tmp_path / "without/adapter_model.safetensors"))
    assert_same(logits(PeftModel.from_pretrained(base(dtype="float32"), tmp_path / "without")), logits(peft_model))
    adapted("vera", dtype="float32").save_pretrained(tmp_path)
    state = read_safetensors(tmp_path / "adapter_model.safetensors")
    before = logits(PeftModel.from_pretrained(base(dtype="float32"), tmp_path))
    write_safetensors(tmp_path / "adapter_model.safetensors", state | {"base_model.vera_B": 2 * state["base_model.vera_B"]})
    assert distance(logits(PeftModel.from_pretrained(base(dtype="float32"), tmp_path)), before) > 0.01
    write_safetensors(tmp_path / "adapter_model.safetensors", state | {"base_model.vera_A": state["base_model.vera_A"][:, 1:]})
    with pytest.raises(ValueError, match=r"vera_A has shape \(6, 127\), for this model's modules it must be \(6, 128\)"):
        PeftModel.from_pretrained(base(dtype="float32"), tmp_path)


# ---- ULoRA ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", ["rank", "input"])
def test_tasks_of_ulora_share_factors_that_the_first_has_trained(vector, tmp_path):
    config = ULoraConfig(r=3, vector=vector)
    peft_model = scramble(get_peft_model(base(dtype="float32"), config, "first"))
    first = logits(peft_model)
    peft_model.save_pretrained(tmp_path / "one")
    factors = read_safetensors(tmp_path / "one/ulora_factors.safetensors")
    peft_model.add_adapter("second", config)
    peft_model.set_adapter("second")
    assert {name.split(".")[-2] for name in trainable(peft_model)} == {"ulora_v"}  # the factors are frozen from now on
    assert len(trainable(peft_model)) == 2
    scramble(peft_model, 2)
    second = logits(peft_model)
    assert distance(second, first) > 0.01
    peft_model.set_adapter("first")
    assert {name.split(".")[-2] for name in trainable(peft_model)} == {"ulora_v"}  # for the first task too
    assert_same(logits(peft_model), first)
    peft_model.save_pretrained(tmp_path / "two")
    for key, array in read_safetensors(tmp_path / "two/ulora_factors.safetensors").items():
        assert_same(array, factors[key])  # the second task left them alone
    A, B = (factors[f"transformer.h.0.attn.c_attn.ulora_{x}"] for x in "AB")
    stem = "base_model.model.transformer.h.0.attn.c_attn."
    v = read_safetensors(tmp_path / "two/second/adapter_model.safetensors")[f"{stem}ulora_v"]
    peft_model.set_adapter("second")
    peft_model.merge_adapter()
    weight = dict(peft_model.named_parameters())[f"{stem}base_layer.weight"].data
    delta = (B @ np.diag(v) @ A if vector == "rank" else B @ A @ np.diag(v)).T
    assert_close(weight - base(dtype="float32").transformer.h[0].attn.c_attn.weight.data, delta, 1e-5)
    for task, expected in (("first", first), ("second", second)):  # alone, or one after the other
        assert_same(logits(PeftModel.from_pretrained(base(dtype="float32"), tmp_path / "two" / task)), expected)
    both = PeftModel.from_pretrained(base(dtype="float32"), tmp_path / "two/first")
    both.load_adapter(tmp_path / "two/second", "second")
    both.set_adapter("second")
    assert_same(logits(both), second)


def test_a_vector_means_nothing_with_other_factors(tmp_path):
    for seed in (1, 2):
        adapted("ulora_rank", dtype="float32", seed=seed).save_pretrained(tmp_path / str(seed))
    peft_model = PeftModel.from_pretrained(base(dtype="float32"), tmp_path / "1")
    before, expected = snapshot(peft_model), logits(peft_model)
    with pytest.raises(ValueError, match=r"mean nothing without the ULoRA .*SHA-256 \w{64}\), and the model has others"):
        peft_model.load_adapter(tmp_path / "2", "second")
    assert (snapshot(peft_model), [*peft_model.peft_config]) == (before, ["default"])
    assert_same(logits(peft_model), expected)
    factors, model = tmp_path / "1/ulora_factors.safetensors", base(dtype="float32")
    before = snapshot(model)
    factors.write_bytes((tmp_path / "2/ulora_factors.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"SHA-256 \w{64}\), and .*ulora_factors\.safetensors holds others"):
        PeftModel.from_pretrained(model, tmp_path / "1")
    factors.unlink()
    with pytest.raises(ValueError, match="and they are not beside it"):
        PeftModel.from_pretrained(model, tmp_path / "1")
    assert snapshot(model) == before
    for config, message in ((ULoraConfig(r=4), "r=4, but the model's ULoRA factors have rank 3"),
                            (ULoraConfig(r=3, target_modules=["c_fc"]), "a later task uses all of them, and only them")):
        with pytest.raises(ValueError, match=message):
            peft_model.add_adapter("second", config)
    assert_same(logits(peft_model), expected)


# ---- subspaces ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_subspace_is_a_random_matrix_with_columns_of_length_one(kind):
    """P, column by column, from what z = (0 .. 1 .. 0) adds to the weights; the gradient of z is P^T g."""
    peft_model = get_peft_model(base(kind), SubspaceConfig(dimension=20))
    z = next(iter(peft_model.parameters_of("default").values()))
    plain = dict(base(kind).named_parameters())

    def moved() -> np.ndarray:
        peft_model.merge_adapter()
        now = {name.removeprefix("base_model.model.").replace(".base_layer", ""): p.data
               for name, p in peft_model.named_parameters()}
        peft_model.unmerge_adapter()
        if kind == "gpt2":  # the head is the token table, moved once
            assert_same(now["lm_head.weight"], now["transformer.wte.weight"])
        return np.concatenate([(now[name] - p.data).ravel() for name, p in plain.items()])

    columns = []
    for column in np.eye(20):
        z.data = column
        columns.append(moved())
    P = np.array(columns).T
    assert P.shape == (sum(p.size for p in plain.values()), 20)
    gram = P.T @ P
    assert np.abs(np.diag(gram) - 1).max() < 0.1
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 5 * len(P) ** -0.5
    assert (np.abs(P).sum(axis=1) > 0).all()  # every weight moves
    z.data = np.random.default_rng(0).standard_normal(20)
    assert_close(moved(), P @ z.data, 1e-12)
    peft_model(IDS, labels=IDS).loss.backward()
    model, start = base(kind), 0
    for p in model.parameters():
        p.data = p.data + (P @ z.data)[start:start + p.size].reshape(p.shape)
        start += p.size
    model(IDS, labels=IDS).loss.backward()
    assert_close(z.grad, P.T @ np.concatenate([p.grad.ravel() for p in model.parameters()]), 1e-10)
    assert_close(logits(peft_model), logits(model), 1e-12)


def test_the_projection_of_a_subspace_is_never_stored():
    d, total = 512, 30624
    whole = total * d * 8  # 125 MB
    model = base()
    tracemalloc.start()
    try:
        peft_model = get_peft_model(model, SubspaceConfig(dimension=d))
        scramble(peft_model)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        peft_model(IDS, labels=IDS).loss.backward()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held < 0.01 * whole
    assert peak < 0.05 * whole


def test_other_seeds_give_other_subspaces():
    def moved(seed: int) -> np.ndarray:
        peft_model = get_peft_model(base(), SubspaceConfig(dimension=12, projection_seed=seed))
        next(iter(peft_model.parameters_of("default").values())).data = np.ones(12)
        return logits(peft_model)

    assert_same(moved(0), moved(0))
    assert distance(moved(0), moved(1)) > 1e-3


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 99))
def test_ranks_and_best_approximations_are_those_of_the_singular_values(n, m, seed):
    random = np.random.default_rng(seed)
    delta = random.standard_normal((n, m)) * np.exp(random.standard_normal(m))
    U, s, V = np.linalg.svd(delta, full_matrices=False)
    p = s / s.sum()
    assert abs(effective_rank(delta) - np.prod(p ** -p)) < 1e-9
    assert 1 - 1e-9 <= effective_rank(delta) <= min(n, m) + 1e-9
    assert abs(effective_rank(3 * delta.T) - effective_rank(delta)) < 1e-9
    for r in range(1, min(n, m) + 1):
        B, A, lost = best_low_rank(delta, r)
        assert (B.shape, A.shape) == ((n, r), (r, m))
        assert_close(B @ A, (U[:, :r] * s[:r]) @ V[:r], 1e-9)
        assert abs(lost - np.linalg.norm(delta - B @ A) / np.linalg.norm(delta)) < 1e-7
    for r in (0, min(n, m) + 1):
        with pytest.raises(ValueError, match=f"r={r} for a matrix of {n} x {m}: expected 1 to {min(n, m)}"):
            best_low_rank(delta, r)
    assert effective_rank(np.zeros((n, m))) == 0


# ---- others ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_what_is_left_and_the_factors_are_the_weight_again(kind):
    peft_model = get_peft_model(base(), LoraConfig(r=3, lora_alpha=12, init_lora_weights=kind))
    W = base().transformer.h[0].attn.c_attn.weight.data.T  # (out, in)
    stem = "base_model.model.transformer.h.0.attn.c_attn."
    values = {name.removeprefix(stem): p.data for name, p in peft_model.named_parameters() if name.startswith(stem)}
    A, B, left = values["lora_A.default.weight"], values["lora_B.default.weight"], values["base_layer.weight"].T
    U, s, V = np.linalg.svd(W, full_matrices=False)
    if kind == "pissa":
        assert_close(4 * B @ A, (U[:, :3] * s[:3]) @ V[:3], 1e-12)  # alpha / r = 4
        assert_close(np.linalg.norm(A, axis=1), np.linalg.norm(B, axis=0), 1e-12)
    else:
        assert_close(B.T @ B, np.eye(3), 1e-12)
        assert_close(A, B.T @ W, 1e-12)
    assert_close(left + 4 * B @ A, W, 1e-12)


@pytest.mark.parametrize("options", [{"lora_dropout": 0.5}, {"lora_dropout": 0.5, "use_dora": True}, {"vera_dropout": 0.5},
                                     {"lora_dropout": 0.5, "total_step": 9}])
def test_dropout_is_for_training_and_never_on_the_frozen_path(options):
    config = VeraConfig if "vera_dropout" in options else AdaLoraConfig if "total_step" in options else LoraConfig
    peft_model = get_peft_model(base(), config(**options)).train(seed=3)
    assert_close(logits(peft_model), logits(base()), 1e-12)  # as long as the adapter is the identity
    scramble(peft_model).train(seed=3)
    first, second = logits(peft_model), logits(peft_model)
    assert distance(first, second) > 1e-3
    assert_same(logits(peft_model.train(seed=3)), first)
    without = scramble(get_peft_model(base(), config(**{key: 0.0 if "dropout" in key else x for key, x in options.items()})))
    assert_same(logits(peft_model.eval()), logits(without))


def test_dora_in_training_scales_what_dropout_has_left_of_the_input():
    """y = W x + (m / |V| - 1) W dropout(x) + ...: with m doubled and B = 0, what is added is W dropout(x), as in peft."""
    peft_model = get_peft_model(base("llama"), LoraConfig(use_dora=True, lora_dropout=0.5, target_modules=["q_proj"]))
    for name, p in peft_model.parameters_of("default").items():
        p.data = p.data * (2 if "magnitude" in name else 1)
    layer = peft_model.train(seed=0).get_base_model().model.layers[0].self_attn.q_proj
    x = np.random.default_rng(0).standard_normal((1, 1, 32))
    added = (layer(Tensor(x)).data - layer.base_layer(Tensor(x)).data).ravel()
    left = np.linalg.solve(layer.base_layer.weight.data, added) / x.ravel()
    assert {0, 2} == {round(value, 6) for value in left}


@pytest.mark.parametrize(("kind", "target"), [("gpt2", "c_attn"), ("llama", "k_proj")])
def test_ia3_takes_the_modules_that_it_is_given(kind, target):
    peft_model = get_peft_model(base(kind), IA3Config(target_modules=[target]))
    assert {name.split(".")[-3] for name in trainable(peft_model)} == {target}
    inner = get_peft_model(base(kind), IA3Config(target_modules=[target], feedforward_modules=[target]))
    assert {p.shape for p in inner.parameters() if p.requires_grad} == {(1, 32)}


def test_of_several_ia3_adapters_the_scales_multiply_and_of_several_prompts_the_lengths_add():
    peft_model = adapted("ia3", name="a")
    peft_model.add_adapter("b", IA3Config())
    peft_model.set_adapter(["a", "b"])
    scramble(peft_model, 2)
    product = get_peft_model(base(), IA3Config())
    for key, p in product.parameters_of("default").items():
        p.data = peft_model.parameters_of("a")[key].data * peft_model.parameters_of("b")[key].data
    assert_close(logits(peft_model), logits(product), 1e-12)
    peft_model.add_adapter("c", PromptTuningConfig(num_virtual_tokens=2))
    peft_model.add_adapter("d", PromptTuningConfig(num_virtual_tokens=3))
    peft_model.set_adapter(["a", "c", "d"])
    assert logits(peft_model).shape[1] == 6 + 5
