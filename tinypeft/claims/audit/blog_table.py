"""Claims of "Parameter Efficient Fine Tuning (PEFT) – Adapting Large Models at Scale": prompts, biases, its table, the rest."""

from __future__ import annotations

from typing import Any

from tinypeft.autograd import ops
from tinypeft.budget import base_parameters, format_bytes, memory
from tinypeft.claims.claim import Range, claim, editorial
from tinypeft.claims.experiments import FITS, GB24, GB40, GB80, counts, full_training, share, training
from tinypeft.claims.judge import Computed, Verdict, computed, under
from tinypeft.claims.measures import forward_work, operations
from tinypeft.claims.settings import LATENCY, LINEAR, PREFIX20, WIDTH_64, lora, slowdown
from tinypeft.claims.small_models import IDS, as_if_trained, largest, logits, small_gpt2, small_llama, token_ids, toy_llama
from tinypeft.nn import LlamaConfig, LlamaForCausalLM
from tinypeft.nn.attention import KeyValueCache
from tinypeft.peft import BitFitConfig, PeftConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model

PROMPT = "Prompt Tuning"
PREFIX = "Prefix Tuning"
BIAS = "Bias and Normalization Fine Tuning"
TABLE = "Comparison of PEFT Methods, "
CONSIDERATIONS = "Practical Considerations"
REFERENCES = "References"


def count_with_biases(method: PeftConfig) -> int:
    """Trained parameters of a 7B Llama that has biases, so that all methods can be counted in one model."""
    model = LlamaForCausalLM(LlamaConfig(attention_bias=True, mlp_bias=True))
    return get_peft_model(model, method).get_nb_trainable_parameters()[0]


@claim("c-prompt-formula", PROMPT, "formula", "the model is called with k trained vectors before the embedded tokens",
       stated="X' = [P_1, ..., P_k, X]", expects=0.0,
       why="Largest difference between the logits with prompt tuning and those of the base called with both. The prompt takes "
           "k positions in every layer: here {rows} rows of logits for {n} tokens.")
def _() -> Computed:
    base = small_llama()
    prompted = as_if_trained(get_peft_model(small_llama(), PromptTuningConfig(num_virtual_tokens=3)))
    P, X = prompted.prompt_encoder["default"].embedding.weight, base.get_input_embeddings()(token_ids())
    found, by_hand = logits(prompted), base(inputs_embeds=ops.concatenate([P.reshape(1, 3, -1), X], axis=1)).logits.data
    return computed(largest(found - by_hand), rows=found.shape[1], n=X.shape[1])


@claim("c-prefix-formula", PREFIX, "formula", "each layer's keys and values get trained ones before them",
       stated="K' = [K_prefix; K], V' = [V_prefix; V]", expects=0.0,
       why="Largest difference between the logits with prefix tuning and those of the base, called with the same keys and "
           "values in its cache. (A Llama whose query heads share key heads. The prefix's keys are not rotated: they have no "
           "position.)")
def _() -> Computed:
    prefixed = as_if_trained(get_peft_model(toy_llama(), PrefixTuningConfig(num_virtual_tokens=3)))
    encoder: Any = prefixed.prompt_encoder["default"]
    slots = encoder.prefix().reshape(1, 3, 4, 2, 8)  # one row, p, keys and values of two layers, key heads, width of a head
    cache = KeyValueCache()
    for layer in range(2):
        cache.append(layer, slots[:, :, 2 * layer], slots[:, :, 2 * layer + 1])
    cache.length = 3
    return computed(largest(logits(prefixed, IDS[:1]) - toy_llama()(IDS[:1], cache=cache).logits.data))


@claim("c-prefix-embeddings", PREFIX, "property", "a prefix does not change the token embeddings",
       stated="without changing token embeddings", expects=0.0,
       why="The largest change of what enters the first layer of a Llama. What leaves it has changed by up to {after:.2g}: the "
           "prefix acts by way of attention.")
def _() -> Computed:
    prefixed = as_if_trained(get_peft_model(small_llama(), PrefixTuningConfig(num_virtual_tokens=3)))
    changed: Any = prefixed(token_ids(), output_hidden_states=True).hidden_states
    before: Any = small_llama()(token_ids(), output_hidden_states=True).hidden_states
    return computed(largest(changed[0].data - before[0].data), after=largest(changed[1].data - before[1].data))


@claim("c-bias-norm", BIAS, "parameter-count", "biases and norms are minimal: read as at most 1% of the parameters",
       stated="minimal parameter updates (no number)", expects=Range(high=0.01), unit="%",
       why="{gpt2:,} numbers in GPT-2 small, {opt:,} in OPT-6.7B, {llama:,} in Llama-2-7B, which has no biases, and no shifts: "
           "its RMSNorm has scales only.")
def _() -> Computed:
    method = BitFitConfig(train_norms=True)
    models = {"GPT-2 small": "gpt2", "OPT-6.7B": "opt-6.7b", "Llama-2-7B": "llama-2-7b"}
    gpt2, opt, llama = (counts(model, method).trainable for model in models.values())
    return under({title: share(model, method) for title, model in models.items()}, gpt2=gpt2, opt=opt, llama=llama)


editorial("c-linearity", "Theoretical Perspective", "statement",
          "the loss is locally linear near a pretrained optimum, and PEFT makes use of it", Verdict.NOT_REPRODUCIBLE,
          stated="Local linearity of the loss landscape near pre-trained optima",
          reference="no measurement and no range is given; what has been examined is another claim, that a fine-tuned model's "
                    "output is about linear in its parameters (the neural tangent kernel: Malladi et al. 2022, 2210.05643)",
          why="Near a minimum the linear part of a loss vanishes, and what is left is quadratic. How far it may be taken for "
              "linear elsewhere, the post does not say.",
          correct="On some tasks fine-tuning behaves as if the model's output were linear in its parameters; the loss near its "
                  "minimum is not.")


# ---- the table --------------------------------------------------------------------------------------------------------

@claim("c-tab-params", TABLE + "Trainable Params", "table", "adapters train most, then LoRA, then prefixes, biases least",
       stated="Low / Very Low / Extremely Low / Minimal", expects=("Adapters", "LoRA", "Prefix Tuning", "Bias Only"),
       why="Counted in a 7B Llama with biases. The order is that of usual sizes. With the same width everywhere a prefix of p "
           "tokens has as many numbers as LoRA of rank p/4 on q, k, v and o: the sizes decide.",
       correct="Biases train least; the order of the others is a matter of width, rank and number of tokens.")
def _() -> Computed:
    fixed = {"Adapters": WIDTH_64, "Prefix Tuning": PREFIX20, "Bias Only": BitFitConfig()}
    sizes = {name: count_with_biases(method) for name, method in fixed.items()}

    def order(method: PeftConfig) -> tuple[str, ...]:
        all_sizes = sizes | {"LoRA": count_with_biases(method)}
        return tuple(sorted(all_sizes, key=lambda name: -all_sizes[name]))

    return under({"adapters of width 64, r=8 on q, k, v, o, 20 tokens": order(lora(8)), "r=4 on q, k, v, o": order(lora(4)),
                  "r=16 on all linear layers": order(lora(16, LINEAR))})


@claim("c-tab-lora-none", TABLE + "LoRA", "table", "LoRA has no inference overhead", stated="None", expects=0.0, unit="%",
       why="Merged, none. Beside the weights, as it has to be where several adapters are served, or on a quantized base, it "
           "multiplies: r=16 on all linear layers of Llama-2-7B adds {share:.2%}, in two more products for each of 7 matrices "
           "a layer.",
       correct="LoRA has no overhead when merged; otherwise 2r(d + k) operations a token for each matrix.")
def _() -> Computed:
    peft_model = as_if_trained(get_peft_model(small_llama(), lora(4, LINEAR)))
    merged, beside = peft_model.merge_and_unload(), share("llama-2-7b", lora(16, LINEAR))
    return under({"merged": forward_work(merged) / forward_work(small_llama()) - 1,
                  "beside the weights, r=16, Llama-2-7B": beside}, share=beside)


@claim("c-tab-prefix-none", TABLE + "Prefix Tuning", "table", "prefix tuning has no inference overhead: nothing in the cache",
       stated="None", expects="0 MB",
       why="20 tokens on Llama-2-7B hold {cache} of keys and values for each sequence, and every token attends to them in "
           "every layer: {work:.3%} more multiplications. A prefix cannot be merged.",
       correct="The overhead is small, but always there: the cache, and the attention to p further tokens.")
def _() -> Computed:
    cache = memory("llama-2-7b", training=False, tokens=20).parts["key-value cache"]
    return computed(cache, cache=format_bytes(cache, 1), work=share("llama-2-7b", PREFIX20))


@claim("c-tab-bias-none", TABLE + "Bias Only", "table", "training biases adds nothing to inference", stated="None", expects=0,
       why="The same graph with other values. That needs a model with biases; in a Llama they would have to be added.")
def _() -> Computed:
    tuned = as_if_trained(get_peft_model(small_gpt2(), BitFitConfig()))
    return under({"parameters more": counts("gpt2", BitFitConfig()).total - base_parameters("gpt2"),
                  "multiplications more": forward_work(tuned) - forward_work(small_gpt2()),
                  "operations more": operations(tuned) - operations(small_gpt2())})


@claim("c-tab-adapter-low", TABLE + "Adapters", "table", "adapters have a low inference overhead: read as at most 5%",
       stated="Low", expects=Range(high=0.05), unit="%",
       why="In multiplications, and in time where the batch is large enough to keep a GPU busy; not for single short texts. "
           "Times are those of GPT-2 medium with two adapters a layer, in Hu et al. (2021, table 1).",
       correct="The overhead of adapters is low in large batches, up to about a third in small ones.")
def _() -> Computed:
    return under({"multiplications, width 64 in Llama-2-7B": share("llama-2-7b", WIDTH_64),
                  **{f"time, {case}": slowdown(case, adapters=2) for case in LATENCY}})


editorial("c-tab-expressive", TABLE + "Expressiveness", "table", "adapters and LoRA are highly expressive, prefixes less, "
          "biases little", Verdict.NOT_REPRODUCIBLE, stated="High / High / Medium / Low",
          reference="the post defines no measure of it; for LoRA there is one, the rank of the update (Zeng and Lee 2023, "
                    "2310.17513), which says nothing of the others",
          why="Without a measure or a test there is nothing to rank by.")


# ---- the rest ---------------------------------------------------------------------------------------------------------

@claim("c-fits-memory", CONSIDERATIONS, "memory", "PEFT is what to take where full training does not fit: then LoRA does",
       stated="Model size exceeds available training memory", expects=FITS, unit="%",
       why="The share of a card that LoRA (r=8 on q, k, v, o) takes, for models whose full training ({full_7b} and {full_70b}) "
           "does not fit. The frozen weights have to fit still, {frozen} of them in a 70B model. (One row of 2,048 tokens, "
           "gradient checkpointing, AdamW, an adapter in 16 bits.)",
       correct="PEFT spares gradients and optimizer states. If the weights themselves are too large, it takes quantization, "
               "offloading, or more cards.")
def _() -> Computed:
    models = "llama-2-7b", "llama-2-70b"
    (small, large), full = (training(model, 8, base="16 bits") for model in models), [full_training(m).total for m in models]
    return under({"Llama-2-7B, 24 GB": small.total / GB24, "Llama-2-7B, 40 GB": small.total / GB40,
                  "Llama-2-70B, 80 GB": large.total / GB80}, full_7b=format_bytes(full[0], 0),
                 full_70b=format_bytes(full[1]), frozen=format_bytes(large.parts["base weights"], 0))


editorial("c-ref-lora", REFERENCES, "statement", "LoRA appeared at ICLR 2021", Verdict.CORRECTED, stated="ICLR 2021",
          reference="Hu et al., LoRA, arXiv 2106.09685 of June 2021; International Conference on Learning Representations 2022",
          why="The preprint came out after ICLR 2021 was over.",
          correct="LoRA appeared at ICLR 2022; its preprint is of 2021.")

editorial("c-ref-others", REFERENCES, "statement", "the other five references", Verdict.CONFIRMED,
          stated="Houlsby ICML 2019, Li & Liang ACL 2021, Lester EMNLP 2021, Zaken ACL 2022, QLoRA NeurIPS 2023",
          reference="arXiv 1902.00751, 2101.00190, 2104.08691, 2106.10199, 2305.14314 and the proceedings of these conferences",
          why="Authors, venues and years are right; titles are shortened.")
