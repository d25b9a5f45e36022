"""Seconds and memory of a LoRA training step, tinypeft against torch eager: same weights, same batch, one thread.

    python tests/benchmarks/lora_step.py [--sizes nano small gpt2] [--rounds 5]

Each peer lives in a process of its own, pinned to one core, and they take turns, so that both see the same machine. The
work: a GPT-2-shaped decoder, LoRA r=8 on c_attn and attn.c_proj, AdamW, float32, forward + backward + update. Only the
ratios mean something. Linux only; torch comes with `pip install -e '.[parity]'`.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

SIZES = {  # layers, width, heads, vocabulary, T, batch, steps a round
    "nano": (4, 64, 4, 96, 64, 16, 30),
    "small": (6, 256, 8, 512, 128, 8, 4),
    "gpt2": (12, 768, 12, 50257, 128, 1, 2),
}
RANK, ALPHA, LEARNING_RATE = 8, 16, 1e-3


def weights(size: str) -> dict[str, np.ndarray]:
    """Every weight of the model, under Hugging Face's names, and of its LoRA adapters (B not zero: dA costs the same)."""
    layers, d, _, vocabulary, T, _, _ = SIZES[size]
    random = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, dtype=np.float32) * np.float32(0.02)

    state = {"transformer.wte.weight": normal(vocabulary, d), "transformer.wpe.weight": normal(T, d)}
    shapes = {"attn.c_attn": (d, 3 * d), "attn.c_proj": (d, d), "mlp.c_fc": (d, 4 * d), "mlp.c_proj": (4 * d, d)}
    for layer in range(layers):
        block = f"transformer.h.{layer}"
        for norm in ("ln_1", "ln_2"):
            state |= {f"{block}.{norm}.weight": np.ones(d, np.float32), f"{block}.{norm}.bias": np.zeros(d, np.float32)}
        for name, shape in shapes.items():
            state |= {f"{block}.{name}.weight": normal(*shape), f"{block}.{name}.bias": normal(shape[1])}
        for name in ("attn.c_attn", "attn.c_proj"):
            state |= {f"{block}.{name}.lora_A": normal(RANK, d), f"{block}.{name}.lora_B": normal(shapes[name][1], RANK)}
    return state | {"transformer.ln_f.weight": np.ones(d, np.float32), "transformer.ln_f.bias": np.zeros(d, np.float32)}


def batch(size: str) -> np.ndarray:
    _, _, _, vocabulary, T, rows, _ = SIZES[size]
    return np.random.default_rng(1).integers(0, vocabulary, (rows, T))


def tinypeft_step(size: str) -> Any:
    from tinypeft import AutoModelForCausalLM, GPT2Config, LoraConfig, get_peft_model
    from tinypeft.training import AdamW

    layers, d, heads, vocabulary, T, _, _ = SIZES[size]
    config = GPT2Config(vocab_size=vocabulary, n_positions=T, n_embd=d, n_layer=layers, n_head=heads, resid_pdrop=0.0,
                        embd_pdrop=0.0, attn_pdrop=0.0)
    state, ids = weights(size), batch(size)
    model = AutoModelForCausalLM.from_config(config, device="meta")
    model.load_state_dict({name: array for name, array in state.items() if "lora" not in name})
    peft_model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["c_attn", "attn.c_proj"]))
    for name, parameter in peft_model.named_parameters():
        if "lora" in name:
            parameter.data = state[name.removeprefix("base_model.model.").removesuffix(".default.weight")]
    optimizer = AdamW([parameter for parameter in peft_model.parameters() if parameter.requires_grad], lr=LEARNING_RATE)
    peft_model.train()

    def step() -> float:
        loss = peft_model(ids, labels=ids).loss
        value = loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return value

    return step


def torch_step(size: str) -> Any:
    """The same model as a torch user would write it: modules, scaled_dot_product_attention, torch.optim.AdamW."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    torch.set_num_threads(1)
    layers, d, heads, vocabulary, *_ = SIZES[size]
    state, ids = {name: torch.from_numpy(array) for name, array in weights(size).items()}, torch.from_numpy(batch(size))

    def linear(name: str) -> nn.Linear:
        weight = state[f"{name}.weight"]
        layer = nn.Linear(*weight.shape).requires_grad_(False)
        layer.weight.data, layer.bias.data = weight.T.contiguous(), state[f"{name}.bias"]
        return layer

    def norm(name: str) -> nn.LayerNorm:
        layer = nn.LayerNorm(d).requires_grad_(False)
        layer.weight.data, layer.bias.data = state[f"{name}.weight"], state[f"{name}.bias"]
        return layer

    class Lora(nn.Module):
        def __init__(self, name: str):
            super().__init__()
            self.base = linear(name)
            self.A, self.B = nn.Parameter(state[f"{name}.lora_A"]), nn.Parameter(state[f"{name}.lora_B"])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.base(x) + F.linear(F.linear(x, self.A), self.B) * (ALPHA / RANK)

    class Block(nn.Module):
        def __init__(self, name: str):
            super().__init__()
            self.ln_1, self.ln_2 = norm(f"{name}.ln_1"), norm(f"{name}.ln_2")
            self.c_attn, self.c_proj = Lora(f"{name}.attn.c_attn"), Lora(f"{name}.attn.c_proj")
            self.fc, self.proj = linear(f"{name}.mlp.c_fc"), linear(f"{name}.mlp.c_proj")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            B, T, _ = x.shape
            q, k, v = (y.view(B, T, heads, -1).transpose(1, 2) for y in self.c_attn(self.ln_1(x)).split(d, dim=2))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, d)
            x = x + self.c_proj(y)
            return x + self.proj(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))

    class GPT2(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wte, self.wpe = state["transformer.wte.weight"], state["transformer.wpe.weight"]
            self.blocks = nn.ModuleList(Block(f"transformer.h.{i}") for i in range(layers))
            self.ln_f = norm("transformer.ln_f")

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.wte[ids] + self.wpe[:ids.shape[1]]
            for block in self.blocks:
                x = block(x)
            return F.linear(self.ln_f(x), self.wte)

    model = GPT2()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)

    def step() -> float:
        logits = model(ids)
        loss = F.cross_entropy(logits[:, :-1].reshape(-1, vocabulary), ids[:, 1:].reshape(-1))
        value = loss.item()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return value

    return step


PEERS = {"tinypeft": tinypeft_step, "torch": torch_step}


def work(peer: str, size: str) -> None:
    """A peer's process: builds, warms up, then runs as many steps as it is told, and reports CPU seconds of each."""
    step = PEERS[peer](size)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what building the model left over would hide what a step needs
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak so far: building the model is not part of the step
    built = _memory("VmRSS")
    losses = [step() for _ in range(3)]
    print(json.dumps(losses), flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = time.process_time()
            step()
            seconds.append(time.process_time() - start)
        print(json.dumps([seconds, _memory("VmHWM") - built]), flush=True)


def _memory(name: str) -> float:
    """A line of this process's status, in MiB: VmRSS is the memory it has now, VmHWM the most it had."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(f"{name}:"))


def race(size: str, rounds: int) -> dict[str, dict[str, float]]:
    """Let the peers take turns; median CPU milliseconds of a step, and peak MiB above the built model, of each."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    environment |= {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    core = max(os.sched_getaffinity(0))
    processes, losses = {}, {}
    for peer in PEERS:
        process = subprocess.Popen([sys.executable, __file__, "--work", peer, size], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, text=True, env=environment)
        os.sched_setaffinity(process.pid, {core})
        losses[peer] = json.loads(process.stdout.readline())
        processes[peer] = process
    first, second = losses.values()
    if not np.allclose(first, second, rtol=1e-3):
        raise SystemExit(f"the peers do not do the same work: losses {losses}")
    seconds: dict[str, list[float]] = {peer: [] for peer in PEERS}
    peak: dict[str, float] = {}
    for _ in range(rounds):
        for peer, process in processes.items():
            print(SIZES[size][-1], file=process.stdin, flush=True)
            new, peak[peer] = json.loads(process.stdout.readline())
            seconds[peer] += new
    for process in processes.values():
        process.communicate()
    return {peer: {"ms": 1000 * statistics.median(seconds[peer]), "MiB": peak[peer]} for peer in PEERS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", nargs=2, metavar=("PEER", "SIZE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        return work(*arguments.work)
    print(f"{'size':8}{'tinypeft':>12}{'torch':>12}{'ratio':>8}{'tinypeft':>14}{'torch':>12}{'ratio':>8}")
    for size in arguments.sizes:
        result = race(size, arguments.rounds)
        ours, theirs = result["tinypeft"], result["torch"]
        print(f"{size:8}{ours['ms']:9.1f} ms{theirs['ms']:9.1f} ms{ours['ms'] / theirs['ms']:8.2f}"
              f"{ours['MiB']:10.0f} MiB{theirs['MiB']:8.0f} MiB{ours['MiB'] / theirs['MiB']:8.2f}", flush=True)
    return None


if __name__ == "__main__":
    main()
