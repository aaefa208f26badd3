"""``xpmlp bench``: the same work for xpmlp and its peers, timed in turn."""

from typing import Any

import click
from click.core import ParameterSource

from xpmlp.commands.train import widths
from xpmlp.errors import ConfigError


def names(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Return names that stand with commas between them."""
    return None if value is None else tuple(name for name in value.split(",") if name)


def counts(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Return whole numbers that stand with commas between them, where there are any."""
    return None if value is None else widths(context, parameter, value)


@click.command()
@click.option("--data-dir", type=click.Path(), help="The folder of MNIST. [XPMLP_DATA, then the user's cache]")
@click.option("--hidden", callback=widths, default="256,128", show_default=True, help="Widths of the hidden layers.")
@click.option("--batch-size", callback=widths, default="128,1024", show_default=True, help="Sizes, with commas.")
@click.option("--backend", callback=names, default="numpy", show_default=True, help="Of ours: numpy, torch, jax, cupy.")
@click.option("--peers", callback=names, help="Which, with commas; none for no peer. [all that are installed]")
@click.option("--optimizer", type=click.Choice(["adam", "sgd"]), default="adam", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Turns of each.")
@click.option("--epochs", type=click.IntRange(1), default=3, show_default=True, help="Steady epochs a turn.")
@click.option("--cold/--no-cold", default=True, help="Also a cold start, to 98 % test accuracy. [--cold]")
@click.option("--ranks", callback=counts, help="Time these numbers of ranks instead, with commas: 1,2,4.")
@click.option("--launcher", default="mpiexec", show_default=True, help="What starts them, with options of its own.")
@click.option("--out", type=click.Path(), default="benchmark", show_default=True, help="The folder for the results.")
@click.pass_context
def bench(context: click.Context, /, **values: Any) -> None:
    """Time an epoch, a cold start and the memory of xpmlp, PyTorch, JAX, Keras, scikit-learn and Thinc on MNIST.

    Each runs in a process of its own, in turn, in float32; medians count. Writes results.jsonl as they come, bench.json
    and bench.png. With --ranks, xpmlp alone: strong and weak scaling over processes, the sums between them, and what
    that predicts for more of them and other links, in ranks.jsonl, ranks.json and ranks.png.
    """
    from xpmlp.commands import _benchmark, _ranks

    options = _benchmark.Options(**values)
    given = {name for name in values if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if options.ranks is None and "launcher" in given:
        missing = "--ranks, which are missing: add them, as --ranks 1,2,4"
        raise ConfigError(f"--launcher {options.launcher} starts {missing}")
    if options.ranks is None:
        _benchmark.run(options)
        return
    for name, flag in {"cold": "--cold" if options.cold else "--no-cold", "peers": "--peers"}.items():
        if name in given:
            raise ConfigError(f"{flag} is not for --ranks, which times xpmlp alone: leave one of them out")
    _ranks.run(options, options.ranks)
