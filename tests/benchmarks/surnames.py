"""How the bundled base `tinypeft/surnames` was made, and what adapting it to Polish surnames gives.

    python tests/benchmarks/surnames.py [--seeds 0 1 2] [--write]

For each seed: a base is trained on US surnames, then adapted to Polish ones by full fine-tuning and by LoRA, and a model of
the same shape is trained on the Polish names from scratch. With --write, the base of the first seed and the table become the
bundled model and its model card. Settings were chosen on the validation names; the table is measured on the test names.
"""

from __future__ import annotations

import argparse
import string
import time
from pathlib import Path
from typing import Any

import numpy as np

from tinypeft import AutoModelForCausalLM, LlamaConfig, LoraConfig, get_peft_model
from tinypeft.files import write_text
from tinypeft.models import CharTokenizer
from tinypeft.models.bundled import BUNDLED
from tinypeft.training import TrainingArguments, bits_per_character, encode_rows, surnames, train, us_surnames

TOKENIZER = CharTokenizer(string.ascii_uppercase + string.ascii_lowercase)
CONFIG = LlamaConfig(
    vocab_size=len(TOKENIZER), hidden_size=96, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=32, attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
    rms_norm_eps=1e-5, bos_token_id=TOKENIZER.bos_token_id, eos_token_id=TOKENIZER.eos_token_id,
    pad_token_id=TOKENIZER.pad_token_id,
)
SHARED: dict[str, Any] = {"lr_scheduler_type": "cosine", "warmup_steps": 50, "adam_beta2": 0.99}
PRETRAINING = {"max_steps": 1500, "per_device_train_batch_size": 64, "learning_rate": 3e-3, "weight_decay": 0.01}
ADAPTATION = {"max_steps": 400, "per_device_train_batch_size": 32}
RATES = {"full": 2e-3, "lora": 1e-2, "scratch": 3e-3}
LORA: dict[str, Any] = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}


def fit(model: Any, names: list[str], seed: int, **settings: Any) -> float:
    """Train on names; the seconds that it took."""
    start = time.perf_counter()
    train(model, encode_rows([{"text": name} for name in names], TOKENIZER), TrainingArguments(**SHARED, **settings, seed=seed),
          pad_token_id=TOKENIZER.pad_token_id)
    return time.perf_counter() - start


def measure(seed: int) -> tuple[Any, dict[str, float]]:
    """The base of this seed, and all numbers about it."""
    us, polish = us_surnames(), surnames("polish")
    base = AutoModelForCausalLM.from_config(CONFIG, seed=seed).eval()
    row = {"seed": float(seed), "seconds": fit(base, us.train, seed, **PRETRAINING)}
    row["us"] = bits_per_character(base, us.test, TOKENIZER)
    row["zero_shot"] = bits_per_character(base, polish.test, TOKENIZER)
    weights = {name: array.copy() for name, array in base.state_dict().items()}
    for method, rate in RATES.items():
        model: Any = AutoModelForCausalLM.from_config(CONFIG, seed=1000 + seed)
        if method != "scratch":
            model.load_state_dict(weights)
        if method == "lora":
            model = get_peft_model(model, LoraConfig(**LORA), seed=seed)
        row[f"{method}_seconds"] = fit(model.eval(), polish.train, seed, learning_rate=rate, **ADAPTATION)
        row[method] = bits_per_character(model, polish.test, TOKENIZER)
        row[f"{method}_us"] = bits_per_character(model, us.test, TOKENIZER)
    row["closed"] = (row["zero_shot"] - row["lora"]) / (row["zero_shot"] - row["full"])
    return base, row


COLUMNS = {"seed": ".0f", "us": ".3f", "zero_shot": ".3f", "scratch": ".3f", "full": ".3f", "lora": ".3f", "closed": ".1%",
           "full_us": ".3f", "lora_us": ".3f"}
HEADER = ["seed", "US, base", "Polish, zero-shot", "from scratch", "full fine-tuning", "LoRA r=8", "gap closed by LoRA",
          "US, after full", "US, LoRA plugged in"]


def table(rows: list[dict[str, float]]) -> str:
    lines = [HEADER, ["---:"] * len(HEADER), *([format(row[key], spec) for key, spec in COLUMNS.items()] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def card(rows: list[dict[str, float]], parameters: int, trainable: int) -> str:
    us, polish = us_surnames(), surnames("polish")
    steps, batch, rate, _ = PRETRAINING.values()
    tuning_steps, tuning_batch = ADAPTATION.values()
    share = trainable / (parameters + trainable)
    return f"""# tinypeft/surnames

A character-level language model of US surnames: a Llama of {parameters:,} float32 parameters (4 layers of width 96, 4
query and 2 key heads, biases, tied head), trained by this project on {len(us.train):,} of the 88,799 surnames of the
1990 US Census (public domain; from the Python package `names` 0.3.0, MIT), folded to A-Z and a-z. The folder is in
Hugging Face's format and loads in transformers' `LlamaForCausalLM`. Same licence as tinypeft.

    python tests/benchmarks/surnames.py --write        # trains it again; seed {rows[0]["seed"]:.0f} is the one that is here

{steps:,} steps of {batch} names, AdamW, learning rate {rate}, cosine, warm-up of {SHARED["warmup_steps"]} steps.
Adapting to Polish surnames (Faker's list, US names left out): {len(polish.train):,} names, {tuning_steps} steps of
{tuning_batch}. LoRA: r=8, alpha=16, all linear layers, {trainable:,} trainable parameters ({share:.1%}).

Bits per character (end of name included) on {len(us.test):,} US and {len(polish.test)} Polish test names:

{table(rows)}

A model from scratch comes near, since surnames are a small subject: what pre-training gives here is a head start, not a
miracle. And LoRA forgets US names about as much as full fine-tuning does *while it is plugged in*; unplugged, the base is
untouched.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--write", action="store_true", help="replace the bundled model and its card")
    arguments = parser.parse_args()
    bases, rows = [], []
    for seed in arguments.seeds:
        base, row = measure(seed)
        bases.append(base)
        rows.append(row)
        print(table(rows), {key: round(value, 1) for key, value in row.items() if "seconds" in key}, flush=True)
    if arguments.write:
        folder: Path = BUNDLED["tinypeft/surnames"]
        trainable = get_peft_model(AutoModelForCausalLM.from_config(CONFIG, device="meta"),
                                   LoraConfig(**LORA)).get_nb_trainable_parameters()[0]
        bases[0].save_pretrained(folder)
        TOKENIZER.save_pretrained(folder)
        write_text(folder / "README.md", card(rows, int(np.sum([p.size for p in bases[0].parameters()])), trainable))


if __name__ == "__main__":
    main()
