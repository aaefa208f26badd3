"""``xpmlp export``: a trained model as a file for other programs."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from xpmlp.errors import ConfigError

if TYPE_CHECKING:
    from xpmlp.models.model import Model


def _onnx(model: "Model", path: Path) -> None:
    model.to_onnx(path)


FORMS: dict[str, Callable[["Model", Path], None]] = {".onnx": _onnx}
"""By a file's ending, what writes a model to it."""


@click.command()
@click.argument("model", metavar="RUN_OR_MODEL")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
def export(model: str, file: Path) -> None:
    """Write a trained model for other programs: FILE.onnx.

    RUN_OR_MODEL is a run's folder, or the file of a model. An ONNX file (opset 17) takes the data set's own numbers,
    any number of samples at a time, and gives label, name and probabilities: docs/export.md has how it is run. For
    it, pip install 'xpmlp[export]'.
    """
    endings = " or ".join(FORMS)
    if file.is_dir():
        raise ConfigError(f"{file} is a folder: expected the name of a file that ends in {endings}")
    if file.suffix.lower() not in FORMS:
        found = f"ends in {file.suffix}" if file.suffix else "has no ending"
        raise ConfigError(f"{file} {found}: expected the name of a file that ends in {endings}")

    from xpmlp.commands._progress import say
    from xpmlp.models.model import find_model, load

    path = find_model(model)
    network = load(path, "numpy")
    FORMS[file.suffix.lower()](network, file)
    widths = "-".join(map(str, network.layout.sizes))
    say("model", f"{path}: {widths} of {network.dataset}, {network.theta.dtype}")
    say("written", str(file))
