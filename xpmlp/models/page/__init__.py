"""Write a page that shows the derivation at work: one file with a network in it, which any browser opens.

`page.html` is the frame, `page.css` the style. The scripts `grids.js` and `ink.js` bring a drawing to the model's form.
`network.js` has the equations; the other scripts show them. All are joined unchanged into one file.
"""

import base64
import html
import json
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

from xpmlp.data.dataset import described
from xpmlp.data.preparation import FORMS
from xpmlp.errors import ConfigError
from xpmlp.storage.files import StrPath, write_whole

if TYPE_CHECKING:
    from xpmlp.models.model import Model

SCRIPTS = ("grids.js", "ink.js", "network.js", "notation.js", "maps.js", "paper.js", "page.js")
"""The scripts, in the order of their dependencies."""


def write(model: "Model", path: StrPath) -> None:
    """Write a page to draw a character on; it shows every array of the forward and the backward pass.

    The page loads nothing. Parameters in float64 are cast to float32.

    Parameters
    ----------
    model : Model
        A model of handwriting, since the page prepares drawings as `xpmlp predict` does.
    path : path
        The file: it is written whole, or not at all.

    Raises
    ------
    ConfigError
        If the model was trained on anything else.
    """
    _require_characters(model)
    write_whole(path, make_page(model).encode())


def make_page(model: "Model") -> str:
    """Return the page as text."""
    theta = model.backend.to_numpy(model.theta)
    sizes, form = "-".join(map(str, model.layout.sizes)), FORMS[model.preparation]
    described = {
        "sizes": model.layout.sizes,
        "shape": model.image_shape,
        "maxValue": model.max_value,
        "form": {"box": form.box, "byMass": form.by_mass},
        "classNames": model.class_names,
        "dataset": model.dataset,
        "dtype": theta.dtype.name,
    }
    return Template(_read("page.html")).substitute(
        title=html.escape(f"{sizes}, {model.dataset}"),
        style=_read("page.css"),
        script="\n".join(map(_read, SCRIPTS)),
        model=json.dumps(described).replace("<", "\\u003c"),  # a class name must not end the script
        parameters=base64.b64encode(theta.astype("<f4").tobytes()).decode(),
    )


def _require_characters(model: "Model") -> None:
    """Refuse a model of anything but grey pictures of single characters: the page can prepare nothing else."""
    expected = "a page is made of a model of handwriting, such as MNIST's, of grey bytes"
    found = None
    if len(model.image_shape) != 2:
        found = described(model.image_shape)
    elif model.preparation not in FORMS:
        found = f"pictures prepared {model.preparation}"
    elif model.scaling:
        found = "scaled floats"
    if found:
        raise ConfigError(f"the model, of {model.dataset}, takes {found}: {expected}")


def _read(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")
