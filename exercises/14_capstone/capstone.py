"""The capstone: teach a language model Polish surnames, with few numbers, and let it keep the US ones.

The base is "tinypeft/surnames", 415,232 parameters that know US surnames and hardly any other. What is asked of your adapter:

    at most 10,000 numbers, all tensors together      2.4% of the base's
    at most 3.05 bits per character of Polish names   the base needs 3.71; with 3.15 a part of the points is yours
    at most 0.25 more bits per character of US names  while the adapter is plugged in: the base needs 3.14

`python capstone.py` trains an adapter and writes adapter.zip beside this file; `tinypeft test 14` judges that zip. It holds
adapter_config.json and adapter_model.safetensors, as `save_pretrained` writes them, and no code of yours. So train in any way
that you like, with any method of the library that needs no third file (ULoRA does). As it is, this script reaches none of the
three:

    300 steps of 32 Polish names            numbers   bits of Polish names   of US names
    the base                                      0                  3.710         3.143
    this script                              10,752                  3.204         3.537
    ... at ten times the learning rate       10,752                  2.981         3.995
    full fine-tuning at 2e-3                415,232                  2.760         4.378

Names of the validation splits say whether you are there. Do not train on them: your teacher has other Polish
ones, and draws other US ones.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path

from tinypeft import AutoModelForCausalLM, AutoTokenizer, LoraConfig, get_peft_model
from tinypeft.training import TrainingArguments, bits_per_character, encode_rows, surnames, train, us_surnames

BASE = "tinypeft/surnames"
POLISH, US = surnames("polish"), us_surnames()
FILE = Path(__file__).with_name("adapter.zip")

# ---- to be changed: which adapter, what it sees, and how it is trained ----------------------------------------------

CONFIG = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
NAMES = POLISH.train
ARGUMENTS = TrainingArguments(max_steps=300, per_device_train_batch_size=32, learning_rate=1e-3, lr_scheduler_type="cosine",
                              warmup_steps=50, seed=0)

# ---- as it is -------------------------------------------------------------------------------------------------------


def adapt(config, names, arguments):
    """The base with a trained adapter, and the tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(BASE), config)
    model.print_trainable_parameters()
    train(model, encode_rows([{"text": name} for name in names], tokenizer), arguments, pad_token_id=tokenizer.pad_token_id)
    return model, tokenizer


def hand_in(model, file):
    """Write adapter.zip. It is complete, or it is as it was before."""
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        model.save_pretrained(folder)
        packed = Path(folder) / "packed"
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("adapter_config.json", "adapter_model.safetensors"):
                archive.write(Path(folder) / name, name)
        os.replace(packed, file)


def main():
    model, tokenizer = adapt(CONFIG, NAMES, ARGUMENTS)
    for what, names in (("Polish names", POLISH.validation), ("US names", US.validation[::4])):
        with model.disable_adapter():
            before = bits_per_character(model, names, tokenizer)
        print(f"{what}: {bits_per_character(model, names, tokenizer):.3f} bits per character, the base {before:.3f}")
    hand_in(model, FILE)
    print(f"Written to {FILE}: `tinypeft test 14` judges it.")


if __name__ == "__main__":
    main()
