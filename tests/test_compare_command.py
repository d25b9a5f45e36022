"""`tinypeft compare`: what it measures, how it ranks, that it goes on where it was, and what it refuses."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tinypeft import AutoTokenizer
from tinypeft.commands import compare
from tinypeft.commands.compare import Plan, Records, Task, fit, measure, measure_all, run_compare, until_enough
from tinypeft.commands.compare_methods import FULL, METHODS, UNTOUCHED, Method, choose
from tinypeft.commands.compare_report import Result, print_comparison, print_dimensions, ranks, share_of_gain
from tinypeft.training import Split, surnames, us_surnames

ROOT = Path(__file__).parents[1]
SETTINGS = {"tinypeft": "0.1.0", "compares": "methods", "task": "surnames-pl", "steps": 3, "seeds": 2}
MERGEABLE = {"LoRA", "rsLoRA", "DoRA", "PiSSA", "LoRA+", "AdaLoRA", "VeRA", "ULoRA (rank)", "ULoRA (input)", "IA3", "BitFit",
             "norm tuning", "subspace 1024"}
TIMINGS = {field.name for field in fields(Result) if field.name.endswith("_seconds")}


@pytest.fixture(scope="module")
def plan() -> Plan:
    polish, us = surnames("polish"), us_surnames()
    return Plan(Task(polish.train[:64], polish.validation[:10], polish.test[:10], us.test[:20]), steps=3, seeds=2,
                tokenizer=AutoTokenizer.from_pretrained("tinypeft/surnames"))


@pytest.fixture(autouse=True)
def _one_repetition(monkeypatch):
    monkeypatch.setattr(compare, "REPEATS", 1)


@pytest.fixture(scope="module")
def untouched(plan) -> Result:
    return measure(METHODS[UNTOUCHED], plan)


@pytest.fixture
def tiny(monkeypatch, plan):
    """The command, on a few names."""
    monkeypatch.setattr(compare, "surnames", lambda country: Split(plan.task.train, plan.task.validation, plan.task.target))
    monkeypatch.setattr(compare, "us_surnames", lambda: Split([], [], plan.task.base))

    def run(**options) -> None:
        run_compare(**{"task": "surnames-pl", "methods": None, "steps": 3, "seeds": 2, "out": None, "output_format": "table",
                       "intrinsic": False, **options})

    return run


def bits_of(*numbers: float | None, **values) -> Result:
    """A result with these bits on the target."""
    return Result(rates=[0.1, 0.2, 0.3], rate=0.2, target=list(numbers), **values)


def without_timings(result: Result) -> dict:
    return {key: value for key, value in asdict(result).items() if key not in TIMINGS}


# --- measuring -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in METHODS if name != UNTOUCHED])
def test_every_method_is_measured(name, plan, untouched):
    method = METHODS[name]
    result = measure(replace(method, rates=method.rates[2:3]), replace(plan, steps=2, seeds=1))
    assert result.rate == method.rates[2]
    assert all(math.isfinite(x) for x in (*result.validation, *result.target, *result.plugged))
    assert result.trainable > 0
    assert min(result.step_seconds, result.token_seconds, result.file_bytes, result.swap_seconds) > 0
    assert result.plugged != untouched.unplugged  # something was trained
    if method.config is None:
        assert (result.unplugged, result.mergeable, result.merge_seconds) == ([], None, None)
        return
    assert result.unplugged == untouched.unplugged  # to the last bit
    assert result.mergeable is (name in MERGEABLE)
    assert (result.merge_seconds is not None) == (result.unmerge_seconds is not None) == result.mergeable
    assert result.trainable < 100_000


def test_the_rate_is_the_best_of_the_five_on_validation_names_and_each_seed_runs_with_it(plan):
    runs = []
    result = measure(METHODS["LoRA"], plan, lambda: runs.append(1))
    assert result.rates == list(METHODS["LoRA"].rates)
    assert result.rate == result.rates[result.validation.index(min(result.validation))]
    assert len(runs) == 5 + 1
    assert len(set(result.target)) == len(set(result.plugged)) == 2
    assert set(result.unplugged) == {measure(METHODS[UNTOUCHED], plan).unplugged[0]}
    alone = measure(Method((result.rate,), METHODS["LoRA"].config), replace(plan, seeds=1))
    assert alone.target == result.target[:1]


def test_what_sets_some_methods_apart_is_done(plan):
    lora, plus = (fit(METHODS[name], 1e-3, 0, plan).model for name in ("LoRA", "LoRA+"))
    assert plan.bits(lora, plan.task.target) != plan.bits(plus, plan.task.target)  # B has a rate of its own
    left = fit(METHODS["AdaLoRA"], 1e-2, 0, plan).model.peft_config["default"].rank_pattern
    assert sum(map(sum, left.values())) == 8 * len(left)  # of 12
    scratch = fit(METHODS["from scratch"], 1e-3, 0, plan).model
    assert plan.bits(scratch, plan.task.base) > 5  # of 5.8, as it has seen next to nothing


def test_equal_seeds_give_equal_bits(plan):
    method = replace(METHODS["VeRA"], rates=METHODS["VeRA"].rates[:1])
    assert without_timings(measure(method, plan)) == without_timings(measure(method, plan))


def test_names_to_choose_by_are_not_those_to_measure_with(monkeypatch):
    tasks = []
    monkeypatch.setattr(compare, "measure", lambda method, plan, _: tasks.append(plan.task) or bits_of(3.0))
    run_compare(task="surnames-de", methods="LoRA", steps=3, seeds=2, out=None, output_format="json", intrinsic=False)
    german = surnames("german")
    assert tasks == [Task(german.train, german.validation, german.test, us_surnames().test)]
    assert not set(german.validation) & {*german.train, *german.test}


def test_the_choice_does_not_look_at_the_target(plan):
    method = replace(METHODS["BitFit"], rates=METHODS["BitFit"].rates[:2])
    results = [measure(method, replace(plan, seeds=1, task=replace(plan.task, target=names)))
               for names in (plan.task.target, plan.task.base)]
    assert results[0].target != results[1].target
    assert results[0].validation == results[1].validation
    assert results[0].rate == results[1].rate


def test_the_untouched_base_has_bits_and_no_range(untouched):
    assert len(untouched.target) == len(untouched.unplugged) == 1
    assert (untouched.rates, untouched.trainable, untouched.file_bytes, untouched.plugged) == ([], 0, None, [])


def test_a_rate_that_diverges_is_not_chosen_and_does_not_end_the_run(plan):
    method = Method((1e-3, 1e30), METHODS["LoRA"].config)
    result = measure(method, replace(plan, seeds=1))
    assert result.validation[1] is None
    assert result.rate == 1e-3
    for steps in (1, 3):  # of one step, training does not see the end
        broken = measure(replace(method, rates=(1e30,)), replace(plan, steps=steps))
        assert without_timings(broken) == without_timings(Result([1e30], validation=[None]))


# --- the file ------------------------------------------------------------------------------------------------------


def test_what_was_measured_is_kept_and_not_measured_again(tiny, tmp_path, capsys, monkeypatch):
    out = tmp_path / "new" / "all.json"
    tiny(methods=f"lora,{UNTOUCHED}", out=out, output_format="json")
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(out.read_text())
    assert printed["settings"] == {**SETTINGS, "tinypeft": printed["settings"]["tinypeft"]}
    assert list(printed["results"]) == [UNTOUCHED, "LoRA"]
    assert printed["results"]["LoRA"].keys() == {field.name for field in fields(Result)}
    assert [len(printed["results"]["LoRA"][key]) for key in ("rates", "validation", "target", "plugged", "unplugged")
            ] == [5, 5, 2, 2, 2]

    measured = []
    monkeypatch.setattr(compare, "measure", lambda method, *_: measured.append(method) or bits_of(3.0, 3.1))
    tiny(methods="LoRA,IA3", out=out)
    assert measured == [METHODS["IA3"]]
    assert list(json.loads(out.read_text())["results"]) == [UNTOUCHED, "LoRA", "IA3"]
    assert UNTOUCHED not in capsys.readouterr().out  # not asked for this time


def test_an_interrupted_run_goes_on_where_it_was(plan, tmp_path, monkeypatch):
    methods = {name: replace(METHODS[name], rates=METHODS[name].rates[:1]) for name in (UNTOUCHED, "IA3", "BitFit")}
    whole = dict(measure_all(methods, plan, Records(None, SETTINGS, methods)))
    out, really = tmp_path / "all.json", compare.measure

    def interrupted(method, *rest):
        if method is methods["BitFit"]:
            raise KeyboardInterrupt
        return really(method, *rest)

    monkeypatch.setattr(compare, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dict(measure_all(methods, plan, Records(out, SETTINGS, methods)))
    assert list(json.loads(out.read_text())["results"]) == [UNTOUCHED, "IA3"]
    monkeypatch.setattr(compare, "measure", really)
    resumed = dict(measure_all(methods, plan, Records(out, SETTINGS, methods)))
    assert {k: without_timings(r) for k, r in resumed.items()} == {k: without_timings(r) for k, r in whole.items()}


def test_files_of_something_else_are_refused(tmp_path):
    out, methods = tmp_path / "all.json", {"IA3": METHODS["IA3"]}
    Records(out, SETTINGS, methods).add("IA3", bits_of(1.0))
    before = out.read_bytes()
    with pytest.raises(ValueError, match="other learning rates \\(IA3\\): name another file"):
        Records(out, SETTINGS, methods)
    with pytest.raises(ValueError, match=r"other settings \(steps 3, not 4; seeds 2, not 9\): name another file"):
        Records(out, {**SETTINGS, "steps": 4, "seeds": 9}, methods)
    Records(out, SETTINGS, {"LoRA": METHODS["LoRA"]})  # not those that are asked for
    assert out.read_bytes() == before
    for content, message in (("{}", "was not written by this command"), ("[1]", "was not written by this command"),
                             ("{", "is not valid JSON")):
        out.write_text(content)
        with pytest.raises(ValueError, match=message):
            Records(out, SETTINGS, methods)
        assert out.read_text() == content
    with pytest.raises(OSError, match="is a folder: name a file"):
        Records(tmp_path, SETTINGS, methods)
    with pytest.raises(OSError, match="all.json"):  # found out before anything is measured
        Records(out / "in a file" / "x.json", SETTINGS, methods)


@pytest.mark.parametrize(("options", "message"), [
    ({"task": "surnames-xx"}, "unknown task 'surnames-xx'; there are: surnames-pl, surnames-sk"),
    ({"output_format": "html"}, "unknown format 'html'; there are: table, markdown, json"),
    ({"steps": 0}, "--steps must be at least 1, got 0"),
    ({"seeds": 0}, "--seeds must be at least 1, got 0"),
    ({"methods": "LoRA,Houlsbee"}, "unknown method 'houlsbee'; near: Houlsby"),
    ({"methods": ","}, "--methods names none"),
    ({"methods": "LoRA", "intrinsic": True}, "leave --methods out"),
])
def test_what_cannot_be_is_refused_before_anything_is_written(tiny, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options, out=tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()


def test_an_error_is_a_sentence():
    run = subprocess.run([sys.executable, "-m", "tinypeft.cli", "compare", "--methods", "lorra"], capture_output=True,
                         text=True, check=False, cwd=ROOT, timeout=60)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("tinypeft: --methods: unknown method 'lorra'; near: LoRA")


def test_methods_are_chosen_by_name_in_the_order_of_the_table():
    assert list(choose(" ia3 ,full fine-tuning,LORA,")) == [FULL, "LoRA", "IA3"]
    assert choose(None) == METHODS
    assert all(len(method.rates) == 5 and sorted(method.rates) == list(method.rates)
               for name, method in METHODS.items() if name != UNTOUCHED)


# --- ranks ---------------------------------------------------------------------------------------------------------


BITS = st.lists(st.integers(0, 12).map(lambda n: n / 4), min_size=1, max_size=3)


@given(st.dictionaries(st.text("abcdefgh", min_size=1, max_size=2), BITS, max_size=8))
def test_ranks_part_methods_where_no_range_reaches_across(bits):
    received = ranks(bits)
    groups = [{name} for name in bits]  # joined as long as two ranges overlap: slow, and plain
    for a in bits:
        for b in bits:
            if min(bits[a]) <= max(bits[b]) and min(bits[b]) <= max(bits[a]):
                assert received[a] == received[b]
                joined = [group for group in groups if group & {a, b}]
                groups = [group for group in groups if not group & {a, b}] + [set().union(*joined)]
    for group in groups:
        better = [name for name in bits if name not in group and max(bits[name]) < min(min(bits[own]) for own in group)]
        assert {received[name] for name in group} == {len(better) + 1}
    assert received == ranks(dict(reversed(bits.items())))


def test_ranks_of_ranges_that_touch_or_are_points():
    assert ranks({"a": [1.0], "b": [1.0, 2.0], "c": [2.0], "d": [2.1]}) == {"a": 1, "b": 1, "c": 1, "d": 4}
    assert ranks({}) == {}


# --- tables --------------------------------------------------------------------------------------------------------


def markdown_rows(text: str) -> list[list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [row for row in rows if not row[-1].endswith("--:")]


def test_the_tables_of_a_comparison(capsys):
    results = {UNTOUCHED: Result([], target=[3.5], unplugged=[3.0]),
               "LoRA": bits_of(2.5, 2.6, plugged=[4.0, 4.2], unplugged=[3.0, 3.0], trainable=1234, step_seconds=0.0125,
                               file_bytes=2500, mergeable=True, merge_seconds=0.001, unmerge_seconds=0.002),
               "IA3": replace(bits_of(2.0, None), rate=0.3), "BitFit": Result([0.1], validation=[None]),
               "DoRA": replace(bits_of(2.55, 2.65), rate=0.1, mergeable=False)}
    print_comparison(results, SETTINGS, markdown=True)
    rows = markdown_rows(capsys.readouterr().out)
    assert [row[:6] for row in rows[1:6]] == [
        ["1", "LoRA", "0.2", "1,234", "2.550 (2.500–2.600)", "4.100 (4.000–4.200)"],
        ["1", "DoRA", "0.1*", "", "2.600 (2.550–2.650)", ""],
        ["3", UNTOUCHED, "", "", "3.500", ""],
        ["", "IA3", "0.3*", "", "diverged", ""],
        ["", "BitFit", "", "", "diverged", "diverged"]]
    assert [row[6] for row in rows[1:4]] == ["3.000", "", "3.000"]
    assert rows[7] == ["LoRA", "12.5", "", "2.5", "", "1.000", "2.000", "yes"]
    assert [row[-1] for row in rows[7:]] == ["yes", "no", "", "", ""]
    print_comparison(results, SETTINGS, markdown=False)
    text = capsys.readouterr().out
    assert "2.550 (2.500–2.600)" in text
    assert "…" not in text


def test_d90_is_the_first_dimension_with_nine_tenths_of_the_gain(capsys, tiny, monkeypatch):
    gains = {0: 0, 415_232: 8, 16: 4, 32: 7.1875, 64: 7.25, 128: 8}
    by_rates = {method.rates: 415_232 if name == FULL else 0 for name, method in METHODS.items() if name in (FULL, UNTOUCHED)}

    def made_up(method, plan, on_run_end):
        size = by_rates.get(method.rates)
        size = method.config(3, 0).dimension if size is None else size
        return replace(bits_of(10 - gains[size]), trainable=size)

    monkeypatch.setattr(compare, "measure", made_up)
    tiny(intrinsic=True, output_format="markdown")
    text = capsys.readouterr().out
    assert [(row[0], row[4]) for row in markdown_rows(text)[1:]] == [
        (UNTOUCHED, "0.0%"), (FULL, "100.0%"), ("subspace 16", "50.0%"), ("subspace 32", "89.8%"), ("subspace 64", "90.6%")]
    assert "d90 = 64" in text


def test_d90_that_is_not_reached(capsys):
    results = {UNTOUCHED: bits_of(4.0), FULL: bits_of(3.0), "subspace 16": bits_of(3.9), "subspace 32": bits_of(None)}
    assert dict(until_enough(iter(results.items()))) == results
    assert share_of_gain(results, "subspace 16") == pytest.approx(0.1)
    print_dimensions(results, SETTINGS, markdown=True)
    text = capsys.readouterr().out
    assert [row[4] for row in markdown_rows(text)[1:]] == ["0.0%", "100.0%", "10.0%", ""]
    assert "d90 was not reached" in text
    assert math.isnan(share_of_gain({**results, FULL: bits_of(4.0)}, "subspace 16"))
