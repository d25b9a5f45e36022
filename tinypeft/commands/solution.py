"""`tinypeft solution`: after a pass, a clean solution of the exercise, and where the library does the same.

The solutions are those that the graders are tested with: tests/exercises/NN_slug/reference.py, which the wheel carries.
"""

from __future__ import annotations

import importlib
import inspect
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

from tinypeft.commands import program
from tinypeft.commands.course import needed_course
from tinypeft.grading.exercise import TOTAL, Exercise, exercises_folder

# What does in the library what an exercise asks for: "module:name", in the order in which it is worth reading.
LIBRARY = {
    "00_why_peft": ["budget.weights:weight_bytes", "budget.weights:optimizer_bytes", "budget.memory:adapter_bytes"],
    "01_autograd": ["autograd.tensor:unbroadcast", "autograd.ops:add", "autograd.ops:matmul", "autograd.functional:softmax",
                    "autograd.functional:layer_norm", "autograd.tensor:_walk", "autograd.tensor:Tensor.backward"],
    "02_transformer": ["autograd.functional:gelu", "autograd.functional:attention", "autograd.functional:cross_entropy",
                       "nn.gpt2:GPT2Block"],
    "03_full_finetuning": ["training.optimizers:AdamW._update", "training.optimizers:clip_grad_norm_",
                           "training.evaluation:bits_per_character"],
    "04_lora": ["peft.lora_init:initial_A", "peft.lora_init:initial_B", "peft.lora:LoraLayer", "peft.lora:rank_and_scaling",
                "peft.layer:AdapterLayer.merge"],
    "05_intrinsic_dimension": ["peft.subspace:effective_rank", "peft.subspace:best_low_rank", "peft.subspace:SubspaceLayer",
                               "peft.subspace:fastfood"],
    "06_quantization": ["quant.codebooks:create_normal_map", "quant.blockwise:quantize_blockwise",
                        "quant.blockwise:dequantize_blockwise", "quant.blockwise:quantize_4bit",
                        "quant.blockwise:QuantState", "quant.int8:int8_vectorwise_quant"],
    "07_qlora": ["quant.linear:Linear4bit", "quant.linear:linear_4bit", "peft.lora:LoraLayer.forward",
                 "peft.layer:AdapterLayer.merge"],
    "08_adapters": ["peft.bottleneck:Bottleneck", "peft.bottleneck:BottleneckLayer"],
    "09_prefix_prompt": ["peft.prefix:PrefixEncoder", "peft.prefix:Prefix", "peft.prompt:PromptEncoder",
                         "peft.soft_prompts:SoftPrompt"],
    "10_bitfit_norms_ia3": ["peft.bitfit:BitFitConfig", "peft.layernorm:LNTuningConfig", "peft.ia3:IA3Layer"],
    "11_optimization": ["peft.lora_plus:create_loraplus_optimizer", "peft.dora:DoraLayer"],
    "12_many_tasks": ["peft.combine:weighted_adapter", "peft.combine:combined", "peft.mixed_batch:mixed_batch"],
    "13_planning": ["budget.weights:parameter_bytes", "budget.memory:memory", "budget.fitting:Search.largest",
                    "budget.choice:choose"],
    "14_capstone": ["peft.model:get_peft_model", "peft.targets:inject", "training.loop:train", "peft.storage:save",
                    "peft.storage:put_in"],
}


def run_solution(name: str, *, place: Path | None = None) -> None:
    """Print the solution of an exercise that was passed, and the library's code.

    Raises:
        ValueError: it was not passed yet, or has no one solution; unknown exercise; no course.
    """
    course, exercise = needed_course(name, place)
    progress = course.of(exercise)
    if not progress.passed:
        so_far = f"your best run so far has {progress.best}" if progress.runs else "it has not been graded yet"
        raise ValueError(f"the solution of {exercise.slug} opens after {TOTAL} of {TOTAL} points, and {so_far}: "
                         f"`{program('tinypeft')} test {name}` grades, `{program('tinypeft')} hint {name}` helps")
    solution = solution_file(exercise)
    if solution is None:
        raise ValueError(f"exercise {exercise.slug} has many solutions, and none of ours: yours is as good as any")
    course.remember(exercise, replace(progress, solution=True))
    print(_headed(f"A solution of {exercise.slug}", solution.read_text("utf-8")))
    for place_in_library in LIBRARY.get(exercise.slug, ()):
        where, code = library_code(place_in_library)
        print(_headed(f"In the library: {where}", code))


def solution_file(exercise: Exercise) -> Path | None:
    """The reference of an exercise: in an installed tinypeft beside the exercises, in a checkout among the tests."""
    exercises = exercises_folder()
    for folder in (exercises.parent / "solutions", exercises.parent / "tests" / "exercises"):
        if (file := folder / exercise.slug / "reference.py").is_file():
            return file
    return None


def library_code(place: str) -> tuple[str, str]:
    """Where it stands, and its source.

    >>> where, code = library_code("peft.lora_init:initial_B")
    >>> where
    'tinypeft/peft/lora_init.py, initial_B'
    >>> code.startswith("def initial_B(")
    True
    """
    module, _, name = place.partition(":")
    found: Any = importlib.import_module(f"tinypeft.{module}")
    for part in name.split("."):
        found = getattr(found, part)
    return f"tinypeft/{module.replace('.', '/')}.py, {name}", textwrap.dedent(inspect.getsource(found)).rstrip()


def _headed(title: str, code: str) -> str:
    return f"# ---- {title} ".ljust(100, "-") + f"\n\n{code.rstrip()}\n"
