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
    name, known = str(name_or_folder), [*BUNDLED, smollm2.NAME]
    folder = BUNDLED.get(name, Path(name_or_folder))
    if folder.is_dir():
        return folder
    if name in BUNDLED:
        raise FileNotFoundError(f"this installation of tinypeft lacks {folder}: install it again")
    hint = "".join(f"Did you mean {near!r}? " for near in get_close_matches(name, known, n=1))
    raise FileNotFoundError(f"{name!r} is neither a folder nor a bundled model. {hint}Known: {', '.join(known)}. "
                            "tinypeft downloads nothing: for a model of the Hugging Face hub, give the folder that "
                            "`hf download NAME --local-dir FOLDER` made.")
