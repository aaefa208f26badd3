"""``xpmlp export``: write a trained model for other programs."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from xpmlp.errors import ConfigError

if TYPE_CHECKING:
    from xpmlp.models.model import Model


def _onnx(model: "Model", path: Path) -> None:
    model.to_onnx(path)


def _page(model: "Model", path: Path) -> None:
    from xpmlp.models import page

    page.write(model, path)


FORMS: dict[str, Callable[["Model", Path], None]] = {".onnx": _onnx, ".html": _page}
"""The writer of a model for each file ending."""


@click.command()
@click.argument("model", metavar="RUN_OR_MODEL")
@click.argument("file", metavar="FILE", type=click.Path())
def export(model: str, file: str) -> None:
    """Write a model as ONNX or as a web page.

    RUN_OR_MODEL is a run's folder, or the file of a model. FILE.onnx runs in onnxruntime and elsewhere
    (docs/export.md); it needs pip install 'xpmlp[export]'. FILE.html is a page to write a digit on; it shows every
    array of the derivation (docs/page.md).
    """
    out, problem = Path(file), ""
    if not file:
        problem = "the file to write has no name"
    elif out.is_dir():
        problem = f"{file} is a folder"
    elif out.suffix.lower() not in FORMS:
        problem = f"{file} ends in {out.suffix}" if out.suffix else f"{file} has no ending"
    if problem:
        raise ConfigError(f"{problem}: expected the name of a file that ends in {' or '.join(FORMS)}")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"{file}: there is not a folder {out.parent}: make it, or name another")

    from xpmlp.backends import own_process
    from xpmlp.commands._progress import say
    from xpmlp.models.model import find_model, load

    own_process("numpy", "float64")  # the model may be float64
    path = find_model(model)
    network = load(path, "numpy")
    FORMS[out.suffix.lower()](network, out)
    widths = "-".join(map(str, network.layout.sizes))
    say("model", f"{path}: {widths} of {network.dataset}, {network.theta.dtype}")
    say("written", f"{file}, {out.stat().st_size / 1e6:.1f} MB")
