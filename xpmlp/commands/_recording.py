"""What rank 0 writes into a run's folder and says of it; the other ranks do neither."""

import dataclasses
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl

import xpmlp
from xpmlp.backends import Backend
from xpmlp.commands._progress import Say
from xpmlp.communication import Communicator
from xpmlp.data import LoadedData
from xpmlp.errors import CheckpointError
from xpmlp.models.model import Evaluation, ModelInfo
from xpmlp.training.config import TrainConfig
from xpmlp.training.drawing import plot_history
from xpmlp.training.folder import RunFolder
from xpmlp.training.records import Callback, Checkpoint, EpochMetrics, History, Plan

KEEP = 2
"""Checkpoints of a run that are kept, where the user does not say: one is a reserve."""

FORMAT_VERSION = 1
"""Of ``config.json``."""


@dataclasses.dataclass
class Task:
    """What is to be computed, and with what; rank 0 tells the others."""

    config: TrainConfig
    backend: str
    precision: str | None
    dataset: str
    data_dir: str | None
    start: Checkpoint | None
    threads: int | None
    checkpoint_steps: int | None


@dataclasses.dataclass
class Run:
    """A task with all that carries it out on one rank."""

    task: Task
    data: LoadedData
    device: Backend
    ranks: Communicator


class Recorder(Callback):
    """Writes the run's config before the first step, its metrics after each epoch, its checkpoints, and its end.

    Parameters
    ----------
    folder : RunFolder or None
        The run's, not made yet where it is new; None: its name is still to be made of data and backend.
    record : mapping
        What ``config.json`` holds already, nothing where the run is new.
    additions : dict
        What it is to hold beside the settings.
    tell : callable
        Says something, or nothing.

    Attributes
    ----------
    steps : int
        Made by this process or before it.
    """

    def __init__(
        self, folder: RunFolder | None, record: Mapping[str, Any], additions: dict[str, Any], tell: Say
    ) -> None:
        self._folder, self.record, self.additions, self.tell = folder, record, additions, tell
        self.steps = 0
        self._plan: Plan | None = None

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        assert self._folder is not None, "it has its name from `attach` on"
        return self._folder

    @property
    def settings(self) -> dict[str, Any]:
        """What ``config.json`` holds, or will, the run's settings aside."""
        return {**self.record, **self.additions}

    @property
    def where(self) -> str:
        """How far the run is, as a part of a sentence."""
        if self._plan is None:
            return ""
        epoch = -(-self.steps // self._plan.steps_per_epoch)
        return f" after step {self.steps:,}, in epoch {max(1, epoch)} of {self._plan.epochs}"

    def attach(self, run: Run) -> None:
        """Take the run, whose data and backend decide what was left open.

        Raises
        ------
        CheckpointError
            If a run goes on, and its data are others.
        """
        self.run = run
        self.steps = run.task.start.step if run.task.start else 0
        data, device = run.data, run.device
        if self.record:
            _require_same_data(self.record, data, self.folder)
            return
        kind, _, own = data.name.partition(":")
        self.additions["dataset_spec"] = f"{kind}:{Path(own).absolute()}" if own else kind
        if self.additions["backend_spec"] == "auto":
            self.additions["backend_spec"] = device.name
        self._folder = self._folder or RunFolder(_default_name(data, device), is_default=True)

    def close(self) -> None:
        """Let others write the folder."""
        if self._folder:
            self._folder.close()

    def on_begin(self, plan: Plan) -> None:
        """Write ``config.json``, or what has changed in it, and say what is going to be done."""
        self._plan = plan
        settings = {**dataclasses.asdict(plan.config), "hidden": list(plan.config.hidden)}
        note = ""
        if self.record:
            note = self.folder.restore_metrics(self.run.task.start.epochs if self.run.task.start else ())
            written = {**self.settings, **settings, **self._processes()}
            if (self.folder.path / "summary.json").exists():
                self.folder.remove("summary.json")  # it is of an end that is none any more
        else:
            self.folder.create()
            written = {**self._first_record(plan, settings), **self.additions}
        if written != self.record:
            self.folder.write_json("config.json", written)
        self._say_what_begins(plan, note)

    def _first_record(self, plan: Plan, settings: Mapping[str, Any]) -> dict[str, Any]:
        data, device = self.run.data, self.run.device
        return {
            "xpmlp": xpmlp.__version__,
            "format_version": FORMAT_VERSION,
            "dataset": data.name,
            "dataset_note": data.note,
            "dataset_warning": data.warning,
            "train_provenance": data.train.provenance,
            "train_sha256": data.train.fingerprint,
            "test_provenance": data.test.provenance,
            "test_sha256": data.test.fingerprint,
            "sizes": plan.layout.sizes,
            **settings,
            "n_train": plan.n_train,
            "n_val": plan.n_val,
            "n_test": len(data.test),
            "steps_per_epoch": plan.steps_per_epoch,
            **self._processes(),
            "backend": device.name,
            "device": str(device.device),
            "backend_note": device.note,
            **{f"backend_{key}": value for key, value in device.describe().items()},
        }

    def _processes(self) -> dict[str, Any]:
        """Return on what the run is computed, which may be another thing where it goes on."""
        ranks = self.run.ranks
        return {"threads": blas_threads(), "ranks": ranks.size, "hosts": ranks.hosts, "engine": ranks.engine}

    def on_step(self, step: int) -> None:
        """Remember how far the run is."""
        self.steps = step

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """Write the epoch's line."""
        self.folder.append_metrics(metrics)

    def on_checkpoint(self, take: Callable[[], Checkpoint]) -> None:
        """Write a checkpoint."""
        assert self._plan is not None
        self.folder.write_checkpoint(take(), self._info(self._plan), self.settings.get("keep") or KEEP)

    def write_model(self, theta: np.ndarray, plan: Plan) -> None:
        """Write the parameters of the last epoch."""
        self.folder.write_model(theta, self._info(plan))

    def _info(self, plan: Plan) -> ModelInfo:
        train = self.run.data.train
        return ModelInfo(plan.layout, train.image_shape, train.max_value, train.class_names, self.run.data.name)

    def finish(self, history: History, test: Evaluation, seconds: float) -> None:
        """Write the summary, whose test figures are of the last epoch's parameters, and say it."""
        import importlib.metadata  # 20 ms, when all else is done

        data, device, best = self.run.data, self.run.device, history.best
        description = device.describe()
        versions = {
            "xpmlp": xpmlp.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "array-api-compat": importlib.metadata.version("array-api-compat"),
            device.name: description["version"],
        }
        content = {
            "best_val_accuracy": best.val_accuracy if best else None,
            "best_epoch": best.epoch if best else None,
            "test_loss": test.loss,
            "test_accuracy": test.accuracy,
            "epochs": len(history.epochs),
            "total_seconds": seconds,
            "backend": device.name,
            "device": description["device"],
            "library_versions": versions,
            "seed": history.plan.config.seed,
            "dataset": data.name,
        }
        self.folder.write_json("summary.json", content)
        if best:
            self.tell("best", f"validation accuracy {best.val_accuracy:.4f} in epoch {best.epoch}")
        self.tell("test", f"loss {test.loss:.4f} accuracy {100 * test.accuracy:.2f} % of {len(data.test):,} images")

    def _say_what_begins(self, plan: Plan, note: str) -> None:
        config, data, device, ranks, say = plan.config, self.run.data, self.run.device, self.run.ranks, self.tell
        if note:
            say("metrics", note)
        if data.note:
            say("dataset", f"{data.name}, since {data.note}")
        if data.warning:
            say("warning", data.warning)
        height, width = data.train.image_shape
        counts = f"{plan.n_train:,} training, {plan.n_val:,} validation and {len(data.test):,} test images"
        say("data", f"{data.name}: {counts} of {height} × {width}")
        kernels = f", kernels {config.kernels}" if device.name == "numpy" or config.kernels == "plain" else ""
        say("backend", f"{device}{kernels}{', since ' if device.note else ''}{device.note}")
        if ranks.size > 1:
            threads = blas_threads()
            each = f"{threads} BLAS thread{'' if threads == 1 else 's'} each"
            say("ranks", f"{ranks.size} on {ranks.hosts} host{'' if ranks.hosts == 1 else 's'}, {ranks.engine}, {each}")
        say("network", f"{sizes_of(plan)}, {plan.layout.size:,} parameters, {config.dtype}")
        recipe = self.settings.get("recipe", "default")
        epochs = f"{config.epochs} epoch{'s' if plan.epochs > 1 else ''}"
        named = "" if recipe == "default" else f", recipe {recipe}"
        say("training", f"{', '.join(_how(config))}, {epochs}, seed {config.seed}{named}")
        if self.record:
            total = plan.epochs * plan.steps_per_epoch
            where = f"after step {plan.steps_done:,} of {total:,}" if self.run.task.start else "from the beginning"
            say("resumed", where)


def _how(config: TrainConfig) -> list[str]:
    """Return what decides the steps, in the words of a heading."""
    fade = f", fading over the last {config.deform_fade:g} of the run" if config.deform_fade else ""
    momentum = f"momentum {config.momentum:g}{' (Nesterov)' if config.nesterov else ''}" if config.momentum else ""
    return [
        config.optimizer,
        *([momentum or "momentum 0"] if config.momentum is not None else []),
        *([f"weight decay {config.weight_decay:g}"] if config.weight_decay else []),
        *([f"inputs centred at {config.center:g}"] if config.center else []),
        *([f"images deformed with strength {config.deform:g}{fade}"] if config.deform else []),
        *([f"dropout {config.dropout:g}"] if config.dropout else []),
        f"{config.schedule} learning rate {config.learning_rate:g}",
        f"batch size {config.batch_size}",
        *([f"an average of the ranks every {config.average_every} steps"] if config.average_every > 1 else []),
    ]


def draw(
    folder: RunFolder, epochs: Sequence[Mapping[str, Any]], sizes: str, names: Mapping[str, Any], accuracy: float
) -> None:
    """Draw a run's curves; the names are those of its data set and backend."""
    title = f"{sizes} on {names.get('dataset')}, {names.get('backend')}"
    plot_history(epochs, folder.path / "history.png", title, accuracy)


def sizes_of(plan: Plan) -> str:
    """Return the network's widths as people write them."""
    return "-".join(map(str, plan.layout.sizes))


def blas_threads() -> int:
    """Return how many threads the BLAS library uses."""
    pools = threadpoolctl.threadpool_info()
    return max((int(pool["num_threads"]) for pool in pools if pool["user_api"] == "blas"), default=1)


def _require_same_data(record: Mapping[str, Any], data: LoadedData, folder: RunFolder) -> None:
    for part, found in (("train", data.train.fingerprint), ("test", data.test.fingerprint)):
        was = str(record.get(f"{part}_sha256"))
        if found != was:
            raise CheckpointError(
                f"{folder.path} was begun on {record.get('dataset')} ({part} set {was[:12]}…): {data.name} is another "
                f"data set ({found[:12]}…); give the first, or start a new run"
            )


def _default_name(data: LoadedData, backend: Backend) -> str:
    """Return when, on what and with what; of a user's own folder its last part."""
    kind, _, folder = data.name.partition(":")
    own = f"-{re.sub(r'[^a-zA-Z0-9_-]+', '-', Path(folder).name)[:40]}" if folder else ""
    return f"runs/{time.strftime('%Y%m%d-%H%M%S')}-{kind}{own}-{backend.name}"
