"""Named models have the right shapes: all parameters of transformers' models, by name and shape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tinypeft import BitFitConfig, LlamaConfig
from tinypeft.budget import CATALOG, Counts, base_parameters, build, count_parameters

PUBLISHED = {  # parameters, in billions and at the digits that the papers or model cards give
    "gpt2-xl": 1.558, "gpt3": 174.6, "llama-65b": 65.2, "llama-2-13b": 13.02, "llama-2-70b": 68.98, "llama-3-70b": 70.6,
    "opt-6.7b": 6.658, "pythia-6.9b": 6.857, "qwen2-7b": 7.616, "t5-xxl": 11.135, "smollm2-135m": 0.1345,
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_counts_are_those_published(model):
    assert base_parameters(model) / 1e9 == pytest.approx(PUBLISHED[model], rel=2e-3)


def test_every_model_names_its_source():
    for name, spec in CATALOG.items():
        assert spec.source, name
        assert count_parameters(name) == Counts(base_parameters(name), base_parameters(name))


def test_a_model_is_found_by_its_hub_name_and_in_any_case():
    assert base_parameters("meta-llama/Meta-Llama-3-8B") == base_parameters("Llama-3-8B") == 8_030_261_248


def test_folders_and_bundled_models_are_built_too(tmp_path: Path):
    config = LlamaConfig(vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    assert base_parameters(str(tmp_path)) == 2 * 11 * 8 + 4 * 64 + 3 * 8 * 12 + 3 * 8
    assert base_parameters("tinypeft/surnames") == 415_232


@pytest.mark.parametrize(("wrong", "hint"), [("llama-2-8b", "near: .*llama-2-7b"), ("nothing-like-it", "known: gpt2,")])
def test_an_unknown_model_is_an_error_that_lists_what_there_is(wrong, hint):
    with pytest.raises(ValueError, match=f"unknown model '{wrong}'.*{hint}.*folder with a config.json"):
        build(wrong)


def test_models_that_can_only_be_counted_say_so():
    with pytest.raises(NotImplementedError, match="opt can be counted here, not run"):
        build("opt-6.7b")([[1]])


def test_bitfit_needs_biases():
    assert count_parameters("opt-6.7b", BitFitConfig()).trainable == 1_445_888
    assert count_parameters("pythia-6.9b", BitFitConfig()).trainable == 1_445_888
    assert count_parameters("qwen2-7b", BitFitConfig()).trainable == 129_024
    with pytest.raises(ValueError, match="bias"):
        count_parameters("llama-2-7b", BitFitConfig())


# --- the same parameters as in transformers, by name and shape -----------------------------------------------------------

HF_CLASSES = {"gpt2": "GPT2", "llama": "Llama", "opt": "OPT", "gpt_neox": "GPTNeoX", "qwen2": "Qwen2", "t5": "T5"}
HF_OPTIONS = {  # where a config of theirs calls the same by another name, from the models' config.json
    "opt": {"ffn_dim": 16384, "word_embed_proj_dim": 4096},
    "t5": {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_decoder_layers": 24, "num_heads": 64,
           "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}


@pytest.mark.parity
@pytest.mark.parametrize("model", CATALOG)
def test_parameters_are_those_of_transformers(model):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    ours = build(model)
    kind = HF_CLASSES[ours.config.model_type]
    values = ours.config.to_dict() | HF_OPTIONS.get(ours.config.model_type, {})
    config = getattr(transformers, f"{kind}Config")(**values)
    head = {"GPT2": "LMHeadModel", "T5": "ForConditionalGeneration"}.get(kind, "ForCausalLM")
    with torch.device("meta"):
        theirs = getattr(transformers, kind + head)(config)
    theirs.tie_weights()
    shapes = {name.replace("embed_out", "lm_head"): tuple(p.shape) for name, p in theirs.named_parameters()}
    if kind == "T5":  # transformers 5 ties the head of every T5 that it builds; that of 1.1 is published untied
        shapes["lm_head.weight"] = shapes["shared.weight"]
    assert {name: p.shape for name, p in ours.named_parameters()} == shapes
