"""Claims of "Understanding PEFT" on adapters (Houlsby et al. 2019, 1902.00751) and BitFit (Ben Zaken et al. 2021,
2106.10199).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinypeft.autograd import Tensor, no_grad
from tinypeft.budget import build
from tinypeft.claims.claim import claim
from tinypeft.claims.experiments import counts, matrices_and_vectors, share
from tinypeft.claims.judge import Computed, computed, under
from tinypeft.claims.measures import changes_in_a_step
from tinypeft.claims.small_models import WIDTH, adapter_layer, largest, logits, small_gpt2
from tinypeft.nn import GPT2Config, GPT2LMHeadModel, generator
from tinypeft.peft import BitFitConfig, BottleneckConfig, PeftModel, get_peft_model

FORMULA = "4. Adapter Modules, y = f(x) + g(f(x))"
EXAMPLE = "4. Adapter Modules, example"
BITFIT = "5. BitFit, y = W·x + b"
WIDE = BottleneckConfig(reduction_factor=16)  # a bottleneck of 64 in a model of width 1024


def twelve_layers(layers: int = 12) -> PeftModel:
    """The example's transformer, width 1024, with an adapter after each attention and feed-forward part."""
    return get_peft_model(GPT2LMHeadModel(GPT2Config(n_layer=layers, n_embd=1024, n_head=16)), WIDE)


def bias_share(model: str) -> float:
    """What BitFit trains of a model; BitFitConfig refuses one without biases."""
    if not any(name.endswith("bias") for name, _ in build(model).named_parameters()):
        return 0.0
    return share(model, BitFitConfig())


@claim("a-adapter-formula", FORMULA, "formula", "an adapter adds g(f(x)) to what the layer f found",
       stated="y = f(x) + g(f(x))", expects=0.0,
       why="Largest difference, in float64, from the real adapter layer with g(h) = W2·relu(W1·h); and of the model's logits "
           "from the pretrained ones where W2 = 0: f(x) goes past the adapter, so that it can start as nothing.")
def _() -> Computed:
    layer, (x, f) = adapter_layer(non_linearity="relu"), generator(0, "x and f(x)").standard_normal((2, 1, 5, WIDTH))
    adapter: Any = layer.adapters["default"]
    down, up = adapter.adapter_down[0], adapter.adapter_up
    g = np.maximum(f @ down.weight.data.T + down.bias.data, 0) @ up.weight.data.T + up.bias.data
    silent = get_peft_model(small_gpt2(), BottleneckConfig(reduction_factor=4, init_weights="mam_adapter"))
    with no_grad():
        y = layer(Tensor(x), Tensor(f)).data - x  # the layer also adds the stream x
    return under({"layer": largest(y - (f + g)), "logits at W2 = 0": largest(logits(silent) - logits(small_gpt2()))})


@claim("a-adapter-orientation", "4. Adapter Modules, g(x) = W2·σ(W1·x)", "shape",
       "in W2·σ(W1·x), W1 is d × b and W2 is b × d; for d = 32, b = 8", stated="W1 d x b, W2 b x d, written W·x",
       expects=((32, 8), (8, 32)),
       why="The shapes for which W·x conforms and gives what the adapter's two layers compute. A matrix of d × b takes a "
           "column of b numbers, and x has d.",
       correct="W1 ∈ ℝ^(b×d) and W2 ∈ ℝ^(d×b) for W·x; or x·W1 and σ(x·W1)·W2 with the shapes as printed")
def _() -> Computed:
    adapter: Any = adapter_layer(non_linearity="relu").adapters["default"]
    x = generator(0, "x").standard_normal(WIDTH)

    def conforming(layer: Any, column: np.ndarray) -> Any:
        wanted = layer(Tensor(column[None])).data[0] - layer.bias.data
        fitting = [W for W in (layer.weight.data, layer.weight.data.T) if W.shape[1] == len(column)]
        return next((W.shape for W in fitting if np.allclose(W @ column, wanted)), None)

    return computed((conforming(adapter.adapter_down[0], x), conforming(adapter.adapter_up, x[:8])))


@claim("a-adapter-131072", EXAMPLE, "parameter-count", "1024×64 + 64×1024 weights in each adapter", stated="131,072",
       why="The two biases, which the example leaves out, make it {both:,}.")
def _() -> Computed:
    weights, biases = (size // 24 for size in matrices_and_vectors(twelve_layers()))
    return computed(weights, both=weights + biases)


@claim("a-adapter-3m", EXAMPLE, "parameter-count", "two adapters in each of 12 layers have about 3M parameters", stated="~3M",
       why="Models of width 1024, such as GPT-2 medium, have 24 layers, and so {deep:,}.")
def _() -> Computed:
    weights, biases = matrices_and_vectors(twelve_layers())
    return under({"weights": weights, "with biases": weights + biases}, deep=counts("gpt2-medium", WIDE).trainable)


@claim("a-adapter-between", "4. Adapter Modules", "statement",
       "adapters stand between the layers: in the 11 gaps of a model of 12 layers",
       stated="between layers of the frozen model", expects=11,
       why="There are {n}, two in each layer: where what attention found joins the stream, and where what the feed-forward "
           "part found does. Attention's adapter acts before the feed-forward part of the same layer reads. The article's own "
           "count of two a layer fits only that.",
       correct="Adapters stand inside each layer, after its attention and after its feed-forward part.")
def _() -> Computed:
    paths = [layer.path for layer in twelve_layers().layers() if layer.path.startswith("transformer.h.")]
    return computed(len(paths), n=len(paths))


@claim("a-bitfit-formula", BITFIT, "formula", "only b is updated, W stays", stated="b trainable, W frozen", expects=0.0,
       why="After a step of gradient descent on a small GPT-2. What a layer gives has changed by db, the same for every input: "
           "here up to {db:.2g}.")
def _() -> Computed:
    adapted = get_peft_model(small_gpt2(), BitFitConfig())
    layer: Any = adapted.get_base_model().get_submodule("transformer.h.1.mlp.c_fc")
    x = Tensor(generator(0, "x").standard_normal((5, WIDTH)))
    before = layer(x).data
    changes = changes_in_a_step(adapted)
    db = next(change for name, change in changes.items() if "h.1.mlp.c_fc" in name and name.endswith("bias"))
    return under({"largest change of a weight": max(largest(change) for name, change in changes.items()
                                                    if not name.endswith("bias")),
                  "largest difference of a layer's change from db": largest(layer(x).data - before - db)}, db=largest(db))


@claim("a-bitfit-7m", "5. BitFit, example", "parameter-count", "biases are about 0.1% of a 7B model, 7M",
       stated="~0.1% (7M)", expects="0.1%",
       why="No model of this size comes near: the biases of a layer grow with its width d, its weights with d², so that their "
           "share falls. 0.1% is that of a small model ({small:.3%} in GPT-2 small). Llama has none at all.",
       correct="Biases are about {opt:.2%} ({n:,}) where a 7B model has all biases, {qwen:.4%} in Qwen2-7B, which has few; "
               "none in Llama.")
def _() -> Computed:
    shares = {title: bias_share(model) for title, model in {
        "Llama-2-7B": "llama-2-7b", "OPT-6.7B": "opt-6.7b", "Pythia-6.9B": "pythia-6.9b", "Qwen2-7B": "qwen2-7b"}.items()}
    return under(shares, small=bias_share("gpt2"), opt=shares["OPT-6.7B"], qwen=shares["Qwen2-7B"],
                 n=counts("opt-6.7b", BitFitConfig()).trainable)
