"""The numbers of classes, by their names."""

from collections.abc import Callable, Sequence

import numpy as np

from xpmlp.errors import DataError


def numbers_of(
    names: Sequence[str], classes: Sequence[str], problem: Callable[[str], str] = "unknown class {}".format
) -> np.ndarray:
    """Return the place of each name among the classes, (n,) of int32.

    Raises
    ------
    DataError
        If a name is not among them: `problem` says it of the first such name.
    """
    number = {name: k for k, name in enumerate(classes)}
    unknown = next((name for name in names if name not in number), None)
    if unknown is not None:
        raise DataError(problem(unknown))
    return np.array([number[name] for name in names], np.int32)
