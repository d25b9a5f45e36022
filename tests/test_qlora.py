"""`tinypeft qlora`: its task, without the model; what it refuses; and, with the model, one short run from end to end."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tinypeft import AutoModelForCausalLM, LlamaConfig, PeftModel
from tinypeft.commands import qlora, qlora_costs, qlora_task
from tinypeft.commands.qlora import Result, Run, Score, chat, run_qlora
from tinypeft.commands.qlora_costs import Memory, Precision, load_base
from tinypeft.commands.qlora_report import print_report
from tinypeft.commands.qlora_task import EXAMPLES, functions, parse
from tinypeft.models import smollm2

ROOT = Path(__file__).parents[1]
CARD = {"name": "shutil.copyfile", "summary": "Copy data from src to dst.", "required": ["src", "dst"], "optional": []}

# --- the functions -------------------------------------------------------------------------------------------------


def read(source: str) -> qlora_task.Function | None:
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.FunctionDef)
    return qlora_task._read_function("m.sub", node)


def test_no_held_out_function_comes_from_a_module_that_was_trained_on():
    train, held_out = functions()
    modules = [{function.module.partition(".")[0] for function in part} for part in (train, held_out)]
    assert not modules[0] & modules[1]
    assert not {function.module.partition(".")[0] for function in EXAMPLES} & set().union(*modules)
    assert min(len(train), len(held_out)) >= 200
    assert all(len(part) >= 20 for part in modules)
    assert {"shutil", "heapq", "email"} <= modules[0]  # in whatever version of Python: a module's place hangs on its name
    assert {"inspect", "operator", "secrets"} <= modules[1]


def test_the_functions_are_the_same_in_every_process():
    code = "from tinypeft.commands.qlora_task import functions; print([[f.name for f in part] for part in functions()])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ast.literal_eval(run.stdout) == [[function.name for function in part] for part in functions()]
    assert len({function.name for part in functions() for function in part}) == sum(map(len, functions()))


def test_a_function_keeps_its_part_when_others_come_and_go(monkeypatch):
    some = [function for part in functions() for function in part if not function.name.startswith(("shutil.", "inspect."))]
    monkeypatch.setattr(qlora_task, "_read_library", lambda: reversed(some))
    for fewer, part in zip(functions.__wrapped__(), functions(), strict=True):
        assert fewer == tuple(function for function in part if function in set(some))


def test_a_python_without_its_sources_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(qlora_task.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(ImportError, match="0 functions in .* comes without the source of its standard library"):
        functions.__wrapped__()


def test_parameters_with_and_without_defaults():
    function = read('def f(a, /, b, c=1, *, d, e=None):\n    """Do something.\n\n    More."""')
    assert function.card == {"name": "m.sub.f", "summary": "Do something.", "required": ["a", "b", "d"], "optional": ["c", "e"]}
    assert function.signature == "f(a, /, b, c=1, *, d, e=None)"


@pytest.mark.parametrize("source", [
    'def _f(a):\n    """Do something."""', 'def f(a):\n    pass', 'def f():\n    """Do something."""',
    'def f(*a):\n    """Do something."""', 'def f(a, **b):\n    """Do something."""', 'def f(a):\n    """f(a) -> list of b"""',
    'def f(a, b, c, d, e, g, h):\n    """Do something."""', f'def f(a="{"x" * 80}"):\n    """Do something."""',
])
def test_functions_that_do_not_fit_are_left_out(source):
    assert read(source) is None


def test_only_a_question_that_spells_the_form_out_names_its_keys():
    function = functions()[1][0]
    plain, spelled_out = function.question(), function.question(spelled_out=True)
    for key in CARD:
        assert f'"{key}"' in spelled_out
        assert f'"{key}"' not in plain
    for question in (plain, spelled_out):
        assert question.endswith(f'\n\ndef {function.signature}:\n    """{function.summary}"""')


# --- the form ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [
    json.dumps(CARD), json.dumps(CARD, indent=4), f" {json.dumps(CARD)}\n", json.dumps(dict(reversed(CARD.items()))),
    json.dumps({**CARD, "required": [], "optional": ["é"]}),
])
def test_answers_of_the_form_are_accepted(answer):
    assert parse(answer) == json.loads(answer)


def test_every_expected_card_has_the_form():
    for function in (*functions()[0], *functions()[1], *EXAMPLES):
        assert parse(json.dumps(function.card)) == function.card


RIGHT = json.dumps(CARD)
WRONG = {
    "nothing": "", "text before": f"Sure! {RIGHT}", "text after": f"{RIGHT} I hope it helps.", "two": RIGHT * 2,
    "fence": f"```json\n{RIGHT}\n```", "cut off": RIGHT[:-1], "trailing comma": RIGHT[:-1] + ",}",
    "comma in a list": RIGHT.replace("[]", '["a",]'), "single quotes": str(CARD), "in a list": f"[{RIGHT}]",
    "nested": json.dumps({"function": CARD}),
    "a string": json.dumps(RIGHT), "null": "null", "a number": "1", "pairs": json.dumps(list(CARD.items())),
    "missing key": json.dumps({key: CARD[key] for key in list(CARD)[:3]}), "extra key": json.dumps({**CARD, "returns": "None"}),
    "other key": RIGHT.replace("summary", "Summary"), "key said twice": RIGHT[:-1] + ', "optional": []}',
    "number for a name": json.dumps({**CARD, "name": 1}), "no summary": json.dumps({**CARD, "summary": None}),
    "list for a summary": json.dumps({**CARD, "summary": ["a"]}), "string for a list": json.dumps({**CARD, "required": "src"}),
    "null for a list": json.dumps({**CARD, "optional": None}), "object for a list": json.dumps({**CARD, "optional": {}}),
    "object with keys for a list": json.dumps({**CARD, "optional": {"a": "b"}}),
    "numbers in a list": json.dumps({**CARD, "required": [1]}), "list in a list": json.dumps({**CARD, "required": [["src"]]}),
    "very deep": "[" * 100_000,
}


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG)
def test_answers_of_another_form_are_rejected(answer):
    assert parse(answer) is None


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "message"), [
    ({"seeds": 0}, "--seeds must be at least 1, got 0"),
    ({"steps": 0}, "--steps must be at least 1, got 0"),
    ({"prompts": 0}, "--prompts must be at least 1 and at most [0-9]+, got 0"),
    ({"prompts": 10_000}, "--prompts must be at least 1 and at most [0-9]+, got 10000"),
])
def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run_qlora(tmp_path / "out", **options)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="is a file: name a folder"):
        run_qlora(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_an_error_is_a_sentence():
    run = subprocess.run([sys.executable, "-m", "tinypeft.cli", "qlora", "--steps", "0"], capture_output=True, text=True,
                         check=False, cwd=ROOT, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (1, "", "tinypeft: --steps must be at least 1, got 0\n")


def test_without_the_model_it_says_how_to_get_it(tmp_path, monkeypatch):
    smollm2._content.cache_clear()
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)
    with pytest.raises((FileNotFoundError, ImportError), match="`tinypeft get smollm2` installs it|which is not installed"):
        run_qlora(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_answers_are_counted(monkeypatch):
    asked = functions()[1][:5]
    right, other_name, other_parameters = asked[0].card, {**asked[1].card, "name": "x"}, {**asked[2].card, "required": ["x"]}
    swapped = {**asked[3].card, "required": asked[3].card["optional"], "optional": asked[3].card["required"]}
    answers = [*map(json.dumps, (right, other_name, other_parameters, swapped)), "no card"]

    class Tokenizer(dict):
        """Tokenizer and batch in one, of which only the answers matter."""

        eos_token_id, input_ids, keys = 0, np.zeros((5, 1)), dict.keys
        encode, batch_decode = staticmethod(list), staticmethod(lambda ids: answers)
        apply_chat_template = staticmethod(lambda messages, **_: messages[-1]["content"])
        __call__ = lambda self, prompts, **_: self  # noqa: E731

    class Model:
        @staticmethod
        def generate(max_new_tokens, **_):
            assert max_new_tokens > max(len(json.dumps(function.card)) for function in asked)  # room for the end, too
            return np.zeros((5, 2))

    assert qlora.score(Model(), asked, Tokenizer()) == Score(5, form=4, name=3, parameters=3, right=1, first=answers[0])


def test_the_report(capsys):
    score = Score(50, form=49, name=45, parameters=40, right=30, first="{}")
    run = Run([1.5, 0.5, 0.25], 2.0, 6.0, 2_442_240, True, score)
    settings = {"prompts": 50, "functions": 290, "steps": 3, "batch_size": 4, "learning_rate": 0.002, "memory_batch": 8}
    result = Result(settings, "How?\nSo.", "{1}", {"as in training": Score(50, 0, 0, 0, 0, "I do not know.")},
                    {0: run, 1: replace(run, losses=[1.5, 0.5, 0.2], base_restored=False)},
                    {"NF4": Precision(4.5, 0.0712, 2.5, 0.9)}, {"QLoRA": Memory(300, 1500, 7.5, 1400)})
    print_report(result, markdown=True)
    text = capsys.readouterr().out
    for row in ("| base, as in training | 0% | 0% | 0% | 0% |", "| adapted, seed 0 | 98% | 90% | 80% | 60% |",
                "Right would be:\n\n    {1}",
                "|  | seed 0 | seed 1 |", "| numbers trained | 2,442,240 | 2,442,240 |", "| CPU seconds a step | 2.0 | 2.0 |",
                "| seconds of training | 6 | 6 |", "| loss of step 1 | 1.500 | 1.500 |", "| loss of step 2 | 0.500 | 0.500 |",
                "| loss of step 3 | 0.250 | 0.200 |", "| base restored | bit for bit | NO |",
                "| NF4 | 4.500 | 7.12% | 2.500 | 0.900 |", "| QLoRA | 300 | 1,500 | 1,400 | 7.5 |"):
        assert row in text
    print_report(result, markdown=False)
    assert "…" not in capsys.readouterr().out
    print_report(Result(settings, "How?", "{1}", result.base, result.runs, result.precisions, {}), markdown=True)
    assert "Memory was not measured" in capsys.readouterr().out


def test_memory_of_a_step_is_what_the_step_needs(monkeypatch):
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux's /proc")
    config = LlamaConfig(vocab_size=4096, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4)
    model = AutoModelForCausalLM.from_config(config)
    monkeypatch.setattr(qlora_costs.AutoModelForCausalLM, "from_pretrained", lambda name, **_: model)
    rows = [{"input_ids": [1] * 64, "labels": [1] * 64}] * 4
    earlier = np.ones(40_000_000)  # 305 MiB, which a step has no part in
    del earlier
    loaded, peak, seconds = qlora_costs._measure_way(qlora_costs.WAYS["full fine-tuning, float32"], rows, 0)
    size = sum(parameter.size for parameter in model.parameters()) * 4 / 2**20
    assert 3 * size <= peak - loaded <= 300  # gradients and AdamW's two means at least
    assert seconds > 0


def test_the_prediction_beside_it_is_within_a_tenth_of_what_was_recorded():
    recorded = dict(zip(qlora_costs.WAYS, (3585, 2560, 2218, 835), strict=True))  # MiB, 8 rows of at most 128 tokens
    predicted = {name: qlora_costs.predict(way, 8, 128) for name, way in qlora_costs.WAYS.items()}
    assert predicted == pytest.approx(recorded, rel=0.1)


# --- the real model ------------------------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.slow
def test_the_base_never_answers_in_the_form_and_the_adapted_model_does(tmp_path, capsys):
    result = run_qlora(tmp_path, seeds=2, prompts=100, costs=False)
    assert all(score.form <= 10 for how, score in result.base.items() if "examples" not in how)
    report = (tmp_path / "report.md").read_text()
    assert "| base restored | bit for bit | bit for bit |" in report
    assert f"Written to {tmp_path}" in capsys.readouterr().out
    written = json.loads((tmp_path / "result.json").read_text())["runs"]
    tokenizer = qlora.AutoTokenizer.from_pretrained(smollm2.NAME, padding_side="left")
    for seed, run in result.runs.items():
        assert run.adapted.form >= 80
        assert run.adapted.parameters >= 50  # the form is not hollow
        assert run.base_restored
        assert np.mean(run.losses[-5:]) < run.losses[0] / 5
        assert written[str(seed)]["losses"] == run.losses
        assert f"| adapted, seed {seed} |" in report
        assert (tmp_path / f"seed-{seed}/loss.png").read_bytes().startswith(b"\x89PNG")
        again = PeftModel.from_pretrained(load_base(), tmp_path / f"seed-{seed}")
        assert qlora.score(again, functions()[1][:10], tokenizer).form >= 8


@pytest.mark.real
def test_a_conversation_ends_where_the_answer_begins():
    tokenizer = qlora.AutoTokenizer.from_pretrained(smollm2.NAME)
    text = chat(functions()[1][0], tokenizer, spelled_out=True, examples=True)
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert text.count("exactly these keys") == 1
    assert [text.count(json.dumps(example.card)) for example in EXAMPLES] == [1, 1]
