"""``xpmlp predict``: what a model sees in pictures."""

import click


@click.command()
@click.argument("model", metavar="MODEL")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(readable=False))
@click.option("--top", type=click.IntRange(1), help="Give only the K most probable classes. [all]", metavar="K")
@click.option("--backend", default="auto", show_default=True, help="numpy, cupy, torch, jax, … and a device: cupy:1.")
@click.pass_context
def predict(context: click.Context, model: str, files: tuple[str, ...], top: int | None, backend: str) -> None:
    """Classify pictures (PNG, JPEG, PGM, …), all those in a folder, or the images of an IDX file.

    MODEL is the file of a model, or a run's folder. A line of JSON a picture on standard output: file, label,
    probabilities. Scans and photographs are brought to the form of MNIST's images: the paper is taken away, the ink
    fitted into the middle. One that cannot be read is a line on standard error; the rest go on, and the exit code is 1.
    """
    from xpmlp.commands._prediction import run

    if run(model, files, top, backend):
        context.exit(1)
