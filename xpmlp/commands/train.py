"""``xpmlp train``: from a data set's name to a trained model with its curves."""

from typing import Any

import click


def widths(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Return whole numbers that stand with commas between them."""
    try:
        return tuple(int(width) for width in value.split(","))
    except ValueError:
        example = parameter.default if isinstance(parameter.default, str) else "1,2,4"
        raise click.BadParameter(
            f"{value!r} is not whole numbers with commas between them, such as {example}"
        ) from None


@click.command()
@click.option("--backend", default="auto", show_default=True, help="numpy, cupy, torch, jax, … and a device: cupy:1.")
@click.option("--dataset", default="auto", show_default=True, help="mnist, fashion-mnist, digits, idx:FOLDER or auto.")
@click.option("--data-dir", type=click.Path(), help="The only folder to look in. [XPMLP_DATA, then the user's cache]")
@click.option(
    "--recipe",
    default="default",
    show_default=True,
    help="Settings: quick (98 % of MNIST in seconds), best (minutes), record (GPU), default. Given options beat them.",
)
@click.option("--hidden", callback=widths, default="256,128", show_default=True, help="Widths of the hidden layers.")
@click.option("--epochs", type=int, help="Passes over the training images. [5, more for small data sets]")
@click.option("--batch-size", type=int, help="Images a step. [128, or 32 below 10,000 images]")
@click.option("--optimizer", default="sgd", show_default=True, help="sgd, adam or adamw.")
@click.option("--learning-rate", type=float, help="The schedule's greatest. [what suits the optimizer]")
@click.option("--schedule", default="one-cycle", show_default=True, help="constant, cosine or one-cycle.")
@click.option("--momentum", type=float, help="For sgd. [0.9]")
@click.option("--nesterov/--no-nesterov", default=None, help="For sgd. [with momentum]")
@click.option("--weight-decay", type=float, help="[0; 0.01 for adamw]")
@click.option("--val-size", type=float, help="Held out: a count, a fraction below 1, or 0. [a sixth]")
@click.option("--center", type=float, default=0.0, help="For sgd: train as if this were subtracted of all inputs. [0]")
@click.option(
    "--deform", type=float, default=0.0, help="Deform each training image anew in every epoch: 1 is much. [0]"
)
@click.option(
    "--deform-fade",
    type=float,
    default=0.0,
    help="Over how much of the run, 0 to 1, --deform fades out at its end. [0]",
)
@click.option(
    "--dropout", type=float, default=0.0, help="Part of the hidden units that each step leaves out, in 256ths. [0]"
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything that is drawn.")
@click.option("--dtype", default="float32", show_default=True, help="float32 or float64.")
@click.option(
    "--precision", default="float32", show_default=True, help="Of float32's products: float32, or tf32 on GPUs."
)
@click.option("--target-accuracy", type=float, help="Stop after the epoch whose validation accuracy reaches it.")
@click.option("--transfer", default="auto", show_default=True, help="Images to the device: auto, resident or stream.")
@click.option(
    "--kernels", default="auto", show_default=True, help="plain: the lines as they stand; inplace; compiled; or auto."
)
@click.option(
    "--threads", type=click.IntRange(1, 1024), help="Of the BLAS library (PyTorch and JAX have their own). [its choice]"
)
@click.option(
    "--distributed",
    default="auto",
    show_default=True,
    help="One model on the processes that mpiexec has started: auto, off (each trains its own) or mpi.",
)
@click.option(
    "--average-every",
    type=int,
    default=1,
    show_default=True,
    help="Steps that each rank makes alone before an average of all, for slow links.",
)
@click.option("--resume", type=click.Path(), metavar="RUN", help="Go on with the run in that folder, where it stopped.")
@click.option("--checkpoint-steps", type=click.IntRange(1), help="Also write a checkpoint every so many steps.")
@click.option("--keep", type=click.IntRange(1), help="How many of the last checkpoints stay. [2]")
@click.option("--out", type=click.Path(), help="The run's folder, new or empty. [runs/<time>-<dataset>-<backend>]")
@click.option("--plot/--no-plot", default=True, help="Draw history.png. [--plot]")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.pass_context
def train(context: click.Context, /, **options: Any) -> None:
    """Train a multilayer perceptron, and leave a folder with its config, metrics, summary, model and curves.

    After each epoch there is a checkpoint; Ctrl-C, SIGTERM and SIGUSR1 leave one too, and --resume goes on from it
    exactly. After `mpiexec -n 4` all four processes train one model.
    """
    from xpmlp.commands._run import run  # with NumPy and the rest, which --help does without

    given = {name for name in options if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT}
    run(given=given, **options)
