"""The command `tinypeft`: a menu. What each command does is in commands/."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

import tinypeft
from tinypeft.commands.course_menu import course_menu
from tinypeft.commands.instructor_menu import instructor_menu

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Parameter-efficient fine-tuning, learned by building it.")

Output = Annotated[Path, typer.Option("--out", help="Folder to write to.")]
Seed = Annotated[int, typer.Option(help="Equal seeds give equal results.")]
LORA, TRAINING, DATA, PROGRESS = "LoRA", "Training", "Data", "On the way"  # panels of `tinypeft train --help`
SIZE, SERVING = "Size", "Once trained"  # and of `tinypeft plan --help`


@app.command()
def tour(out: Output = Path("tinypeft-tour"), seed: Seed = 0,
         steps: Annotated[int, typer.Option(help="Training steps.")] = 300) -> None:
    """Adapt a small language model to Polish surnames, and look at what happens. Takes less than a minute."""
    from tinypeft.commands.tour import run_tour

    run_tour(out, steps=steps, seed=seed)


@app.command()
def train(
    model: Annotated[str, typer.Option(help='"tinypeft/surnames", "tinypeft/smollm2-135m-instruct" (after `tinypeft get '
                                             'smollm2`), or a folder of a GPT-2 or Llama in Hugging Face\'s format.')],
    data: Annotated[Path, typer.Option(help='FILE.txt, one text a line; or FILE.jsonl, one {"text": ...} or {"prompt": ..., '
                                            '"completion": ...} a line. Of these only the completion is learned.')],
    out: Annotated[Path, typer.Option(help="New folder for the result.")],
    method: Annotated[str, typer.Option(help='"lora"; "qlora", with the base in 4 bits (NF4); or "full", which trains all '
                                             'weights, to compare with.')] = "lora",
    r: Annotated[int, typer.Option(help="Rank.", rich_help_panel=LORA)] = 8,
    lora_alpha: Annotated[float, typer.Option(help="The update is scaled by lora_alpha / r.", rich_help_panel=LORA)] = 16,
    lora_dropout: Annotated[float, typer.Option(help="Dropout on the input of A.", rich_help_panel=LORA)] = 0.0,
    target_modules: Annotated[str, typer.Option(help='"all-linear", names as in "q_proj,v_proj", or a regular expression.',
                                                rich_help_panel=LORA)] = "all-linear",
    num_train_epochs: Annotated[float, typer.Option(help="How often each row is seen.", rich_help_panel=TRAINING)] = 3.0,
    max_steps: Annotated[int | None, typer.Option(help="Stop after so many updates, whatever the epochs.",
                                                  rich_help_panel=TRAINING)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Default: by the model\'s width, 10 times higher for LoRA.",
                                                        rich_help_panel=TRAINING)] = None,
    batch_size: Annotated[int, typer.Option(help="Rows in one forward pass.", rich_help_panel=TRAINING)] = 8,
    gradient_accumulation_steps: Annotated[int, typer.Option(help="Forward passes in one update.",
                                                             rich_help_panel=TRAINING)] = 1,
    lr_scheduler_type: Annotated[str, typer.Option(help="cosine, linear, constant or constant_with_warmup.",
                                                   rich_help_panel=TRAINING)] = "cosine",
    warmup_steps: Annotated[int | None, typer.Option(help="Default: a twentieth of all.", rich_help_panel=TRAINING)] = None,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.", rich_help_panel=TRAINING)] = 0.0,
    max_grad_norm: Annotated[float, typer.Option(help="Larger gradients are scaled down to it; 0 for never.",
                                                 rich_help_panel=TRAINING)] = 1.0,
    dtype: Annotated[str, typer.Option(help="float32 or float64.", rich_help_panel=TRAINING)] = "float32",
    seed: Annotated[int, typer.Option(help="Equal seeds give equal results.", rich_help_panel=TRAINING)] = 0,
    validation_fraction: Annotated[float, typer.Option(help="Share of the rows that is not trained on.",
                                                       rich_help_panel=DATA)] = 0.1,
    max_length: Annotated[int | None, typer.Option(help="Most tokens in a row. Default: the model\'s positions.",
                                                   rich_help_panel=DATA)] = None,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut longer rows, instead of refusing them.",
                                           rich_help_panel=DATA)] = False,
    eval_steps: Annotated[int | None, typer.Option(help="Evaluate every so many updates. Default: five times in all.",
                                                   rich_help_panel=PROGRESS)] = None,
    save_steps: Annotated[int | None, typer.Option(help="Write a checkpoint every so many updates (the last two are kept). "
                                                        "Default: five times in all.", rich_help_panel=PROGRESS)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on exactly where the latest checkpoint in --out stands; give "
                                                          "the same options.", rich_help_panel=PROGRESS)] = False,
    prompt: Annotated[str | None, typer.Option(help="Text for the model to go on with at the end. Default: from validation "
                                                    "rows.", rich_help_panel=PROGRESS)] = None,
) -> None:
    """Adapt a model to texts of your own, and save an adapter that Hugging Face PEFT loads too."""
    options = dict(locals())  # all of the above, under their names
    from tinypeft.commands.train import run_train

    run_train(**options)


@app.command()
def compare(
    task: Annotated[str, typer.Option(help='"surnames-pl": from US to Polish surnames; or the code of another country.')] =
    "surnames-pl",
    methods: Annotated[str | None, typer.Option(help='Only these, as in "LoRA,IA3". Default: all.')] = None,
    steps: Annotated[int, typer.Option(help="Updates in each training run, of which a method has five and more.")] = 200,
    seeds: Annotated[int, typer.Option(help="How many times each method is trained at the learning rate chosen for it.")] = 3,
    out: Annotated[Path | None, typer.Option(help="FILE.json for all that was measured. The same command goes on with such a "
                                                  "file, and does not measure again what is in it.")] = None,
    output_format: Annotated[str, typer.Option("--format", help="table, markdown or json.")] = "table",
    intrinsic: Annotated[bool, typer.Option("--intrinsic", help="Measure instead how many dimensions the task has: the "
                                                                "smallest subspace that reaches 90% of full fine-tuning's "
                                                                "gain.")] = False,
) -> None:
    """Measure every method on the same real task: what it learns, what it forgets, what it costs. Takes about 20 minutes."""
    from tinypeft.commands.compare import run_compare

    run_compare(task=task, methods=methods, steps=steps, seeds=seeds, out=out, output_format=output_format, intrinsic=intrinsic)


@app.command()
def get(name: Annotated[str, typer.Argument(help="smollm2: a language model of 135 million weights, 93 MB.")]) -> None:
    """Install a real language model, too large to come with the library, and see that it works."""
    from tinypeft.commands.get import run_get

    run_get(name)


@app.command("quant-table")
def quant_table(blocksize: Annotated[int, typer.Option(help="Numbers that share a maximum.")] = 64, seed: Seed = 0,
                output_format: Annotated[str, typer.Option("--format", help="table, markdown or json.")] = "table") -> None:
    """Measure what each codebook costs and loses: NF4, FP4, int4, equal mass, Lloyd-Max, 8 bits. Takes about ten seconds."""
    from tinypeft.commands.quant_table import run_quant_table

    run_quant_table(blocksize=blocksize, seed=seed, output_format=output_format)


@app.command()
def qlora(
    out: Output = Path("tinypeft-qlora"),
    seeds: Annotated[int, typer.Option(help="How many adapters are trained, with seeds 0, 1, ...")] = 2,
    steps: Annotated[int, typer.Option(help="Updates in each training run.")] = 30,
    learning_rate: Annotated[float, typer.Option(help="The highest of a cosine schedule.")] = 2e-3,
    prompts: Annotated[int, typer.Option(help="Held-out functions that are asked for.")] = 100,
    costs: Annotated[bool, typer.Option(help="Measure what NF4 costs in accuracy, and a step in memory.")] = True,
) -> None:
    """Teach a real language model in four bits to answer in a fixed form: QLoRA. Takes about 20 minutes on one core.

    The model comes with `tinypeft get smollm2`. Its task: for a function of Python's standard library, a card in JSON.
    """
    from tinypeft.commands.qlora import run_qlora

    run_qlora(out, seeds=seeds, steps=steps, learning_rate=learning_rate, prompts=prompts, costs=costs)


@app.command()
def check(
    claims: Annotated[list[str] | None, typer.Argument(help="Claims to show in full, such as b-print-trainable. Default: a "
                                                            "table of all.")] = None,
    verdict: Annotated[str | None, typer.Option(help="Only: confirmed, confirmed-rounded, corrected, depends, not-reproducible "
                                                     "or meaningless.")] = None,
    source: Annotated[str | None, typer.Option(help="Only this document: 000, 001, 002 or 003.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only: parameter-count, memory, property, shape, formula, statement, table, "
                                                  "code-output or quiz.")] = None,
    slow: Annotated[bool, typer.Option("--slow", help="Recompute those too that take long; else as recorded.")] = False,
    output_format: Annotated[str, typer.Option("--format", help="table, markdown, json or html.")] = "table",
    out: Annotated[Path | None, typer.Option(help="FILE to write to, instead of the terminal.")] = None,
) -> None:
    """Recompute what four documents claim about PEFT, and say what is right, wrong, or empty. Takes less than a minute.

    confirmed: the computed value equals the stated one. confirmed-rounded: it rounds to the stated digits, or is as near as the
    text's own "about" allows. corrected: it is another value. depends: true under some conditions that the text leaves open,
    not under others. not-reproducible: no reading gives the number, or its source is missing. meaningless: nothing is stated
    that could be true or false.
    """
    from tinypeft.commands.check import run_check

    run_check(claims or [], verdict=verdict, source=source, kind=kind, slow=slow, output_format=output_format, out=out)


@app.command()
def example(
    name: Annotated[str | None, typer.Argument(help="Which one, such as lora-forward. Default: a list of all.")] = None,
    step: Annotated[bool, typer.Option("--step", help="One step at a time: each waits for a guess, Enter, or q.")] = False,
    output_format: Annotated[str, typer.Option("--format", help="table, markdown or json.")] = "table",
    plot: Annotated[Path | None, typer.Option(help="FILE.png for the figure of lora-forward or qlora-budget.")] = None,
) -> None:
    """Compute the worked examples of the documents step by step, and mark where a document goes wrong."""
    from tinypeft.commands.example import run_example

    run_example(name, output_format=output_format, step=step, plot=plot)


@app.command()
def plan(
    gpu: Annotated[str, typer.Option(help='Memory of one card: "24GB" is 24e9 bytes, "24GiB" is 24 * 2^30.')],
    model: Annotated[str | None, typer.Option(help='Such as "llama-2-70b", a name on the hub, or a folder with a config.json. '
                                                   "An unknown name lists those that are known. Without it: the largest model "
                                                   "that fits.")] = None,
    tasks: Annotated[int, typer.Option(help="How many tasks are to be served, each with an adapter of its own.")] = 1,
    gpus: Annotated[int, typer.Option(help="Cards, among which weights, gradients and optimizer states are sharded.")] = 1,
    method: Annotated[str | None, typer.Option(help='Only these, as in "lora,qlora": full, lora, qlora, dora, adalora, vera, '
                                                "ulora, ia3, houlsby, pfeiffer, parallel, prefix, prompt, bitfit, norms. "
                                                "Default: all.")] = None,
    rank: Annotated[int | None, typer.Option(help="Instead of each method's usual one.", rich_help_panel=SIZE)] = None,
    virtual_tokens: Annotated[int | None, typer.Option(help="Likewise, of soft prompts.", rich_help_panel=SIZE)] = None,
    bottleneck: Annotated[int | None, typer.Option(help="Likewise, the width of adapters.", rich_help_panel=SIZE)] = None,
    target_modules: Annotated[str, typer.Option(help="Of methods that have a rank; as in `tinypeft train`.",
                                                rich_help_panel=SIZE)] = "all-linear",
    trainable_max: Annotated[str | None, typer.Option(help='Most parameters to train: "100M", or "0.5%" of the model\'s.',
                                                      rich_help_panel=SIZE)] = None,
    tokens: Annotated[int | None, typer.Option(help="In each row. Default: 2,048, or all positions of the model.",
                                               rich_help_panel=TRAINING)] = None,
    batch: Annotated[int, typer.Option(help="Rows in one forward pass, on each card.", rich_help_panel=TRAINING)] = 1,
    optimizer: Annotated[str, typer.Option(help="adamw, adamw_8bit, paged_adamw_8bit, sgd, sgd_momentum or adafactor.",
                                           rich_help_panel=TRAINING)] = "adamw",
    dtype: Annotated[str, typer.Option(help="Of a base that is not quantized.", rich_help_panel=TRAINING)] = "bfloat16",
    adapter_dtype: Annotated[str, typer.Option(help="Of adapters.", rich_help_panel=TRAINING)] = "float32",
    quantization: Annotated[str | None, typer.Option(help="nf4, fp4 or int8: how the base of every adapter but QLoRA's is "
                                                          "stored, which is in NF4 always. Default: as --dtype says.",
                                                     rich_help_panel=TRAINING)] = None,
    prepared: Annotated[bool, typer.Option("--prepared", help="A quantized base goes through prepare_model_for_kbit_training: "
                                                              "its embeddings and head in float32.",
                                           rich_help_panel=TRAINING)] = False,
    checkpointing: Annotated[bool, typer.Option(help="Compute activations again instead of keeping them.",
                                                rich_help_panel=TRAINING)] = True,
    attention: Annotated[str, typer.Option(help="sdpa or eager.", rich_help_panel=TRAINING)] = "sdpa",
    engine: Annotated[str, typer.Option(help="torch or tinypeft.", rich_help_panel=TRAINING)] = "torch",
    margin: Annotated[str, typer.Option(help="Share of the memory to be kept free.", rich_help_panel=TRAINING)] = "5%",
    latency_critical: Annotated[bool, typer.Option("--latency-critical", help="Nothing may be added to a forward pass.",
                                                   rich_help_panel=SERVING)] = False,
    switching: Annotated[str | None, typer.Option(help="When the task changes: never, between requests (requests), or from row "
                                                       "to row of a batch (batch). Default: requests, if there are several.",
                                                  rich_help_panel=SERVING)] = None,
    storage: Annotated[str | None, typer.Option(help='Most that all tasks may take together, as in "2GB".',
                                                rich_help_panel=SERVING)] = None,
    keep_base: Annotated[bool, typer.Option("--keep-base", help="The base's own abilities must stay available.",
                                            rich_help_panel=SERVING)] = False,
    examples: Annotated[int | None, typer.Option(help="How many there are to train with.", rich_help_panel=SERVING)] = None,
    output_format: Annotated[str, typer.Option("--format", help="table, markdown or json.")] = "table",
    plot: Annotated[Path | None, typer.Option(help="FILE.png for a picture of the memory that each method takes.")] = None,
) -> None:
    """Plan a fine-tuning: which methods fit a card, how large, what they cost, and why the others do not fit."""
    options = dict(locals())
    from tinypeft.commands.plan import run_plan

    run_plan(**options)


@app.command()
def quiz(
    topic: Annotated[str | None, typer.Argument(help="A topic, a method, an objective (1 to 5), or a family; see --list.")] =
    None,
    seed: Annotated[int | None, typer.Option(help="Equal seeds ask the same. Default: a new one, which is printed.")] = None,
    count: Annotated[int, typer.Option(help="How many questions, if there are as many.")] = 10,
    figures: Annotated[Path | None, typer.Option(help="Folder for the figures, as PNG files; else they are described.")] =
    None,
    listing: Annotated[bool, typer.Option("--list", help="List what there is, instead of asking.")] = False,
) -> None:
    """Answer questions on everything that the course is about, with an explanation of each answer, right or wrong."""
    from tinypeft.commands.quiz import run_quiz

    run_quiz(topic=topic, seed=seed, count=count, figures=figures, listing=listing)


@app.command()
def practice(
    topic: Annotated[str | None, typer.Argument(help="Only questions of this topic, such as lora, memory or proof.")] = None,
    seed: Annotated[int | None, typer.Option(help="Equal seeds ask the same. Default: a new one, which is printed.")] = None,
    count: Annotated[int, typer.Option(help="How many questions.")] = 5,
    kind: Annotated[str | None, typer.Option(help='Only these kinds, as in "lora-matrix,kv-cache".')] = None,
    tries: Annotated[int, typer.Option(help="Wrong answers that a question may have before its solution is shown.")] = 1,
    list_kinds: Annotated[bool, typer.Option("--list", help="Show what can be practised.")] = False,
) -> None:
    """Practise with questions whose numbers are new each time; wrong answers are told what went wrong."""
    from tinypeft.commands.practice import run_practice

    run_practice(topic=topic, seed=seed, count=count, kinds=kind, tries=tries, list_only=list_kinds)


app.add_typer(course_menu)  # start, list, test, watch, hint, reset, solution, doctor
app.add_typer(instructor_menu)  # what graders are graded and classes are graded with


def _version(show: bool) -> None:
    if show:
        print(f"tinypeft {tinypeft.__version__}")
        raise typer.Exit


@app.callback()
def _options(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True,
                                                   help="Print the version.")] = False) -> None: ...


def main() -> None:
    """Run the command line; an error that a user can mend is a sentence, not a traceback."""
    warnings.formatwarning = lambda message, *_, **__: f"tinypeft: {message}\n"
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError, RuntimeError, FloatingPointError) as error:
        print(f"tinypeft: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
