"""``xpmlp compare``: several runs beside each other."""

import click


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path())
@click.option("--out", type=click.Path(), default="comparison.png", show_default=True, help="The picture, made anew.")
@click.option("--plot/--no-plot", default=True, help="Draw the picture. [--plot]")
def compare(runs: tuple[str, ...], out: str, plot: bool) -> None:
    """Compare runs: a table of their summaries and of the settings in which they differ, and a graph of their curves.

    A run that is not finished is compared as far as it is.
    """
    from xpmlp.commands._comparison import run

    run(runs, out, plot)
