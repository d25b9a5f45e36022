"""Bad input, each in a sentence that says what to do, and the model as it was; and what it takes to add a method."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from conftest import GOLDEN, assert_close
from peft_cases import IDS, METHODS, UNMERGEABLE, adapted, assert_same, base, logits, scramble, snapshot, stack, trainable

from tinypeft import (
    AdaLoraConfig,
    AutoModelForCausalLM,
    BitFitConfig,
    BottleneckConfig,
    IA3Config,
    LlamaConfig,
    LNTuningConfig,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    Tensor,
    ULoraConfig,
    VeraConfig,
    get_peft_model,
)
from tinypeft.files import read_json, write_json
from tinypeft.nn import CausalLM, Linear, Parameter
from tinypeft.peft.config import METHODS as KNOWN, TargetedConfig, layer_of, register
from tinypeft.peft.layer import DeltaLayer
from tinypeft.training import TrainingArguments, train


def another(kind: str = "gpt2", **changes: Any) -> CausalLM:
    config = base(kind).config
    return AutoModelForCausalLM.from_config(type(config).from_dict(config.to_dict() | changes)).init_weights(3).to("float64")


OTHERS = {"fewer layers": lambda: another(n_layer=1), "more layers": lambda: another(n_layer=3),
          "narrower": lambda: another(n_embd=16), "a Llama": lambda: base("llama")}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_of_another_base_is_refused(method, other, tmp_path):
    """A LoRA of the head fits where the head is of the same shape, a prompt where the width is: then the names tell."""
    adapted(method).save_pretrained(tmp_path)
    model = OTHERS[other]()
    before, expected = snapshot(model), logits(model)
    if method == "lora_head" and "layers" in other:
        return
    same_shape = other == "a Llama" and method in ("lora_head", "prompt", "prompt_appended")
    with pytest.raises(UserWarning if same_shape else ValueError,
                       match="made for|is for another base|match no module|has no bias|no longer a low-rank"):
        PeftModel.from_pretrained(model, tmp_path)
    assert snapshot(model) == before
    peft_model = get_peft_model(model, BottleneckConfig(reduction_factor=4, target_modules=["attention_add"]))
    before = snapshot(peft_model)
    with pytest.raises(UserWarning if same_shape else ValueError):
        peft_model.load_adapter(tmp_path, "second")
    assert (snapshot(peft_model), [*peft_model.peft_config]) == (before, ["default"])
    assert_same(logits(peft_model.unload()), expected)


@pytest.mark.parametrize("method", UNMERGEABLE)
def test_what_is_no_change_of_weights_is_not_merged(method):
    peft_model = stack(["rslora", method])
    before, expected = snapshot(peft_model), logits(peft_model)
    for verb in (peft_model.merge_adapter, peft_model.merge_and_unload, lambda: peft_model.merge_adapter([method])):
        with pytest.raises(ValueError, match=f"'{method}' .* cannot be merged: it is not a change of the base's weights. "
                                             "Pass adapter_names without it"):
            verb()
    assert snapshot(peft_model) == before
    assert not any(layer.merged_adapters for layer in peft_model.get_layer_status())
    peft_model.merge_adapter(["rslora"])
    assert_close(logits(peft_model), expected, 1e-5)


def test_training_needs_something_to_train(tmp_path):
    rows = [{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}]
    for method in ("lora", "bitfit", "prompt"):
        adapted(method).save_pretrained(tmp_path / method)
        peft_model = PeftModel.from_pretrained(base(), tmp_path / method)
        before = snapshot(peft_model)
        with pytest.raises(RuntimeError, match="requires no gradient"):
            peft_model(IDS, labels=IDS).loss.backward()
        with pytest.raises(ValueError, match="is_trainable=True"):
            train(peft_model, rows, TrainingArguments(max_steps=1, disable_tqdm=True), pad_token_id=0)
        assert snapshot(peft_model) == before


def test_a_plain_llama_has_no_biases_to_train():
    model = base("llama")
    before = snapshot(model)
    with pytest.raises(ValueError, match="this LlamaForCausalLM has no bias.*attention_bias=True or mlp_bias=True"):
        get_peft_model(model, BitFitConfig())
    assert snapshot(model) == before
    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    biased = AutoModelForCausalLM.from_config(LlamaConfig(**sizes, attention_bias=True, mlp_bias=True)).init_weights()
    assert get_peft_model(biased, BitFitConfig()).get_nb_trainable_parameters()[0] == 2 * (4 * 32 + 40 + 40 + 32)
    assert get_peft_model(base("llama"), BitFitConfig(train_norms=True)).get_nb_trainable_parameters()[0] == 5 * 32


BAD = [
    (lambda: LoraConfig(r=33), "rank r=33 for .*c_attn, a matrix of 96 x 32"),
    (lambda: LoraConfig(r=33, use_dora=True), "rank r=33"),
    (lambda: AdaLoraConfig(init_r=33, total_step=9), "rank r=33 for .*c_attn, a matrix of 96 x 32"),
    (lambda: ULoraConfig(r=33), "rank r=33 for .*c_attn"),
    (lambda: VeraConfig(target_modules=["q_proj"]), "match no module of this GPT2LMHeadModel"),

    (lambda: IA3Config(target_modules=["ln_1"]), "of type LayerNorm; only Conv1D, Linear can be adapted"),
    (lambda: LNTuningConfig(target_modules=["c_attn"]), "of type Conv1D; only LayerNorm can be adapted"),
    (lambda: BottleneckConfig(reduction_factor=64), "reduction_factor=64 leaves nothing of a width of 32"),
    (lambda: BottleneckConfig(target_modules=["c_attn"]), "of type Conv1D; only Add can be adapted"),
    (lambda: BitFitConfig(target_modules=["wte"]), "nothing to train: .* no bias in the modules that"),
    (lambda: LoraConfig(modules_to_save=["head"]), r"modules_to_save \['head'\] match no module"),
    (lambda: PrefixTuningConfig(num_virtual_tokens=2, num_layers=3), "num_layers must be 2 for this model .*, got 3"),
    (lambda: PromptTuningConfig(num_virtual_tokens=2, token_dim=64), "token_dim must be 32 for this model .*, got 64"),
    (lambda: AdaLoraConfig(init_r=4), "total_step must be a positive integer, got 0"),
    (lambda: AdaLoraConfig(init_r=4, target_r=5, total_step=9), "target_r must be at most init_r=4, .*, got 5"),
    (lambda: AdaLoraConfig(init_r=4, tinit=5, tfinal=4, total_step=9, target_r=1), "leave no steps of total_step=9"),
    (lambda: AdaLoraConfig(total_step=9, beta1=1.0), r"beta1 must lie in \(0, 1\)"),
    (lambda: VeraConfig(r=0), "r must be a positive integer, got 0"), (lambda: VeraConfig(vera_dropout=1), "got 1"),
    (lambda: VeraConfig(bias="lora_only"), "'vera_only', got 'lora_only'"), (lambda: ULoraConfig(vector="out"), "got 'out'"),
    (lambda: IA3Config(target_modules=["c_attn"], feedforward_modules=["c_fc"]), "are not among the target_modules"),
    (lambda: BottleneckConfig(style="lego"), "style must be one of 'houlsby', 'pfeiffer', 'parallel', got 'lego'"),
    (lambda: BottleneckConfig(non_linearity="wave"), "wave"), (lambda: BottleneckConfig(reduction_factor=0), "above 0, got 0"),
    (lambda: BottleneckConfig(init_weights="big"), "got 'big'"),
    (lambda: BottleneckConfig(scaling=[1.0, 2.0]), r"scaling must be a number, got \[1.0, 2.0\]"),
    (lambda: PrefixTuningConfig(num_virtual_tokens=2, init_weights="one"), "one of None, 'zero', got 'one'"),
    (lambda: PrefixTuningConfig(), "num_virtual_tokens must be a positive integer, got 0"),
    (lambda: LoraConfig(modules_to_save="ln_f"), "must be a list of names, got 'ln_f'"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_configs_that_do_not_fit_leave_the_model_as_it_was(make, message):
    model = base()
    before = snapshot(model)
    with pytest.raises(ValueError, match=message):
        get_peft_model(model, make())
    assert snapshot(model) == before
    peft_model = get_peft_model(model, PromptTuningConfig(num_virtual_tokens=2), "first")
    before = snapshot(peft_model)
    with pytest.raises(ValueError, match=message):
        peft_model.add_adapter("second", make())
    assert (snapshot(peft_model), [*peft_model.peft_config]) == (before, ["first"])


@pytest.mark.parametrize("case", ["gpt2_vera", "gpt2_ia3", "gpt2_prefix", "gpt2_ln", "gpt2_prompt"])
def test_files_are_judged_by_their_keys_and_kind(case, tmp_path):
    config = read_json(GOLDEN / "adapters" / case / "adapter_config.json")
    shutil.copy(GOLDEN / "adapters" / case / "adapter_model.safetensors", tmp_path)
    model = base(dtype="float32")
    before = snapshot(model)
    write_json(tmp_path / "adapter_config.json", config | {"taks_type": "CAUSAL_LM"})
    with pytest.warns(UserWarning, match=r"unknown key 'taks_type' is ignored \(near: task_type"):
        PeftModel.from_pretrained(model, tmp_path).unload()
    for kind in ("LOHA", "P_TUNING", None):
        write_json(tmp_path / "adapter_config.json", config | {"peft_type": kind})
        with pytest.raises(ValueError, match=f"peft_type {kind!r} is not implemented; known: .*LORA.*PROMPT_TUNING"):
            PeftModel.from_pretrained(model, tmp_path)
    assert snapshot(model) == before


def test_a_prompts_model_is_called_as_the_base_is():
    peft_model, embeds = adapted("prompt"), Tensor(np.zeros((2, 6, 32)))
    for arguments, message in (({"input_ids": IDS + 500}, "wrong tokenizer"), ({"input_ids": [1, 2]}, "shape"),
                               ({"input_ids": IDS, "labels": IDS + 500}, "labels must lie in"),

                               ({"input_ids": IDS, "inputs_embeds": embeds}, "one of the two"), ({}, "one of the two")):
        with pytest.raises(ValueError, match=message):
            peft_model(**arguments)


# ---- a new method ---------------------------------------------------------------------------------------------------


def toy_method() -> type[TargetedConfig]:
    """y = (1 + t) * W x: a config and a layer, nothing else."""

    @register
    @dataclass
    class ToyConfig(TargetedConfig):
        start: float = 0.0
        peft_type: ClassVar[str] = "TOY"
        default_targets: ClassVar[dict[str, str | list[str]]] = {"llama": ["q_proj", "down_proj"]}

    @layer_of(ToyConfig)
    class ToyLayer(DeltaLayer):
        prefix = "toy_"
        wraps = (Linear,)

        def __init__(self, base_layer: Any, path: str = ""):
            super().__init__(base_layer, path)
            self.toy_t: dict[str, Parameter] = {}

        def add(self, adapter_name: str, config: Any, seed: int) -> None:
            self.toy_t[adapter_name] = Parameter((self.base_layer.out_features,))
            self.toy_t[adapter_name].data = np.full(self.base_layer.out_features, config.start)

        def forward(self, x: Tensor) -> Tensor:
            y = out = self.base_layer(x)
            for name in self.working:
                out = out + y * self.toy_t[name]
            return out

        def delta_weight(self, adapter_name: str) -> np.ndarray:
            return self.toy_t[adapter_name].data[:, None] * self.base_layer.weight.data

    return ToyConfig


def test_a_new_method_is_a_config_and_a_layer(tmp_path: Path):
    toy = toy_method()
    try:
        model = base("llama")
        plain = logits(model)
        peft_model = get_peft_model(model, toy())
        assert peft_model.get_nb_trainable_parameters() == (2 * 64, 29408 + 2 * 64)
        assert_same(logits(peft_model), plain)
        expected = logits(scramble(peft_model))
        peft_model(IDS, labels=IDS).loss.backward()
        assert {name for name, p in peft_model.named_parameters() if p.grad is not None} == trainable(peft_model).keys()
        peft_model.merge_adapter()
        assert_close(logits(peft_model), expected, 1e-10)
        peft_model.unmerge_adapter()
        with peft_model.disable_adapter():
            assert_same(logits(peft_model), plain)
        peft_model.add_adapter("strong", toy(start=2.0))
        peft_model.add_adapter("prompt", PromptTuningConfig(num_virtual_tokens=2))
        mixed = logits(peft_model, adapter_names=["default", "strong"])
        assert_close(mixed[0], expected[0], 1e-12)
        assert_same(peft_model.generate(IDS, adapter_names=["__base__"] * 2), base("llama").generate(IDS))
        assert [(layer.module_type, layer.available_adapters) for layer in peft_model.get_layer_status()] == [
            ("ToyLayer", ["default", "strong"])] * 4
        peft_model.set_adapter(["prompt", "strong", "default"])
        together = logits(peft_model)
        peft_model.save_pretrained(tmp_path)
        assert type(PeftConfig.from_pretrained(tmp_path)) is toy
        again = PeftModel.from_pretrained(base("llama"), tmp_path, is_trainable=True)
        assert_same(logits(again), together)
        again.set_adapter("strong")
        again.delete_adapter("prompt")
        again.load_adapter(tmp_path, "copy")
        again.set_adapter("copy")
        assert_same(logits(again), expected)
        with pytest.raises(ValueError, match="of two methods on one module"):
            again.add_adapter("lora", LoraConfig(r=2))
        assert_close(logits(again.merge_and_unload()), expected, 1e-10)
    finally:
        del KNOWN["TOY"]
    with pytest.raises(ValueError, match="peft_type 'TOY' is not implemented"):
        PeftConfig.from_pretrained(tmp_path)
