"""The training loop: accumulation, exact resume, divergence, evaluation on the way, progress, plots, bad input."""

import io
import json
import math
import shutil
from contextlib import redirect_stderr
from dataclasses import replace

import numpy as np
import pytest
from conftest import assert_close

from tinypeft.autograd import functional
from tinypeft.files import new_folder
from tinypeft.nn import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from tinypeft.peft import LoraConfig, get_peft_model
from tinypeft.training import (
    SGD,
    AdamW,
    DivergenceError,
    History,
    TrainingArguments,
    checkpoints as checkpoints_module,
    evaluate,
    train,
)
from tinypeft.viz import plot_history


def rows(count=23, seed=0, vocab_size=11):
    """Rows of 3 to 10 tokens, of which some are not learned, so that micro-batches differ in their number of labels."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        ids = random.integers(0, vocab_size, random.integers(3, 11)).tolist()
        hidden = random.integers(1, len(ids))
        made.append({"input_ids": ids, "labels": [-100] * hidden + ids[hidden:]})
    return made


def gpt2(dropout=0.0, dtype="float64", seed=3):
    config = GPT2Config(vocab_size=11, n_positions=12, n_embd=8, n_layer=2, n_head=2, resid_pdrop=dropout,
                        embd_pdrop=dropout, attn_pdrop=dropout)
    return GPT2LMHeadModel(config).to(dtype).init_weights(seed, std=0.3).eval()


def lora(dropout=0.0, dtype="float64", seed=3, **settings):
    config = LlamaConfig(vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
                         max_position_embeddings=12)
    base = LlamaForCausalLM(config).to(dtype).init_weights(seed, std=0.3).eval()
    return get_peft_model(base, LoraConfig(r=2, lora_dropout=dropout, target_modules=["q_proj", "v_proj"], **settings))


def arguments(**settings):
    defaults = {"max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 0.01, "disable_tqdm": True}
    return TrainingArguments(**{**defaults, **settings})


def weights(model):
    return {name: p.data.copy() for name, p in model.named_parameters()}


def run(model, args, **settings):
    return train(model, settings.pop("train_rows", rows()), args, pad_token_id=0, **settings)


def same(a, b):
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


# --- the loop itself -----------------------------------------------------------------------------------------------


def test_training_lowers_the_loss_and_records_each_step():
    model = gpt2()
    args = arguments(max_steps=40, learning_rate=0.03, lr_scheduler_type="cosine", warmup_steps=4)
    history = run(model, args)
    assert history.steps == list(range(1, 41))
    assert np.mean(history.losses[-5:]) < 0.8 * np.mean(history.losses[:5])
    assert history.learning_rates[0] == 0
    assert max(history.learning_rates) == history.learning_rates[4] == 0.03
    assert all(norm > 0 for norm in history.grad_norms)
    assert history.seconds == sorted(history.seconds)
    assert len(history.seconds) == len(history.losses) == 40


def test_a_step_is_that_of_the_loop_written_out():
    """Two steps by hand: order of rows, shift, mean over tokens, clipping, AdamW without decay on biases and norms."""
    from tinypeft.training import batch_rows, clip_grad_norm_, collate

    args = arguments(max_steps=2, lr_scheduler_type="linear", weight_decay=0.1, max_grad_norm=0.5, seed=7)
    trained, model = gpt2(), gpt2()
    history = run(trained, args)
    named = list(model.named_parameters())
    bare = [name.endswith("bias") or ".ln_" in name for name, _ in named]
    decayed = [p for (_, p), no in zip(named, bare, strict=True) if not no]
    others = [p for (_, p), no in zip(named, bare, strict=True) if no]
    assert len(others) == 18  # 2 blocks of two norms with weight and bias, and four biases; the last norm
    optimizer = AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=0.01)
    for step, lr in enumerate((0.01, 0.005)):
        batch = collate(batch_rows(rows(), 4, step, seed=7), 0)
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        loss = functional.cross_entropy(logits[:, :-1], batch["labels"][:, 1:])
        optimizer.zero_grad()
        loss.backward()
        norm = clip_grad_norm_(model.parameters(), 0.5)
        assert norm > 0.5
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        assert_close(history.losses[step], loss.item(), 1e-12)
        assert_close(history.grad_norms[step], norm, 1e-12)
        assert history.learning_rates[step] == lr
    for (name, p), (_, q) in zip(trained.named_parameters(), named, strict=True):
        assert_close(p, q.data, 1e-12, name)


@pytest.mark.parametrize(("size", "times"), [(1, 12), (2, 6), (3, 4), (4, 3), (5, 2)])
def test_micro_batches_are_one_batch(size, times):
    """Also where micro-batches differ in their number of labels, and at the short end of an epoch (23 rows)."""
    whole, parts = gpt2(), gpt2()
    # AdamW would turn rounding errors into steps where a gradient is 0 in exact arithmetic (the bias of the keys).
    steps = arguments(max_steps=5, per_device_train_batch_size=size * times, optim="sgd", learning_rate=0.5)
    expected = run(whole, steps)
    received = run(parts, replace(steps, per_device_train_batch_size=size, gradient_accumulation_steps=times))
    assert_close(received.losses, expected.losses, 1e-12)
    assert_close(received.grad_norms, expected.grad_norms, 1e-12)
    for (name, p), (_, q) in zip(parts.named_parameters(), whole.named_parameters(), strict=True):
        assert_close(p, q.data, 1e-12, name)


def test_a_micro_batch_without_labels_has_no_part():
    data = rows(4)
    data[1]["labels"] = [-100] * len(data[1]["labels"])
    whole, parts = gpt2(), gpt2()
    expected = run(whole, arguments(), train_rows=data)
    received = run(parts, arguments(per_device_train_batch_size=1, gradient_accumulation_steps=4), train_rows=data)
    assert_close(received.losses, expected.losses, 1e-12)


def test_epochs_count_where_max_steps_does_not():
    history = run(gpt2(), arguments(max_steps=-1, num_train_epochs=2))
    assert len(history.steps) == 2 * 6  # 23 rows by 4
    history = run(gpt2(), arguments(max_steps=-1, num_train_epochs=4, per_device_train_batch_size=10))
    assert len(history.steps) == 4 * 3, "the short batch at the end of each epoch is a step too"
    history = run(gpt2(), arguments(max_steps=-1, num_train_epochs=0.5))
    assert len(history.steps) == 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_dtype_stays(dtype):
    model = lora(dtype=dtype)
    run(model, arguments())
    assert {p.dtype for p in model.parameters()} == {np.dtype(dtype)}


def test_only_what_is_trainable_changes():
    model = lora()
    before = weights(model)
    run(model, arguments())
    for name, p in model.named_parameters():
        assert (p.data == before[name]).all() == (not p.requires_grad), name


def test_dropout_follows_the_seed():
    data = rows(1) * 4  # whose order does not matter
    losses = [run(lora(dropout=0.5), arguments(seed=seed), train_rows=data).losses for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]
    assert run(lora(dropout=0.5), arguments(seed=1)).losses != run(lora(), arguments(seed=1)).losses


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored(training):
    model = lora(dropout=0.1)
    model.train(training)
    seen = []
    note = lambda step, history: seen.append(model.training)  # noqa: E731
    run(model, arguments(eval_steps=2), eval_rows=rows(5, 1), on_step_end=note)
    assert {module.training for module in model.modules()} == {training}
    assert seen == [True] * 6, "evaluation in between restores training mode"


def test_the_mode_is_restored_after_an_interruption():
    model = lora(dropout=0.1).eval()

    def interrupt(step, history):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, arguments(), on_step_end=interrupt)
    assert not model.training


@pytest.mark.parametrize("make", [gpt2, lora])
def test_gradient_checkpointing_ends_in_the_same_weights(make):
    plain, checkpointed = make(dropout=0.3), make(dropout=0.3)
    run(plain, arguments())
    run(checkpointed, arguments(gradient_checkpointing=True))
    assert checkpointed.is_gradient_checkpointing
    assert not plain.is_gradient_checkpointing
    assert same(weights(plain), weights(checkpointed))


def test_evaluation_on_the_way_and_at_the_end():
    model, held_out = gpt2(), rows(7, seed=1)
    history = run(model, arguments(max_steps=5, eval_steps=2, per_device_eval_batch_size=3), eval_rows=held_out)
    assert history.eval_steps == [2, 4, 5]
    assert_close(history.eval_losses[-1], evaluate(model, held_out, pad_token_id=0), 1e-12)
    assert run(gpt2(), arguments(), eval_rows=held_out).eval_steps == [6]
    assert run(gpt2(), arguments()).eval_steps == []


def test_evaluation_changes_nothing_of_the_training():
    args = arguments(eval_steps=1)
    losses = [run(lora(dropout=0.3), args, eval_rows=held_out).losses for held_out in (None, rows(5, 1))]
    assert losses[0] == losses[1]


def test_the_callback_sees_gradients_and_history():
    model, seen = gpt2(), []
    run(model, arguments(), on_step_end=lambda step, history: seen.append(
        (step, len(history.steps), all(p.grad is not None for p in model.parameters()))))
    assert seen == [(step, step, True) for step in range(1, 7)]


def test_an_optimizer_of_ones_own_is_used():
    model, reference = gpt2(), gpt2()
    groups = [{"params": list(model.parameters())[:5], "lr": 0.1}, {"params": list(model.parameters())[5:], "lr": 0.0}]
    before = weights(model)
    history = run(model, arguments(lr_scheduler_type="constant"), optimizer=SGD(groups))
    changed = [not (p.data == before[name]).all() for name, p in model.named_parameters()]
    assert changed == [True] * 5 + [False] * (len(changed) - 5)
    assert history.learning_rates == [0.1] * 6
    assert run(reference, arguments(optim="sgd")).losses[1] != history.losses[1]


def test_progress_shows_loss_and_learning_rate():
    text = io.StringIO()
    with redirect_stderr(text):
        history = run(gpt2(), arguments(disable_tqdm=False))
    shown = text.getvalue().split("\r")[-1]
    assert "6/6" in shown
    assert f"loss={np.mean(history.losses):.4f}" in shown
    assert f"lr={history.learning_rates[-1]:.2e}" in shown
    silent = io.StringIO()
    with redirect_stderr(silent):
        run(gpt2(), arguments())
    assert silent.getvalue() == ""


# --- checkpoints ---------------------------------------------------------------------------------------------------

MODELS = {
    "full": (lambda: gpt2(dropout=0.2, dtype="float32"), None),
    "lora": (lambda: lora(dropout=0.2, dtype="float32"), None),
    "momentum": (lambda: gpt2(dropout=0.2), lambda model: SGD(model.parameters(), 0.05, momentum=0.9)),
}


def resumable(folder, **settings):
    return arguments(output_dir=folder, max_steps=9, save_steps=4, eval_steps=3, gradient_accumulation_steps=2,
                     per_device_train_batch_size=3, lr_scheduler_type="cosine", warmup_steps=2, **settings)


@pytest.mark.parametrize("kind", MODELS)
def test_a_resumed_run_equals_the_uninterrupted_one_to_the_bit(kind, tmp_path):
    make, make_optimizer = MODELS[kind]

    def start(folder, **settings):
        model = make()
        optimizer = make_optimizer(model) if make_optimizer else None
        history = run(model, resumable(folder), eval_rows=rows(5, 1), optimizer=optimizer, **settings)
        return history, weights(model)

    def stop(step, history):
        if step == 6:
            raise KeyboardInterrupt

    expected, expected_weights = start(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "cut", on_step_end=stop)
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == ["checkpoint-4"]
    received, received_weights = start(tmp_path / "cut", resume_from_checkpoint=True)
    assert same(received_weights, expected_weights)
    assert replace(received, seconds=[]) == replace(expected, seconds=[])
    assert received.seconds == sorted(received.seconds)
    assert {path.name for path in (tmp_path / "cut").iterdir()} == {"checkpoint-4", "checkpoint-8", "checkpoint-9"}
    ends = [(tmp_path / run / "checkpoint-9/training.safetensors").read_bytes() for run in ("whole", "cut")]
    assert ends[0] == ends[1]


def test_a_finished_run_resumes_to_itself(tmp_path):
    model = gpt2()
    expected = run(model, resumable(tmp_path))
    again = gpt2(seed=9)
    assert run(again, resumable(tmp_path), resume_from_checkpoint=True) == expected
    assert same(weights(again), weights(model))


def test_a_given_checkpoint_is_resumed(tmp_path):
    model = gpt2()
    expected = run(model, resumable(tmp_path / "a"))
    received = run(gpt2(seed=9), resumable(tmp_path / "b"), resume_from_checkpoint=tmp_path / "a/checkpoint-4")
    assert received.losses == expected.losses


def test_a_constant_schedule_may_be_prolonged(tmp_path):
    args = arguments(output_dir=tmp_path, max_steps=3, lr_scheduler_type="constant")
    model = gpt2()
    run(model, args)
    longer = run(model, replace(args, max_steps=6), resume_from_checkpoint=True)
    assert longer.losses == run(gpt2(), arguments(lr_scheduler_type="constant")).losses


def test_a_checkpoint_holds_what_is_trained_and_no_more(tmp_path):
    model = lora()
    run(model, arguments(output_dir=tmp_path))
    from tinypeft.files import read_safetensors

    tensors = read_safetensors(tmp_path / "checkpoint-6/training.safetensors")
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert {name for name in tensors if name.startswith("parameter.")} == {f"parameter.{name}" for name in trained}
    assert len(tensors) == 4 * len(trained)  # the parameter, two moments, the step count


def test_a_failure_while_saving_leaves_no_checkpoint(tmp_path, monkeypatch):
    def fail(path, value):
        raise OSError("disk full")

    monkeypatch.setattr(checkpoints_module, "write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        run(gpt2(), arguments(output_dir=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_leftover_of_a_killed_process_is_no_checkpoint(tmp_path):
    (tmp_path / ".checkpoint-9.abcd.tmp").mkdir()
    (tmp_path / "checkpoint-final").mkdir()
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume from"):
        run(gpt2(), arguments(output_dir=tmp_path), resume_from_checkpoint=True)


@pytest.fixture
def checkpoint(tmp_path):
    run(lora(), resumable(tmp_path))
    shutil.rmtree(tmp_path / "checkpoint-8")
    shutil.rmtree(tmp_path / "checkpoint-9")
    return tmp_path / "checkpoint-4"


def refuses(checkpoint, error, message, model=None, args=None, **settings):
    """Resuming raises, and neither the model nor the optimizer has changed."""
    model = model or lora()
    args = args or resumable(checkpoint.parent)
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    optimizer = settings.pop("optimizer", None) or args.create_optimizer(trainable)
    before = weights(model)
    with pytest.raises(error, match=message):
        run(model, args, resume_from_checkpoint=True, optimizer=optimizer, **settings)
    assert same(weights(model), before)
    assert optimizer.state == {}


@pytest.mark.parametrize("name", ["training.safetensors", "trainer_state.json", "checksums.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped"])
def test_a_damaged_checkpoint_is_refused(checkpoint, name, damage):
    file = checkpoint / name
    content = bytearray(file.read_bytes())
    file.unlink()
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        place = -10 if name != "trainer_state.json" else content.index(b'"losses"') + 20
        content[place] ^= 1
        file.write_bytes(content)
    errors = FileNotFoundError if damage == "missing" else ValueError
    refuses(checkpoint, errors, f"{name}" if damage == "missing" else "damaged|not valid JSON")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "other seed$"),
        ({"learning_rate": 0.5, "weight_decay": 0.1}, "other learning_rate, weight_decay, optimizer"),
        ({"gradient_accumulation_steps": 3}, "other gradient_accumulation_steps"),
        ({"max_steps": 20}, "other max_steps"),
    ],
)
def test_other_settings_are_refused(checkpoint, changes, message):
    refuses(checkpoint, ValueError, message, args=replace(resumable(checkpoint.parent), **changes))


def test_settings_that_change_nothing_may_change(checkpoint):
    args = replace(resumable(checkpoint.parent), save_steps=5, eval_steps=1)
    args = replace(args, per_device_eval_batch_size=1, disable_tqdm=True, num_train_epochs=7)
    assert len(run(lora(), args, resume_from_checkpoint=True).steps) == 9


def test_another_base_data_adapter_or_optimizer_is_refused(checkpoint):
    refuses(checkpoint, ValueError, "other model", model=lora(seed=4))
    refuses(checkpoint, ValueError, "other model", model=lora(lora_alpha=3))
    refuses(checkpoint, ValueError, "other model", model=lora(dtype="float32"))
    refuses(checkpoint, ValueError, "other training rows", train_rows=rows(seed=5))
    model = lora()
    sgd = SGD([p for p in model.parameters() if p.requires_grad], 0.01)
    refuses(checkpoint, ValueError, "other optimizer", model=model, optimizer=sgd)


def test_another_dtype_is_refused_where_nothing_is_frozen(tmp_path):
    run(gpt2(), arguments(output_dir=tmp_path))
    refuses(tmp_path / "checkpoint-6", ValueError, "other model", model=gpt2(dtype="float32"),
            args=arguments(output_dir=tmp_path))


def test_a_new_run_does_not_mix_with_an_old_one(checkpoint):
    with pytest.raises(FileExistsError, match="checkpoint-4 is of an earlier run"):
        run(lora(), resumable(checkpoint.parent))


def test_nothing_to_resume_from(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume from in output_dir=None"):
        run(gpt2(), arguments(), resume_from_checkpoint=True)
    with pytest.raises(FileNotFoundError, match="checkpoint-77"):
        run(gpt2(), arguments(), resume_from_checkpoint=tmp_path / "checkpoint-77")


# --- numbers that are not finite -----------------------------------------------------------------------------------


def diverges(model, args=None, **settings):
    with pytest.raises(DivergenceError) as caught:
        run(model, args or arguments(), **settings)
    return caught.value


def test_a_learning_rate_that_is_too_high_is_named():
    model = gpt2(dtype="float32")
    args = arguments(learning_rate=1e30, optim="sgd", lr_scheduler_type="constant", max_steps=50, max_grad_norm=0)
    error = diverges(model, args)
    assert error.step == len(error.history.steps) + 1 <= 50
    assert error.history.learning_rates[-1] == 1e30
    assert error.causes[0].startswith("the learning rate, 1e+30 at the last update, is too high")
    assert f"step {error.step}: " in str(error)
    assert isinstance(error, RuntimeError)


def test_training_stops_before_the_update():
    model = gpt2()
    before = weights(model)
    model.transformer.h[1].mlp.c_fc.weight.data[0, 0] = np.nan
    before["transformer.h.1.mlp.c_fc.weight"][0, 0] = np.nan
    error = diverges(model)
    assert error.step == 1
    assert error.history == History()
    assert all(np.array_equal(p.data, before[name], equal_nan=True) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
    assert not model.training


def test_corrupt_frozen_weights_are_named():
    model = lora()
    name = "base_model.model.model.layers.1.mlp.up_proj.weight"
    dict(model.named_parameters())[name].data[2, 3] = np.inf
    error = diverges(model)
    assert error.causes == [f"corrupt weights: {name} holds nan or inf"]


def test_frozen_weights_that_broke_during_training_are_named():
    model = lora()
    frozen = dict(model.named_parameters())["base_model.model.lm_head.weight"]

    def poison(step, history):
        frozen.data[0, 0] = np.nan

    error = diverges(model, on_step_end=poison)
    assert error.step == 2
    assert error.causes == ["corrupt weights: base_model.model.lm_head.weight holds nan or inf"]


def test_float16_is_named():
    model = gpt2(dtype="float16")
    for p in model.parameters():
        p.data *= 100
    assert "float16 overflows" in diverges(model).causes[0]


def test_weights_that_training_has_broken_are_named():
    model = gpt2(dtype="float32")
    args = arguments(learning_rate=3e38, optim="sgd", lr_scheduler_type="constant", max_grad_norm=0)
    for p in model.parameters():
        p.data *= 30
    error = diverges(model, args)
    assert error.causes[0].startswith("the learning rate, 3e+38 at the last update, is too high: transformer.")


def test_weights_that_overflow_are_named():
    model = gpt2(dtype="float32")
    model.transformer.wte.weight.data *= 1e30
    assert "activations overflow" in str(diverges(model))


def test_rows_without_labels_are_named():
    data = [{"input_ids": [1, 2, 3], "labels": [-100, -100, -100]}]
    error = diverges(gpt2(), train_rows=data)
    assert error.step == 1
    assert error.causes == ["all labels of the step are -100: leave such rows out"]
    error = diverges(gpt2(), arguments(per_device_train_batch_size=1, max_steps=30), train_rows=data + rows(9))
    assert error.step > 1
    assert error.causes == ["all labels of the step are -100: leave such rows out"]


def test_a_loss_that_breaks_while_the_weights_are_finite():
    model = gpt2()

    def poison(step, history):
        if step == 3:
            model.transformer.h[0].ln_1.eps = np.nan

    error = diverges(model, on_step_end=poison)
    assert error.step == 4
    assert error.causes == [f"the learning rate, 0.0067 at the last update, is too high: the losses were "
                            f"{error.history.losses}"]


def test_gradients_that_are_not_finite_stop_training(monkeypatch):
    from tinypeft.training import loop

    model = gpt2()
    before = weights(model)
    monkeypatch.setattr(loop, "clip_grad_norm_", lambda parameters, max_norm: math.inf)
    error = diverges(model)
    assert "the norm of the gradients is inf" in str(error)
    assert all(p.grad is None for p in model.parameters())
    assert same(weights(model), before)


def test_an_evaluation_loss_that_is_not_finite_stops_training(monkeypatch, tmp_path):
    from tinypeft.training import loop

    monkeypatch.setattr(loop, "evaluate", lambda *arguments, **settings: math.nan)
    error = diverges(gpt2(), arguments(output_dir=tmp_path, eval_steps=2, save_steps=2), eval_rows=rows(3))
    assert "the evaluation loss is nan" in str(error)
    assert list(tmp_path.iterdir()) == []


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0; expected int, at least 1"),
        ({"per_device_train_batch_size": 2.5}, "per_device_train_batch_size is 2.5"),
        ({"per_device_train_batch_size": None}, "per_device_train_batch_size is None"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0"),
        ({"gradient_accumulation_steps": None}, "gradient_accumulation_steps is None"),
        ({"max_steps": -2}, "max_steps is -2"),
        ({"max_steps": None}, "max_steps is None"),
        ({"eval_steps": 0}, "eval_steps is 0"),
        ({"save_steps": 0}, "save_steps is 0"),
        ({"save_steps": 3}, "save_steps is 3, but output_dir"),
        ({"eval_steps": "often"}, "eval_steps is 'often'"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"num_train_epochs": -1}, "num_train_epochs is -1"),
        ({"max_grad_norm": -1.0}, "max_grad_norm is -1.0; expected float, at least 0.0"),
        ({"learning_rate": -1e-3}, "lr is -0.001"),
        ({"weight_decay": -1}, "weight_decay is -1"),
        ({"adam_beta1": 1.0}, "betas are"),
        ({"adam_epsilon": -1}, "eps is -1"),
        ({"optim": "lion"}, "optim is 'lion'; expected \"adamw\" or \"sgd\""),
        ({"lr_scheduler_type": "polynomial"}, "unknown schedule 'polynomial'"),
        ({"lr_scheduler_type": "constant", "warmup_steps": 3}, "constant_with_warmup"),
    ],
)
def test_bad_arguments_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingArguments(**settings)


def test_arguments_as_transformers_users_write_them():
    args = TrainingArguments(output_dir="out", optim="adamw_torch", max_steps=10, max_grad_norm=1, num_train_epochs=1)
    assert isinstance(args.create_optimizer(gpt2().named_parameters()), AdamW)


def test_a_model_with_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="are all frozen"):
        run(gpt2().requires_grad_(False), arguments())
    with pytest.raises(ValueError, match='"meta" device'):
        run(GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=12, n_embd=8, n_layer=1, n_head=2)), arguments())


def test_bad_rows_are_refused_before_any_work():
    model = gpt2()
    before = weights(model)
    good = rows(3)
    with pytest.raises(ValueError, match="train_rows is empty"):
        run(model, arguments(), train_rows=[])
    with pytest.raises(ValueError, match="eval_rows is empty"):
        run(model, arguments(), eval_rows=[])
    with pytest.raises(ValueError, match=r"train_rows\[3\] has ids .* to 11"):
        run(model, arguments(), train_rows=[*good, {"input_ids": [1, 11], "labels": [1, 11]}])
    with pytest.raises(ValueError, match=r"eval_rows\[0\] has 13 input_ids"):
        run(model, arguments(), eval_rows=[{"input_ids": [1] * 13, "labels": [1] * 13}])
    assert same(weights(model), before)


# --- plots ---------------------------------------------------------------------------------------------------------


def test_a_history_is_plotted():
    history = run(gpt2(), arguments(max_steps=60, eval_steps=20), eval_rows=rows(5, 1))
    figure = history.plot("Polish surnames")
    above, below = figure.axes
    assert above.get_ylabel() == "loss (nats per token)"
    assert above.get_title() == "Polish surnames"
    assert below.get_xlabel() == "step (updates of the parameters)"
    assert [text.get_text().split(" (")[0] for text in above.get_legend().get_texts()] == ["training", "validation"]
    thin, mean, validation = (line.get_ydata() for line in above.get_lines())
    assert list(thin) == history.losses
    assert list(validation) == history.eval_losses
    assert mean[-1] == pytest.approx(np.mean(history.losses[-3:]))
    assert mean[1] == pytest.approx(np.mean(history.losses[:2]))
    assert list(below.get_lines()[0].get_ydata()) == history.learning_rates
    assert len({line.get_color() for line in above.get_lines()}) == 2
    buffer = io.BytesIO()
    figure.savefig(buffer)
    assert buffer.getvalue().startswith(b"\x89PNG")


def test_a_history_without_steps_is_not_plotted():
    with pytest.raises(ValueError, match="no steps"):
        plot_history(History())


def test_the_state_is_plain_json(tmp_path):
    run(lora(dropout=0.1), arguments(output_dir=tmp_path))
    content = json.loads((tmp_path / "checkpoint-6/trainer_state.json").read_text())
    assert content["history"]["steps"] == [1, 2, 3, 4, 5, 6]
    assert content["run"]["learning_rate"] == 0.01
    with new_folder(tmp_path / "checkpoint-7"):
        pass  # an empty folder of that name is found as the latest, and refused
    with pytest.raises(FileNotFoundError, match=r"checksums\.json"):
        run(lora(dropout=0.1), arguments(output_dir=tmp_path), resume_from_checkpoint=True)
