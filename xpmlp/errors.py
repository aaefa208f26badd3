"""The errors that a user can cause; each message is one line."""


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
