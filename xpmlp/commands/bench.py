"""``xpmlp bench``: the same work for xpmlp and its peers, timed in turn."""

from typing import Any

import click

from xpmlp.commands._choices import Choice
from xpmlp.commands.train import widths
from xpmlp.errors import ConfigError


def names(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Return names separated by commas."""
    return None if value is None else tuple(name for name in value.split(",") if name)


def counts(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Return whole numbers of at least 1, separated by commas."""
    found = widths(context, parameter, value)
    if min(found) < 1:
        raise ConfigError(f"{parameter.opts[0]} {value}: expected whole numbers of at least 1")
    return found


def counts_or_none(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...]:
    """Return the same, or an empty tuple."""
    return () if value is None else counts(context, parameter, value)


@click.command()
@click.option("--data-dir", type=click.Path(), help="The folder of MNIST. [XPMLP_DATA, then the user's cache]")
@click.option("--hidden", callback=counts, default="256,128", show_default=True, help="Widths of the hidden layers.")
@click.option("--batch-size", callback=counts, default="128,1024", show_default=True, help="Batch sizes, with commas.")
@click.option(
    "--backend", callback=names, default="numpy", show_default=True, help="Of xpmlp: numpy, torch, jax, cupy."
)
@click.option("--peers", callback=names, help="Other libraries, with commas, or none. [all installed]")
@click.option("--threads", callback=counts_or_none, help="Also run NumPy with these numbers of BLAS threads: 1,2.")
@click.option("--neighbours", type=click.IntRange(0), default=0, help="Also run beside this many busy processes. [0]")
@click.option("--optimizer", type=Choice(["adam", "sgd"]), default="adam", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Runs of each.")
@click.option("--epochs", type=click.IntRange(1), default=3, show_default=True, help="Steady epochs per run.")
@click.option("--cold/--no-cold", default=True, help="Also a cold start, to 98 % test accuracy. [--cold]")
@click.option("--out", type=click.Path(), default="benchmark", show_default=True, help="The folder for the results.")
def bench(**options: Any) -> None:
    """Time xpmlp and other libraries on MNIST.

    Measures an epoch, a cold start and the memory of xpmlp, PyTorch, JAX, Keras, scikit-learn and Thinc. Each runs in
    its own process, in turn, in float32. Writes results.jsonl as results arrive, then bench.json and bench.png.
    """
    from xpmlp.commands._benchmark import run

    run(options)
