"""``xpmlp data``: show a data set in figures and a picture."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from xpmlp.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from xpmlp.data import Dataset

DEFORMATIONS = 9  # deformations drawn per image


@click.command()
@click.argument("dataset", default="auto")
@click.option("--data-dir", type=click.Path(), help="The only folder to look in. [XPMLP_DATA, then the user's cache]")
@click.option("--label-column", metavar="COLUMN", help="The label's column in a table: name, number, first or last.")
@click.option("--shape", metavar="SHAPE", help="Size of images: HxW, HxWx3 in colour; none: a table of features.")
@click.option("--out", type=click.Path(), default="samples.png", show_default=True, help="The picture; overwritten.")
@click.option("--deform", type=float, default=0.0, help="Also draw deformed.png: images as --deform distorts them. [0]")
def data(
    dataset: str, data_dir: str | None, label_column: str | None, shape: str | None, out: str, deform: float
) -> None:
    """Show a data set in figures and a picture.

    DATASET is a published set such as mnist, digits, a path or auto. Prints counts per class, shapes, ranges, SHA-256
    sums and where the files are. Draws the first images of each class.
    """
    import numpy as np

    from xpmlp.commands._progress import make_download_progress, say
    from xpmlp.data import load_dataset
    from xpmlp.data.dataset import described
    from xpmlp.data.idx import sum_of_contents
    from xpmlp.models.drawing import plot_samples
    from xpmlp.training.config import TrainConfig

    if not out or Path(out).is_dir():
        raise ConfigError(f"--out {out!r} is not a file name: expected one, such as samples.png")
    path = Path(out).with_name("deformed.png")
    if deform and Path(out) == path:
        raise ConfigError(f"--out {out}: --deform draws its own picture there; name another file")
    TrainConfig(deform=deform)  # refuses an invalid strength
    loaded = load_dataset(dataset, data_dir, progress=make_download_progress(), label_column=label_column, shape=shape)
    say("data", loaded.name + (f", since {loaded.note}" if loaded.note else ""))
    if loaded.about:
        say("format", loaded.about)
    if loaded.warning:
        say("warning", loaded.warning)
    parts = {"training": loaded.train, "test": loaded.test}
    for name, part in parts.items():
        say(name, f"{len(part):,} {described(part.image_shape)}, {part.provenance}")
        low, high, mean = part.images.min(), part.images.max(), part.images.mean()
        say("", f"values {low:g} to {high:g}, mean {mean:.1f}; {_scaled(part)}")
        say("", f"images sha256 {part.images_sum}")
        say("", f"labels sha256 {sum_of_contents(part.labels)}")
    counts = [np.bincount(part.labels, minlength=len(part.class_names)) for part in parts.values()]
    wide = max(len("class"), *map(len, loaded.train.class_names))
    click.echo(f"{'class':<{wide}}  {'training':>9}  {'test':>9}")
    for class_name, in_training, in_test in zip(loaded.train.class_names, *counts, strict=True):
        click.echo(f"{class_name:<{wide}}  {in_training:>9,}  {in_test:>9,}")
    deformed = _deformed(loaded.train, deform) if deform else None  # refuses all but images, before a file is written
    plot_samples(loaded.train.images, loaded.train.labels, loaded.train.class_names, out, loaded.name)
    say("picture", out)
    if deformed:
        title = f"{loaded.name}: an image of each class, and {DEFORMATIONS} deformations with strength {deform:g}"
        plot_samples(*deformed, loaded.train.class_names, path, title)
        say("picture", str(path))


def _scaled(part: "Dataset") -> str:
    """Return in words how the values are scaled."""
    if part.scaling is None:
        return f"{part.max_value} counts as 1"
    if len(part.image_shape) == 1:
        return "each column is shifted and scaled to mean 0 and standard deviation 1"
    low, factor = part.scaling.shift[0], part.scaling.factor[0]
    return f"{low:g} counts as 0, {low + 1 / factor:g} as 1"


def _deformed(part: "Dataset", strength: float) -> tuple["np.ndarray", "np.ndarray"]:
    """Return the first image of each class, followed by its deformations, and their labels."""
    import numpy as np

    from xpmlp.backends import get_backend
    from xpmlp.data.deformation import Deformation

    labels, first = np.unique(part.labels, return_index=True)
    labels, images = np.repeat(labels, 1 + DEFORMATIONS), np.repeat(part.images[first], 1 + DEFORMATIONS, axis=0)
    n, given = len(images), dataclasses.replace(part, images=images, labels=labels).as_inputs("float32")
    deformation = Deformation(lambda step: strength, given.image_shape, given.max_value, n, get_backend("numpy"))
    drawn = deformation(given.images.reshape(n, -1), next(deformation.epoch(0))).reshape(images.shape)
    drawn[:: 1 + DEFORMATIONS] = given.images[:: 1 + DEFORMATIONS] / given.max_value
    return drawn, labels
