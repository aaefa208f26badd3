"""The errors that a user can cause, each with a message of one line."""


class XpmlpError(Exception):
    """The base of all of them: names the thing, what was found, what was expected and what to do."""


class ArrayError(XpmlpError, TypeError):
    """An array of another library or dtype than the ones it meets."""


class ShapeError(ArrayError, ValueError):
    """An array of the right library and of a shape that does not fit."""


class BackendError(XpmlpError):
    """An array library or device that is unknown, cannot run here, or ran out of memory."""


class DataError(XpmlpError, ValueError):
    """A data set that is missing, damaged or unfit."""


class ConfigError(XpmlpError, ValueError):
    """A setting outside its range, or one that contradicts another."""


class CheckpointError(XpmlpError):
    """A model, a checkpoint or a run's folder that is missing, damaged, locked or another program's."""


class ExportError(XpmlpError, ValueError):
    """A network that another program's form cannot hold, or a package that is missing to write it."""


class TrainingError(XpmlpError):
    """A training run that cannot go on, such as one whose loss is no longer finite."""


class CommunicationError(XpmlpError):
    """Ranks of one run that do not find each other, or that are not at the same work."""


class JoiningError(CommunicationError):
    """What keeps a process from finding the others, as it does every process of its host: the first one says it."""
