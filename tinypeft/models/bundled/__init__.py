"""The models that come with tinypeft, trained by this project: a name for each, and the folder it stands for."""

from difflib import get_close_matches
from pathlib import Path

from tinypeft.models import smollm2

# Name -> folder in Hugging Face's layout: config.json, model.safetensors, tokenizer.json, tokenizer_config.json.
BUNDLED = {"tinypeft/surnames": Path(__file__).parent / "surnames"}


def resolve_folder(name_or_folder: str | Path) -> Path:
    """Turn a bundled model's name or a local folder's path into the path of an existing folder.

    Raises:
        FileNotFoundError: it is neither; nothing is ever downloaded.
    """
    folder = BUNDLED.get(str(name_or_folder), Path(name_or_folder))
    if folder.is_dir():
        return folder
    if str(name_or_folder) in BUNDLED:
        raise FileNotFoundError(f"this installation of tinypeft lacks {folder}: install it again")
    known = [*BUNDLED, smollm2.NAME]
    near = get_close_matches(str(name_or_folder), known, n=1)
    raise FileNotFoundError(
        f"{str(name_or_folder)!r} is neither a folder nor a bundled model. "
        + (f"Did you mean {near[0]!r}? " if near else "")
        + f"Known: {', '.join(known)}. tinypeft downloads nothing: for a model of the Hugging Face hub, give the "
        "folder that `hf download NAME --local-dir FOLDER` made."
    )
