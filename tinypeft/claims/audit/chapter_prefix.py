"""Claims of "20-09 — Parameter-Efficient Fine-Tuning", section 5: prefix and prompt tuning."""

from __future__ import annotations

import numpy as np

from tinypeft.autograd import Tensor, functional as F, no_grad
from tinypeft.claims.claim import claim, editorial
from tinypeft.claims.experiments import counts, prefix_of_a_layer, share
from tinypeft.claims.judge import Computed, Verdict, computed, under
from tinypeft.claims.small_models import as_if_trained, largest, logits, small_llama
from tinypeft.nn import generator
from tinypeft.nn.attention import KeyValueCache
from tinypeft.peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from tinypeft.peft.prefix import Prefix

PREFIX = "Section 5, K_prefix and V_prefix"
WHY = "Section 5, Why K and V (not Q)?"
COUNT = "Section 5, parameter count"
PROMPT = "Section 5, prompt tuning"
PREFIX10 = PrefixTuningConfig(num_virtual_tokens=10)


@claim("d-prefix-pd", PREFIX, "shape", "a layer's prefix has keys and values of p x d each; p = 20, d = 4096",
       stated="p x d", expects=(20, 4096),
       why="A prefix stands among keys and values, and is as wide as they are. Where queries share key heads that is the "
           "number of key heads times their size, less than d.",
       correct="A layer's prefix is p x (key heads · head size), which is p x d only where every query head has a key head of "
               "its own.")
def _() -> Computed:
    return under({"full attention (Llama-2-7B)": prefix_of_a_layer("llama-2-7b"),
                  "grouped queries (Llama-3-8B)": prefix_of_a_layer("llama-3-8b")})


@claim("d-prefix-kv-not-q", WHY, "property", "the prefix goes to keys and values, so that the outputs stay those of the input; "
       "here 6 tokens", stated="Q remains computed from the actual input", expects=6,
       why="A query makes an output and is seen by no other: with 4 more query rows attention has {rows} outputs, and the old "
           "ones change by {unchanged:.1g}. More keys and values change the old ones, here by {changed:.2g}, and add none.")
def _() -> Computed:
    base = logits(small_llama())
    out = logits(as_if_trained(get_peft_model(small_llama(), PrefixTuningConfig(num_virtual_tokens=4))))
    draw = generator(0, "queries").standard_normal
    q, k, v = (Tensor(draw((1, tokens, 2, 8))) for tokens in (4 + 6, 6, 6))
    with no_grad():
        more = F.attention(q, k, v).data
        alone = F.attention(Tensor(q.data[:, 4:]), k, v).data
    return computed(out.shape[1], rows=more.shape[1], unchanged=largest(more[:, 4:] - alone), changed=largest(out - base))


@claim("d-prefix-490k", COUNT, "parameter-count", "GPT-2 medium with p = 10 trains 2pdL parameters", stated="~490K", about=0.02,
       why="2 · 10 · 1024 · 24 = {count:,}, {share:.3%} of the model. The paper trains a small network that makes the prefix, "
           "and drops it afterwards: while training it has more.",
       correct="The prefix has {count:,} parameters.")
def _() -> Computed:
    return computed(counts("gpt2-medium", PREFIX10).trainable, count=counts("gpt2-medium", PREFIX10).trainable,
                    share=share("gpt2-medium", PREFIX10))


class FirstLayerOnly(Prefix):
    """A prefix that all layers but the first do without."""

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return super().append(layer, k, v) if layer == 0 else (k, v)


class Recorder(KeyValueCache):
    """A cache that remembers the keys and values of each layer, as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[np.ndarray] = []  # keys of the first layer, its values, keys of the second, ...

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.seen += [k.data, v.data]
        return super().append(layer, k, v)


@claim("d-prompt-as-prefix", PROMPT, "property", "prompt tuning is prefix tuning at the input alone",
       stated="prefix tuning applied only to the INPUT embedding layer", expects=0.0,
       why="A prompt's vectors pass through all frozen layers, each of which makes keys and values of them: given those as a "
           "prefix, the model says the same. A prefix in the first layer alone is not seen by the others. What is trained "
           "differs too: pd = {prompt:,} numbers or 2pdL = {prefix:,} for 4 tokens of this model.",
       correct="Prompt tuning trains p input vectors; they act like a prefix in every layer, whose keys and values the frozen "
               "layers compute.")
def _() -> Computed:
    p, model = 4, small_llama()
    prompted = as_if_trained(get_peft_model(small_llama(), PromptTuningConfig(num_virtual_tokens=p)))
    recorder = Recorder()
    wanted = logits(prompted, cache=recorder)[:, p:]
    slots = np.stack([array[:, :p] for array in recorder.seen], axis=2)  # (1, p, 2 layers, heads, head size)
    prefixed = get_peft_model(small_llama(), PrefixTuningConfig(num_virtual_tokens=p))
    prefixed.prompt_encoder["default"].embedding.weight.data = slots.reshape(p, -1)
    return under({"largest difference to a prefix in all layers, computed by them": largest(logits(prefixed) - wanted),
                  "to a prefix in the first layer only": largest(logits(model, cache=FirstLayerOnly(Tensor(slots), None))
                                                                 - wanted)},
                 prompt=prompted.get_nb_trainable_parameters()[0], prefix=prefixed.get_nb_trainable_parameters()[0])


editorial("d-prompt-10b", PROMPT, "statement", "prompt tuning works best with models of more than 10B parameters",
          Verdict.DEPENDS, stated=">10B",
          reference="Lester et al. 2021, 2104.08691, figure 1: T5 from small (77M) to XXL (11B) on SuperGLUE",
          why="In that paper the gap to full fine-tuning narrows as T5 grows, and closes at 11B, the largest. It is one family "
              "of models on one benchmark, and shows no step at 10B.",
          correct="The gap to full fine-tuning closes with size; in Lester et al. it was gone at 11B.")
