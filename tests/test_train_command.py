"""`tinypeft train`, through its entry point: what it writes and says, resumes, refuses, and what peft makes of the result."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_close

import tinypeft.commands.train as command
from tinypeft import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LoraConfig, PeftModel, get_peft_model
from tinypeft.cli import main
from tinypeft.commands.train_report import print_next_steps, printable, samples_of
from tinypeft.models import CharTokenizer
from tinypeft.models.bundled import BUNDLED
from tinypeft.quant import Linear4bit
from tinypeft.training import DivergenceError, History, bits_per_character

LETTERS = "abcdefghij"
TOKENIZER = CharTokenizer(LETTERS + "[]/: ")
RESULT = {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json", "loss.png"}


def texts(count=40):
    """Words in which each letter is followed by the next one of the alphabet."""
    random = np.random.default_rng(0)
    starts, lengths = random.integers(0, 10, count), random.integers(3, 9, count)
    return ["".join(LETTERS[(s + i) % 10] for i in range(n)) for s, n in zip(starts, lengths, strict=True)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    config = LlamaConfig(vocab_size=24, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
                         num_key_value_heads=1, max_position_embeddings=12, initializer_range=0.3, bos_token_id=1,
                         eos_token_id=2, pad_token_id=0)  # 24: a vocabulary filled up, as is usual; the tokenizer has 18
    AutoModelForCausalLM.from_config(config, seed=1).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with data of both kinds."""
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text("\n".join(texts()) + "\n")
    pairs = [{"prompt": text[:2], "completion": text[2:]} for text in texts()]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)) + "\n")
    return tmp_path


def arguments(base, **options):
    """The command line, with options given by their names in Python; True is a flag, None leaves one out."""
    defaults = {"model": base, "data": "words.txt", "out": "out", "max_steps": 10, "learning_rate": 0.01}
    words = ["train"]
    for name, value in {**defaults, **options}.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return words


@pytest.fixture
def run(base, here, capsys, monkeypatch):
    """Run the command as a shell does: (exit code, what it printed, what it said on stderr)."""

    def run(**options):
        monkeypatch.setattr(sys, "argv", ["tinypeft", *arguments(base, **options)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capsys.readouterr()

    return run


def names(folder="out"):
    return {path.name for path in Path(folder).iterdir()}


def adapter(folder="out"):
    return Path(folder, "adapter_model.safetensors").read_bytes()


def reloaded(base, folder="out"):
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)


def words_of(line):
    return line.replace("│", " ").split()


def do_what_it_says(printed, library):
    """Run the lines of Python with which the output ends."""
    lines = printed.split(f"To load it with {library}:\n")[1].split("To load it")[0].splitlines()
    made = {}
    exec("\n".join(line.strip() for line in lines), made)
    return made


# --- what it does --------------------------------------------------------------------------------------------------


def test_a_run_from_the_shell(base, here):
    """In a process of its own, piped: plain text on stdout, nothing on stderr, and a folder that loads."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "COLUMNS": "80"}
    done = subprocess.run([sys.executable, "-m", "tinypeft.cli", *arguments(base, max_steps=None, num_train_epochs=5, r=4)],
                          capture_output=True, check=False, env=environment)
    printed = done.stdout.decode()
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    assert all(c.isprintable() or c == "\n" for c in printed)
    assert "36 rows of words.txt to learn from, 4 set aside" in printed
    assert "25 steps of 8 rows, learning rate 0.01 (cosine, 2 steps of warm-up)" in printed
    assert printed.count("validation loss ") == 5
    assert names() == RESULT | {"checkpoint-20", "checkpoint-25"}

    lines = {" ".join(words_of(line)[:2]): words_of(line) for line in printed.splitlines()}
    before, after = AutoModelForCausalLM.from_pretrained(base), reloaded(base)
    random = np.random.default_rng(0).permutation(40)[:4]
    validation = [texts()[i] for i in sorted(random)]
    expected = [f"{bits_per_character(model, validation, TOKENIZER):.3f}" for model in (before, after)]
    assert float(expected[1]) < float(expected[0]) - 0.5
    assert lines["validation, bits"][-2:] == expected
    nats = [float(x) for x in lines["validation loss,"][-2:]]
    assert_close(np.array(nats) / np.log(2), np.array(expected, dtype=float), 2e-3)
    trained, total = get_peft_model(before, LoraConfig(r=4, target_modules="all-linear")).get_nb_trainable_parameters()
    assert lines["parameters trained"][-2:] == [f"{trained:,}", f"({trained / total:.2%})"]
    size = f"{len(adapter()) / 1000:.0f}"
    assert lines[f"adapter_model.safetensors {size}"] == ["adapter_model.safetensors", size, "kB"]

    loaded = do_what_it_says(printed, "tinypeft")
    ids = np.array([TOKENIZER.encode("abc")])
    assert np.array_equal(loaded["model"](ids).logits.data, after(ids).logits.data)
    assert loaded["tokenizer"].encode("abc") == TOKENIZER.encode("abc")


def test_every_option_of_the_command_is_used(monkeypatch):
    given = {}
    monkeypatch.setattr(command, "run_train", lambda **options: given.update(options))
    monkeypatch.setattr(sys, "argv", ["tinypeft", *arguments("m")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert list(given) == [field.name for field in dataclasses.fields(command.Options)]


def test_options_reach_the_run(run, base, monkeypatch):
    seen = {}
    monkeypatch.setattr(command, "_train", lambda job, *_: seen.update(vars(job)) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(r=3, lora_alpha=5, lora_dropout=0.25, target_modules="q_proj, down_proj", max_steps=9, learning_rate=0.5,
            batch_size=3, gradient_accumulation_steps=2, lr_scheduler_type="linear", warmup_steps=4, weight_decay=0.1,
            max_grad_norm=0.3, dtype="float64", seed=5, validation_fraction=0.25, max_length=6, truncate=True,
            eval_steps=4, save_steps=3)
    args = vars(seen["args"])
    expected = {
        "max_steps": 9, "learning_rate": 0.5, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "seed": 5,
        "lr_scheduler_type": "linear", "warmup_steps": 4, "weight_decay": 0.1, "max_grad_norm": 0.3, "eval_steps": 4,
        "save_steps": 3, "output_dir": Path("out"), "disable_tqdm": True}
    assert {name: args[name] for name in expected} == expected
    config = seen["model"].peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (3, 5, 0.25)
    assert config.target_modules == ["q_proj", "down_proj"]
    assert config.task_type == "CAUSAL_LM"
    same = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype="float64"), config, seed=5).state_dict()
    assert all(np.array_equal(p.data, same[name]) and p.dtype == np.float64 for name, p in seen["model"].named_parameters())
    assert (len(seen["train_rows"]), len(seen["eval_rows"])) == (30, 10)
    assert max(len(row["input_ids"]) for row in seen["train_rows"]) == 6


@pytest.mark.parametrize(("method", "rate"), [("lora", 5e-4), ("qlora", 5e-4), ("full", 5e-5)])
def test_default_learning_rates(run, monkeypatch, method, rate):
    seen = {}
    monkeypatch.setattr(command, "_train", lambda job, *_: seen.update(vars(job)) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(method=method, learning_rate=None)
    assert_close(seen["args"].learning_rate, rate * (2000 / 16) ** 0.781, 1e-12)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("all-linear", "all-linear"), ("q_proj", ["q_proj"]), ("q_proj,mlp.up_proj", ["q_proj", "mlp.up_proj"]),
     ("q_proj, v_proj,", ["q_proj", "v_proj"]), (r".*\.(q|v)_proj", r".*\.(q|v)_proj")])
def test_target_modules_are_names_or_a_regular_expression(given, expected):
    assert command.parse_targets(given) == expected


def test_equal_seeds_give_equal_adapters(run):
    for out, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert run(out=out, seed=seed, lora_dropout=0.2)[0] == 0
    assert adapter("a") == adapter("b") != adapter("c")


def test_full_fine_tuning_saves_a_model(run, base):
    code, printed, _ = run(method="full", max_steps=30)
    assert code == 0
    assert "100.00%" in printed
    assert names() == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "loss.png",
                       "checkpoint-24", "checkpoint-30"}
    before, after = AutoModelForCausalLM.from_pretrained(base), AutoModelForCausalLM.from_pretrained("out")
    changed = [not np.array_equal(p.data, q.data) for p, q in zip(before.parameters(), after.parameters(), strict=True)]
    assert all(changed)
    assert bits_per_character(after, texts(), AutoTokenizer.from_pretrained("out")) < bits_per_character(
        before, texts(), TOKENIZER) - 1
    assert "PeftModel" not in printed
    assert "AutoModelForCausalLM.from_pretrained('out')" in printed


def test_qlora_trains_an_adapter_on_a_base_in_four_bits(run):
    code, printed, _ = run(method="qlora", max_steps=30)
    assert code == 0
    lines = re.search(r"To load it with tinypeft:\n\n(.*?)\n\n", printed, flags=re.S)[1]
    scope: dict = {}
    exec(textwrap.dedent(lines), scope)
    model = scope["model"]
    assert sum(isinstance(module, Linear4bit) for module in model.modules()) == 7
    with model.disable_adapter():
        before = bits_per_character(model, texts(), TOKENIZER)
    assert bits_per_character(model, texts(), TOKENIZER) < before - 0.5


def test_prompts_are_given_and_completions_learned(run):
    """The samples go on from prompts of validation rows; after training they are what was expected."""
    code, printed, _ = run(data="pairs.jsonl", max_steps=150, learning_rate=0.03, method="full")
    assert code == 0
    samples = {}
    for line in printed.split("What it writes:")[1].splitlines():
        if (found := line.split()) and found[0] in ("prompt", "expected", "before", "after"):
            samples.setdefault(found[0], []).append("".join(found[1:]))
    prompts, expected, before, after = samples.values()
    assert len(prompts) == 3
    assert {prompt + text for prompt, text in zip(prompts, expected, strict=True)} <= set(texts())
    assert all(prompt + text in LETTERS * 7 for prompt, text in zip(prompts, after, strict=True))
    assert not any(prompt + text in LETTERS * 7 for prompt, text in zip(prompts, before, strict=True))


def test_a_prompt_of_the_users(run):
    """Of rows of text several continuations are drawn; after rows with prompts the likeliest completion is taken."""
    Path("[b]:b:.txt").write_text("\n".join(texts()))
    printed = run(prompt="[b]:b:", data="[b]:b:.txt")[1]  # nothing of it is markup
    assert "36 rows of [b]:b:.txt" in printed
    printed = printed.split("What it writes, drawn at temperature 0.8:")[1].splitlines()
    assert "prompt   [b]:b:" in [line.strip() for line in printed]
    assert sum("[b]:b:" in line for line in printed) == 7
    assert len({line.split("[b]:b:")[1].strip() for line in printed if "[b]:b:" in line}) == 7  # drawn, not repeated
    printed = run(prompt="ab", data="pairs.jsonl", out="out2")[1].split("What it writes:")[1].split("┏")[0]
    assert [line.split()[0] for line in printed.splitlines() if line] == ["prompt", "before", "after"]


def test_texts_are_cut_on_request(run):
    Path("long.txt").write_text("\n".join([*texts(), "abcdefghij" * 3]))
    code, _, said = run(data="long.txt")
    assert (code, Path("out").exists()) == (1, False)
    assert "long.txt, line 41: 32 tokens, where 12 fit" in said
    assert run(data="long.txt", truncate=True)[0] == 0


def test_nothing_that_a_terminal_obeys_is_printed():
    assert printable("a\x1b[31mb\r\x07\n\tc ł") == "a\ufffd[31mb\ufffd\ufffd\n\ufffdc ł"


def test_hugging_face_is_told_where_the_bundled_base_lies(capsys):
    print_next_steps("tinypeft/surnames", Path("out"), adapter=True, quantized=False)
    ours, theirs = capsys.readouterr().out.split("Hugging Face")
    assert "from_pretrained('tinypeft/surnames')" in ours
    assert f"from_pretrained('{BUNDLED['tinypeft/surnames']}')" in theirs.replace("\\\\", "\\")


def test_an_overtrained_model_is_noticed(run, monkeypatch):
    def train(*arguments, on_step_end, **settings):
        history = History([1, 2], [3.0, 2.0], [0.1, 0.1], [1.0, 1.0], [1.0, 2.0], [1, 2], losses)
        on_step_end(2, history)
        return history

    monkeypatch.setattr(command, "train", train)
    losses = [1.5, 1.9]
    assert "The validation loss had been lower, 1.500, after step 1" in run()[1]
    losses = [1.9, 1.5]
    assert "had been lower" not in run(out="out2")[1]


# --- interrupted and resumed ---------------------------------------------------------------------------------------


def interrupt_at(monkeypatch, step):
    """Ctrl-C in the middle of a step."""
    report = command.Progress.__call__

    def stop(progress, history):
        if history.steps[-1] == step:
            raise KeyboardInterrupt
        report(progress, history)

    monkeypatch.setattr(command.Progress, "__call__", stop)


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_an_interrupted_run_is_resumed_exactly(run, monkeypatch, method):
    options = {"method": method, "lora_dropout": 0.2, "save_steps": 2}
    _, whole, _ = run(out="whole", **options)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7)
        code, printed, said = run(**options)
    assert code != 0
    assert "Interrupted. The same command with --resume goes on from out/checkpoint-6." in printed
    assert "Traceback" not in said
    assert names() == {"checkpoint-4", "checkpoint-6"}  # no result yet
    code, printed, _ = run(**options, resume=True)
    assert code == 0
    assert "Going on from out/checkpoint-6." in printed
    weights = "adapter_model.safetensors" if method != "full" else "model.safetensors"
    assert Path("out", weights).read_bytes() == Path("whole", weights).read_bytes()
    assert names() == names("whole")

    def result(text):
        return [line.replace("out", "whole") for line in text.split("What it writes")[1].splitlines() if "seconds" not in line]

    assert result(printed) == result(whole)


def test_an_interruption_before_the_first_checkpoint_leaves_nothing(run, monkeypatch):
    interrupt_at(monkeypatch, 1)
    code, printed, _ = run()
    assert code != 0
    assert "Interrupted. There was no checkpoint yet" in printed
    assert not Path("out").exists()


def test_resuming_needs_a_checkpoint_and_the_same_run(run):
    code, _, said = run(resume=True)
    assert (code, Path("out").exists()) == (1, False)
    assert "no checkpoint to resume from" in said
    assert run(save_steps=5)[0] == 0
    kept = adapter()
    code, _, said = run(resume=True, learning_rate=0.02)
    assert code == 1
    assert "is of another run and cannot be gone on with exactly: other learning_rate" in said
    assert adapter() == kept


def test_another_run_is_not_overwritten(run):
    assert run()[0] == 0
    kept = adapter()
    code, printed, said = run(seed=1)
    assert (code, printed) == (1, "")
    assert "--out out is not empty (it holds adapter_config.json, adapter_model.safetensors, checkpoint-10" in said
    assert "--resume" in said
    assert adapter() == kept


# --- divergence ----------------------------------------------------------------------------------------------------


def test_a_run_that_diverges_stops_with_the_step_and_writes_no_result(run):
    code, printed, said = run(learning_rate=1e38, warmup_steps=0, method="full", eval_steps=100, save_steps=1)
    assert code == 1
    assert said.startswith("tinypeft: step 2: the loss is nan; training stopped before this update. Likely: the learning rate")
    assert said.count("\n") == 1
    assert "No result was written" in said
    assert "What it writes" not in printed
    assert names() == {"checkpoint-1"}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(("value", "cause"), [(np.nan, "corrupt weights: base_model.model.model.layers.0.mlp.up_proj"),
                                              (1e38, "weights so large that")])
def test_a_broken_base_is_found_at_the_first_step(run, base, value, cause):
    model = AutoModelForCausalLM.from_pretrained(base)
    model.get_submodule("model.layers.0.mlp.up_proj").weight.data[:] = value
    model.save_pretrained("broken")
    TOKENIZER.save_pretrained("broken")
    code, _, said = run(model="broken")
    assert (code, Path("out").exists()) == (1, False)
    assert said.startswith("tinypeft: step 1: the loss is nan")
    assert cause in said


def test_an_adapter_that_is_there_survives_divergence(run, monkeypatch):
    assert run(lr_scheduler_type="constant")[0] == 0
    kept = {path.name: path.read_bytes() for path in Path("out").iterdir() if path.is_file()}

    def diverge(*arguments, **settings):
        raise DivergenceError("the loss is nan", 12, ["bad luck"], History())

    monkeypatch.setattr(command, "train", diverge)
    code, _, said = run(lr_scheduler_type="constant", max_steps=20, resume=True)
    assert code == 1
    assert "step 12: the loss is nan" in said
    assert {path.name: path.read_bytes() for path in Path("out").iterdir() if path.is_file()} == kept


# --- bad input -----------------------------------------------------------------------------------------------------

BAD = {
    "method": ({"method": "Lora2"}, "unknown method 'Lora2'; did you mean 'lora'? There are: lora, qlora, full"),
    "no such model": ({"model": "tinypeft/surname"}, "Did you mean 'tinypeft/surnames'?"),
    "no such data": ({"data": "nope.txt"}, "nope.txt"),
    "suffix": ({"data": "words.csv"}, "words.csv is neither .txt"),
    "empty": ({"data": "empty.txt"}, "empty.txt holds no examples"),
    "one row": ({"data": "one.txt"}, "of 1 rows aside"),
    "not JSON": ({"data": "torn.jsonl"}, "torn.jsonl, line 2"),
    "not UTF-8": ({"data": "latin.txt"}, "latin.txt, line 2"),
    "wrong keys": ({"data": "keys.jsonl"}, "keys.jsonl, line 1"),
    "unknown character": ({"data": "unknown.txt"}, "unknown.txt, line 2: this tokenizer does not know 'ł' (U+0142)"),
    "long row": ({"data": "long.txt"}, "long.txt, line 2: 14 tokens, where 12 fit"),
    "r": ({"r": 0}, "must be an integer of at least 1, got r=0"),
    "large r": ({"r": 17}, "rank r=17 for model.layers.0.self_attn.q_proj"),
    "alpha": ({"lora_alpha": 0}, "lora_alpha must be a positive number"),
    "dropout": ({"lora_dropout": 1}, "lora_dropout must lie in [0, 1)"),
    "targets": ({"target_modules": "q_prj,v_proj"}, "['q_prj'] match no module of this LlamaForCausalLM. Near: q_proj"),
    "all": ({"target_modules": "all_linear"}, 'did you mean "all-linear"?'),
    "expression": ({"target_modules": "(q_proj"}, "neither names separated by commas nor a regular expression"),
    "steps": ({"max_steps": 0}, "expected at least 1"),
    "endless": ({"max_steps": None, "num_train_epochs": "inf"}, "num_train_epochs is inf"),
    "batch": ({"batch_size": 0}, "per_device_train_batch_size is 0"),
    "warm-up": ({"warmup_steps": 10}, "warmup_steps=10 of 10 steps"),
    "schedule": ({"lr_scheduler_type": "cosin"}, "unknown schedule 'cosin'"),
    "fraction": ({"validation_fraction": 1}, "cannot set 1.0 of 40 rows aside"),
    "max_length": ({"max_length": 13}, "max_length is 13; expected 2 to 12"),
    "seed": ({"seed": -1}, "seed is -1; expected at least 0"),
    "dtype": ({"dtype": "int8"}, "dtype 'int8'"),
    "prompt": ({"prompt": "ł"}, "--prompt: this tokenizer does not know 'ł'"),
    "long prompt": ({"prompt": "a" * 11}, "--prompt has 12 tokens; expected 1 to 11"),
    "out is a file": ({"out": "words.txt"}, "cannot write to --out words.txt: words.txt is a file"),
    "out is in a file": ({"out": "words.txt/a/b"}, "words.txt is a file"),
    "out is in use": ({"out": "."}, "--out . is not empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_a_sentence_before_any_work(run, here, case):
    contents = {
        "words.csv": b"abc\n", "empty.txt": b"\n \n", "one.txt": b"abc\n", "torn.jsonl": b'{"text": "abc"}\n{"text": "a\n',
        "latin.txt": b"abc\na\xffb\n", "keys.jsonl": b'{"prompt": "a"}\n', "unknown.txt": "abc\naał\n".encode(),
        "long.txt": b"abc\nabcdefabcdef\n"}
    for name, content in contents.items():
        Path(name).write_bytes(content)
    before = sorted(here.rglob("*"))
    options, message = BAD[case]
    code, printed, said = run(**options)
    assert (code, printed) == (1, "")
    assert said.startswith("tinypeft: ")
    assert said.count("\n") == 1
    assert message in said
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [("config.json", b"{", "config.json is not valid JSON"), ("config.json", None, "config.json"),
     ("model.safetensors", b"torn", "is not a complete safetensors file"), ("model.safetensors", None, "has neither"),
     ("tokenizer.json", None, "has no tokenizer.json")])
def test_a_broken_model_folder_is_refused(run, base, file, content, message):
    for path in base.iterdir():
        Path("copy").mkdir(exist_ok=True)
        Path("copy", path.name).write_bytes(path.read_bytes())
    Path("copy", file).unlink()
    if content is not None:
        Path("copy", file).write_bytes(content)
    code, printed, said = run(model="copy")
    assert (code, printed, Path("out").exists()) == (1, "", False)
    assert message in said


def test_a_read_only_place_is_refused(run, here, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != here)  # a mode would not stop root
    code, printed, said = run(out="new/out")
    assert (code, printed) == (1, "")
    assert f"cannot write to --out new/out: {here} is read-only" in said


def test_a_prompt_may_be_empty():
    """Without bos there is nothing to go on from but the first token itself."""
    row = {"prompt": "", "completion": "ab"}, {"input_ids": [5, 6], "labels": [5, 6]}
    assert samples_of([row])[0].start == [5]


# --- Hugging Face --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bpe_base(tmp_path_factory):
    """A GPT-2 with a byte-level BPE of its own, as the real one: bos and eos are one token, and there is no pad token."""
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra `parity`")
    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.train_from_iterator(texts(), tokenizers.trainers.BpeTrainer(
        vocab_size=280, special_tokens=["<|endoftext|>"], initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}))
    config = {"model_type": "gpt2", "vocab_size": 288, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2,
              "bos_token_id": 0, "eos_token_id": 0}
    AutoModelForCausalLM.from_config(config, seed=2).save_pretrained(folder)
    return folder


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_result_loads_in_peft(run, base, bpe_base, kind):
    torch = pytest.importorskip("torch", reason="needs the extra `parity`")
    transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")
    peft = pytest.importorskip("peft", reason="needs the extra `parity`")
    model = {"llama": base, "gpt2": bpe_base}[kind]
    code, printed, said = run(model=model, data="pairs.jsonl")
    assert code == 0, said
    made = do_what_it_says(printed, "Hugging Face")
    tokenizer, theirs = AutoTokenizer.from_pretrained("out"), made["tokenizer"]
    assert isinstance(theirs, transformers.PreTrainedTokenizerBase)
    for text in ("abcd", "ij abc"):
        assert theirs(text)["input_ids"] == tokenizer.encode(text)
    ids = np.array([tokenizer.encode("abcdefgh")])
    ours = reloaded(model)(ids).logits.data
    plain = AutoModelForCausalLM.from_pretrained(model)(ids).logits.data
    assert np.abs(ours - plain).max() > 0.01  # it has learned something
    short = peft.AutoPeftModelForCausalLM.from_pretrained("out")  # finds the base by its name in the config
    with torch.no_grad():
        for loaded in (made["model"], short):
            assert isinstance(loaded, peft.PeftModel)
            assert_close(ours, loaded.eval()(torch.from_numpy(ids)).logits.numpy(), 1e-5)
