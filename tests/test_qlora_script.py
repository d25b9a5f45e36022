"""The QLoRA script of one of the project's source documents (a glossary's page on PEFT) runs as it stands, but for its imports
and the model's name."""

from __future__ import annotations

import subprocess
import sys

import pytest

# With the libraries that it was written for, the imports are
#     from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
#     from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
#     import torch
# and the model is "meta-llama/Meta-Llama-3-8B".
SCRIPT = '''
from tinypeft import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from tinypeft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
import tinypeft as torch

bnb_config = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_compute_dtype=torch.bfloat16,
    bnb_4bit_use_double_quant=True,
)

model = AutoModelForCausalLM.from_pretrained(
    "{name}",
    quantization_config=bnb_config,
    device_map="auto",
)
tokenizer = AutoTokenizer.from_pretrained("{name}")

model = prepare_model_for_kbit_training(model)

lora_config = LoraConfig(
    r=16,
    lora_alpha=32,
    target_modules=["q_proj", "v_proj", "k_proj", "o_proj"],
    lora_dropout=0.05,
    bias="none",
    task_type="CAUSAL_LM",
)

model = get_peft_model(model, lora_config)
model.print_trainable_parameters()
'''

# What the script sets up is then trained.
TRAINING = '''
from tinypeft.quant import Linear4bit
from tinypeft.training import TrainingArguments, encode_rows, train

linear = [module for module in model.modules() if isinstance(module, Linear4bit)]
print(len(linear), {{round(layer.weight.quant_state.bits_per_parameter, 1) for layer in linear}})
rows = encode_rows([{{"text": text}} for text in {texts}], tokenizer)
arguments = TrainingArguments(max_steps={steps}, learning_rate=1e-2, per_device_train_batch_size=4, disable_tqdm=True)
losses = train(model, rows, arguments, pad_token_id=tokenizer.pad_token_id).losses
print(losses[0], losses[-1])
'''


def run(name: str, texts: list[str], steps: int) -> tuple[list[str], str]:
    code = SCRIPT.format(name=name) + TRAINING.format(texts=texts, steps=steps)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


def test_it_runs_on_the_bundled_model():
    printed, said = run("tinypeft/surnames", ["Kowalski", "Nowak", "Wisniewski", "Wojcik"], 10)
    # 4 layers; q and o are 96 x 96, k and v 96 x 48: 16 * (2 * 192 + 2 * 144) numbers in each
    assert printed[0] == "trainable params: 43,008 || all params: 458,240 || trainable%: 9.3855"
    assert printed[1] == "28 {4.1}"
    before, after = map(float, printed[2].split())
    assert after < 0.8 * before
    assert said.count("bfloat16 is computed in float32 here") == 1


@pytest.mark.real
def test_it_runs_on_the_real_model():
    printed, _ = run("tinypeft/smollm2-135m-instruct", ["The sea is blue.", "The sky is red."], 2)
    # 30 layers; q and o are 576 x 576, k and v 576 x 192: 16 * (2 * 1152 + 2 * 768) numbers in each
    assert printed[0] == "trainable params: 1,843,200 || all params: 136,358,208 || trainable%: 1.3517"
    assert printed[1] == "210 {4.1}"
