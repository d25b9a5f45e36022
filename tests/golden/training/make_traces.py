"""Makes optimizer_traces.npz: what torch's optimizers do to given gradients. Run with torch 2.13.0.

Three parameters of SHAPES lie one after the other in the last axis. Keys: <case>/<dtype>/init (18,), /grad (6, 18), nan for
a parameter that has no gradient at that step, /param (6, 18) after each step, /norm (6,).
"""

from pathlib import Path

import numpy as np
import torch

SHAPES = [(3, 4), (5,), ()]
STEPS = 6
CASES = {
    "sgd": (torch.optim.SGD, {"lr": 0.1}, None),
    "sgd_momentum_decay": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}, None),
    "adamw": (torch.optim.AdamW, {}, None),
    "adamw_settings": (torch.optim.AdamW, {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-5, "weight_decay": 0.1}, None),
    "adamw_clipped": (torch.optim.AdamW, {"lr": 0.01}, 0.5),
}

if __name__ == "__main__":
    out = {}
    for case, (optimizer, settings, clip) in CASES.items():
        for dtype in ("float32", "float64"):
            random = np.random.default_rng(7)
            params = [torch.nn.Parameter(torch.tensor(random.normal(size=s).astype(dtype))) for s in SHAPES]
            flat = lambda tensors: np.concatenate([t.detach().numpy().ravel() for t in tensors])
            init, grads, values, norms = flat(params), [], [], []
            step = optimizer(params, **settings)
            for t in range(STEPS):
                for i, p in enumerate(params):
                    p.grad = None if (t + i) % 4 == 3 else torch.tensor(random.normal(size=SHAPES[i]).astype(dtype))
                grads.append(flat([torch.full_like(p, np.nan) if p.grad is None else p.grad.clone() for p in params]))
                norms.append(torch.nn.utils.clip_grad_norm_(params, clip or np.inf).numpy())
                step.step()
                values.append(flat(params))
            for name, value in (("init", init), ("grad", grads), ("param", values), ("norm", norms)):
                out[f"{case}/{dtype}/{name}"] = np.array(value)
    np.savez_compressed(Path(__file__).with_name("optimizer_traces.npz"), **out)
