"""``xpmlp evaluate``: how good a trained model is, in figures and in pictures."""

from typing import Any

import click


@click.command()
@click.argument("models", metavar="RUN_OR_MODEL...", nargs=-1, required=True)
@click.option("--dataset", help="mnist, fashion-mnist, digits or idx:FOLDER. [what the model was trained on]")
@click.option("--data-dir", type=click.Path(), help="The only folder to look in. [the run's; XPMLP_DATA; the cache]")
@click.option("--part", default="test", show_default=True, help="Of the data set: test or train.")
@click.option("--backend", default="auto", show_default=True, help="numpy, cupy, torch, jax, … and a device: cupy:1.")
@click.option("--batch-size", type=click.IntRange(1), default=1024, show_default=True, help="Images at a time.")
@click.option("--out", type=click.Path(), help="Where the files go. [the one run's folder, or model's]")
@click.option("--plot/--no-plot", default=True, help="Draw confusion.png and mistakes.png. [--plot]")
def evaluate(**options: Any) -> None:
    """Test a model: a run's folder, or the file of a model or checkpoint.

    Prints and writes loss, accuracy, calibration error, each class's precision, recall and F1, and draws the confusion
    matrix and the most confident mistakes: evaluation.json, confusion.png, mistakes.png. Of several models it gives
    each, and their vote, the mean of their probabilities; that is written where --out says, else only printed.
    """
    from xpmlp.commands._evaluation import run

    run(**options)
