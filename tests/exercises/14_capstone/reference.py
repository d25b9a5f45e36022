"""A solution of the capstone: LoRA of rank 1 on every linear layer, trained on Polish names with US names among them.

With the same budget, rank 1 on all matrices learns more than a high rank on two of them. The learning rate is several times
what full fine-tuning would take, since B starts at zero. And nothing but US names keeps US names: the more of them it sees, the
less it forgets, and the less it learns of Polish in the same time.
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

# ---- what was chosen: a low rank everywhere, a large learning rate, and US names among the Polish ones ---------------

CONFIG = LoraConfig(r=1, lora_alpha=2, target_modules="all-linear")
NAMES = POLISH.train + US.train[::44]  # 2,442 and 1,831
ARGUMENTS = TrainingArguments(max_steps=1000, per_device_train_batch_size=32, learning_rate=1e-2, lr_scheduler_type="cosine",
                              warmup_steps=50, adam_beta2=0.99, seed=0)

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
