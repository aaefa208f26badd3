"""``xpmlp bench``: the same work for xpmlp and its peers, timed in turn."""

from typing import Any

import click

from xpmlp.commands.train import widths
from xpmlp.errors import ConfigError


def names(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Return names that stand with commas between them."""
    return None if value is None else tuple(name for name in value.split(",") if name)


def counts(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Return whole numbers of at least 1 that stand with commas between them."""
    found = widths(context, parameter, value)
    if min(found) < 1:
        raise ConfigError(f"{parameter.opts[0]} {value}: expected whole numbers of at least 1")
    return found


def counts_or_none(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...]:
    """Return the same, or none."""
    return () if value is None else counts(context, parameter, value)


@click.command()
@click.option("--data-dir", type=click.Path(), help="The folder of MNIST. [XPMLP_DATA, then the user's cache]")
@click.option("--hidden", callback=counts, default="256,128", show_default=True, help="Widths of the hidden layers.")
@click.option("--batch-size", callback=counts, default="128,1024", show_default=True, help="Sizes, with commas.")
@click.option("--backend", callback=names, default="numpy", show_default=True, help="Of ours: numpy, torch, jax, cupy.")
@click.option("--peers", callback=names, help="Which, with commas; none for no peer. [all that are installed]")
@click.option("--threads", callback=counts_or_none, help="Ours on NumPy also with these numbers of BLAS threads: 1,2.")
@click.option(
    "--neighbours", type=click.IntRange(0), default=0, help="Also beside so many processes that are busy. [0]"
)
@click.option("--optimizer", type=click.Choice(["adam", "sgd"]), default="adam", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Turns of each.")
@click.option("--epochs", type=click.IntRange(1), default=3, show_default=True, help="Steady epochs a turn.")
@click.option("--cold/--no-cold", default=True, help="Also a cold start, to 98 % test accuracy. [--cold]")
@click.option("--out", type=click.Path(), default="benchmark", show_default=True, help="The folder for the results.")
def bench(**options: Any) -> None:
    """Time an epoch, a cold start and the memory of xpmlp, PyTorch, JAX, Keras, scikit-learn and Thinc on MNIST.

    Each runs in a process of its own, in turn, in float32; medians count. Writes results.jsonl as they come, bench.json
    and bench.png.
    """
    from xpmlp.commands._benchmark import run

    run(options)
