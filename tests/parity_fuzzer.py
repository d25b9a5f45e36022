"""A parity fuzzer (extra `parity`): random tiny models, methods and values, the same here and in peft; all numbers compared.

    python tests/parity_fuzzer.py --draws 1000 --seed 0        any number of draws, and a table of what they found
    python tests/parity_fuzzer.py --seed 0 --only 17           one draw again, with what it consists of

A draw is an architecture, a method's config, values and a batch, all from (seed, number). The adapter goes by file from peft
to here, by file from here to peft, or by name. A difference counts as a failure, unless one of TRAPS, the ways of peft that
we do not share, predicts from our numbers the number that peft gives.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from conftest import assert_close
from parity_tools import both, logits, peft, stir, torch, transformers

import tinypeft
from tinypeft import AutoModelForCausalLM, PeftModel, get_peft_model
from tinypeft.files import read_json, read_safetensors
from tinypeft.nn import CausalLM, Conv1D, Linear
from tinypeft.peft.targets import find_targets

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

Random = np.random.Generator
BASE = "base_model.model."
WAYS = ("from peft by file", "to peft by file", "by name")


# ---- what is drawn --------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Draw:
    """One case: everything that follows from (seed, number)."""

    seed: int
    number: int
    method: str
    way: str
    family: str
    architecture: dict[str, Any]
    config: str  # the class of the method's config, in both libraries
    options: dict[str, Any]
    shape: tuple[int, int]  # rows and tokens of the batch

    def __str__(self) -> str:
        return (f"draw {self.number}: {self.method}, {self.way}; {self.family} {self.architecture}; "
                f"{self.config}({', '.join(f'{k}={v!r}' for k, v in self.options.items())}); batch {self.shape}\n"
                f"    python tests/parity_fuzzer.py --seed {self.seed} --only {self.number}")


def maybe(random: Random, share: float) -> bool:
    return bool(random.random() < share)


def pick(random: Random, values: Any) -> Any:
    """One of several values, as it is (choice() would make NumPy's of them)."""
    return values[int(random.integers(len(values)))]


def some(random: Random, values: list[Any]) -> list[Any]:
    """At least one of them, in their order."""
    chosen = random.random(len(values)) < 0.4
    chosen[random.integers(len(values))] = True
    return [value for value, keep in zip(values, chosen, strict=True) if keep]


def gpt2(random: Random) -> dict[str, Any]:
    heads = pick(random, [1, 2, 3, 4])
    return {"n_layer": pick(random, [1, 2, 3]), "n_head": heads, "n_embd": heads * pick(random, [4, 5, 8]),
            "n_inner": pick(random, [None, 7, 24]), "vocab_size": pick(random, [11, 37, 50]), "n_positions": 40,
            "activation_function": pick(random, ["gelu_new", "gelu", "relu", "silu", "gelu_pytorch_tanh", "tanh"]),
            "layer_norm_epsilon": pick(random, [1e-5, 1e-3]), "tie_word_embeddings": maybe(random, 0.6)}


def llama(random: Random) -> dict[str, Any]:
    groups, kv = pick(random, [1, 2, 3]), pick(random, [1, 2])
    rope = pick(random, [{"rope_type": "default", "rope_theta": 10000.0}, {"rope_type": "default", "rope_theta": 100.0},
                         {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}])
    return {"num_hidden_layers": pick(random, [1, 2, 3]), "num_key_value_heads": kv, "num_attention_heads": kv * groups,
            "head_dim": pick(random, [4, 6, 8]), "hidden_size": kv * groups * pick(random, [4, 6, 7]), "rms_norm_eps": 1e-5,
            "intermediate_size": pick(random, [10, 21, 40]), "vocab_size": pick(random, [11, 37, 50]),
            "max_position_embeddings": 40, "hidden_act": pick(random, ["silu", "gelu", "relu", "gelu_pytorch_tanh"]),
            "attention_bias": maybe(random, 0.4), "mlp_bias": maybe(random, 0.4), "rope_parameters": rope,
            "tie_word_embeddings": maybe(random, 0.4)}


FAMILIES = {"gpt2": gpt2, "llama": llama}
LINEAR = {"gpt2": ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj", "c_proj"],
          "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]}
EMBEDDINGS = {"gpt2": ["wte", "wpe"], "llama": ["embed_tokens"]}
NORMS = {"gpt2": ["ln_1", "ln_2", "ln_f"], "llama": ["input_layernorm", "post_attention_layernorm", "model.norm"]}
EXPRESSIONS = {"gpt2": [r".*\.c_(attn|fc)", r".*h\.0\..*c_proj", r"transformer\.h\.\d+\.mlp\.c_\w+"],
               "llama": [r".*\.(q|o)_proj", r".*layers\.0\..*_proj", r"model\.layers\.\d\.mlp\.(up|down)_proj"]}
EXCLUDED = {"gpt2": [["c_fc"], ["attn.c_proj"], r".*h\.0\.mlp.*"],
            "llama": [["k_proj"], ["up_proj", "o_proj"], r".*\.0\.mlp.*"]}


class Chooser:
    """Draws the options of a method's config for one architecture."""

    def __init__(self, random: Random, family: str, architecture: dict[str, Any]):
        self.random, self.family = random, family
        self.layers = architecture["n_layer" if family == "gpt2" else "num_hidden_layers"]
        self.meta: CausalLM = AutoModelForCausalLM.from_config({"model_type": family, **architecture}, device="meta")

    def targets(self, beyond: list[str] | None = None) -> dict[str, Any]:
        """target_modules, and what narrows them down; `beyond` are names that may be among them besides linear layers."""
        random = self.random
        kind = pick(random, ["default", "names", "names", "all", "expression"] + (["beyond"] * 2 if beyond else []))
        names = some(random, LINEAR[self.family]) + (some(random, beyond) if beyond and kind == "beyond" else [])
        if kind == "expression":
            return {"target_modules": pick(random, EXPRESSIONS[self.family])}
        options: dict[str, Any] = {} if kind == "default" else {"target_modules": "all-linear" if kind == "all" else names}
        if kind == "names" and maybe(random, 0.3):
            options["layers_to_transform"] = pick(random, [self.layers - 1, some(random, list(range(self.layers)))])
            if maybe(random, 0.5):
                options["layers_pattern"] = {"gpt2": "h", "llama": ["layers"]}[self.family]
        if maybe(random, 0.25):
            options["exclude_modules"] = pick(random, EXCLUDED[self.family])
        return options

    def narrowed(self, beyond: list[str] | None = None) -> dict[str, Any]:
        """Targets of which at least one is left."""
        while True:
            options = self.targets(beyond)
            with contextlib.suppress(ValueError):
                self.matched(options)
                return options

    def matched(self, options: dict[str, Any]) -> list[str]:
        return find_targets(self.meta, tinypeft.LoraConfig(r=1, **options))

    def patterns(self, options: dict[str, Any], values: list[Any]) -> dict[str, Any]:
        """Values for some of the targets, as rank_pattern and alpha_pattern have them."""
        paths = self.matched(options)
        keys = [pick(self.random, [path, path.rpartition(".")[2], rf".*{re.escape(path.rpartition('.')[2])}"])
                for path in some(self.random, paths)[:2]]
        return {key: pick(self.random, values) for key in sorted(set(keys))}  # as peft sorts them in files: the first wins

    def rank(self, options: dict[str, Any], most: int = 6) -> int:
        """At least 1, and not above what the smallest of the targets allows."""
        sizes = [size for path in self.matched(options) for size in self.meta.get_submodule(path).weight.shape]  # type: ignore
        return int(self.random.integers(1, min(*sizes, most) + 1))

    def modules_to_save(self, options: dict[str, Any], parts: tuple[str, ...] = ("mlp", "self_attn")) -> dict[str, Any]:
        """Sometimes a module or two that are not targets, nor hold any; `parts` are those that are made of several."""
        if not maybe(self.random, 0.25):
            return {}
        paths = self.matched(options)
        # Not "attn", which to peft is the end of c_attn too: it asks for no dot before the name.
        free = [name for name in [*NORMS[self.family], *EMBEDDINGS[self.family], "lm_head", *parts]
                if not any(f".{name}." in f".{path}." for path in paths)
                and any(f".{path}".endswith(f".{name}") for path, _ in self.meta.named_modules())]
        saved = {"modules_to_save": some(self.random, free)[:2]}
        with contextlib.suppress(ValueError):
            return saved if self.matched(options | saved) == paths else {}
        return {}  # a name of a target is of no use then, which we refuse


def lora(choose: Chooser, **fixed: Any) -> dict[str, Any]:
    """The options of LoRA, narrowed to what `fixed` goes with."""
    random = choose.random
    beyond = [] if fixed.get("init_lora_weights") in ("pissa", "olora") else ["lm_head"]  # peft: residuals in both tied ends
    options = choose.narrowed(beyond if fixed else [*EMBEDDINGS[choose.family], "lm_head"])
    r = choose.rank(options)
    chosen = {"r": r, "lora_alpha": pick(random, [1, 4, 7, 16]), "use_rslora": maybe(random, 0.3),
              "lora_dropout": pick(random, [0.0, 0.0, 0.3]), "init_lora_weights": pick(random, [True, True, True, False]),
              "bias": pick(random, ["none", "none", "none", "all", "lora_only"])}
    if maybe(random, 0.3):
        chosen["rank_pattern"] = choose.patterns(options, list(range(1, r + 1)))
    if maybe(random, 0.3):
        chosen["alpha_pattern"] = choose.patterns(options, [2, 5, 32])
    return options | chosen | choose.modules_to_save(options) | fixed


def vera(choose: Chooser) -> dict[str, Any]:
    random = choose.random
    options = {key: value for key, value in choose.narrowed().items() if key != "exclude_modules"}
    return options | {"r": int(random.integers(1, 20)), "projection_prng_key": int(random.integers(1000)),
                      "save_projection": maybe(random, 0.5), "vera_dropout": pick(random, [0.0, 0.2]),
                      "d_initial": pick(random, [0.1, 1.0]), "bias": pick(random, ["none", "none", "all", "vera_only"]),
                      **choose.modules_to_save(options, ())}  # peft cannot unload parts


def ia3(choose: Chooser) -> dict[str, Any]:
    random, linear = choose.random, LINEAR[choose.family]
    if maybe(random, 0.3):
        return choose.modules_to_save({"target_modules": linear})
    if maybe(random, 0.3):
        expression = EXPRESSIONS[choose.family][0]
        return {"target_modules": expression, "feedforward_modules": pick(random, [expression, r".*\.c_fc|.*o_proj"])}
    targets = some(random, linear)
    options = {"target_modules": targets, "feedforward_modules": pick(random, [[], some(random, targets)])}
    if len(targets) > 2:
        options["exclude_modules"] = targets[:1]
    return options | choose.modules_to_save({"target_modules": targets})


def ln_tuning(choose: Chooser) -> dict[str, Any]:
    random = choose.random
    options: dict[str, Any] = {} if maybe(random, 0.4) else {"target_modules": some(random, NORMS[choose.family])}
    return options | ({"modules_to_save": ["lm_head"]} if maybe(random, 0.25) else {})


def adalora(choose: Chooser) -> dict[str, Any]:
    random = choose.random
    options = choose.narrowed()
    init_r = choose.rank(options)
    return options | {"init_r": init_r, "target_r": int(random.integers(1, init_r + 1)), "total_step": 10,
                      "lora_alpha": pick(random, [1, 4, 16]), "orth_reg_weight": pick(random, [0.1, 0.5, 2.0]),
                      "bias": pick(random, ["none", "none", "all", "lora_only"]), **choose.modules_to_save(options)}


def prefix(choose: Chooser, **fixed: Any) -> dict[str, Any]:
    random = choose.random
    options = {"num_virtual_tokens": pick(random, [1, 2, 5])} | fixed
    if fixed:
        return options | {"encoder_hidden_size": pick(random, [3, 10])}
    return options | {"init_weights": pick(random, [None, "zero"])}


def prompt(choose: Chooser) -> dict[str, Any]:
    return {"num_virtual_tokens": pick(choose.random, [1, 2, 5]),
            "prompt_tuning_init": pick(choose.random, ["RANDOM", "SAMPLE_VOCAB"])}


Options = Callable[[Chooser], dict[str, Any]]
METHODS: list[tuple[str, str, Options]] = [  # in this order again and again: name, config's class, options
    ("LoRA", "LoraConfig", lora), ("DoRA", "LoraConfig", lambda choose: lora(choose, use_dora=True)),
    ("IA3", "IA3Config", ia3), ("PiSSA", "LoraConfig", lambda choose: lora(choose, init_lora_weights="pissa")),
    ("AdaLoRA", "AdaLoraConfig", adalora), ("prefix", "PrefixTuningConfig", prefix), ("LoRA", "LoraConfig", lora),
    ("VeRA", "VeraConfig", vera), ("LN tuning", "LNTuningConfig", ln_tuning),
    ("OLoRA", "LoraConfig", lambda choose: lora(choose, init_lora_weights="olora")),
    ("prefix, projected", "PrefixTuningConfig", lambda choose: prefix(choose, prefix_projection=True)),
    ("LoRA", "LoraConfig", lora), ("prompt", "PromptTuningConfig", prompt),
    ("gaussian LoRA", "LoraConfig", lambda choose: lora(choose, init_lora_weights="gaussian")),
]


def draw(seed: int, number: int) -> Draw:
    """The case with this number."""
    random = np.random.default_rng([seed, number])
    cycle, place = divmod(number, len(METHODS))
    method, config, options = METHODS[place]
    family = "llama" if method == "OLoRA" else pick(random, list(FAMILIES))
    architecture = FAMILIES[family](random)
    return Draw(seed, number, method, WAYS[(cycle + place) % len(WAYS)], family, architecture, config,
                options(Chooser(random, family, architecture)), (pick(random, [1, 2, 3]), int(random.integers(2, 14))))


# ---- the same in both libraries -------------------------------------------------------------------------------------

class Pair:
    """A draw, built here and in peft, with the same values in both."""

    def __init__(self, case: Draw, folder: Path):
        self.case, self.folder, self.random = case, folder, np.random.default_rng([case.seed, case.number, 1])
        torch.manual_seed(case.number)  # what peft draws, it draws from there
        base, ours = both(case.family, case.architecture, folder, seed=int(self.random.integers(2**31)))
        self.their_config = getattr(peft, case.config)(task_type="CAUSAL_LM", **case.options)
        self.our_config = getattr(tinypeft, case.config)(task_type="CAUSAL_LM", **case.options)
        self.projected = case.options.get("prefix_projection", False)
        self.soft = "Prefix" in case.config or "Prompt" in case.config
        B, T = case.shape
        self.ids = self.random.integers(0, case.architecture["vocab_size"], (B, T))
        self.mask, self.labels = np.ones_like(self.ids), self.ids.copy()
        for row in range(B):
            self.mask[row, :self.random.integers(0, max(T - 2, 1)) if maybe(self.random, 0.5) else 0] = 0
            self.labels[row, :self.random.integers(0, T - 1)] = -100
        getattr(self, {"from peft by file": "_from_peft", "to peft by file": "_to_peft", "by name": "_by_name"}[case.way])(
            base, ours)
        found = [re.match(rf"{BASE}(.+?)\.(lora|vera|ia3|ln_tuning)_", name) for name, _ in self.ours.named_parameters()]
        self.paths = sorted({match[1] for match in found if match})  # of the modules that the method's layers stand in

    def _from_peft(self, base: Any, ours: CausalLM) -> None:
        self.theirs = peft.get_peft_model(base, self.their_config).eval()
        stir(self.theirs, self.random)
        self.theirs.save_pretrained(self.folder / "given")
        self.ours = PeftModel.from_pretrained(ours, self.folder / "given", is_trainable=True).eval()
        if self.projected:  # the file has what the projection gives
            self._load_peft(self.theirs.get_base_model())

    def _to_peft(self, base: Any, ours: CausalLM) -> None:
        self.ours = get_peft_model(ours, self.our_config).eval()
        stir(self.ours, self.random)
        self.ours.save_pretrained(self.folder / "given")
        if self.projected:
            self.ours = PeftModel.from_pretrained(self.ours.unload(), self.folder / "given", is_trainable=True).eval()
        self._load_peft(base)

    def _load_peft(self, base: Any) -> None:
        self.theirs = peft.PeftModel.from_pretrained(base, self.folder / "given", is_trainable=not self.soft).eval()
        for name, parameter in self.theirs.named_parameters():  # peft loads soft prompts frozen only
            if name.startswith("prompt_encoder."):
                parameter.requires_grad = True

    def _by_name(self, base: Any, ours: CausalLM) -> None:
        self.theirs = peft.get_peft_model(base, self.their_config).eval()
        self.ours = get_peft_model(ours, self.our_config).eval()

    def copy_by_name(self) -> None:
        """Random values into peft's model, and from there into ours."""
        stir(self.theirs, self.random)
        values = dict(self.theirs.named_parameters())
        for name, parameter in self.ours.named_parameters():
            if parameter.requires_grad:
                parameter.data = values[name].detach().numpy().copy()

    # What is compared: a pair of values, ours first.

    def logits(self) -> tuple[np.ndarray, np.ndarray]:
        return tuple(logits(model, self.ids, attention_mask=self.mask) for model in (self.ours, self.theirs))  # type: ignore

    def loss(self) -> tuple[Any, Any]:
        """With gradients."""
        for model in (self.ours, self.theirs):
            model.zero_grad()
        ours = self.ours(self.ids, attention_mask=self.mask, labels=self.labels).loss
        theirs = self.theirs(torch.from_numpy(self.ids), attention_mask=torch.from_numpy(self.mask),
                             labels=torch.from_numpy(self.labels)).loss
        ours.backward()
        theirs.backward()
        return ours.data, theirs.detach().numpy()

    def gradients(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        ours = {name: p.grad for name, p in self.ours.named_parameters() if p.grad is not None}
        return ours, {name: p.grad.numpy() for name, p in self.theirs.named_parameters() if p.grad is not None}

    def trained(self) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
        """Name -> shape."""
        return tuple({name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}  # type: ignore
                     for model in (self.ours, self.theirs))

    def frozen(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Name -> values: the base as it is while the adapter is active."""
        def plain(name: str) -> str:
            return name.replace("base_model.", BASE, 1) if self.soft else name

        return ({name: p.data for name, p in self.ours.named_parameters() if not p.requires_grad},
                {plain(name): p.detach().numpy() for name, p in self.theirs.named_parameters() if not p.requires_grad})

    def base(self) -> CausalLM:
        """The base model here, without an adapter."""
        return AutoModelForCausalLM.from_pretrained(self.folder / "base")

    @cached_property
    def merged(self) -> CausalLM:
        """Ours; not to be asked for before all else is compared."""
        return self.ours.merge_and_unload()

    def plain_logits(self, model: CausalLM) -> np.ndarray:
        return logits(model, self.ids, attention_mask=self.mask)


# ---- traps ----------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Trap:
    """A way of peft 0.21.2 that we do not share.

    Attributes:
        what: the comparison that it shows in.
        why: what peft does.
        when: whether it can show in a draw.
        predict: from a pair and our value, the value that peft gives.
    """

    name: str
    what: str
    why: str
    when: Callable[[Pair], bool]
    predict: Callable[[Pair, Any], Any]


def base_as_it_stands(pair: Pair, _: Any) -> np.ndarray:
    """The logits of the base with the biases and residual weights that stand in it while our adapter is active."""
    model = pair.base()
    own = dict(model.named_parameters())
    for name, parameter in pair.ours.named_parameters():
        name = name.removeprefix(BASE).replace(".base_layer.", ".")
        if name in own:
            own[name].data = parameter.data
    return pair.plain_logits(model)


def trains_the_base(pair: Pair) -> bool:
    """Whether the base's own biases are trained, or its weights are residuals."""
    return pair.case.options.get("bias", "none") != "none" or has_residuals(pair)


def has_residuals(pair: Pair) -> bool:
    return pair.case.options.get("init_lora_weights") in ("pissa", "olora")


def ends(pair: Pair) -> dict[str, str]:
    """The modules at both ends of the model."""
    return {"table": {"gpt2": "transformer.wte", "llama": "model.embed_tokens"}[pair.case.family], "head": "lm_head"}


def saves_the_ends(pair: Pair) -> bool:
    """peft's rule: one of these two names is among the targets."""
    return bool({"embed_tokens", "lm_head"} & set(pair.case.options.get("target_modules") or []))


def with_the_ends(pair: Pair, saved: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    base = pair.base()
    return saved | {f"{BASE}{path}.base_layer.weight": base.get_submodule(path).weight.data  # type: ignore
                    for path in ends(pair).values() if path in pair.paths}


def penalty(pair: Pair) -> float:
    """AdaLoRA's, from its definition."""
    distances = [np.linalg.norm(M @ M.T - np.eye(len(M))) for name, p in pair.ours.named_parameters()
                 for M in ([p.data] if ".lora_A." in name else [p.data.T] if ".lora_B." in name else [])]
    return pair.case.options["orth_reg_weight"] * float(np.mean(distances))


def gradients_with_penalty(pair: Pair, _: Any) -> dict[str, np.ndarray]:
    with pair.ours.mode_restored():
        pair.ours.train().zero_grad()
        pair.ours(pair.ids, attention_mask=pair.mask, labels=pair.labels).loss.backward()
    return pair.gradients()[0]


def merged_at_both_ends(pair: Pair, _: Any) -> np.ndarray:
    """The logits if both ends have what was merged into one of them."""
    plain, merged = pair.base(), pair.merged
    table = plain.get_submodule(ends(pair)["table"]).weight.data  # type: ignore
    here = [merged.get_submodule(path) for path in ends(pair).values()]
    both = table + sum(m.weight.data - table for m, path in zip(here, ends(pair).values(), strict=True)  # type: ignore
                       if path in pair.paths)
    saved = pair.case.options.get("modules_to_save") or []
    for module, path in zip(here, ends(pair).values(), strict=True):
        if not any(f".{path}".endswith(f".{name}") for name in saved):
            module.weight.data = both  # type: ignore
    return pair.plain_logits(merged)


def saves_biases_twice(pair: Pair) -> bool:
    return pair.case.options.get("bias") == "all" and bool(pair.case.options.get("modules_to_save"))


def with_biases_twice(pair: Pair, saved: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The copy's biases under the name of peft's wrapper too, and those of the module that it is a copy of."""
    base, extra = dict(pair.base().named_parameters()), {}
    for name, parameter in pair.ours.named_parameters():
        path, found, inner = name.partition(".modules_to_save.default.")
        if found and inner.endswith("bias"):
            # peft takes the adapter's name out where it stands last but one
            adapter = "" if "." not in inner else "default."
            extra[f"{path}.modules_to_save.{adapter}{inner}"] = parameter.data
            extra[f"{path}.original_module.{inner}"] = base[f"{path.removeprefix(BASE)}.{inner}"].data
    return saved | extra


def all_linear_written_out(pair: Pair, config: dict[str, Any]) -> dict[str, Any]:
    """Full names; of 20 or more, the shortest that do."""
    paths = [path for path, module in pair.base().named_modules()
             if isinstance(module, Linear | Conv1D) and path != "lm_head"]
    return config | {"target_modules": sorted(paths if len(paths) < 20 else {path.rpartition(".")[2] for path in paths})}


def is_adalora(pair: Pair) -> bool:
    return pair.case.method == "AdaLoRA"


TRAPS = [
    Trap("disabled, not restored", "logits, adapter disabled",
         "disable_adapter leaves trained biases, and the residual weights of PiSSA and OLoRA, in the base",
         trains_the_base, base_as_it_stands),
    Trap("frozen ends saved", "saved tensors", "with an adapter of the head or the token table, their own weights are saved",
         saves_the_ends, with_the_ends),
    Trap("biases saved twice", "saved tensors", 'with bias="all", those of modules_to_save are saved again, under odd names',
         saves_biases_twice, with_biases_twice),
    Trap("all-linear written out", "saved config", "the config has the names that all-linear stands for",
         lambda pair: pair.case.options.get("target_modules") == "all-linear", all_linear_written_out),
    Trap("ranknum counted", "counts", "AdaLoRA keeps the rank of each layer as a frozen parameter",
         is_adalora, lambda pair, counts: (counts[0], counts[1] + len(pair.paths))),
    Trap("ranknum counted", "frozen values", "AdaLoRA keeps the rank of each layer as a frozen parameter", is_adalora,
         lambda pair, values: values | {f"{BASE}{path}.ranknum.default": np.float32([pair.case.options["init_r"]])
                                        for path in pair.paths}),
    Trap("penalty in evaluation", "loss", "AdaLoRA's penalty is added to every loss, not in training only",
         is_adalora, lambda pair, loss: loss + penalty(pair)),
    Trap("penalty in evaluation", "gradients", "AdaLoRA's penalty is added to every loss, not in training only",
         is_adalora, gradients_with_penalty),
    Trap("merged into tied ends", "logits, merged", "merging changes the base's own array, which tied ends share",
         lambda pair: pair.case.architecture["tie_word_embeddings"] and bool(set(ends(pair).values()) & set(pair.paths)),
         merged_at_both_ends),
]


# ---- comparing ------------------------------------------------------------------------------------------------------

@dataclass
class Report:
    """What came of one draw."""

    precise: bool = False  # whether our model computes in float64
    compared: list[str] = field(default_factory=list)
    excused: dict[str, str] = field(default_factory=dict)  # comparison -> trap
    small: dict[str, str] = field(default_factory=dict)  # comparison -> a difference not far above the tolerance
    values: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # of these, or in float64 all: ours, peft's
    failures: list[str] = field(default_factory=list)

    def check(self, pair: Pair, what: str, received: Any, expected: Any, tol: float = 0.0) -> None:
        """Compare; a difference that no trap predicts is a failure, unless it may be due to rounding (see `examine`)."""
        problem = difference(received, expected, tol)
        self.values[what] = received, expected
        if problem is None:
            self.compared.append(what)
            return
        for trap in TRAPS:
            if trap.what == what and trap.when(pair):
                received = trap.predict(pair, received)
                self.values[what] = received, expected
                if (left := difference(received, expected, tol)) is None:
                    self.excused[what] = trap.name
                    return
                problem += f"; with the trap {trap.name!r} {left}"
        if tol and difference(received, expected, 30 * tol) is None:
            self.small[what] = problem
        else:
            self.failures.append(f"{what}: {problem}")


def distance(one: Any, other: Any) -> float:
    """The largest difference between two arrays, or dicts of arrays."""
    if isinstance(one, dict):
        return max(distance(one[key], other[key]) for key in one)
    return float(np.abs(np.asarray(one, np.float64) - other).max())


def difference(received: Any, expected: Any, tol: float) -> str | None:
    """What is not equal, in words; arrays, and dicts of arrays, may differ by a tolerance."""
    if isinstance(expected, dict):
        if received.keys() != expected.keys():
            here, there = sorted(received.keys() - expected.keys()), sorted(expected.keys() - received.keys())
            return f"{len(here)} only here {here[:3]}, {len(there)} only in peft {there[:3]}"
        found = {key: difference(received[key], expected[key], tol) for key in expected}
        return next((f"{key}: {problem}" for key, problem in found.items() if problem), None)
    if isinstance(expected, np.ndarray):
        try:
            return assert_close(received, expected, tol)
        except AssertionError as error:
            return str(error)
    return None if received == expected else f"{received!r} instead of peft's {expected!r}"


def compare(pair: Pair, report: Report) -> None:
    """All comparisons, the one that takes the adapters out last."""
    case = pair.case
    if case.way == "by name":
        compare_start(pair, report)
        pair.copy_by_name()
    report.check(pair, "trained parameters", *pair.trained())
    report.check(pair, "counts", pair.ours.get_nb_trainable_parameters(), pair.theirs.get_nb_trainable_parameters())
    compare_frozen(pair, report)
    if report.precise:
        pair.ours.to("float64")
    report.check(pair, "logits", *pair.logits(), tol=1e-5)
    if case.method == "AdaLoRA":
        pair.ours.train()
        pair.theirs.train()
        report.check(pair, "loss in training", *pair.loss(), tol=1e-5)
        report.check(pair, "gradients in training", *pair.gradients(), tol=1e-4)
        pair.ours.eval()
        pair.theirs.eval()
    report.check(pair, "loss", *pair.loss(), tol=1e-5)
    report.check(pair, "gradients", *pair.gradients(), tol=1e-4)
    with pair.ours.disable_adapter(), pair.theirs.disable_adapter():
        disabled = pair.logits()
    report.check(pair, "logits, adapter disabled", *disabled, tol=1e-5)
    report.check(pair, "logits", *pair.logits(), tol=1e-5)  # switched on again

    saved, configs = [], []
    for name, model in (("ours", pair.ours), ("theirs", pair.theirs)):
        model.save_pretrained(pair.folder / name)
        saved.append(read_safetensors(pair.folder / name / "adapter_model.safetensors"))
        configs.append(read_json(pair.folder / name / "adapter_config.json"))
    report.check(pair, "saved tensors", *saved, tol=1e-6)
    for config in configs:  # sets, in files in any order; and the names of places
        for key in {"target_modules", "exclude_modules", "feedforward_modules", "modules_to_save"} & config.keys():
            config[key] = sorted(config[key]) if isinstance(config[key], list) else config[key]
        config["base_model_name_or_path"] = config["auto_mapping"] = None
    report.check(pair, "saved config", *configs)
    if not pair.soft:
        report.check(pair, "logits, merged", pair.plain_logits(pair.merged),
                     logits(pair.theirs.merge_and_unload(), pair.ids, attention_mask=pair.mask), tol=1e-5)


def compare_frozen(pair: Pair, report: Report) -> None:
    """The base as it stands. Residual weights then become peft's, which are less exact where singular values lie close."""
    ours, theirs = pair.frozen()
    if not report.precise:
        report.check(pair, "frozen values", ours, theirs, tol=1e-3 if has_residuals(pair) else 1e-6)
    for name, parameter in pair.ours.named_parameters():
        if has_residuals(pair) and name in theirs:
            parameter.data = theirs[name].copy()


def compare_start(pair: Pair, report: Report) -> None:
    """What both libraries compute from the base before values are given."""
    compare_frozen(pair, report)
    if report.precise:
        return
    if not pair.soft and pair.case.options.get("init_lora_weights", True):  # False: a random start
        report.check(pair, "logits at the start", *pair.logits(), tol=1e-4 if has_residuals(pair) else 1e-5)
    if has_residuals(pair):  # A's rows and B's columns: up to a common sign
        ours, theirs = dict(pair.ours.named_parameters()), dict(pair.theirs.named_parameters())
        names = [name for name in ours if ".lora_A." in name or ".lora_B." in name]
        report.check(pair, "factors at the start", {name: np.abs(ours[name].data) for name in names},
                     {name: np.abs(theirs[name].detach().numpy()) for name in names}, tol=1e-2)


def examine(case: Draw) -> Report:
    """Build a draw in both libraries and compare.

    A small difference (large updates and sharp attention leave float32 few digits) is due to rounding if our float64 value
    lies between the two, or not much farther from peft's than from ours in float32.
    """
    report = attempt(case)
    exact = attempt(case, precise=True).values if report.small else {}
    for what, problem in report.small.items():
        ours, theirs = report.values[what]
        own, other = (distance(x, exact[what][0]) if what in exact else np.inf for x in (ours, theirs))
        if other <= 10 * own < np.inf:
            report.excused[what] = "rounding"
        else:
            report.failures.append(f"{what}: {problem}; off our float64 value: ours {own:.2g}, peft's {other:.2g}")
    return report


def attempt(case: Draw, precise: bool = False) -> Report:
    """All comparisons, with our model in float32 or float64; what is raised is a failure too."""
    report = Report(precise)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft and transformers make remarks
        warnings.filterwarnings("error", category=UserWarning, module=r"tinypeft(\..*)?$")
        try:
            compare(Pair(case, Path(folder)), report)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            report.failures.append(f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})")
    return report


# ---- the command ----------------------------------------------------------------------------------------------------

def run(seed: int, numbers: range, say: Callable[[str], None] = print) -> dict[int, Report]:
    """Number -> report; failures are told at once."""
    reports: dict[int, Report] = {}
    begun = time.monotonic()
    for number in numbers:
        try:
            case = draw(seed, number)
        except Exception as error:
            raise RuntimeError(f"draw {number} of seed {seed} cannot be made") from error
        reports[number] = report = examine(case)
        if report.failures:
            say("\n".join([f"FAILED {case}", *(f"    {failure}" for failure in report.failures)]))
        if len(reports) % 50 == 0:
            failed = sum(bool(r.failures) for r in reports.values())
            say(f"{len(reports)} of {len(numbers)} draws, {failed} failed, {time.monotonic() - begun:.0f} s")
    return reports


def table(reports: dict[int, Report]) -> str:
    """A line for each method: its draws, its comparisons, and which traps explained how many of these."""
    rows: dict[str, list[Report]] = {}
    for number, report in reports.items():
        rows.setdefault(METHODS[number % len(METHODS)][0], []).append(report)
    lines = [f"{'method':<18} {'draws':>6} {'failed':>7} {'compared':>9} {'equal':>7}  excused by a trap"]
    for method, of in [*rows.items(), ("all", list(reports.values()))]:
        excused = Counter(trap for report in of for trap in report.excused.values())
        equal = sum(len(report.compared) for report in of)
        total = equal + excused.total() + sum(len(report.failures) for report in of)
        traps = ", ".join(f"{trap}: {n}" for trap, n in sorted(excused.items()))
        lines.append(f"{method:<18} {len(of):>6} {sum(bool(r.failures) for r in of):>7} {total:>9} {equal:>7}  {traps}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command; the exit status is 1 if a draw failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="the number of the first draw")
    parser.add_argument("--only", type=int, help="the number of a single draw")
    chosen = parser.parse_args(arguments)
    numbers = range(chosen.start, chosen.start + chosen.draws) if chosen.only is None else range(chosen.only, chosen.only + 1)
    if chosen.only is not None:
        print(draw(chosen.seed, chosen.only))
    reports = run(chosen.seed, numbers, lambda line: print(line, flush=True))
    print(table(reports))
    return int(any(report.failures for report in reports.values()))


if __name__ == "__main__":
    sys.exit(main())
