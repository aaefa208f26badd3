"""``xpmlp train``: train a model on a data set, and draw its curves."""

import dataclasses
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from xpmlp.training.config import TrainConfig


def widths(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Return whole numbers separated by commas."""
    try:
        return tuple(int(width) for width in value.split(","))
    except ValueError:
        example = parameter.default if isinstance(parameter.default, str) else "1,2"
        problem = f"{value!r}: expected whole numbers with commas between them, such as {example}"
        raise click.BadParameter(problem) from None


def flag(name: str) -> str:
    """Return a setting's name as a command-line flag."""
    return f"--{name.replace('_', '-')}"


def as_flags(message: str) -> str:
    """Return a message with settings' names as flags: names that are not words, and one at the start."""
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    for pattern in (
        rf"\b({'|'.join(name for name in names if '_' in name)})\b",
        rf"^({'|'.join(names)})\b(?= \S+(:| with)| is for| and )",
    ):
        message = re.sub(pattern, lambda found: flag(found[1]), message)
    return message


def settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option to a command for each field of `TrainConfig`."""
    kinds = typing.get_type_hints(TrainConfig)
    for field in reversed(dataclasses.fields(TrainConfig)):
        kind, name = kinds[field.name], flag(field.name)
        options: dict[str, Any] = {"default": field.default, "help": field.metadata["about"]}
        if otherwise := field.metadata["otherwise"]:
            options["help"] += f" [{otherwise}]"
        else:
            options["show_default"] = True
        if typing.get_args(kind) == (int, ...):
            options |= {"callback": widths, "default": ",".join(map(str, field.default))}
        elif bool in typing.get_args(kind):
            name += f"/--no-{name[2:]}"
        else:
            kinds_of_numbers = {*typing.get_args(kind), kind} & {int, float}
            options["type"] = float if float in kinds_of_numbers else int if int in kinds_of_numbers else str
        command = click.option(name, **options)(command)
    return command


class _Threads(click.ParamType):  # type: ignore[type-arg]  # generic only in newer versions
    """A number of threads, or auto, which is None."""

    name = "N|auto"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int | None:
        if value == "auto":
            return None
        if str(value).isdecimal() and 1 <= int(value) <= 1024:
            return int(value)
        return self.fail(f"{value!r}: expected a number from 1 to 1024, or auto", parameter, context)


class _Seeds(click.ParamType):  # type: ignore[type-arg]
    """Whole numbers and ranges of them, separated by commas."""

    name = "0-9"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> list[int]:
        found = re.fullmatch(r"\d{1,18}(-\d{1,18})?(,\d{1,18}(-\d{1,18})?)*", str(value))
        seeds: list[int] = []
        for part in str(value).split(",") if found else ():
            first, _, last = part.partition("-")
            if int(last or first) - int(first) >= 1000:
                self.fail(f"{part}: expected at most 1000 seeds", parameter, context)
            seeds += range(int(first), int(last or first) + 1)
        if not seeds or len(set(seeds)) < len(seeds):
            self.fail(f"{value!r}: expected seeds such as 0-9 or 1,5,7, each once", parameter, context)
        return seeds


@click.command()
@click.option("--backend", default="auto", show_default=True, help="numpy, cupy, torch, jax, … and a device: cupy:1.")
@click.option(
    "--dataset", default="auto", show_default=True, help="A published set, digits, a path or auto: docs/data.md."
)
@click.option("--label-column", metavar="COLUMN", help="The label's column in a table: name, number, first or last.")
@click.option("--shape", metavar="SHAPE", help="Size of images: HxW, HxWx3 in colour; none: a table of features.")
@click.option("--data-dir", type=click.Path(), help="The only folder to look in. [XPMLP_DATA, then the user's cache]")
@click.option(
    "--recipe",
    default="default",
    show_default=True,
    help="Settings for a purpose: quick (98 % on MNIST in seconds), best (minutes), record (GPU) or default. Your "
    "options win.",
)
@settings
@click.option(
    "--precision", default="float32", show_default=True, help="Precision of products: float32, or tf32 on GPUs."
)
@click.option(
    "--threads",
    type=_Threads(),
    metavar="N|auto",
    help="Threads of NumPy's BLAS library: a number, or auto: by measurement, unless OPENBLAS_NUM_THREADS or the like "
    "is set. [auto]",
)
@click.option(
    "--distributed",
    default="auto",
    show_default=True,
    help="Under mpiexec, train one model on all processes: auto or mpi (required); off: each trains its own.",
)
@click.option(
    "--seeds",
    type=_Seeds(),
    metavar="0-9",
    help="Train once per seed, such as 0-9 or 1,5,7. Leaves a run per seed, their mean and spread.",
)
@click.option("--resume", type=click.Path(), metavar="RUN", help="Continue the run in this folder.")
@click.option("--checkpoint-steps", type=click.IntRange(1), help="Also write a checkpoint every N steps.")
@click.option("--keep", type=click.IntRange(1), help="Number of checkpoints to keep. [2]")
@click.option("--out", type=click.Path(), help="The run's folder, new or empty. [runs/<time>-<dataset>-<backend>]")
@click.option("--plot/--no-plot", default=True, help="Draw history.png. [--plot]")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.pass_context
def train(context: click.Context, /, **options: Any) -> None:
    """Train a multilayer perceptron.

    The run's folder gets the model, its curves (history.png), metrics, a summary and the settings. Each epoch ends with
    a checkpoint; so do Ctrl-C, SIGTERM and SIGUSR1. --resume continues from it, exactly on NumPy with a fixed number of
    --threads. Under `mpiexec -n 4`, four processes train one model.
    """
    from xpmlp.commands._run import run  # this imports NumPy and the rest, which --help does not need

    given = {name for name in options if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT}
    seeds, resume = options.pop("seeds"), options["resume"]
    if seeds is None and (resume is None or not Path(resume, "seeds.json").is_file()):
        run(given=given, **options)
        return
    from xpmlp.commands._seeds import resume_seeds, run_seeds

    if resume is None:
        run_seeds(seeds, given=given - {"seeds"}, **options)
    elif seeds is not None:
        raise click.UsageError(f"--seeds with --resume {resume}: resumed runs have their seeds; leave them out")
    else:
        resume_seeds(Path(resume), given=given - {"resume"}, **options)
