"""A run's folder: its name, its files, and how an interrupted run finds them."""

import contextlib
import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xpmlp.errors import CheckpointError, ConfigError
from xpmlp.models.model import (
    CHECKPOINTS,
    FILE,
    ModelInfo,
    describe,
    from_tensors,
    list_checkpoints,
    require_tensors,
    to_tensors,
    write_model,
)
from xpmlp.storage import tensors
from xpmlp.storage.files import PART, FolderLock, flush, flush_folder, naming, write_whole
from xpmlp.training.config import TrainConfig
from xpmlp.training.records import Checkpoint, EpochMetrics

_DESCRIBED: dict[str, Callable[[Any], Any]] = {"step": int, "generator": dict, "epoch_seconds": float, "seconds": float}
"""The fields that a checkpoint's description holds unchanged."""


class RunFolder:
    """The folder of one training run; it is on the disk from `create` on.

    ``config.json``: every setting, resolved. ``checkpoints/``: states to resume from. ``metrics.jsonl``: one line per
    epoch. ``threads.jsonl``: each change of the BLAS threads. ``summary.json``: the results. ``model.safetensors``: the
    last epoch's parameters. ``history.png``: the curves. The folder is locked from `create` or `reopen` to `close`, or
    until the process ends.
    """

    def __init__(self, path: str | os.PathLike[str], *, is_default: bool = False) -> None:
        if not os.fspath(path):
            raise ConfigError("the run's folder has no name: give one, or leave it to the default")
        self._prepare(path, is_default)
        if self.path.exists() and not is_default:
            if not self.path.is_dir():
                raise ConfigError(f"{self.path} is a file: expected a folder for the run; name another")
            self._require_empty()
        existing = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise ConfigError(
                f"{self.path} cannot be made: {existing} is not a folder that can be written; name another"
            )

    def _prepare(self, path: str | os.PathLike[str], is_default: bool = False) -> None:
        self.path, self.is_default = Path(path), is_default
        self._made: list[Path] = []
        self._written: set[Path] = set()
        self._lock: FolderLock | None = None

    def create(self) -> None:
        """Make the folder and lock it; remove the remains of a run that was killed before it began."""
        name = self.path.name
        for attempt in itertools.count(2):
            missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            try:
                self.path.mkdir(parents=True, exist_ok=not self.is_default)
                break
            except OSError as error:
                if not (isinstance(error, FileExistsError) and self.is_default):
                    raise ConfigError(f"{self.path} cannot be made: {error.strerror}; name another") from None
                self.path = self.path.with_name(f"{name}-{attempt}")
        self._made, self._lock = missing, FolderLock(self.path)
        self._written.add(self.path / FolderLock.NAME)
        self._require_empty()  # another run may have come and gone since the last check
        self._remove_parts()

    @classmethod
    def reopen(cls, path: str | os.PathLike[str]) -> "RunFolder":
        """Return the folder of an earlier run, locked and without incomplete files of a crash."""
        folder = cls.__new__(cls)  # `__init__` checks what a new run requires
        folder._prepare(path)
        if not os.fspath(path):
            raise CheckpointError("the run's folder has no name: expected the folder of a run")
        if not folder.path.is_dir():
            found = "is a file" if folder.path.exists() else "is not there"
            raise CheckpointError(f"{path} {found}: expected the folder of a run")
        if not (folder.path / "config.json").exists():
            raise CheckpointError(f"{path} has no config.json: expected the folder of a run that has begun")
        folder._lock = FolderLock(folder.path)
        folder._remove_parts()
        return folder

    def close(self) -> None:
        """Unlock the folder."""
        if self._lock:
            self._lock.release()
            self._lock = None

    def _remove_parts(self) -> None:
        """Remove the incomplete files of a killed process; because of the lock, no process is writing them."""
        for part in (*self.path.glob(f".*{PART}"), *(self.path / CHECKPOINTS).glob(f".*{PART}")):
            part.unlink(missing_ok=True)

    def _require_empty(self) -> None:
        """Refuse a folder that holds more than the remains of a run that was killed before it began."""
        for path in self.path.iterdir():
            if path.name != FolderLock.NAME and not (path.name.startswith(".") and path.name.endswith(PART)):
                raise ConfigError(f"{self.path} is not empty: choose another folder with --out")

    def discard(self) -> None:
        """Remove the written files, and each folder that `create` made, for a run that never began."""
        for file in self._written:
            file.unlink(missing_ok=True)
        for folder in self._made:
            with contextlib.suppress(OSError):  # another run may have put its folder into runs/ meanwhile
                folder.rmdir()

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file: whole, or not at all."""
        self._written.add(self.path / name)
        text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
        write_whole(self.path / name, f"{text}\n".encode())

    def append_metrics(self, metrics: EpochMetrics) -> None:
        """Append an epoch's line to ``metrics.jsonl``; it is on the disk when this returns."""
        self._append("metrics.jsonl", _line(metrics), flush)

    def append(self, name: str, content: Mapping[str, Any]) -> None:
        """Append a line of JSON to a file; a run can lose its last lines."""
        self._append(name, f"{json.dumps(content, allow_nan=False)}\n")

    def _append(self, name: str, line: str, finish: Callable[[Any], object] = lambda file: None) -> None:
        path = self.path / name
        self._written.add(path)
        with naming(path), path.open("ab") as file:
            file.write(line.encode())
            finish(file)

    def restore_metrics(self, epochs: Iterable[EpochMetrics]) -> str:
        """Reduce ``metrics.jsonl`` to the lines of these epochs, and return what was wrong with it.

        A run that resumes from a checkpoint repeats the later epochs.
        """
        path = self.path / "metrics.jsonl"
        wanted = "".join(map(_line, epochs)).encode()
        found = path.read_bytes() if path.exists() else b""
        if found == wanted:
            return ""
        write_whole(path, wanted)
        if found and not found.endswith(b"\n"):
            return f"{path}: its last line was torn; repaired"
        if found.startswith(wanted):
            later = len(found[len(wanted) :].splitlines())
            lost = "1 epoch after the checkpoint is" if later == 1 else f"{later} epochs after the checkpoint are"
            return f"{path}: {lost} made again"
        return f"{path}: others than the checkpoint's epochs; written again from it"

    def write_checkpoint(self, checkpoint: Checkpoint, info: ModelInfo, keep: int) -> None:
        """Write a checkpoint, and remove all but the last `keep`. A checkpoint is a model too."""
        folder = self.path / CHECKPOINTS
        if not folder.exists():
            folder.mkdir()
            flush_folder(self.path)
            self._made.insert(0, folder)
        path = folder / f"step-{checkpoint.step:08}.safetensors"
        self._written.add(path)
        arrays = to_tensors(checkpoint.theta, checkpoint.layout)
        for group in ("state", "totals"):
            arrays |= {f"{group}.{name}": array for name, array in getattr(checkpoint, group).items()}
        description = {
            **describe(info, checkpoint.theta.dtype),
            "config": dataclasses.asdict(checkpoint.config),
            "epochs": [dataclasses.asdict(epoch) for epoch in checkpoint.epochs],
            **{name: getattr(checkpoint, name) for name in _DESCRIBED},
        }
        tensors.write(path, "checkpoint", arrays, description)
        for old in list_checkpoints(self.path)[:-keep]:
            old.unlink(missing_ok=True)

    @property
    def checkpoints(self) -> list[Path]:
        """The files of its checkpoints, in order."""
        return list_checkpoints(self.path)

    def write_model(self, theta: np.ndarray, info: ModelInfo) -> None:
        """Write ``model.safetensors``; see `xpmlp.models.model.write_model`."""
        self._written.add(self.path / FILE)
        write_model(self.path / FILE, theta, info)

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""
        (self.path / name).unlink(missing_ok=True)
        flush_folder(self.path)


def _read(path: Path, what: str, errors: str = "strict") -> str:
    try:
        return path.read_text(encoding="utf-8", errors=errors)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}: expected a run's {what}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Return the contents of a run's JSON file."""
    try:
        content = json.loads(_read(path, path.name))
    except ValueError as error:
        raise CheckpointError(f"{path} is no JSON ({error}): expected a run's {path.name}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}: expected a run's {path.name}, an object")
    return content


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a ``metrics.jsonl``, without an incomplete last one."""
    names = {field.name for field in dataclasses.fields(EpochMetrics)}
    whole, _, _ = _read(path, "metrics", errors="replace").rpartition("\n")
    lines = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            lines.append(json.loads(line))
        except ValueError:
            lines.append(None)
        if not isinstance(lines[-1], dict) or not names <= lines[-1].keys():
            raise CheckpointError(f"{path}, line {number}: expected an epoch's metrics, a JSON object")
    return lines


def read_settings(content: Mapping[str, Any], path: Path) -> TrainConfig:
    """Return the settings in a ``config.json`` or a checkpoint."""
    try:
        settings = {field.name: content[field.name] for field in dataclasses.fields(TrainConfig)}
        return TrainConfig(**{**settings, "hidden": tuple(settings["hidden"])})
    except KeyError as error:
        raise CheckpointError(f"{path} has no {error}: expected every setting of a run") from None
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def read_checkpoint(path: Path) -> tuple[Checkpoint, ModelInfo]:
    """Return a checkpoint, and the facts about its parameters."""
    found = tensors.read(path, ("checkpoint",))
    theta, info = from_tensors(found, path)
    parts: dict[str, Any] = {"state": {}, "totals": {}}
    for name, tensor in found.tensors.items():
        group, _, member = name.partition(".")
        if member:
            parts[group][member] = tensor
    for name in parts["state"]:
        require_tensors(found.tensors, {f"state.{name}": theta.shape}, theta.dtype.name, path)
    description = found.description
    try:
        config = read_settings(description["config"], path)
        epochs = tuple(EpochMetrics(**epoch) for epoch in description["epochs"])
        described = {name: kind(description[name]) for name, kind in _DESCRIBED.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: its description is no checkpoint's ({error})") from None
    return Checkpoint(config=config, layout=info.layout, epochs=epochs, theta=theta, **parts, **described), info


def _line(metrics: EpochMetrics) -> str:
    return json.dumps(dataclasses.asdict(metrics), allow_nan=False) + "\n"
