"""The errors that a user can cause; each message is one line."""

from collections.abc import Iterable


class XpmlpError(Exception):
    """The base of all of them. A message names the thing, what was found, what was expected and what to do."""


class ArrayError(XpmlpError, TypeError):
    """An array of another library or dtype than the arrays it is used with."""


class ShapeError(ArrayError, ValueError):
    """An array of the right library whose shape does not fit."""


class BackendError(XpmlpError):
    """An array library or device that is unknown, cannot run here, or ran out of memory."""


class DataError(XpmlpError, ValueError):
    """A data set that is missing, damaged or unfit."""


class ConfigError(XpmlpError, ValueError):
    """A setting that is outside of its range, or contradicts another."""


class CheckpointError(XpmlpError):
    """A model, a checkpoint or a run's folder that is missing, damaged, locked or another program's."""


class ExportError(XpmlpError, ValueError):
    """A network that another program's format cannot hold, or a missing package to write it."""


class TrainingError(XpmlpError):
    """A training run that cannot continue, such as one whose loss is no longer finite."""


class CommunicationError(XpmlpError):
    """Ranks of one run that do not find each other, or do different work."""


class JoiningError(CommunicationError):
    """A problem that keeps every process of a host from finding the others; the first one reports it."""


def either(names: Iterable[str]) -> str:
    """Return names as a choice between them."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def nearest(found: object, known: Iterable[str]) -> str:
    """Return a question that offers the known name that is most like one that was found, or nothing if none is.

    A name of other numbers, such as float16 for float32, is not misspelt.
    """
    import difflib  # of an error alone

    wrong, names = str(found).lower(), {name.lower(): name for name in known}
    near = difflib.get_close_matches(wrong, names, n=1)
    is_misspelt = bool(near) and (near[0] == wrong or _letters(near[0]) != _letters(wrong))
    return f"did you mean {names[near[0]]}? " if is_misspelt else ""


def _letters(name: str) -> str:
    return "".join(sign for sign in name if not sign.isdigit())


def expected_one_of(found: object, known: Iterable[str]) -> str:
    """Return what a message says of a name that is not known: the nearest one first, then all that are."""
    names = list(known)
    return f"{nearest(found, names)}expected {either(names)}"
