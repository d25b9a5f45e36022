"""The capstone: honest adapters get all points, others fail exactly where they are wrong, and zips made to do harm do none.

Most of it uses one adapter that is trained for a moment. What needs adapters that are trained, and so minutes, is marked slow.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import tomllib
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinypeft.commands.course import run_hint, run_reset, run_start, run_test
from tinypeft.commands.course_check import run_course_check
from tinypeft.commands.solution import run_solution
from tinypeft.grading import PUBLIC_SEED, capstone, evaluator
from tinypeft.grading.bank import BANKS
from tinypeft.grading.capstone import Adapter, OpenedAdapter, read_holdout
from tinypeft.grading.confine import can_confine
from tinypeft.grading.differences import differing_arrays
from tinypeft.grading.direct import DirectGrader
from tinypeft.grading.exercise import find_exercise
from tinypeft.grading.process import Failure, Limits
from tinypeft.grading.progress import Course, Progress
from tinypeft.grading.run import grade_file
from tinypeft.grading.submission import Wrong
from tinypeft.training import Split, surnames, us_surnames

EXERCISE = find_exercise("14")
FOLDER = BANKS / EXERCISE.slug
GRADER = DirectGrader(EXERCISE)
EXPECTED = tomllib.loads((FOLDER / "bank.toml").read_text("utf-8"))
POLISH = surnames("polish")
SHIPPED = {*POLISH.train, *POLISH.validation, *POLISH.test}
NEIGHBOURS = [name for name in surnames("slovak").train if name not in SHIPPED][:309]  # a class's own names, as it were
ALL = list(EXERCISE.points)

Judgement = dict[str, tuple[bool, str, str | None]]  # test -> whether it passes, what it says, which mistake it names


@cache
def bank() -> Any:
    return module_of(FOLDER / "bank.py", "capstone_bank")


def module_of(file: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Here:
    """Evaluates in this process, which is quicker: for adapters that we made ourselves."""

    def call(self, function: str, *arguments: Any) -> Any:
        try:
            return getattr(evaluator, function)(*arguments)
        except Exception as error:
            raise Failure("error", f"{type(error).__name__}: {error}") from error


def judged(file: Path, holdout: list[str] | None = None, seed: int = PUBLIC_SEED, *, here: bool = True, confined: bool = False
           ) -> Judgement:
    """What each test says of a zip."""
    found, handed_in = {}, OpenedAdapter(file, confined, holdout, seed)
    worker = handed_in._worker
    if here:
        handed_in._worker = Here()
    try:
        for name, test in GRADER.tests.items():
            said: list[str] = []
            try:
                test(Adapter(handed_in, EXERCISE, said.append))
                found[name] = True, " ".join(said), None
            except Wrong as wrong:
                found[name] = False, str(wrong), wrong.mistake
    finally:
        worker.close()
    return found


def failed(found: Judgement) -> list[str]:
    return [name for name, (passed, _, _) in found.items() if not passed]


def mistakes(found: Judgement) -> set[str | None]:
    return {mistake for passed, _, mistake in found.values() if not passed}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of an adapter that has seen Polish names for a moment: it has learned them, and forgotten others."""
    return bank().trained(tmp_path_factory.mktemp("trained"), POLISH.train, 2e-2, 60)


@pytest.fixture
def made(trained, tmp_path):
    """The zip of a wrong adapter."""
    def make(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        return bank().make(name, trained, folder)

    return make


@pytest.fixture
def few_names(monkeypatch):
    """A third of the Polish ones, a tenth of the others: quicker, and clear cases are as clear."""
    monkeypatch.setattr(capstone, "_names", lambda: Split(POLISH.train, POLISH.validation[::3], POLISH.test))
    monkeypatch.setattr(capstone, "OLD_EVERY", 40)


# ---- the bank -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", EXPECTED)
def test_what_is_wrong_fails_where_it_is_wrong(name, made, few_names):
    found = judged(made(name))
    assert failed(found) == EXPECTED[name]["fails"], found
    assert EXPECTED[name]["mistake"] in mistakes(found), found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LoRA", "bottleneck", "DoRA"])
def test_honest_adapters_of_three_methods_get_all_points(name, tmp_path):
    file = bank().honest(name, tmp_path)
    assert failed(judged(file)) == []
    for seed in range(1, 6):
        assert failed(judged(file, POLISH.test, seed)) == []  # shipped, so no holdout for a class; but they have not seen them


@pytest.mark.slow
def test_names_learned_by_heart_pass_until_there_are_others(tmp_path):
    file = bank().by_heart(tmp_path)
    assert failed(judged(file)) == []
    found = judged(file, POLISH.test)
    assert failed(found) == ["test_learned", "test_remembered", "test_target"]
    assert mistakes(found) == {"capstone.by_heart"}


@pytest.mark.slow
def test_the_script_that_a_learner_begins_with_is_not_there_yet(tmp_path):
    script = bank().script()
    script.FILE = tmp_path / "adapter.zip"
    script.main()
    found = judged(script.FILE)
    assert failed(found) == ["test_budget", "test_learned", "test_remembered", "test_target"]


def test_the_bank_is_whole():
    assert set(EXPECTED) == set(bank().MAKERS)
    assert {one["mistake"] for one in EXPECTED.values()} >= {f"capstone.{kind}" for kind in (
        "untrained", "forgets", "over_budget", "not_finite", "too_large", "wrong_base", "unfit", "files")}


def test_points_hints_and_sections_fit_together():
    assert set(ALL) == set(GRADER.tests)
    assert len(EXERCISE.hints) == 3
    assert all(EXERCISE.hints)
    ids = set(re.findall(r'"(capstone\.\w+)"', EXERCISE.grader.read_text("utf-8") + Path(capstone.__file__).read_text("utf-8")))
    assert ids == set(EXERCISE.mistakes)
    lessons = tomllib.loads((EXERCISE.folder.parents[1] / "lessons" / "outline.toml").read_text("utf-8"))["lessons"]
    sections = {f"{lesson['slug']}/{section['id']}" for lesson in lessons for section in lesson.get("sections", [])}
    assert set(EXERCISE.mistakes.values()) <= sections
    assert {"slug": "14_capstone", "exercise_only": True}.items() <= lessons[-1].items()


def test_the_solution_is_the_script_with_other_choices():
    """So that what a learner reads after a pass is what they have worked with."""
    texts = [file.read_text("utf-8").partition("from __future__")[2] for file in (bank().SCRIPT, FOLDER / "reference.py")]
    parts = [re.split(r"\n# ---- .*\n", text) for text in texts]
    assert [len(part) for part in parts] == [3, 3]
    assert parts[0][0] == parts[1][0]
    assert parts[0][1] != parts[1][1]
    assert parts[0][2] == parts[1][2]


# ---- what is said ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("base", "bits", "asked"), [(3.9, 3.2, 3.24), (3.6, 3.04, 3.05)])
def test_names_that_are_harder_may_take_more_and_easier_ones_as_many(base, bits, asked, monkeypatch, trained, tmp_path):
    of = capstone.Bits
    measured = capstone.Measured(of(base, bits), public=of(3.71, 3.0), meant=of(3.72, 2.9), old=of(3.14, 3.3), base_kept=True)
    monkeypatch.setattr(OpenedAdapter, "measured", lambda self: measured)
    _, said, _ = judged(bank().packed(trained, tmp_path / "adapter.zip"), POLISH.test)["test_target"]
    assert said == (f"309 Polish names that are not shipped take {bits:.3f} bits per character (the base {base:.3f}). "
                    f"{asked:.3f} are asked for.")


@pytest.mark.parametrize(("new", "meant", "mistake"), [
    (3.181, 3.3, "capstone.by_heart"),  # trained on the validation split's: it knows these, and those of the train split less
    (3.75, 4.0, "capstone.by_heart"),  # so long that it has unlearned others
    (3.488, 2.4, "numeric"),  # trained on all that are shipped, and asked for names of another kind
    (3.04, 3.3, None)])  # whatever it was trained on, it can spell what it has not seen
def test_names_that_are_known_by_heart_are_called_so(new, meant, mistake, monkeypatch, trained, tmp_path):
    """With numbers of adapters that took minutes to train."""
    bits = capstone.Bits
    measured = capstone.Measured(bits(3.64, new), public=bits(3.71, 2.475), meant=bits(3.723, meant), old=bits(3.14, 3.3),
                                 base_kept=True)
    monkeypatch.setattr(OpenedAdapter, "measured", lambda self: measured)
    found = judged(bank().packed(trained, tmp_path / "adapter.zip"), POLISH.test)
    assert failed(found) == (["test_learned", "test_remembered", "test_target"] if mistake else [])
    assert mistakes(found) == ({mistake} if mistake else set())


@pytest.mark.parametrize(("bits", "fails"), [
    ((3.049, 3.39), []), ((3.051, 3.39), ["test_target"]), ((3.0, 3.395), ["test_remembered", "test_target"]),
    ((3.151, 3.15), ["test_learned", "test_remembered", "test_target"])])
def test_the_levels(bits, fails, monkeypatch, trained, tmp_path):
    new, old = capstone.Bits(3.71, bits[0]), capstone.Bits(3.143, bits[1])
    monkeypatch.setattr(OpenedAdapter, "measured", lambda self: capstone.Measured(new, new, new, old, True))
    assert failed(judged(bank().packed(trained, tmp_path / "adapter.zip"))) == fails


def test_what_is_over_budget_reaches_no_target_however_good_it_is(monkeypatch, made):
    new, old = capstone.Bits(3.71, 2.5), capstone.Bits(3.143, 3.143)
    monkeypatch.setattr(OpenedAdapter, "measured", lambda self: capstone.Measured(new, new, new, old, True))
    assert failed(judged(made("over_budget"))) == ["test_budget", "test_target"]


# ---- hostile zips: in a process of their own ------------------------------------------------------------------------

CONFINED = can_confine() is None  # where there can be a sandbox, in it: a learner's commands, below, do without
ENDLESS = "(([a-z_.0-9]+)+)+!"  # takes longer than anybody waits to find out that a name does not match
HOSTILE: dict[str, dict[str, Any]] = {
    "huge rank": {"r": 10**12},
    "huge projection": {"peft_type": "VERA", "r": 10**9, "save_projection": False},
    "huge prompt": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 10**12},
    "huge prefix": {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 10**10},
    "huge subspace": {"peft_type": "SUBSPACE", "dimension": 10**12},
    "a file elsewhere": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4, "prompt_tuning_init": "TEXT",
                         "prompt_tuning_init_text": "x", "tokenizer_name_or_path": "/etc"},
    "a third file": {"peft_type": "ULORA"},
    "values of other kinds": {"r": "8", "lora_alpha": [], "target_modules": {"a": 1}, "bias": 3},
    "no such option": {"use_dora": "yes", "megatron_config": {"x": 1}},
}


def test_a_config_that_was_made_to_do_harm_does_none(trained, tmp_path):
    """One process for all of them: it survives each."""
    handed_in = OpenedAdapter(bank().packed(trained, tmp_path / "adapter.zip"), CONFINED)
    try:
        for name, values in HOSTILE.items():
            folder = shutil.copytree(trained, tmp_path / name)
            bank().says(folder, **values)
            handed_in.file = bank().packed(folder, tmp_path / f"{name}.zip")
            with pytest.raises(Wrong) as caught:
                handed_in._ask("measure", *handed_in._files(), capstone.BASE, {"few": POLISH.test[:3]})
            assert caught.value.mistake == "capstone.unfit", (name, caught.value)
        assert handed_in._worker.process.poll() is None
    finally:
        handed_in.close()


@pytest.mark.slow
@pytest.mark.parametrize("confined", sorted({False, CONFINED}))
@pytest.mark.parametrize("values", [{"target_modules": ENDLESS}, {"rank_pattern": {ENDLESS: 1}}])
def test_an_endless_expression_ends(values, confined, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(capstone, "LIMITS", Limits(call=10.0, total=15.0))
    folder = shutil.copytree(trained, tmp_path / "adapter")
    bank().says(folder, **values)
    found = judged(bank().packed(folder, tmp_path / "adapter.zip"), here=False, confined=confined)
    assert failed(found) == ALL
    assert mistakes(found) == {"timeout"}


def written(file: Path, weights: bytes, config: bytes = b'{"peft_type": "LORA"}') -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("adapter_config.json", config)
        archive.writestr("adapter_model.safetensors", weights)
    return file


def headed(header: Any, length: int | None = None, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


FLOAT = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
BAD_WEIGHTS = {
    "nothing": b"",
    "length of 2**63": headed({}, 2**63),
    "no header": b"\x10" + b"\0" * 7 + b"not JSON at all!",
    "outside of the file": headed({"a": FLOAT | {"data_offsets": [0, 2**40]}}),
    "one over another": headed({"a": FLOAT, "b": FLOAT}, data=bytes(16)),
    "shape of another size": headed({"a": FLOAT | {"shape": [2**31, 2**31]}}, data=bytes(16)),
    "negative": headed({"a": FLOAT | {"shape": [-2, -2]}}, data=bytes(16)),
    "numbers of 8 bits": headed({"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}, data=bytes(4)),
    "deep": headed({"a": {}}).replace(b"{}", b"[" * 100_000),
}
BAD_CONFIGS = {"no JSON": b"{", "no text": b"\xff\xfe", "a list": b"[]", "deep": b"[" * 100_000, "nothing": b"",
               "no method": b"{}", "unknown": b'{"peft_type": ["LORA"]}', "infinite": b'{"peft_type": "LORA", "r": Infinity}'}


@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_weights_that_are_none_are_refused(name, tmp_path):
    found = judged(written(tmp_path / "adapter.zip", BAD_WEIGHTS[name]))
    assert failed(found) == ALL
    assert mistakes(found) == {"capstone.unfit"}
    assert not any("could not be evaluated" in said or "/tmp" in said for _, said, _ in found.values())


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_configs_that_are_none_are_refused(name, trained, tmp_path, few_names):
    weights = (trained / "adapter_model.safetensors").read_bytes()
    found = judged(written(tmp_path / "adapter.zip", weights, BAD_CONFIGS[name]))
    assert {"test_files", "test_learned", "test_target"} <= set(failed(found))
    assert "capstone.unfit" in mistakes(found)


def test_ten_thousand_tensors_of_nothing_cost_little(tmp_path):
    empty = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(10_000)}
    found = judged(written(tmp_path / "adapter.zip", headed(empty)))
    assert "test_budget" in failed(found)
    assert all(len(said) < 2000 for _, said, _ in found.values())


def test_nothing_that_was_handed_in_is_said_by_a_test_that_passes(trained, tmp_path, few_names):
    folder = shutil.copytree(trained, tmp_path / "adapter")
    bank().says(folder, base_model_name_or_path="<b>mine</b>\x1b[2J")
    found = judged(bank().packed(folder, tmp_path / "adapter.zip"))
    assert found["test_budget"][1] == "LORA, 6,912 of at most 10,000 numbers."
    assert not any("<b>" in said for passed, said, _ in found.values() if passed)
    assert not any("\x1b" in said for _, said, _ in found.values())


@pytest.mark.parametrize("config", [{"peft_type": "no such method"}, {"peft_type": "LORA", "target_modules": ["q_proj"]}])
def test_what_cannot_be_put_into_the_base_has_no_points(config, tmp_path, few_names):
    """Its base is the right one, its only number is finite, and one number is within the budget."""
    config |= {"base_model_name_or_path": "tinypeft/surnames"}
    weights = headed({"a": FLOAT | {"shape": [1], "data_offsets": [0, 4]}}, data=bytes(4))
    found = judged(written(tmp_path / "adapter.zip", weights, json.dumps(config).encode()))
    assert failed(found) == ALL
    assert mistakes(found) == {"capstone.unfit"}


def test_a_number_is_finite_if_it_is_in_float32(trained, tmp_path, few_names):
    """The base computes in float32, in which 1e300 is infinite."""
    folder = shutil.copytree(trained, tmp_path / "adapter")
    bank().holds(folder, lambda tensors: {name: np.full_like(array, 1e300, np.float64) for name, array in tensors.items()})
    found = judged(bank().packed(folder, tmp_path / "adapter.zip"))
    assert found["test_finite"][2] == "capstone.not_finite"


def test_all_numbers_of_an_adapter_are_counted(tmp_path, few_names):
    """A list of 96, by which a bottleneck's output is multiplied, would stand in the config, which nobody counts."""
    folder = tmp_path / "adapter"
    bank().saved(folder, bank().BottleneckConfig(style="pfeiffer", reduction_factor=32))
    bank().says(folder, scaling=[1.0] * 96)
    found = judged(bank().packed(folder, tmp_path / "adapter.zip"))
    assert failed(found) == ALL
    assert "scaling must be a number" in found["test_files"][1]


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_real_numbers_of_any_size_are_fine(dtype, trained, tmp_path, few_names):
    folder = shutil.copytree(trained, tmp_path / "adapter")
    bank().holds(folder, lambda tensors: {name: array.astype(dtype) for name, array in tensors.items()})
    assert failed(judged(bank().packed(folder, tmp_path / "adapter.zip"))) == EXPECTED["forgets"]["fails"]


def test_what_an_adapter_says_of_its_base_is_not_followed(trained, tmp_path, monkeypatch, few_names):
    opened = []
    real = evaluator.AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(evaluator.AutoModelForCausalLM, "from_pretrained", lambda name: opened.append(name) or real(name))
    folder = shutil.copytree(trained, tmp_path / "adapter")
    bank().says(folder, base_model_name_or_path="/etc")
    assert "/etc" in judged(bank().packed(folder, tmp_path / "adapter.zip"))["test_base"][1]
    assert set(opened) == {"tinypeft/surnames"}


def test_a_base_that_is_left_changed_is_found(trained, tmp_path, monkeypatch, few_names):
    """No adapter can do it; that would be an error of the library."""
    taken_out = evaluator.PeftModel.unload

    def unload(self):
        weight = next(iter(taken_out(self).parameters()))
        weight.data = weight.data + 1

    monkeypatch.setattr(evaluator.PeftModel, "unload", unload)
    found = judged(bank().packed(trained, tmp_path / "adapter.zip"))
    assert found["test_files"][2] == "capstone.base_changed"


def test_a_process_of_its_own_measures_the_same(trained, tmp_path, few_names):
    file = bank().packed(trained, tmp_path / "adapter.zip")
    assert judged(file, here=False, confined=CONFINED) == judged(file)


def test_what_is_no_file_at_all_is_said(tmp_path):
    found = judged(tmp_path / "adapter.zip")
    assert failed(found) == ALL
    assert "capstone.py writes it" in found["test_files"][1]
    (tmp_path / "link.zip").symlink_to("/etc/passwd")
    assert mistakes(judged(tmp_path / "link.zip")) == {"capstone.files"}


def test_what_may_not_be_read_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("tinypeft.grading.archive.read_file", unreadable)
    found = judged(tmp_path / "adapter.zip", here=False)
    assert failed(found) == ALL
    assert mistakes(found) == {"capstone.files"}
    assert "it could not be read (Permission denied)" in found["test_files"][1]


def unreadable(path: Path, _: int) -> bytes:
    raise PermissionError(13, "Permission denied", str(path))


@pytest.mark.parametrize("names", [["adapter_config.json"], ["adapter_config.json", "adapter_model.bin"],
                                   ["a/adapter_config.json", "a/adapter_model.safetensors"]])
def test_other_files_than_the_two_are_not_looked_at(names, tmp_path):
    with zipfile.ZipFile(tmp_path / "adapter.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"{}")
    found = judged(tmp_path / "adapter.zip")
    assert failed(found) == ALL
    assert mistakes(found) == {"capstone.files"}
    assert f"the zip holds {', '.join(names)}; expected adapter_config.json and adapter_model" in found["test_files"][1]


# ---- names that are not shipped -------------------------------------------------------------------------------------

@pytest.fixture
def names(tmp_path):
    def write(lines: list[str]) -> Path:
        file = tmp_path / "names.txt"
        file.write_text("\n".join(lines), "utf-8")
        return file

    return write


def test_names_are_read_one_a_line(names):
    assert read_holdout(names(["", *NEIGHBOURS, "  "])) == NEIGHBOURS


def test_names_are_folded_and_each_counts_once(names):
    """As it was done with those that are shipped. The first line begins with a byte order mark, as Excel's do."""
    assert read_holdout(names(["\ufeffŁączyński", *NEIGHBOURS, "laczynski", NEIGHBOURS[0]])) == ["Laczynski", *NEIGHBOURS]


@pytest.mark.parametrize("shipped", [POLISH.train[0], POLISH.validation[0], POLISH.test[0], "Kowalski", us_surnames().train[0]])
def test_names_that_come_with_tinypeft_are_left_out(shipped, names):
    """Kowalski is a US name: the base was trained on the most frequent Polish ones."""
    assert read_holdout(names([shipped.upper(), *NEIGHBOURS])) == NEIGHBOURS


@pytest.mark.parametrize(("lines", "reason"), [
    (NEIGHBOURS[:50], r"50 names that do not come with tinypeft \(50 with those that do\); at least 100"),
    ([*NEIGHBOURS[:50], *POLISH.test], r"50 names that do not come with tinypeft \(359 with"), ([], "0 names"),
    ([*NEIGHBOURS, "O'Brien"], r"in each line, of which .*; take out line 310, \"O'Brien\"$"),
    (["name,often", *[f"{name},3" for name in NEIGHBOURS]], r"take out line 1, .*; line 2, .*; line 3, '\w+,3', and 307 more$"),
    ([*NEIGHBOURS, "X" * 500], "line 310, 'X{40}'$")])
def test_names_that_cannot_be_used_are_refused(lines, reason, names):
    with pytest.raises(ValueError, match=reason):
        read_holdout(names(lines))


def test_a_holdout_goes_through_to_the_report(names, trained, tmp_path):
    report = grade_file(EXERCISE, bank().packed(trained, tmp_path / "adapter.zip"), holdout=names(NEIGHBOURS))
    assert report.tests[4].message.startswith("309 Polish names that are not shipped take")
    assert "(the base 3.611)" in report.tests[4].message
    with pytest.raises(ValueError, match="04_lora takes none"):
        grade_file(find_exercise("04"), find_exercise("04").folder / "lora.py", holdout=names(NEIGHBOURS))
    with pytest.raises(ValueError, match="at least 100"):
        grade_file(EXERCISE, tmp_path / "adapter.zip", holdout=names([]))


def test_a_private_seed_draws_the_us_names():
    """So that nobody can train on those that will be asked for, but on US names as such."""
    us = us_surnames()
    assert capstone.us_names(PUBLIC_SEED) == us.validation[::4]
    first, again, other = (capstone.us_names(seed) for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first)) == len(set(other)) == len(us.validation[::4])
    assert set(first) | set(other) < {*us.validation, *us.test}
    assert len(set(first) & set(other)) < 200


def test_the_us_names_of_a_class_are_those_of_its_seed(trained, tmp_path):
    """From `grade` to the process that measures."""
    file = bank().packed(trained, tmp_path / "adapter.zip")
    public, private = (grade_file(EXERCISE, file, seed=seed, tests=["test_remembered"]).tests[5].message
                       for seed in (PUBLIC_SEED, 1))
    assert "(the base 3.143)" in public
    assert re.search(r"\(the base 3\.(?!143)\d{3}\)", private)


# ---- the learner's commands -----------------------------------------------------------------------------------------

@pytest.fixture
def course(tmp_path, monkeypatch) -> Path:
    folder = run_start(tmp_path / "course").root
    monkeypatch.chdir(folder)
    return folder / "exercises" / EXERCISE.slug


def test_a_learner_gets_the_script_and_makes_the_zip(course, trained, capsys):
    assert [file.name for file in course.iterdir()] == ["capstone.py"]
    with pytest.raises(FileNotFoundError, match=r"adapter.zip to grade: capstone.py, which is beside it, makes it"):
        run_test("14")
    script = module_of(course / "capstone.py", "learners_capstone")
    script.ARGUMENTS.max_steps, script.ARGUMENTS.warmup_steps = 2, 0
    script.main()
    assert sorted(file.name for file in course.iterdir()) == ["adapter.zip", "capstone.py"]
    bank().packed(trained, script.FILE)
    capsys.readouterr()
    (report,) = run_test()  # all that was begun
    printed = capsys.readouterr().out
    assert "45 of 100 points" in printed
    assert re.search(r"budget +10 of 10  LORA, 6,912 of at most 10,000 numbers", printed)
    rows = {test.name: test for test in report.tests}
    assert re.fullmatch(r"Polish names take [\d.]{5} bits per character \(the base 3\.710\)\. 3\.150 are asked for\.",
                        rows["test_learned"].message)
    assert re.match(r"US names take [\d.]{5} bits per character \(the base 3\.143\): \+0\.\d{3}, where at most \+0\.25 is ",
                    rows["test_remembered"].message)
    assert rows["test_remembered"].message.endswith(" See lesson 04_lora, section errors.")
    assert rows["test_remembered"].mistake == rows["test_target"].mistake == "capstone.forgets"
    assert report.printed == ""
    run_hint("14")
    assert "Hint 1 of 3" in capsys.readouterr().out


def test_the_script_leaves_no_half_a_zip(course, monkeypatch):
    script = module_of(course / "capstone.py", "learners_capstone")
    script.FILE.write_bytes(b"what was there")
    model = bank().get_peft_model(bank().AutoModelForCausalLM.from_pretrained("tinypeft/surnames"), bank().SMALL)
    monkeypatch.setattr(zipfile.ZipFile, "write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        script.hand_in(model, script.FILE)
    assert script.FILE.read_bytes() == b"what was there"
    assert len(list(course.iterdir())) == 2


def test_the_script_is_reset_and_the_solution_shown(course, capsys):
    script = course / "capstone.py"
    script.write_text("# mine")
    assert run_reset("14") == course / "capstone.py.1.bak"
    assert script.read_bytes() == bank().SCRIPT.read_bytes()
    Course(course.parents[1]).remember(EXERCISE, Progress(runs=1, best=100))
    capsys.readouterr()
    run_solution("14")
    printed = capsys.readouterr().out
    assert "POLISH.train + US.train" in printed
    assert "In the library: tinypeft/training/loop.py, train" in printed


def test_what_has_no_functions_has_no_arrays_to_draw_and_no_mutants(tmp_path):
    assert differing_arrays(EXERCISE, tmp_path / "adapter.zip", ALL, 0) == {}
    with pytest.raises(ValueError, match="has no functions, but adapters"):
        run_course_check(["14"], seeds=1, mutants=False, output_format="table")
