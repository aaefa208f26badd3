"""Rank 0 writes a run's folder and prints its lines; the other ranks do neither."""

import dataclasses
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl

import xpmlp
from xpmlp.backends import Backend
from xpmlp.commands._progress import Say
from xpmlp.communication import Communicator
from xpmlp.data import LoadedData
from xpmlp.data.dataset import described
from xpmlp.errors import CheckpointError
from xpmlp.models.model import Evaluation, info_of
from xpmlp.training.config import TrainConfig
from xpmlp.training.drawing import plot_history
from xpmlp.training.folder import RunFolder, read_json, read_metrics
from xpmlp.training.records import Callback, Checkpoint, EpochMetrics, History, Plan
from xpmlp.training.threads import Change

KEEP = 2
"""Checkpoints kept by default: one is a reserve."""

FORMAT_VERSION = 1
"""Of ``config.json``."""


@dataclasses.dataclass
class Task:
    """A run's task and its options; rank 0 sends them to the others."""

    config: TrainConfig
    backend: str
    precision: str | None
    dataset: str
    data_dir: str | None
    start: Checkpoint | None
    threads: int | None
    checkpoint_steps: int | None
    label_column: str | None = None
    shape: str | None = None


@dataclasses.dataclass
class Run:
    """A task, with everything that runs it on one rank."""

    task: Task
    data: LoadedData
    device: Backend
    ranks: Communicator


class Recorder(Callback):
    """Writes the run's config before the first step, its metrics after each epoch, its checkpoints, and its end.

    A new run's folder is made when the run begins; by default its name has the data and the backend. `record` holds the
    entries of ``config.json`` besides the settings, and for an older run all its entries. `steps` counts steps made by
    this process or before it. `tunes_threads` says whether measurement chooses the number of threads.
    """

    every_step = False
    steps = 0
    tunes_threads = False
    whole: Path | None = None  # the folder of several runs that contains this one
    _plan: Plan | None = None

    def __init__(self, folder: RunFolder, record: dict[str, Any], tell: Say, *, is_new: bool) -> None:
        self.folder, self.record, self.tell, self.is_new = folder, record, tell, is_new

    @property
    def where(self) -> str:
        """The run's progress, as a part of a sentence."""
        if self._plan is None:
            return ""
        epoch = -(-self.steps // self._plan.steps_per_epoch)
        return f" after step {self.steps:,}, in epoch {max(1, epoch)} of {self._plan.epochs}"

    def attach(self, run: Run) -> None:
        """Attach the run: its data and backend decide the open settings. Refuse to resume with other data."""
        self.run = run
        self.steps = run.task.start.step if run.task.start else 0
        data, device = run.data, run.device
        if not self.is_new:
            self._require_same_data(data)
            return
        kind, _, own = data.name.partition(":")
        self.record["dataset_spec"] = f"{kind}:{Path(own).absolute()}" if own else kind
        if self.record["backend_spec"] == "auto":
            self.record["backend_spec"] = device.name
        if self.folder.is_default:  # its name has the time, the data (a path's last part) and the backend
            own = f"-{re.sub(r'[^a-zA-Z0-9_-]+', '-', Path(own).name)[:40]}" if own else ""
            name = f"runs/{time.strftime('%Y%m%d-%H%M%S')}-{kind}{own}-{device.name}"
            self.folder = RunFolder(name, is_default=True)

    def _require_same_data(self, data: LoadedData) -> None:
        for part, found in (("train", data.train.fingerprint), ("test", data.test.fingerprint)):
            was = str(self.record.get(f"{part}_sha256"))
            if found != was:
                raise CheckpointError(
                    f"{self.folder.path} was begun on {self.record.get('dataset')} ({part} set {was[:12]}…): "
                    f"{data.name} is another data set ({found[:12]}…); give the first, or start a new run"
                )

    def on_begin(self, plan: Plan) -> None:
        """Write ``config.json`` or its changes, and print the plan."""
        data, device, ranks, start = self.run.data, self.run.device, self.run.ranks, self.run.task.start
        self._plan = plan
        self._info = info_of(plan.layout, data.train, data.name)
        settings = {**dataclasses.asdict(plan.config), "hidden": list(plan.config.hidden)}
        # A resumed run may use another backend.
        threads = "auto" if self.tunes_threads else blas_threads()
        processes = {
            "threads": threads,
            "threads_asked": self.run.task.threads or "auto",
            "ranks": ranks.size,
            "hosts": ranks.hosts,
            "engine": ranks.engine,
        }
        if not self.is_new:
            note = self.folder.restore_metrics(start.epochs if start else ())
            self.folder.write_json("config.json", {**self.record, **settings, **processes})
            self.folder.remove("summary.json")  # it describes an end that no longer holds
        else:
            note = ""
            self.folder.create()
            written = {
                "xpmlp": xpmlp.__version__,
                "format_version": FORMAT_VERSION,
                "dataset": data.name,
                "dataset_note": data.note,
                "dataset_format": data.about,
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
                **processes,
                "backend": device.name,
                "device": str(device.device),
                "backend_note": device.note,
                **{f"backend_{key}": value for key, value in device.describe().items()},
                **self.record,
            }
            self.folder.write_json("config.json", written)
        self._say_what_begins(plan, note)

    def on_step(self, step: int) -> None:
        """Note the run's progress."""
        self.steps = step

    def on_threads(self, change: Change) -> None:
        """Write the new number of BLAS threads."""
        line = {"step": self.steps, "threads": change.threads, "seconds_a_step": change.seconds}
        self.folder.append("threads.jsonl", {**line, "seconds_a_step_before": change.before})

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """Write the epoch's line."""
        self.folder.append_metrics(metrics)

    def on_checkpoint(self, take: Callable[[], Checkpoint]) -> None:
        """Write a checkpoint."""
        self.folder.write_checkpoint(take(), self._info, self.record.get("keep") or KEEP)

    def write_model(self, theta: np.ndarray) -> None:
        """Write the parameters of the last epoch."""
        self.folder.write_model(theta, self._info)

    def finish(self, history: History, test: Evaluation, seconds: float) -> None:
        """Write and print the summary; its test metrics are those of the last epoch's parameters."""
        import importlib.metadata  # an import of 20 ms, when all else is done

        data, device, best = self.run.data, self.run.device, history.best
        description = device.describe()
        content = {
            "best_val_accuracy": best.val_accuracy if best else None,
            "best_epoch": best.epoch if best else None,
            "test_loss": test.loss,
            "test_accuracy": test.accuracy,
            "epochs": len(history.epochs),
            "total_seconds": seconds,
            "backend": device.name,
            "device": description["device"],
            "library_versions": {
                "xpmlp": xpmlp.__version__,
                "python": platform.python_version(),
                "numpy": np.__version__,
                "array-api-compat": importlib.metadata.version("array-api-compat"),
                device.name: description["version"],
            },
            "seed": history.plan.config.seed,
            "dataset": data.name,
        }
        self.folder.write_json("summary.json", content)
        if best:
            self.tell("best", f"validation accuracy {best.val_accuracy:.4f} in epoch {best.epoch}")
        self.tell(
            "test",
            f"loss {test.loss:.4f} accuracy {100 * test.accuracy:.2f} % of {len(data.test):,} {data.test.samples}",
        )

    def _say_what_begins(self, plan: Plan, note: str) -> None:
        config, data, device, ranks = plan.config, self.run.data, self.run.device, self.run.ranks
        counts = f"{plan.n_train:,} training, {plan.n_val:,} validation and {len(data.test):,} test"
        kernels = f", kernels {config.kernels}" if device.name == "numpy" or config.kernels == "plain" else ""
        hosts, threads = f"{ranks.hosts} host{'' if ranks.hosts == 1 else 's'}", blas_threads()
        number = f"{threads} BLAS thread{'' if threads == 1 else 's'}"
        chosen = ""
        if device.name == "numpy" and ranks.size == 1:
            chosen = "; BLAS threads by measurement" if self.tunes_threads else f"; {number}"
        sizes = "-".join(map(str, plan.layout.sizes))
        epochs = f"{config.epochs} epoch{'s' if plan.epochs > 1 else ''}"
        recipe = self.record.get("recipe", "default")
        named = "" if recipe == "default" else f", recipe {recipe}"
        where = (
            f"after step {plan.steps_done:,} of {plan.total_steps:,}" if self.run.task.start else "from the beginning"
        )
        for what, text in (
            ("metrics", note),
            ("dataset", data.note and f"{data.name}, since {data.note}"),
            ("warning", data.warning),
            ("format", data.about),
            ("data", f"{data.name}: {counts} {described(data.train.image_shape)}"),
            ("backend", f"{device}{f' ({device.note})' if device.note else ''}{kernels}{chosen}"),
            ("ranks", f"{ranks.size} on {hosts}, {ranks.engine}, {number} each" if ranks.size > 1 else ""),
            ("network", f"{sizes}, {plan.layout.size:,} parameters, {config.dtype}"),
            ("training", f"{', '.join(_how(config))}, {epochs}, seed {config.seed}{named}"),
            ("resumed", "" if self.is_new else where),
        ):
            if text:
                self.tell(what, text)


def _how(config: TrainConfig) -> list[str]:
    """Return the settings of the steps, in the words of a heading."""
    fade = f", fading over the last {config.deform_fade:g} of the run" if config.deform_fade else ""
    momentum = f"momentum {config.momentum or 0:g}{' (Nesterov)' if config.nesterov else ''}"
    said = {
        config.optimizer: True,
        momentum: config.momentum is not None,
        f"weight decay {config.weight_decay:g}": config.weight_decay,
        f"inputs centred at {config.center:g}": config.center,
        f"images deformed with strength {config.deform:g}{fade}": config.deform,
        f"dropout {config.dropout:g}": config.dropout,
        f"{config.schedule} learning rate {config.learning_rate:g}": True,
        f"batch size {config.batch_size}": True,
        f"an average of the ranks every {config.average_every} steps": config.average_every > 1,
    }
    return [text for text, applies in said.items() if applies]


def draw(folder: RunFolder) -> None:
    """Draw the curves of a run that has a summary."""
    config, summary = read_json(folder.path / "config.json"), read_json(folder.path / "summary.json")
    sizes = "-".join(map(str, config.get("sizes", ())))
    title = f"{sizes} on {summary.get('dataset')}, {summary.get('backend')}"
    epochs = read_metrics(folder.path / "metrics.jsonl")
    plot_history(epochs, folder.path / "history.png", title, summary["test_accuracy"])


def blas_threads() -> int:
    """Return the number of threads that the BLAS library uses."""
    pools = threadpoolctl.threadpool_info()
    return max((int(pool["num_threads"]) for pool in pools if pool["user_api"] == "blas"), default=1)
