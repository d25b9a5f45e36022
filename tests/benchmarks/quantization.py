"""Speed of 4-bit quantization against bitsandbytes, and of a 4-bit linear layer against the float32 product; one thread.

    python tests/benchmarks/quantization.py [--rounds 9]

All peers run in one process and take turns on the same 4096 x 4096 matrix; medians of CPU time. Only the ratios mean
something. bitsandbytes comes with `pip install -e '.[parity]'`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

SIZE, TOKENS = 4096, (1, 16, 128, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    wanted = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    pinned = {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"} & os.environ.keys()  # would slow a current NumPy down
    if pinned or any(os.environ.get(name) != value for name, value in wanted.items()):  # read when NumPy is loaded
        environment = {name: value for name, value in os.environ.items() if name not in pinned} | wanted
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    run(rounds)


def run(rounds: int) -> None:
    import bitsandbytes.functional as bnb
    import numpy as np
    import torch

    import tinypeft  # noqa: F401  which asks glibc to keep freed pages
    from tinypeft.quant import dequantize_4bit, quantize_4bit

    torch.set_num_threads(1)
    matrix = np.random.default_rng(0).standard_normal((SIZE, SIZE), dtype=np.float32) * np.float32(0.02)
    tensor = torch.from_numpy(matrix)
    gigabytes = matrix.nbytes / 1e9
    print(f"{'':34}{'tinypeft':>14}{'bitsandbytes':>15}{'speed':>8}")
    for quant_type in ("nf4", "fp4"):
        packed, state = quantize_4bit(matrix, quant_type)
        theirs, their_state = bnb.quantize_4bit(tensor, quant_type=quant_type)
        if not np.array_equal(packed, theirs.numpy()) or not np.array_equal(
                dequantize_4bit(packed, state), bnb.dequantize_4bit(theirs, their_state).numpy()):
            raise SystemExit("the peers do not do the same work: other codes, or other values")

        def quantize(quant_type: str = quant_type) -> Any:
            return quantize_4bit(matrix, quant_type)

        def their_quantize(quant_type: str = quant_type) -> Any:
            return bnb.quantize_4bit(tensor, quant_type=quant_type)

        def dequantize(packed: Any = packed, state: Any = state) -> Any:
            return dequantize_4bit(packed, state)

        def their_dequantize(packed: Any = theirs, state: Any = their_state) -> Any:
            return bnb.dequantize_4bit(packed, state)

        for name, ours, peer in (("quantize", quantize, their_quantize), ("dequantize", dequantize, their_dequantize)):
            a, b = (gigabytes / seconds for seconds in race(rounds, ours, peer))
            print(f"{f'{quant_type} {name}, GB/s of float32':34}{a:14.2f}{b:15.2f}{a / b:8.2f}", flush=True)

    from tinypeft import BitsAndBytesConfig, Tensor, no_grad
    from tinypeft.nn import Linear
    from tinypeft.quant import Linear4bit

    plain = Linear(SIZE, SIZE, bias=False)
    plain.weight.data = matrix
    print(f"\n{'4096 x 4096 linear, forward':34}{'NF4, ms':>14}{'float32, ms':>15}{'time':>8}")
    for double in (False, True):
        layer = Linear4bit.of(plain, BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
                                                        bnb_4bit_use_double_quant=double))
        for tokens in TOKENS:
            x = Tensor(np.random.default_rng(1).standard_normal((tokens, SIZE), dtype=np.float32))
            with no_grad():
                a, b = race(rounds, lambda layer=layer, x=x: layer(x), lambda x=x: plain(x))
            name = f"{tokens} tokens{', double quantization' * double}"
            print(f"{name:34}{1e3 * a:14.2f}{1e3 * b:15.2f}{a / b:8.2f}", flush=True)


def race(rounds: int, *peers: Callable[[], Any]) -> list[float]:
    """Median CPU seconds of each peer; they take turns."""
    seconds: list[list[float]] = [[] for _ in peers]
    for _ in range(rounds + 1):
        for peer, spent in zip(peers, seconds, strict=True):
            start = time.process_time()
            peer()
            spent.append(time.process_time() - start)
    return [statistics.median(spent[1:]) for spent in seconds]  # the first warms up


if __name__ == "__main__":
    main()
