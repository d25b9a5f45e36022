"""The wheel and the sdist, built and used as a newcomer would: installed somewhere else, run from an empty folder.

No network: the fresh environment borrows the dependencies of the one that runs the tests, and only tinypeft is
installed into it.
"""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COURSE = ["tinypeft/_course/lessons/04_lora.ipynb", "tinypeft/_course/lessons/outline.toml",
          "tinypeft/_course/exercises/README.md", "tinypeft/_course/exercises/04_lora/test_04_lora.py",
          "tinypeft/_course/solutions/04_lora/reference.py"]
MODEL = [f"tinypeft/models/bundled/surnames/{file}"
         for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")]

USE = """
import sys
from pathlib import Path
import tinypeft
package = Path(tinypeft.__file__).parent
assert package.is_relative_to(sys.prefix), f"{package} is not the installed one"
assert not [file for file in sys.argv[1:] if not (package.parent / file).is_file()], sys.argv[1:]

from tinypeft import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("tinypeft/surnames")
model = AutoModelForCausalLM.from_pretrained("tinypeft/surnames")
ids = tokenizer([""], return_tensors="np").input_ids  # the start token alone
assert model(ids).logits.shape == (*ids.shape, model.config.vocab_size)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command without this checkout in sight; fail with all it printed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """The two files that a release has; the wheel is built from the sdist, as pip would."""
    pytest.importorskip("build", reason="needs the extra `dev`")
    pytest.importorskip("hatchling", reason="needs the extra `dev`")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return {"wheel": next(folder.glob("*.whl")), "sdist": next(folder.glob("*.tar.gz"))}


def contents(path: Path) -> set[str]:
    if path.suffix == ".whl":
        return set(zipfile.ZipFile(path).namelist())
    with tarfile.open(path) as archive:
        return {member.name.split("/", 1)[1] for member in archive.getmembers() if member.isfile()}


def test_the_wheel_carries_the_course_and_the_model(built):
    names = contents(built["wheel"])
    assert set(COURSE + MODEL + ["tinypeft/py.typed"]) - names == set()
    assert {file.split("/")[0] for file in names if ".dist-info/" not in file} == {"tinypeft"}
    assert {file.split("/")[-1] for file in names if "_course/solutions/" in file} == {"reference.py"}  # no wrong ones
    assert any(file.endswith("licenses/LICENSE") for file in names)


def test_the_sdist_carries_everything_that_the_wheel_and_the_tests_need(built):
    tops = {file.split("/")[0] for file in contents(built["sdist"])}
    needed = {"tinypeft", "lessons", "exercises", "tests", "README.md", "LICENSE", "pyproject.toml"}
    assert needed <= tops <= needed | {".gitignore", "PKG-INFO"}


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_no_caches_are_carried(kind, built):
    assert [f for f in contents(built[kind]) if "__pycache__" in f or ".ipynb_checkpoints" in f or "/." in f] == []


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_it_works_from_an_empty_folder(kind, built, tmp_path):
    environment, empty = tmp_path / "venv", tmp_path / "empty"
    empty.mkdir()
    venv.create(environment, with_pip=False, symlinks=os.name != "nt")
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / ("python.exe" if os.name == "nt" else "python")
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=empty).strip())
    borrowed = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (site / "borrowed.pth").write_text("\n".join(borrowed))  # found after what is installed here

    # --ignore-installed: a tinypeft in the borrowed environment is none of pip's business
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed", "--quiet"]
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, built[kind], cwd=empty)
    run(python, "-c", USE, *COURSE, cwd=empty)
    assert "tour" in run(scripts / "tinypeft", "--help", cwd=empty)
    assert list(empty.iterdir()) == []
