"""The parity fuzzer (extra `parity`): sixty draws, and that it finds what is broken on purpose."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import parity_fuzzer as fuzzer
import pytest

pytestmark = pytest.mark.parity

SEED, DRAWS = 2026, 60


@pytest.mark.parametrize("start", range(0, DRAWS, 12))
def test_random_models_and_adapters_are_those_of_peft(start):
    """Any number of draws: python tests/parity_fuzzer.py --draws 1000 --seed 0."""
    told: list[str] = []
    reports = fuzzer.run(SEED, range(start, start + 12), told.append)
    assert not any(report.failures for report in reports.values()), "\n".join(told)
    assert all(len(report.compared) + len(report.excused) >= 9 for report in reports.values())


def test_the_draws_cover_every_method_family_and_way():
    cases = [fuzzer.draw(SEED, number) for number in range(DRAWS)]
    assert {case.method for case in cases} == {method for method, _, _ in fuzzer.METHODS}
    assert {(case.family, case.way) for case in cases} == {(family, way) for family in fuzzer.FAMILIES for way in fuzzer.WAYS}
    assert cases[7] == fuzzer.draw(SEED, 7)


def first(method: str, **options: Any) -> fuzzer.Draw:
    """The first draw of a method with these options."""
    cases = (fuzzer.draw(SEED, number) for number in range(1000))
    return next(case for case in cases if case.method == method
                and all(case.options.get(key) == value for key, value in options.items()))


def times(factor: float) -> Callable[[Any], Any]:
    """A function whose result is so many times what it was."""
    return lambda old: lambda *arguments: old(*arguments) * np.float32(factor)


BROKEN: dict[str, tuple[fuzzer.Draw, str, Callable[[Any], Any], str]] = {  # draw, what is broken, how, where it shows
    "LoRA's scaling": (first("LoRA"), "tinypeft.peft.lora.rank_and_scaling",
                       lambda old: lambda *a: (old(*a)[0], 1.001 * old(*a)[1]), "logits"),
    "LoRA's merging": (first("LoRA", bias="none"), "tinypeft.peft.lora.LoraLayer.delta_weight", times(1.001), "logits, merged"),
    "DoRA's norm": (first("DoRA"), "tinypeft.peft.dora.DoraLayer._direction", times(1.001), "logits"),
    "IA3's merging": (first("IA3"), "tinypeft.peft.ia3.IA3Layer.merged_values",
                      lambda old: lambda *a: {key: x * np.float32(1.001) for key, x in old(*a).items()}, "logits, merged"),
    "VeRA's matrices": (first("VeRA", save_projection=False), "tinypeft.peft.vera._kaiming_uniform", times(1.001), "logits"),
    "AdaLoRA's penalty": (first("AdaLoRA"), "tinypeft.peft.adalora.AdaLoraConfig.penalty", times(1.001), "loss in training"),
    "the prefix": (first("prefix"), "tinypeft.peft.prefix.PrefixEncoder.prefix", times(1.001), "logits"),
    "the counts": (first("LN tuning"), "tinypeft.peft.model.PeftModel.get_nb_trainable_parameters",
                   lambda old: lambda model: (old(model)[0], old(model)[1] + 1), "counts"),
    "a trap's number": (first("LoRA", bias="all"), "parity_fuzzer.base_as_it_stands", times(1.001), "logits, adapter disabled"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_found(case, monkeypatch):
    drawn, place, broken, what = BROKEN[case]
    assert not fuzzer.examine(drawn).failures
    owner, _, name = place.rpartition(".")
    try:
        target: Any = importlib.import_module(owner)
    except ModuleNotFoundError:
        module, _, kind = owner.rpartition(".")
        target = getattr(importlib.import_module(module), kind)
    if target is fuzzer:  # the table of traps holds the function itself
        trap = next(trap for trap in fuzzer.TRAPS if trap.predict is getattr(fuzzer, name))
        monkeypatch.setattr(fuzzer, "TRAPS", [fuzzer.Trap(trap.name, trap.what, trap.why, trap.when, broken(trap.predict))])
    else:
        monkeypatch.setattr(target, name, broken(getattr(target, name)))
    failures = fuzzer.examine(drawn).failures
    assert any(failure.startswith(f"{what}: ") for failure in failures), failures


def test_the_command_reproduces_a_draw_and_reports_failures(monkeypatch, capsys):
    assert fuzzer.main(["--seed", str(SEED), "--only", "2"]) == 0
    assert f"--seed {SEED} --only 2" in capsys.readouterr().out
    monkeypatch.setattr(fuzzer, "difference", lambda *_: "broken")
    assert fuzzer.main(["--seed", str(SEED), "--only", "2"]) == 1
    assert "FAILED draw 2: IA3" in capsys.readouterr().out
