"""`tinypeft plan`: what it prints is what the planner found, fits the terminal, and bad input is a sentence."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import some
from typer.testing import CliRunner

from tinypeft.budget.methods import METHODS
from tinypeft.budget.planner import plan
from tinypeft.budget.units import format_bytes
from tinypeft.cli import app
from tinypeft.commands.plan import run_plan
from tinypeft.commands.tables import WIDTH, terminal_width

SMALL = {"model": "tinypeft/surnames", "tokens": 16, "tasks": 20}
FEW = "lora,qlora,pfeiffer,prefix,full"


def printed(capsys, **options):
    run_plan(**{"gpu": "100MB", **SMALL, "method": FEW, **options})
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", some([70, 80, 120], [70]))
@pytest.mark.parametrize("options", [{}, {"gpu": "400kB"}, {"model": None, "tasks": 1}, {"latency_critical": True}])
def test_every_line_fits_the_terminal(capsys, monkeypatch, columns, options):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = printed(capsys, **options).splitlines()
    assert lines
    assert max(map(len, lines)) <= columns


def test_what_is_printed_is_what_was_found(capsys):
    text = printed(capsys)
    found = plan("tinypeft/surnames", "100MB", tokens=16, tasks=20, methods=FEW.split(","))
    for fit in found.fits:
        for value in (fit.method.title, f"{fit.serving.counts.trainable:,}", format_bytes(fit.card_bytes),
                      format_bytes(fit.serving.task_bytes), format_bytes(fit.serving.all_bytes), f"{fit.largest or '':}"):
            assert str(value) in text, value
    for condition in ("engine torch", "batch 1", "tokens 16", "margin 5%", "optimizer adamw", "checkpointing on"):
        assert condition in " ".join(text.split())


def test_rejections_name_their_number_and_cards(capsys):
    text = " ".join(printed(capsys, gpu="400kB").split())
    assert "What it would take".upper() in text
    assert "The least that keeps to all that was asked for is" in text
    assert "Plain data parallelism" in text
    assert "the card has 400 kB" in text
    assert "--quantization nf4 tries them all" in text
    assert "--quantization nf4 tries them all" not in " ".join(printed(capsys, gpu="400kB", method="lora,qlora,full").split())


def test_what_it_would_take(capsys):
    text = " ".join(printed(capsys, gpu="400kB", method="lora,vera,full", trainable_max="5000").split())
    assert "The least that keeps to all that was asked for is VeRA with r=1" in text
    assert "at most 5,000 may be trained" in text
    text = " ".join(printed(capsys, method="lora", rank=100_000).split())
    assert "No card would do, however large" in text
    text = " ".join(printed(capsys, gpu="400kB", method="lora,pfeiffer").split())
    assert "Cards, with r=1: " in text
    assert "Cards, with width 1: " in text


def test_the_choice_and_how_to_switch(capsys):
    text = " ".join(printed(capsys).split())
    assert "LoRA, r=16: nothing speaks against LoRA" in text
    assert "Switching, not merged: load" in text
    assert "20 x" in text
    quantized = " ".join(printed(capsys, method="qlora").split())
    assert "A base in NF4 would be rounded again" in quantized
    shared = " ".join(printed(capsys, method="ulora").split())
    assert "are shared by all tasks" in shared
    full = " ".join(printed(capsys, method="full", tasks=1).split())
    assert "Switching loads the whole model" in full
    none = " ".join(printed(capsys, method="full").split())
    assert "Nothing: everything that fits is ruled out: full fine-tuning: to switch is to load a whole model" in none


def test_qlora_stays_in_nf4_and_says_so(capsys):
    text = " ".join(printed(capsys, method="lora,qlora", quantization="int8").split())
    assert "stored in int8, QLoRA's in NF4, which is part of the method." in text
    assert "QLoRA (NF4)" in text
    text = " ".join(printed(capsys, method="qlora", quantization="nf4").split())
    assert "stored in NF4." in text
    assert "QLoRA (NF4)" not in text


def test_one_task_is_one_task(capsys):
    text = " ".join(printed(capsys, method="lora,ia3", tasks=1, storage="1kB", trainable_max="50%").split())
    assert "LoRA: 1 task takes" in text
    assert "At most 207,616 parameters" in text
    text = " ".join(printed(capsys, method="lora", tasks=1, latency_critical=True).split())
    assert "Merge it, since latency is critical" in text
    assert "Not merged, " in text
    assert "keep all" not in text
    assert "Merge it" not in printed(capsys, method="lora", switching="batch", latency_critical=True)
    text = " ".join(printed(capsys, method="ia3", tasks=1, trainable_max="1").split())
    assert "At most 1 parameter may be trained" in text


def test_nothing_is_announced_that_does_not_follow(capsys):
    assert "One more than the largest" not in printed(capsys, method="ia3,full")
    assert "the one asked for, else the method's usual one" in " ".join(printed(capsys, rank=5, method="lora").split())


def test_relatives_of_lora_are_named(capsys):
    text = " ".join(printed(capsys, method="olora,rslora,PiSSA").split())
    assert "OLoRA and rsLoRA and PiSSA cost what LoRA costs: their row is LoRA's." in text
    assert "cannot be mixed within a batch" in text
    assert "its row is LoRA's" not in printed(capsys, method="lora")


def test_what_is_ruled_out_is_said(capsys):
    text = " ".join(printed(capsys, method="lora,qlora,ia3", storage="200kB").split())
    assert "It would fit, but is not taken: - LoRA, QLoRA: 20 tasks take" in text
    assert "It would fit" not in printed(capsys, method="lora,ia3")


def test_without_a_model_limits_are_repeated(capsys):
    run_plan(model=None, gpu="24GB", method="lora", trainable_max="0.5%")
    assert "At most 0.5% parameters" not in (text := capsys.readouterr().out)
    assert "At most 0.5% of each model's parameters may be trained" in " ".join(text.split())


def test_help_names_every_method():
    help_text = re.sub(r"[^a-z0-9]+", " ", CliRunner().invoke(app, ["plan", "--help"]).output)
    assert all(f" {name} " in help_text for name in METHODS)


def test_markdown(capsys):
    text = printed(capsys, output_format="markdown", trainable_max="200K", latency_critical=True, quantization="nf4")
    assert "| method | size | at most | trained | share | memory |" in text
    assert "## What does not" in text
    assert "At most 200,000 parameters may be trained." in text
    assert "Latency is critical" in text
    assert "The base of every adapter is stored in NF4." in text


def test_json_has_every_number(capsys):
    found = json.loads(printed(capsys, output_format="json"))
    assert found["gpu_bytes"] == 1e8
    assert found["choice"]["method"] == "lora"
    assert found["needs"] == {"switching": "requests", "latency_critical": False, "examples": None, "keep_base": False,
                              "storage_bytes": None}
    lora = found["fits"][1]
    assert lora["method"] == "lora"
    assert {"trainable", "largest", "one_more", "memory", "serving", "card_bytes", "config"} <= lora.keys()
    assert lora["serving"]["work"]["token"] == 2 * lora["trainable"]
    assert found["conditions"]["tokens"] == 16


def test_json_without_a_model(capsys):
    run_plan(model=None, gpu="24GB", method="qlora", output_format="json")
    found = json.loads(capsys.readouterr().out)
    assert found["largest_models"][0]["model"] == "llama-2-13b"
    assert found["largest_models"][0]["conditions"]["tokens"] == 2048


def test_needs_change_the_choice(capsys):
    options = {"gpu": "100MB", **SMALL, "method": "full,lora,ia3", "output_format": "json"}
    assert run_plan(**options)["choice"]["method"] == "lora"
    assert run_plan(**options, examples=50)["choice"]["method"] == "ia3"
    assert run_plan(**options | {"tasks": 1}, examples=500_000)["choice"]["method"] == "full"
    assert run_plan(**options | {"tasks": 1}, examples=500_000, keep_base=True)["choice"]["rule"] == "keep-base"
    assert run_plan(**options, storage="200kB")["choice"]["rule"] == "storage"


def test_a_picture_is_drawn(tmp_path, capsys):
    run_plan(gpu="100MB", **SMALL, method="lora,qlora", gpus=2, plot=tmp_path / "new" / "plan.png")
    assert (tmp_path / "new" / "plan.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    with pytest.raises(ValueError, match="nothing fits, so there is nothing to draw"):
        run_plan(gpu="400kB", **SMALL, method="lora", plot=tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize(("options", "message"), [
    ({"gpu": "24"}, "the card's memory '24' has no unit"),
    ({"gpu": "24 gigs"}, "unknown unit 'gigs'"),
    ({"model": "gtp2"}, "near: gpt2"),
    ({"method": "lorra"}, "unknown method 'lorra'"),
    ({"method": ","}, "no method is named"),
    ({"margin": "5 GB"}, "--margin '5 GB'"),
    ({"margin": "five"}, "--margin 'five': 'five' is not a number"),
    ({"trainable_max": "lots"}, "trainable_max 'lots': 'lots' is not a number"),
    ({"margin": "5"}, "--margin '5'"),
    ({"storage": "lots"}, "--storage 'lots'"),
    ({"output_format": "yaml"}, "unknown format 'yaml'"),
    ({"tasks": 0}, "tasks=0"),
    ({"switching": "often"}, "switching 'often'"),
    ({"plot": Path("x.txt")}, "--plot 'x.txt': the picture is a PNG"),
    ({"method": "ia3,prompt", "rank": 8}, r"rank 8 has no effect on \(IA\)3, prompt tuning: .* lora, qlora, dora"),
    ({"model": None, "method": "ia3", "bottleneck": 8}, "bottleneck width 8 has no effect"),
    ({"method": "lora", "prepared": True}, "prepared has no effect on LoRA"),
    ({"model": None, "plot": "x.png"}, "--plot draws the methods that fit a model"),
    ({"target_modules": "all_linear"}, "did you mean"),
])
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        run_plan(**{"gpu": "100MB", **SMALL, "method": "lora", **options})


def test_the_menu_passes_everything_on(capsys):
    result = CliRunner().invoke(app, [
        "plan", "--model", "tinypeft/surnames", "--gpu", "100MB", "--tasks", "3", "--tokens", "16", "--method", "lora",
        "--rank", "4", "--trainable-max", "50%", "--batch", "2", "--optimizer", "sgd", "--adapter-dtype", "bfloat16",
        "--no-checkpointing", "--attention", "eager", "--margin", "10%", "--gpus", "2", "--format", "json"])
    found = json.loads(result.output)
    assert found["fits"][0]["size"] == 4
    assert found["fits"][0]["config"]["r"] == 4
    conditions = found["conditions"]
    assert (conditions["batch"], conditions["optimizer"], conditions["checkpointing"], conditions["attention"],
            conditions["adapter dtype"], conditions["margin"]) == (2, "sgd", False, "eager", "bfloat16", 0.1)
    assert found["gpus"] == 2
    assert found["fits"][0]["memory"]["parts"]["optimizer states"] == 0


def test_an_error_is_a_sentence():
    run = subprocess.run([sys.executable, "-m", "tinypeft.cli", "plan", "--model", "gpt2", "--gpu", "24"], capture_output=True,
                         text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.startswith("tinypeft: the card's memory '24' has no unit: write a number and a unit")
    assert "Traceback" not in run.stderr


def test_the_width_of_text_has_an_upper_limit(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    assert terminal_width() == WIDTH
