"""One run of ``xpmlp train``: what is computed, written and said, in order."""

import dataclasses
import platform
import re
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import threadpoolctl

import xpmlp
from xpmlp.backends import Backend, get_backend
from xpmlp.commands._progress import Say, make_download_progress, make_progress, say, say_nothing
from xpmlp.data import LoadedData, load_dataset
from xpmlp.errors import XpmlpError
from xpmlp.plotting import plot_history
from xpmlp.runs import RunFolder
from xpmlp.training import Callback, EpochMetrics, Evaluation, History, Plan, TrainConfig, evaluate, train


def run(
    *,
    backend: str,
    dataset: str,
    data_dir: str | None,
    threads: int | None,
    out: str | None,
    plot: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Train as the command line says; the arguments are its options."""
    began = time.perf_counter()
    tell = say_nothing if quiet else say
    config = TrainConfig(**settings)
    RunFolder("runs" if out is None else out, is_default=out is None)  # one that cannot be is refused before the work
    device = get_backend(backend, config.dtype)
    data = load_dataset(dataset, data_dir, progress=None if quiet else make_download_progress())
    folder = RunFolder(_default_name(data, device) if out is None else out, is_default=out is None)

    with threadpoolctl.threadpool_limits(threads, user_api="blas"):
        recorder = Recorder(folder, data, device)
        progress = None if quiet else make_progress()
        callbacks = [recorder, Heading(data, device, tell), *([progress] if progress else [])]
        try:
            theta, history = train(config, data.train, device, callbacks)
            plan = history.plan
            folder.write_model(
                device.to_numpy(theta),
                plan.layout,
                image_shape=data.train.image_shape,
                max_value=data.train.max_value,
                class_names=data.train.class_names,
            )
            test = evaluate(theta, plan.layout, data.test, device, plan.batch_size, config.transfer)
        except BaseException as error:
            if recorder.steps == 0:
                folder.discard()
            elif isinstance(error, XpmlpError):
                error.args = (f"{error} (the run so far is in {folder.path})",)
            if isinstance(error, KeyboardInterrupt):
                left = f"; the run so far is in {folder.path}" if recorder.steps else ""
                click.echo(f"{click.get_current_context().command_path}: interrupted{left}", err=True)
                raise click.exceptions.Exit(130) from None
            raise
        finally:
            if progress:
                progress.close()

    folder.write_json("summary.json", summary(history, test, data, device, time.perf_counter() - began))
    if plot:
        title = f"{_sizes(plan)} on {data.name}, {device.name}"
        epochs = [dataclasses.asdict(epoch) for epoch in history.epochs]
        plot_history(epochs, folder.path / "history.png", title, test.accuracy)

    if history.best:
        tell("best", f"validation accuracy {history.best.val_accuracy:.4f} in epoch {history.best.epoch}")
    tell("test", f"loss {test.loss:.4f} accuracy {100 * test.accuracy:.2f} % of {len(data.test):,} images")
    tell("run", f"{folder.path}{', its curves in history.png' if plot else ''}")


class Recorder(Callback):
    """Writes the run's config before the first step, and its metrics after each epoch.

    Parameters
    ----------
    folder : RunFolder
        Where they go; it is made before the first step, not earlier.
    data : LoadedData
        What is trained on.
    backend : Backend
        What computes.
    """

    def __init__(self, folder: RunFolder, data: LoadedData, backend: Backend) -> None:
        self.folder, self.data, self.backend = folder, data, backend
        self.steps = 0

    def on_begin(self, plan: Plan) -> None:
        """Write ``config.json``."""
        settings = dataclasses.asdict(plan.config)
        pools = threadpoolctl.threadpool_info()
        threads = max((pool["num_threads"] for pool in pools if pool["user_api"] == "blas"), default=1)
        data = self.data
        config = {
            "xpmlp": xpmlp.__version__,
            "dataset": data.name,
            "dataset_note": data.note,
            "dataset_warning": data.warning,
            "train_provenance": data.train.provenance,
            "test_provenance": data.test.provenance,
            "sizes": plan.layout.sizes,
            **settings,
            "n_train": plan.n_train,
            "n_val": plan.n_val,
            "n_test": len(data.test),
            "steps_per_epoch": plan.steps_per_epoch,
            "threads": threads,
            "backend": self.backend.name,
            "device": str(self.backend.device),
            "backend_note": self.backend.note,
            **{f"backend_{key}": value for key, value in self.backend.describe().items()},
        }
        self.folder.create()
        self.folder.write_json("config.json", config)

    def on_step(self, step: int) -> None:
        """Remember that the run has begun."""
        self.steps = step

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """Write the epoch's line."""
        self.folder.append_metrics(dataclasses.asdict(metrics))


class Heading(Callback):
    """Says before the first step what is going to be done."""

    def __init__(self, data: LoadedData, backend: Backend, say: Say) -> None:
        self.data, self.backend, self.say = data, backend, say

    def on_begin(self, plan: Plan) -> None:
        """Say it."""
        config, data = plan.config, self.data
        if data.note:
            self.say("dataset", f"{data.name}, since {data.note}")
        if data.warning:
            self.say("warning", data.warning)
        height, width = data.train.image_shape
        counts = f"{plan.n_train:,} training, {plan.n_val:,} validation and {len(data.test):,} test images"
        self.say("data", f"{data.name}: {counts} of {height} × {width}")
        self.say("backend", f"{self.backend}{', since ' if self.backend.note else ''}{self.backend.note}")
        self.say("network", f"{_sizes(plan)}, {plan.layout.size:,} parameters, {config.dtype}")
        how = [config.optimizer]
        if config.momentum is not None:
            how.append(f"momentum {config.momentum:g}{' (Nesterov)' if config.nesterov else ''}")
        if config.weight_decay:
            how.append(f"weight decay {config.weight_decay:g}")
        how += [f"{config.schedule} learning rate {config.learning_rate:g}", f"batch size {config.batch_size}"]
        self.say("training", f"{', '.join(how)}, {config.epochs} epochs, seed {config.seed}")


def summary(
    history: History, test: Evaluation, data: LoadedData, backend: Backend, total_seconds: float
) -> dict[str, Any]:
    """Return what ``summary.json`` holds; the test figures are of the last epoch's parameters."""
    best = history.best
    return {
        "best_val_accuracy": best.val_accuracy if best else None,
        "best_epoch": best.epoch if best else None,
        "test_loss": test.loss,
        "test_accuracy": test.accuracy,
        "epochs": len(history.epochs),
        "total_seconds": total_seconds,
        "backend": backend.name,
        "device": backend.describe()["device"],
        "library_versions": {
            "xpmlp": xpmlp.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "array-api-compat": version("array-api-compat"),
            backend.name: backend.describe()["version"],
        },
        "seed": history.plan.config.seed,
        "dataset": data.name,
    }


def _default_name(data: LoadedData, backend: Backend) -> str:
    """Return when, on what and with what; of a user's own folder its last part."""
    kind, _, folder = data.name.partition(":")
    own = f"-{re.sub(r'[^a-zA-Z0-9_-]+', '-', Path(folder).name)[:40]}" if folder else ""
    return f"runs/{time.strftime('%Y%m%d-%H%M%S')}-{kind}{own}-{backend.name}"


def _sizes(plan: Plan) -> str:
    return "-".join(map(str, plan.layout.sizes))
