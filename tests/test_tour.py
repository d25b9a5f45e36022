"""`tinypeft tour` and the README: what a newcomer types, sees and is told."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tinypeft import AutoModelForCausalLM, PeftModel
from tinypeft.commands.tour import Tour, run_tour

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tour(tmp_path_factory) -> tuple[Tour, Path]:
    out = tmp_path_factory.mktemp("tour") / "out"
    return run_tour(out), out


@pytest.mark.slow
def test_the_tour_learns_polish(tour):
    measured, _ = tour
    assert measured.closed >= 0.8
    assert measured.polish_before - measured.polish_full >= 0.85
    assert measured.us_before <= 3.25


@pytest.mark.slow
def test_the_tour_shows_what_an_adapter_is(tour):
    measured, out = tour
    assert measured.difference_at_start == 0.0
    assert measured.us_unplugged == measured.us_before
    assert measured.us_plugged > measured.us_before + 0.5  # it forgets, as long as it is plugged in
    assert measured.difference_reloaded == 0.0
    assert 0 < measured.difference_merged < 1e-4
    assert sorted(p.name for p in out.iterdir()) == ["adapter_config.json", "adapter_model.safetensors", "tour.png"]
    assert (out / "tour.png").read_bytes().startswith(b"\x89PNG")
    adapter = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("tinypeft/surnames"), out)
    assert np.isfinite(adapter([[1, 5]]).logits.data).all()


@pytest.mark.slow
def test_the_tables_of_the_readme_are_what_the_tour_prints(tour):
    measured, _ = tour
    for name, values in {"Polish": (measured.polish_before, measured.polish_lora, measured.polish_full),
                         "US": (measured.us_before, measured.us_plugged, None)}.items():
        row = re.search(rf"^\| bits per character, {name} \|(.*)\|$", README, flags=re.M)[1].split("|")
        for printed, value in zip(row, values, strict=True):
            assert value is None or abs(float(printed) - value) < 0.06  # processors round differently


def test_the_same_seed_gives_the_same_tour(tmp_path, capsys):
    texts = []
    for name in ("a", "b"):
        run_tour(tmp_path / name, steps=3, seed=5)
        printed = capsys.readouterr().out.replace(f"{tmp_path}/{name}", "OUT")
        texts.append(re.sub(r"\d+ seconds so far|seconds of training.*", "", printed))
    assert texts[0] == texts[1]
    assert "Largest difference of any logit: 0.0" in texts[0]
    assert "untouched, bit for bit" in texts[0]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tinypeft.cli", *arguments], capture_output=True, text=True, check=False,
                          cwd=ROOT, timeout=120)


def test_an_error_is_a_sentence_not_a_traceback(tmp_path):
    (tmp_path / "course/thesis").mkdir(parents=True)
    for arguments, sentence in ((("tour", "--steps", "0", "--out", str(tmp_path)), "--steps must be at least 1, got 0"),
                                (("start", str(tmp_path / "course")), "exists already, and may hold work of yours")):
        result = run(*arguments)
        assert result.returncode == 1
        assert sentence in result.stderr
        assert "Traceback" not in result.stderr


def test_the_version_is_printed():
    assert re.fullmatch(r"tinypeft \d+\.\d+\.\d+\n", run("--version").stdout)


def test_the_code_in_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len(blocks) == 3
    exec(compile("\n".join(blocks), "README.md", "exec"), {})
    assert (tmp_path / "my-adapter/adapter_model.safetensors").is_file()


def test_files_that_the_readme_names_exist():
    named = re.findall(r"`((?:tinypeft|tests)/[\w/.]+)`", README) + re.findall(r"\]\(([\w/.]+)\)", README)
    assert len(named) >= 5
    for name in named:
        assert name == "tinypeft/surnames" or (ROOT / name).exists(), name


def test_ci_runs_the_readmes_test_command():
    script = (ROOT / ".ci/run").read_text()
    pattern = re.search(r"grep -m 1 -o '(.*?)' README.md", script)[1]
    (command, *_) = [match[0] for line in README.splitlines() if (match := re.search(pattern, line))]
    assert command.endswith(".venv/bin/pytest")
