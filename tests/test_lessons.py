"""The lessons: built from their sources, run from a clean kernel, true to their outline; and their checks notice defects.

Two things are checked by reading: every number in the prose is asserted by a cell of the same section, and every cell is as
short as the course promises. And two by breaking: a defect put into the library must fail the lesson's check for it, and a
mistake in a learner's answer must be named.
"""

import ast
import dataclasses
import importlib.util
import re
import socket
import textwrap
import tomllib
from pathlib import Path

import numpy as np
import pytest
from conftest import some

import tinypeft
import tinypeft.training
from tinypeft.viz import Predictions, broken, plot_curves, plot_matrices, self_check

pytest.importorskip("jupytext", reason="needs the extra `dev`")
pytest.importorskip("nbclient", reason="needs the extra `dev`")

LESSONS = Path(__file__).parents[1] / "lessons"
TAGS = {"predict", "run", "check", "see", "break", "make", "learned", "long"}
RHYTHM = {"predict", "run", "check", "see", "break", "make"}
MOST_LINES = 10


def load_build():
    spec = importlib.util.spec_from_file_location("build_lessons", LESSONS / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load_build()
SOURCES = build.sources()
every_lesson = pytest.mark.parametrize("source", SOURCES, ids=[source.stem for source in SOURCES])


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", []))


def code_cells(source, *wanted):
    return [cell for cell in build.read(source).cells if cell.cell_type == "code" and set(wanted) <= tags(cell)]


def code_lines(text) -> int:
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in text.splitlines())


def outline() -> dict[str, dict]:
    return {lesson["slug"]: lesson for lesson in tomllib.loads((LESSONS / "outline.toml").read_text("utf-8"))["lessons"]}


# --- notebooks and their sources -----------------------------------------------------------------------------------


def test_there_is_a_lesson():
    assert "04_lora" in [source.stem for source in SOURCES]


@every_lesson
def test_the_notebook_is_what_its_source_gives(source):
    assert source.with_suffix(".ipynb").read_bytes() == build.build(source).encode(), "run: python lessons/build.py"


def test_every_notebook_has_a_source():
    assert [path.stem for path in sorted(LESSONS.glob("*.ipynb"))] == [source.stem for source in SOURCES]


def test_build_writes_what_is_stale_and_check_reports_it(tmp_path, monkeypatch, capsys):
    source = tmp_path / "00_small.py"
    source.write_text("# %% [markdown]\n# # Small ½\n\n# %% tags=[\"run\"]\ndef f():\n    pass\n\n\n# %%\nf()\n", "utf-8")
    monkeypatch.setattr(build, "sources", lambda: [source])
    assert build.main(["--check"]) == 1
    assert not source.with_suffix(".ipynb").exists()
    assert build.main([]) == 0
    first = source.with_suffix(".ipynb").read_bytes()
    assert build.main(["--check"]) == 0
    source.with_suffix(".ipynb").unlink()
    assert build.main([]) == 0
    assert source.with_suffix(".ipynb").read_bytes() == first
    source.write_text(source.read_text("utf-8") + "\n# %%\nf()\n", "utf-8")
    assert build.main(["--check"]) == 1
    assert "python lessons/build.py" in capsys.readouterr().out


@every_lesson
def test_nothing_but_source_is_stored(source):
    import nbformat

    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.id for cell in code if cell.outputs or cell.execution_count is not None] == []
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)


# --- outline -------------------------------------------------------------------------------------------------------


def test_the_outline_lists_the_course():
    slugs = list(outline())
    assert [slug[:2] for slug in slugs] == [f"{number:02}" for number in range(15)]
    assert {source.stem for source in SOURCES} <= set(slugs)
    assert [slug for slug, lesson in outline().items() if not lesson["title"].strip()] == []
    written = {slug for slug, lesson in outline().items() if "sections" in lesson}
    assert written == {source.stem for source in SOURCES}, "sections are listed for the lessons that exist, and for no others"


@every_lesson
def test_title_and_sections_are_those_of_the_outline(source):
    text = "\n".join(cell.source for cell in build.read(source).cells if cell.cell_type == "markdown")
    lesson = outline()[source.stem]
    assert re.findall(r"^# (.*)$", text, re.MULTILINE) == [lesson["title"]]
    found = re.findall(r'^<a id="([a-z0-9-]+)"></a>\n## (.*)$', text, re.MULTILINE)
    assert found == [(section["id"], section["title"]) for section in lesson["sections"]]
    assert len(re.findall(r"^## ", text, re.MULTILINE)) == len(found), "every section has an anchor"


# --- cells ---------------------------------------------------------------------------------------------------------


@every_lesson
def test_cells_are_tagged_with_what_they_are(source):
    kinds = [tags(cell) for cell in code_cells(source)]
    assert [kind for kind in kinds if not kind <= TAGS or len(kind & RHYTHM) != 1] == []
    assert set().union(*kinds) >= RHYTHM, "every lesson has the whole rhythm"


@every_lesson
def test_cells_are_short(source):
    long = {cell.source: code_lines(cell.source) for cell in code_cells(source) if "long" not in tags(cell)}
    assert {cell: lines for cell, lines in long.items() if lines > MOST_LINES} == {}
    assert all("source_hidden" in cell.metadata.get("jupyter", {}) for cell in code_cells(source, "long")), "folded away"


@every_lesson
def test_checks_say_why(source):
    for cell in code_cells(source):
        asserts = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Assert)]
        assert all(node.msg is not None for node in asserts), f"an assert without a reason:\n{cell.source}"
        assert asserts or "check" not in tags(cell), f"a check without an assert:\n{cell.source}"


@every_lesson
def test_every_prediction_is_asked_before_it_is_revealed(source):
    calls = [(node.func.attr, node.args[0].value, tags(cell)) for cell in code_cells(source)
             for node in ast.walk(ast.parse(cell.source))
             if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("predict", "reveal")]
    asked = [id for verb, id, _ in calls if verb == "predict"]
    assert len(asked) == len(set(asked)) >= 3
    assert asked == [id for verb, id, _ in calls if verb == "reveal"]
    assert all("predict" in kind for verb, _, kind in calls if verb == "predict")
    for id in asked:
        assert calls.index(next(c for c in calls if c[:2] == ("predict", id))) < calls.index(
            next(c for c in calls if c[:2] == ("reveal", id)))


@every_lesson
def test_what_is_broken_is_noticed_by_a_check(source):
    assert all("with broken(" in cell.source for cell in code_cells(source, "break"))
    assert all("show(" in cell.source for cell in code_cells(source, "see"))


# --- numbers in the prose ------------------------------------------------------------------------------------------


def prose_numbers(text) -> set[str]:
    """Numbers of two digits and more, or with a decimal point, but for those in links, citations and thousands' commas."""
    text = re.sub(r"\[[^\]]*\]\([^)]*\)|<[^>]*>|et al\. \d{4}|NN_\w+", " ", text)
    found = re.findall(r"(?<![\w.^{-])-?\d[\d,]*(?:\.\d+)?(?: ?%)?", text.replace("\\%", "%"))
    numbers = {number.rstrip(",") for number in found}
    return {number for number in numbers if len(re.sub(r"\D", "", number)) > 1}


def asserted_numbers(cells) -> set[float]:
    """The numbers that stand in the conditions of asserts."""
    found = set()
    for cell in cells:
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Assert):
                found |= {float(leaf.value) for leaf in ast.walk(node.test)
                          if isinstance(leaf, ast.Constant) and isinstance(leaf.value, int | float)}
    return found


def unasserted(cells) -> list[str]:
    """Numbers in the prose of a section that no assert of that section, or of one before it, contains."""
    missing, code = [], []
    for section in sections(cells):
        code += [cell for cell in section if cell.cell_type == "code"]
        known = asserted_numbers(code)
        for cell in section:
            for number in sorted(prose_numbers(cell.source)) if cell.cell_type == "markdown" else []:
                value = float(re.sub(r"[ ,%]", "", number))
                if not {value, value / 100 if "%" in number else value} & known:
                    missing.append(f"{number} in: {cell.source[:60]}")
    return missing


def sections(cells) -> list[list]:
    parts = [[]]
    for cell in cells:
        if cell.cell_type == "markdown" and re.search(r"^## ", cell.source, re.MULTILINE):
            parts.append([])
        parts[-1].append(cell)
    return parts


@pytest.mark.parametrize(("text", "expected"), [
    ("it has 9,216 numbers, or 85 % of 3.63 bits", {"9,216", "85 %", "3.63"}),
    ("Hu et al. 2021, [2106.09685](https://arxiv.org/abs/2106.09685)", set()),
    ("$W_0$, $10^{-3}$, float32, layer 1, r = 8", {"10"}),
    ("so $s$ is 2, 0.5 or 120.", {"0.5", "120"}),
])
def test_numbers_in_prose_are_seen(text, expected):
    assert prose_numbers(text) == expected


@every_lesson
def test_every_number_in_the_prose_is_asserted(source):
    assert unasserted(build.read(source).cells) == []


def test_a_number_that_nothing_asserts_is_found():
    from nbformat.v4 import new_code_cell, new_markdown_cell

    check = new_code_cell("assert x.size == 9_216, '9,217'")
    assert unasserted([new_markdown_cell("It has 9,216 numbers."), check]) == []
    assert unasserted([new_markdown_cell("It has 9,217 numbers."), check]) != []
    assert unasserted([new_markdown_cell("## One\nIt has 9,216."), new_markdown_cell("## Two"), check]) != []


# --- running -------------------------------------------------------------------------------------------------------


@every_lesson
def test_it_runs_from_a_clean_kernel_in_an_empty_folder(source, tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(Path(tinypeft.__file__).parents[1]))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # whatever might ask the network gets no answer
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", allow_errors=False,
                   resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert list(tmp_path.iterdir()) == [], "a lesson leaves nothing behind"
    for cell in notebook.cells:
        data = [output.data for output in cell.get("outputs", []) if output.output_type == "display_data"]
        if "see" in tags(cell):
            assert len(data) == 1
            alt = re.search(r'<img [^>]*alt="([^"]+)"', data[0]["text/html"])[1]
            assert len(alt) > 60
            assert {"text/plain", "image/png"} <= data[0].keys()
        if "make" in tags(cell) and "long" in tags(cell):
            assert "not done yet" in cell.outputs[0].text


class Quick:
    """Runs the cells of a lesson in this process, with hardly any training and few names to evaluate on.

    Cells tagged "learned" are left out: they check that training has worked.
    """

    def __init__(self, monkeypatch):
        train, bits = tinypeft.training.train, tinypeft.training.bits_per_character

        def short_train(model, rows, args, **kwargs):
            args = dataclasses.replace(args, max_steps=3, warmup_steps=0, disable_tqdm=True)
            return train(model, rows, args, **kwargs)

        monkeypatch.setattr("tinypeft.training.train", short_train)
        monkeypatch.setattr("tinypeft.training.bits_per_character", lambda m, texts, t: bits(m, texts[:30], t))
        monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a lesson asked the network"))

    def run(self, source, learned=False) -> None:
        names: dict = {"__name__": "lesson"}
        for cell in code_cells(source):
            if learned or "learned" not in tags(cell):
                exec(compile(cell.source, f"{source.name}: {cell.source[:40]}", "exec"), names)


@pytest.fixture
def quick(monkeypatch):
    return Quick(monkeypatch)


@pytest.mark.slow
@every_lesson
def test_it_runs_as_a_script_too(source, quick, capsys):
    quick.run(source)
    assert "No guess was made." in capsys.readouterr().out


@every_lesson
def test_without_training_a_check_of_what_was_learned_fails(source, quick):
    with pytest.raises(AssertionError, match="full fine-tuning should save"):
        quick.run(source, learned=True)


# --- a broken library fails the lesson -----------------------------------------------------------------------------

FORWARD = "tinypeft.peft.lora.LoraLayer.forward"
ADD = "tinypeft.peft.lora.LoraLayer.add"


def forward_without_scale(layer, x):
    y = layer.base_layer(x)
    for name in layer.working:
        y = y + layer.lora_B[name](layer.lora_A[name](x))
    return y


def starts_with(which, values, add=tinypeft.peft.lora.LoraLayer.add):
    def changed(layer, adapter_name, *args):
        add(layer, adapter_name, *args)
        weight = getattr(layer, which)[adapter_name].weight
        if not weight.is_meta:
            weight.data = np.full_like(weight.data, values)

    return changed


def unscaled_delta(layer, name):
    return layer.lora_B[name].weight.data @ layer.lora_A[name].weight.data


def unmerge_by_subtracting(layer):
    if layer.merged:
        weight = layer.base_layer.weight
        weight.data = weight.data - sum(layer.delta_weight(name) for name in layer.merged)
        layer.merged = []


def write_rounded(path, tensors, write=tinypeft.files.write_safetensors):
    write(path, {name: array.astype(np.float16).astype(np.float32) for name, array in tensors.items()})


def ranks_off_by_one(layer, adapter_name, config, seed, add=tinypeft.peft.lora.LoraLayer.add):
    add(layer, adapter_name, dataclasses.replace(config, r=config.r + 1), seed)


DEFECTS = {
    "alpha / r left out of the forward pass": (FORWARD, forward_without_scale, "by hand and by autograd differ"),
    "B starts at 0.01": (ADD, starts_with("lora_B", 0.01), "must be the base exactly"),
    "A starts at zero too": (ADD, starts_with("lora_A", 0.0), "A and B both start random: this was meant to fail"),
    "alpha / r left out of merging": ("tinypeft.peft.lora.LoraLayer.delta_weight", unscaled_delta, "SGD: s stands in"),
    "merging does nothing": ("tinypeft.peft.layer.AdapterLayer.merge", lambda layer, names, safe=False: None,
                             "merged weight must be"),
    "unmerging subtracts": ("tinypeft.peft.layer.AdapterLayer.unmerge", unmerge_by_subtracting, "W0 must be there bit for bit"),
    "the base is not frozen": ("tinypeft.nn.module.Module.requires_grad_", lambda module, on=True: module, "must be frozen"),
    "adapters are saved in half precision": ("tinypeft.peft.storage.write_safetensors", write_rounded, "the same bits"),
    "adapters have one rank too many": (ADD, ranks_off_by_one, r"by autograd differ|could not be broadcast"),
    "switching off does nothing": ("tinypeft.peft.layer.AdapterLayer.working", property(
        lambda layer: [] if layer.merged else layer.active), "unplugged|must be the base exactly"),
}


@pytest.mark.parametrize("defect", some(DEFECTS, ["A starts at zero too", "unmerging subtracts"]))
def test_a_defect_in_the_library_fails_the_lesson_on_lora(defect, quick, monkeypatch):
    place, replacement, message = DEFECTS[defect]
    monkeypatch.setattr(place, replacement)
    with pytest.raises(AssertionError, match=message):
        quick.run(LESSONS / "04_lora.py")


# --- the cell in which the learner writes --------------------------------------------------------------------------

LORA_ANSWERS = {
    "two products": ("s = alpha / A.shape[0]; return x @ W0.T + s * (x @ A.T) @ B.T", "return W0 + alpha / len(A) * (B @ A)",
                     "right, in all", "right, in all"),
    "einsum": ("return np.einsum('oi,...i->...o', W0 + alpha / B.shape[1] * np.einsum('or,ri->oi', B, A), x)",
               "return W0 + np.einsum('or,ri->oi', B, A) * (alpha / B.shape[1])", "right, in all", "right, in all"),
    "float32": ("return (x @ W0.T + alpha / len(A) * x @ A.T @ B.T)", "M = W0.copy(); M += alpha / len(A) * B @ A; return M",
                "right, in all", "right, in all"),
    "no scale": ("return x @ W0.T + (x @ A.T) @ B.T", "return W0 + B @ A",
                 "the scale alpha / r is missing", "the scale alpha / r is missing"),
    "alpha": ("return x @ W0.T + alpha * (x @ A.T) @ B.T", "return W0 + alpha * B @ A",
              "the scale is alpha instead", "the scale is alpha instead"),
    "upside down": ("return x @ W0.T + len(A) / alpha * (x @ A.T) @ B.T", "return W0 + len(A) / alpha * B @ A",
                    "the scale is r / alpha", "the scale is r / alpha"),
    "wrong edge": ("return x @ W0.T + alpha / A.shape[1] * (x @ A.T) @ B.T", "return W0 + alpha / A.shape[1] * B @ A",
                   "wrong edge of A", "wrong edge of A"),
    "swapped": ("return x @ W0.T + alpha / len(A) * (x @ B.T) @ A.T", "return W0 + alpha / len(A) * A @ B",
                "A and B are swapped", "A and B are swapped"),
    "update transposed": ("return x @ W0.T + alpha / len(A) * x @ (B @ A)", "return W0 + alpha / len(A) * (B @ A).T",
                          "B A is transposed", "B A is transposed"),
    "weight not transposed": ("return x @ (W0 + alpha / len(A) * B @ A)", "return W0.T + alpha / len(A) * B @ A",
                              "the weight is not transposed", "W0 is transposed"),
    "no base": ("return alpha / len(A) * (x @ A.T) @ B.T", "return alpha / len(A) * B @ A", "W0 is left out", "W0 is left out"),
    "no update": ("return x @ W0.T", "return W0.copy()", "B A is left out", "B A is left out"),
    "minus": ("return x @ W0.T - alpha / len(A) * (x @ A.T) @ B.T", "return W0 - alpha / len(A) * B @ A",
              "B A is subtracted", "B A is subtracted"),
    "in place": ("W0 += alpha / len(A) * B @ A; return x @ W0.T", "W0 += alpha / len(A) * B @ A; return W0",
                 "changes its argument W0", "changes its argument W0"),
    "unknown": ("return 1.5 * x @ W0.T", "return 1.5 * W0", "at [", "at ["),
    "wrong shape": ("return (x @ W0.T).sum(-1)", "return W0[0]", "expected an array of shape", "expected an array of shape"),
    "nothing": ("pass", "return None", "expected an array of shape", "expected an array of shape"),
    "half done": ("return x @ W0.T + alpha / len(A) * (x @ A.T) @ B.T", "raise NotImplementedError",
                  "right, in all", "not done yet"),
}


@pytest.mark.parametrize("answer", LORA_ANSWERS)
def test_the_last_cell_on_lora_knows_right_from_wrong(answer, capsys):
    forward, merge, about_forward, about_merge = LORA_ANSWERS[answer]
    stub, checker = code_cells(LESSONS / "04_lora.py", "make")
    for body in (forward, merge):
        assert "raise NotImplementedError" in stub.source
        stub.source = stub.source.replace("    raise NotImplementedError", textwrap.indent(body, "    ") + "  # done", 1)
        stub.source = stub.source.replace("raise NotImplementedError  # done", "raise (NotImplementedError)  # done")
    names = {"np": np, "self_check": self_check}
    exec(stub.source, names)
    exec(checker.source, names)
    said_forward, said_merge = re.split(r"^(?=merge:)", capsys.readouterr().out, flags=re.MULTILINE)
    assert said_forward.startswith("lora_forward: ")
    assert about_forward in said_forward
    assert about_merge in said_merge
    named = sum("the answers that one gets" in said for said in (said_forward, said_merge))
    assert named == 0 or "right" not in about_forward


def test_an_unwritten_answer_is_no_failure(capsys):
    names = {"np": np, "self_check": self_check}
    for cell in code_cells(LESSONS / "04_lora.py", "make"):
        exec(cell.source, names)
    assert capsys.readouterr().out.count("not done yet") == 2


# --- what the notebooks use ----------------------------------------------------------------------------------------


def said(capsys) -> str:
    return capsys.readouterr().out


def test_a_guess_is_compared_with_what_is_measured(capsys):
    notes = Predictions()
    notes.predict("x", "How many?", "12")
    notes.predict("x", "How many?", 40)
    assert "Your guess: 40" in said(capsys)
    notes.reveal("x", 12)
    assert said(capsys) == "You guessed 40, too high: it is 12.\n"
    notes.predict("x", "How many?", 12)
    assert "first guess stands: 40" in said(capsys)
    notes.predict("x", "How many?", 40)
    assert "stands" not in said(capsys)
    assert str(notes) == "How many?\n    You guessed 40, too high: it is 12."


@pytest.mark.parametrize(("guess", "measured", "expected"), [
    (11.5, 12, "close"), (5, 12, "too low"), (-3, -1, "too low"), (0, 0, "close"),
    (None, 1234.4, "No guess was made. It is 1,234"),
])
def test_how_good_a_guess_is(guess, measured, expected, capsys):
    notes = Predictions()
    notes.predict("x", "How many?", guess)
    said(capsys)
    notes.reveal("x", measured)
    assert expected in said(capsys)


def test_a_guess_among_choices(capsys):
    notes = Predictions()
    notes.predict("x", "Which?", " b ", ["A", "B"])
    assert "(A, B)" in said(capsys)
    with pytest.raises(ValueError, match="none of the choices"):
        notes.reveal("x", "C")
    notes.reveal("x", "B")
    assert "and so it is" in said(capsys)


@pytest.mark.parametrize("guess", ["many", True, float("nan"), [1]])
def test_a_guess_that_is_no_number(guess):
    with pytest.raises(ValueError, match="type one"):
        Predictions().predict("x", "How many?", guess)


def test_a_guess_that_is_no_choice():
    with pytest.raises(ValueError, match=r"'A', 'B'"):
        Predictions().predict("x", "Which?", "C", ["A", "B"])


def test_what_was_not_asked_cannot_be_revealed():
    with pytest.raises(ValueError, match="Run the cell that asks"):
        Predictions().reveal("x", 1)


def test_what_is_broken_must_fail_a_check(capsys):
    with pytest.raises(AssertionError, match="all checks passed"), broken("nothing at all"):
        pass
    with pytest.raises(ZeroDivisionError), broken("an error is no failed check"):
        raise ZeroDivisionError


def test_pictures_say_what_they_show():
    picture = plot_curves({"a": ([1, 2, 4], [3.0, 2.0, 1234.5]), "b <&>": ([1, 4], [0, 1])}, "rank r", "bits", "A title",
                          levels={"base": 3.5})
    for part in ("A title", "rank r", "bits", "a: 3 at 1", "1,234 at 4", "base: a level line at 3.5"):
        assert part in picture.alt
    bundle = picture._repr_mimebundle_()
    assert bundle["text/plain"] == picture.alt
    assert "b &lt;&amp;&gt;" in bundle["text/html"]
    assert picture.png().startswith(b"\x89PNG")
    zero = plot_matrices({"dA": np.zeros((2, 3)), "dB": np.eye(3)}, unit="derivative")
    assert "dA, 2 by 3: every number is 0" in zero.alt
    assert "dB, 3 by 3: numbers from 0 to 1, 33% of them not 0" in zero.alt


@pytest.mark.parametrize(("draw", "message"), [
    (lambda: plot_curves({}, "x", "y"), "0 curves"),
    (lambda: plot_curves({str(i): ([1], [1]) for i in range(6)}, "x", "y"), "6 curves"),
    (lambda: plot_curves({"a": ([1, 2], [1])}, "x", "y"), "2 x and 1 y"),
    (lambda: plot_matrices({}), "got none"),
    (lambda: plot_matrices({"a": np.zeros(3)}), r"a \(3,\)"),
])
def test_what_cannot_be_drawn(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
