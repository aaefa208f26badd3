"""A run's folder: what it is called, and the files that it holds."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xpmlp.errors import ConfigError
from xpmlp.network import Layout

FORMAT_VERSION = 1
"""Of ``model.safetensors``; a reader refuses a newer one."""


class RunFolder:
    """The folder of one training run, on disk from `create` on.

    ``config.json``: every setting, resolved. ``metrics.jsonl``: a line an epoch. ``summary.json``: what came of it.
    ``model.safetensors``: the last epoch's parameters. ``history.png``: the curves.

    Parameters
    ----------
    path : path
        Where the run goes.
    is_default : bool
        Whether the name is ours: a suffix is then added where it is taken. A folder that the user named may exist if
        it is empty.

    Raises
    ------
    ConfigError
        If the folder holds something, or cannot be made or written.
    """

    def __init__(self, path: str | os.PathLike[str], *, is_default: bool = False) -> None:
        if not os.fspath(path):
            raise ConfigError("the run's folder has no name: give one, or leave it to the default")
        self.path = Path(path)
        self._is_default = is_default
        self._made: list[Path] = []
        self._written: set[Path] = set()
        if self.path.exists() and not is_default:
            if not self.path.is_dir():
                raise ConfigError(f"{self.path} is a file: expected a folder for the run; name another")
            if any(self.path.iterdir()):
                raise ConfigError(f"{self.path} holds something: a run needs an empty folder; name another")
        existing = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise ConfigError(f"{self.path} cannot be made: {existing} is no folder that can be written; name another")

    def create(self) -> None:
        """Make the folder.

        Raises
        ------
        ConfigError
            If that fails.
        """
        name, attempt = self.path.name, 1
        while True:
            missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            try:
                self.path.mkdir(parents=True, exist_ok=not self._is_default)
            except OSError as error:
                if isinstance(error, FileExistsError) and self._is_default:
                    attempt += 1
                    self.path = self.path.with_name(f"{name}-{attempt}")
                    continue
                raise ConfigError(f"{self.path} cannot be made: {error.strerror}; name another") from None
            self._made = missing
            return

    def discard(self) -> None:
        """Remove what was written, and each folder that `create` made, for a run that never began."""
        for file in self._written:
            file.unlink(missing_ok=True)
        for folder in self._made:
            with contextlib.suppress(OSError):  # another run may have put its own into runs/ meanwhile
                folder.rmdir()

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file, which is there as a whole or not at all."""
        self._write(name, (json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Add an epoch's line to ``metrics.jsonl``."""
        path = self.path / "metrics.jsonl"
        self._written.add(path)
        with _naming(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics, allow_nan=False) + "\n")

    def write_model(
        self,
        theta: np.ndarray,
        layout: Layout,
        *,
        image_shape: tuple[int, int],
        max_value: int,
        class_names: tuple[str, ...],
    ) -> None:
        """Write ``model.safetensors``: the tensors W1, b1, …, and what is needed to use them.

        Parameters
        ----------
        theta : numpy.ndarray, shape (layout.size,)
            The parameters.
        layout : Layout
            The network's widths.
        image_shape : tuple of int
            The height and width of its images, in pixels.
        max_value : int
            The grey value that counts as 1.
        class_names : tuple of str
            What its classes are called.
        """
        from safetensors.numpy import save  # 70 ms that only a finished run pays

        tensors = {}
        for k, (W, b) in enumerate(layout.unflatten(theta), start=1):
            # safetensors writes an array that is not contiguous wrongly, and does not say so.
            tensors[f"W{k}"], tensors[f"b{k}"] = np.ascontiguousarray(W), np.ascontiguousarray(b)
        metadata = {
            "format_version": FORMAT_VERSION,
            "sizes": layout.sizes,
            "dtype": theta.dtype.name,
            "image_shape": image_shape,
            "max_value": max_value,
            "class_names": class_names,
        }
        as_text = {
            key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for key, value in metadata.items()
        }
        self._write("model.safetensors", save(tensors, as_text))

    def _write(self, name: str, content: bytes) -> None:
        self._written.add(self.path / name)
        temporary = self.path / f".{name}.part"
        try:
            with _naming(self.path / name):
                temporary.write_bytes(content)
                temporary.replace(self.path / name)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let an error of the system name the file, which it leaves out where a write fails."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
