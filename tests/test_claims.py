"""All 233 claims are there, and judged as an audit judged them or differently with a reason; and a wrong library shows."""

from __future__ import annotations

import functools
import json
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import GOLDEN

import tinypeft.autograd.functional
from tinypeft.budget import format_bytes, weights
from tinypeft.claims.audit import CLAIMS, chapter_examples
from tinypeft.claims.claim import KINDS, check
from tinypeft.claims.experiments import adapter_cost, training
from tinypeft.claims.judge import Verdict
from tinypeft.claims.record import KEPT, read_record
from tinypeft.nn import LlamaConfig
from tinypeft.nn.module import new_parameter
from tinypeft.peft import bitfit, bottleneck, lora, prefix
from tinypeft.quant import blockwise, codebooks

AUDIT = json.loads((GOLDEN / "claims_audit.json").read_text())  # made by other means, before any of this was written
DEVIATIONS = tomllib.loads((Path(__file__).parent / "claims_deviations.toml").read_text())
QUICK = [entry for entry in CLAIMS.values() if not entry.slow]


@functools.cache
def found() -> dict[str, Any]:
    """Every claim that is quick, checked once."""
    return {entry.id: check(entry) for entry in QUICK}


# ---- all of them ----------------------------------------------------------------------------------------------------

def test_every_claim_is_entered_once_under_its_source_and_kind():
    assert {id: (entry.source[:3], entry.kind) for id, entry in CLAIMS.items()} == {
        id: (row["source"], row["kind"]) for id, row in AUDIT.items()}
    assert {entry.kind for entry in CLAIMS.values()} <= set(KINDS)


def test_verdicts_are_those_of_the_audit_but_for_listed_ones():
    ours = {id: str(result.verdict) for id, result in found().items()}
    ours |= {entry.id: read_record()[entry.id]["verdict"] for entry in CLAIMS.values() if entry.slow}
    expected = {id: DEVIATIONS[id]["ours"] if id in DEVIATIONS else row["verdict"] for id, row in AUDIT.items()}
    assert ours == expected


def test_deviations_are_real_and_say_why():
    for id, row in DEVIATIONS.items():
        assert row["audit"] == AUDIT[id]["verdict"] != row["ours"], id
        assert len(row["because"]) > 40, id


def test_what_is_editorial_says_what_it_rests_on_and_is_the_smaller_part():
    editorial = [entry for entry in CLAIMS.values() if entry.compute is None]
    assert [entry.id for entry in editorial if len(entry.reference) < 10 or not entry.why] == []
    assert [entry.id for entry in CLAIMS.values() if entry.compute and (entry.reference or entry.verdict)] == []
    assert len(editorial) < len(CLAIMS) / 4


def test_what_is_wrong_is_explained_and_set_right():
    for id, result in found().items():
        assert "{" not in result.why + result.correct, id
        if result.verdict not in (Verdict.CONFIRMED, Verdict.ROUNDED):
            assert result.why, id
        if result.verdict is Verdict.CORRECTED:
            assert result.correct, id
        if result.claim.compute:
            assert result.computed, id
            assert result.claim.how, id


def test_readme_counts_the_verdicts():
    counts = Counter(result.verdict for result in found().values())
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert "| of 233 | " + " | ".join(str(counts[verdict]) for verdict in Verdict) + " |" in readme
    assert f"({sum(not entry.compute for entry in CLAIMS.values())} claims, on which no computation" in readme


def test_slow_claims_are_recorded():
    slow = [entry.id for entry in CLAIMS.values() if entry.slow]
    assert sorted(read_record()) == sorted(slow)


@pytest.mark.slow
def test_the_record_is_what_is_computed():
    again = {entry.id: check(entry) for entry in CLAIMS.values() if entry.slow}
    assert read_record() == {id: {key: str(getattr(result, key)) for key in KEPT} for id, result in again.items()}


# ---- a wrong library breaks claims ------------------------------------------------------------------------------------

def put_everywhere(monkeypatch: pytest.MonkeyPatch, original: Any, wrong: Any) -> None:
    """Replace a function under every name that it has been imported by."""
    places = [(module, name) for module in list(sys.modules.values()) if getattr(module, "__name__", "").startswith("tinypeft")
              for name, value in list(vars(module).items()) if value is original]
    assert places
    for module, name in places:
        monkeypatch.setattr(module, name, wrong)


@contextmanager
def nothing_remembered() -> Iterator[None]:
    """Without results that functions have kept, before and after."""
    def forget() -> None:
        for module in list(sys.modules.values()):
            if getattr(module, "__name__", "").startswith("tinypeft"):
                for value in list(vars(module).values()):
                    if hasattr(value, "cache_clear"):
                        value.cache_clear()

    forget()
    try:
        yield
    finally:
        forget()


def alpha_over_r_is_dropped(monkeypatch):
    put_everywhere(monkeypatch, lora.rank_and_scaling, lambda config, path: (config.r, 1.0))


def b_starts_random(monkeypatch):
    def add(self, adapter_name, config, seed):
        original(self, adapter_name, config, seed)
        B = self.lora_B[adapter_name]
        B.weight = new_parameter(B.weight.shape, self.base_layer.weight, lambda: np.full(B.weight.shape, 0.1))

    original = lora.LoraLayer.add
    monkeypatch.setattr(lora.LoraLayer, "add", add)


def merging_forgets_the_scale(monkeypatch):
    monkeypatch.setattr(lora.LoraLayer, "delta_weight",
                        lambda self, name: self.lora_B[name].weight.data @ self.lora_A[name].weight.data)


def grouped_queries_are_ignored(monkeypatch):
    def post_init(self):
        self.num_key_value_heads = None
        original(self)

    original = LlamaConfig.__post_init__
    monkeypatch.setattr(LlamaConfig, "__post_init__", post_init)


def nibbles_are_swapped(monkeypatch):
    def table(code):
        both = np.arange(1 << 16, dtype=np.uint16).view(np.uint8)
        codes = np.stack([both & 15, both >> 4], axis=-1).reshape(-1, 4)
        return np.frombuffer(code, np.float32)[codes].view(np.complex128)[:, 0]

    put_everywhere(monkeypatch, blockwise._values_of_two_bytes, table)


def nf4_has_two_zeros(monkeypatch):
    """As many levels above zero as below, and zero twice, as if both sides were built alike."""
    original = codebooks.get_4bit_type
    nf4 = original("nf4").copy()
    nf4[8:] = -nf4[:8][::-1]
    put_everywhere(monkeypatch, original, lambda kind: nf4 if kind == "nf4" else original(kind))


def adapters_have_no_inner_skip(monkeypatch):
    def forward(self, x, h):
        for name in self.working:
            h = self.adapters[name](h)
        return self.base_layer(x, h)

    monkeypatch.setattr(bottleneck.BottleneckLayer, "forward", forward)


def the_offset_of_double_quantization_is_dropped(monkeypatch):
    monkeypatch.setattr(blockwise.QuantState, "statistics", lambda self: self.absmax if self.state2 is None
                        else blockwise.dequantize_blockwise(self.absmax, self.state2))


def bitfit_trains_the_norms_too(monkeypatch):
    original = bitfit.BitFitConfig.inject

    def inject(self, *args):
        self.train_norms = True
        original(self, *args)

    monkeypatch.setattr(bitfit.BitFitConfig, "inject", inject)


def a_prefix_has_one_layer_too_few(monkeypatch):
    original = prefix.PrefixTuningConfig.fill_in
    monkeypatch.setattr(prefix.PrefixTuningConfig, "fill_in", lambda self, num_layers, **rest: original(
        self, num_layers=num_layers - 1, **rest))


def adam_keeps_one_state(monkeypatch):
    original = weights.optimizer_bytes
    put_everywhere(monkeypatch, original, lambda shapes, optimizer: original(shapes, optimizer) / 2)


def attention_forgets_its_scale(monkeypatch):
    original = tinypeft.autograd.functional.attention
    monkeypatch.setattr(tinypeft.autograd.functional, "attention",
                        lambda q, *args, **kwargs: original(q * q.shape[-1] ** 0.5, *args, **kwargs))


# What each break turns over, at least.
BREAKS: dict[Callable[[pytest.MonkeyPatch], None], list[str]] = {
    alpha_over_r_is_dropped: ["a-lora-no-scale", "b-alpha-r", "d-key-merge", "d-ex3-out"],
    b_starts_random: ["d-init", "d-p2-proof"],
    merging_forgets_the_scale: ["c-merge-none", "d-tab-lora-none"],
    grouped_queries_are_ignored: ["a-prefix-shape", "a-llama2-max", "b-16gb", "d-prefix-pd"],
    nibbles_are_swapped: ["d-qlora-fwd"],
    nf4_has_two_zeros: ["d-nf4-16"],
    adapters_have_no_inner_skip: ["a-adapter-formula", "c-adapter-formula", "d-adapter-noskip"],
    the_offset_of_double_quantization_is_dropped: ["d-qlora-fwd"],
    bitfit_trains_the_norms_too: ["a-bitfit-formula"],
    a_prefix_has_one_layer_too_few: ["a-prefix-184320", "d-p5-count"],
    adam_keeps_one_state: ["d-full-mv", "d-ex2-lora03", "d-p3-opt"],
    attention_forgets_its_scale: ["c-attention"],
}


@pytest.mark.parametrize("wrong", BREAKS, ids=lambda wrong: wrong.__name__)
def test_a_wrong_library_breaks_claims(wrong, monkeypatch):
    before = {id: found()[id].verdict for id in BREAKS[wrong]}
    with nothing_remembered(), monkeypatch.context() as patch:
        wrong(patch)
        after = {id: check(CLAIMS[id]).verdict for id in BREAKS[wrong]}
    assert [id for id in before if after[id] is before[id]] == []


def test_what_a_larger_rank_adds_is_told_apart_from_what_it_adds_to_the_peak():
    few, under8, script = (found()[id] for id in ("d-ex2-few-hundred", "d-ex2-under8", "b-8b-24gb"))
    small, large = (chapter_examples.qlora_13b(r) for r in (16, 256))
    assert f"grows by {format_bytes(large.total - small.total)} alone" in few.why
    assert few.computed not in few.why
    assert f"contains {format_bytes(chapter_examples.adapter_at_peak(large))} of that" in under8.why
    assert chapter_examples.adapter_at_peak(large) < adapter_cost(large)
    narrow, wide = (training("llama-3-8b", 16, prepared=True, adapter_dtype=dtype) for dtype in ("bfloat16", "float32"))
    assert format_bytes(narrow.total) in script.why
    assert format_bytes(wide.total) in script.why
