"""``xpmlp export``: a model as a file for others."""

from pathlib import Path

import click

from xpmlp.errors import ConfigError


@click.command()
@click.argument("model", metavar="MODEL")
@click.argument("out", metavar="OUT", type=click.Path())
def export(model: str, out: str) -> None:
    """Write a model as OUT, whose ending says what it becomes.

    MODEL is the file of a model, or a run's folder. page.html is a page that needs nothing but a browser: one writes a
    digit and sees every array of the forward and the backward pass, with the equations' numbers.
    """
    from xpmlp.backends import own_process
    from xpmlp.commands._progress import say
    from xpmlp.models import page
    from xpmlp.models.model import load

    writers = {".html": page.write}
    write = writers.get(Path(out).suffix.lower())
    if write is None:
        raise ConfigError(f"{out}: expected a name that ends in {' or '.join(writers)}")
    if not Path(out).absolute().parent.is_dir():
        raise ConfigError(f"{out}: there is no folder {Path(out).parent}: make it, or name another")
    own_process("numpy", "float64")  # a model may be of it
    network = load(model, "numpy")
    write(network, out)
    cast = ", cast to float32" if network.theta.dtype.name == "float64" else ""
    say("written", f"{out}: {network.layout.size:,} parameters{cast}, {Path(out).stat().st_size / 1e6:.1f} MB")
