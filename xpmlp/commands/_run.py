"""One run of ``xpmlp train``, new or taken up again: what is computed, written and said, in order."""

import dataclasses
import errno
import os
import platform
import re
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click
import numpy as np
import threadpoolctl

import xpmlp
from xpmlp.backends import Backend, get_backend
from xpmlp.backends._driver import ask_driver
from xpmlp.commands._progress import Say, make_download_progress, make_progress, say, say_nothing
from xpmlp.commands._signals import Interrupted, StopRequest
from xpmlp.communication import Communicator, abort, join, join_gpus, leave, those_that_differ
from xpmlp.data import LoadedData, load_dataset
from xpmlp.data.datasets import DATA_VARIABLE
from xpmlp.errors import CheckpointError, CommunicationError, ConfigError, TrainingError, XpmlpError
from xpmlp.models.model import ModelInfo
from xpmlp.training.config import RECIPES, TrainConfig, continued
from xpmlp.training.drawing import plot_history
from xpmlp.training.evaluation import Evaluation, evaluate
from xpmlp.training.folder import RunFolder, read_checkpoint, read_json, read_metrics, read_settings
from xpmlp.training.records import Callback, Checkpoint, EpochMetrics, History, Plan
from xpmlp.training.train import is_reached, train

_EACH_HOSTS = ("data_dir", "threads")
"""Options that may differ between the ranks; one without takes rank 0's."""

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
class Draft:
    """A run as rank 0 knows it before its data are loaded."""

    task: Task
    folder: RunFolder | None
    """None where the default name is still to be made of data and backend."""
    record: dict[str, Any]
    additions: dict[str, Any]


@dataclasses.dataclass
class Work:
    """One rank's share of a run."""

    config: TrainConfig
    data: LoadedData
    device: Backend
    start: Checkpoint | None
    threads: int | None
    checkpoint_steps: int | None
    ranks: Communicator


@dataclasses.dataclass
class Job(Work):
    """A run that is about to be carried out, on rank 0, which alone writes and speaks."""

    folder: RunFolder
    record: dict[str, Any]
    """What ``config.json`` holds already, nothing where the run is new."""
    additions: dict[str, Any]
    """What it is to hold beside the settings."""

    @property
    def is_new(self) -> bool:
        """Whether it has not begun."""
        return not self.record


def run(*, resume: str | None, given: set[str], plot: bool, quiet: bool, distributed: str, **options: Any) -> None:
    """Train as the command line says.

    Parameters
    ----------
    resume : str or None
        The folder of a run that goes on.
    given : set of str
        Which of the options the user has written.
    plot, quiet, distributed, options
        The options.
    """
    began = time.perf_counter()
    ranks = join(distributed)
    is_first = ranks.rank == 0
    quiet = quiet or not is_first
    tell = say_nothing if quiet else say
    progress = None if quiet else make_download_progress()
    shared = sorted(given - set(_EACH_HOSTS))
    _require_same_command(ranks, {**options, "resume": resume, "given": shared, "xpmlp": xpmlp.__version__})
    draft = None
    if is_first:
        draft = _begin(options, given) if resume is None else _take_up(resume, given, options, plot, tell, ranks.size)
    try:
        task: Task | None = ranks.broadcast(draft and draft.task)
        if task is None:  # of a run that is finished
            leave()
            return
        if not is_first:
            task = dataclasses.replace(task, **{name: options[name] for name in _EACH_HOSTS if name in given})
        device = _equip(task, ranks)
        data = _load(task, ranks, progress)
        ranks = join_gpus(ranks) if device.name == "cupy" else ranks
        work = Work(task.config, data, device, task.start, task.threads, task.checkpoint_steps, ranks)
        if draft:
            _carry_out(_settle(draft, work), began, plot, quiet, tell)
        else:
            _assist(work)
    finally:
        if draft and draft.folder:
            draft.folder.close()


def _require_same_command(ranks: Communicator, command: dict[str, Any]) -> None:
    """Refuse ranks that were started with other options than rank 0, which speaks for all."""
    same = repr(sorted((name, value) for name, value in command.items() if name not in _EACH_HOSTS))  # nan is nan
    if ranks.size > 1 and (differ := those_that_differ(ranks, same)):
        raise CommunicationError(
            f"rank {differ[0]} was started with another command or another version of xpmlp than rank 0: "
            "all ranks of a run need the same"
        )


def _begin(options: Mapping[str, Any], given: set[str]) -> Draft:
    """Return a new run."""
    config = TrainConfig(**{**_settings(options), **_recipe(options, given)})
    out, keep, data_dir = options["out"], options["keep"], options["data_dir"]
    # One that cannot be is refused before the work.
    folder = RunFolder("runs" if out is None else out, is_default=out is None)
    additions = {
        "recipe": options["recipe"],
        "precision": options["precision"],
        "dataset_spec": None,
        "data_dir": data_dir and str(Path(data_dir).absolute()),
        "backend_spec": options["backend"],
        "checkpoint_steps": options["checkpoint_steps"],
        "keep": KEEP if keep is None else keep,
    }
    names = ("backend", "precision", "dataset", "data_dir", "threads", "checkpoint_steps")
    task = Task(config, **{name: options[name] for name in names}, start=None)
    return Draft(task, None if out is None else folder, {}, additions)


def _settle(draft: Draft, work: Work) -> Job:
    """Return a run with what its data and its backend have decided."""
    data, device, folder, additions = work.data, work.device, draft.folder, draft.additions
    if draft.record:
        assert folder is not None
        _require_same_data(draft.record, data, folder)
    else:
        kind, _, own = data.name.partition(":")
        additions["dataset_spec"] = f"{kind}:{Path(own).absolute()}" if own else kind
        if additions["backend_spec"] == "auto":
            additions["backend_spec"] = device.name
        folder = draft.folder = folder or RunFolder(_default_name(data, device), is_default=True)
    return Job(**vars(work), folder=folder, record=draft.record, additions=additions)


def _take_up(
    resume: str, given: set[str], options: Mapping[str, Any], plot: bool, tell: Say, size: int
) -> Draft | None:
    """Return a run that goes on, on so many ranks, or None where it is finished, which is said."""
    if "out" in given:
        raise ConfigError(f"--out {options['out']}: a run that goes on stays in its folder {resume}; leave it out")
    if "recipe" in given:
        raise ConfigError(f"--recipe {options['recipe']}: a run that goes on keeps its settings; leave it out")
    folder = RunFolder.reopen(resume)
    try:
        record = read_json(folder.path / "config.json")
        _require_version(record, folder.path / "config.json")
        begun = read_settings(record, folder.path / "config.json")
        n_images = _number(record, "n_train", folder) + _number(record, "n_val", folder)
        settings = {name: value for name, value in _settings(options).items() if name in given}
        config = continued(begun, settings, n_images)
        start = _last_checkpoint(folder)
        if (folder.path / "summary.json").exists() and _is_over(config, begun, start, folder):
            _tell_finished(folder, record, plot, tell)
            folder.close()
            return None
    except BaseException:
        folder.close()
        raise

    def option(name: str, recorded: str) -> Any:
        return options[name] if name in given else record.get(recorded)

    data_dir = options["data_dir"]
    if "data_dir" not in given and "dataset" not in given:
        data_dir = record.get("data_dir")
    threads = options["threads"] or _threads(record, size)
    backend, dataset = option("backend", "backend_spec"), option("dataset", "dataset_spec")
    precision, steps = option("precision", "precision"), option("checkpoint_steps", "checkpoint_steps")
    task = Task(config, backend, precision, dataset, data_dir, start, threads, steps)
    names = ("checkpoint_steps", "keep", "precision")
    return Draft(task, folder, record, {name: options[name] for name in names if name in given})


def _equip(task: Task, ranks: Communicator) -> Backend:
    """Return the backend that all ranks compute with; of CuPy's GPUs each rank of a host takes one of its own."""
    dtype, precision = task.config.dtype, task.precision
    first = get_backend(task.backend, dtype, precision) if ranks.rank == 0 else None
    if ranks.size == 1:
        assert first is not None
        return first
    spec = ranks.broadcast(first and (first.name if task.backend == "auto" else task.backend))
    if spec == "cupy":
        n = ask_driver().devices
        if n < ranks.local_size:
            raise ConfigError(
                f"{ranks.local_size} ranks on a host with {n} GPU{'' if n == 1 else 's'}: start as many as it has, or "
                "name the GPU, as --backend cupy:0, where each rank sees one of its own"
            )
        spec = f"cupy:{ranks.local_rank}"
    return first or get_backend(spec, dtype, precision)


def _load(task: Task, ranks: Communicator, progress: Any) -> LoadedData:
    """Return the data; where they are downloaded, the first rank of a host does so for the others."""
    if told := ranks.broadcast(os.environ.get(DATA_VARIABLE)):
        os.environ.setdefault(DATA_VARIABLE, told)  # launchers pass no variables of the user's on to other hosts
    data = load_dataset(task.dataset, task.data_dir, progress=progress) if ranks.rank == 0 else None
    name = ranks.broadcast(data and data.name)
    if data is None and ranks.local_rank == 0:
        data = load_dataset(name, task.data_dir)
    ranks.barrier()
    return data or load_dataset(name, task.data_dir)


def _recipe(options: Mapping[str, Any], given: set[str]) -> dict[str, Any]:
    """Return a recipe's settings, those left out that the user has given.

    Its rate and center are for its optimizer, its fading for a deformation.
    """
    name = options["recipe"]
    if name not in RECIPES:
        known = list(RECIPES)
        raise ConfigError(f"unknown recipe {name!r}: expected {', '.join(known[:-1])} or {known[-1]}")
    beaten = {*given, "learning_rate", "center"} if "optimizer" in given else given
    if "deform" in given and not options["deform"]:
        beaten = {*beaten, "deform_fade"}
    return {setting: value for setting, value in RECIPES[name].items() if setting not in beaten}


def _last_checkpoint(folder: RunFolder) -> Checkpoint | None:
    """Return where a run can go on, None where it has no checkpoint yet."""
    paths = folder.checkpoints
    if not paths:
        return None
    try:
        return read_checkpoint(paths[-1])[0]
    except CheckpointError as error:
        before = paths[-2].name if len(paths) > 1 else "the beginning"
        raise CheckpointError(f"{error}; remove it to go on from {before}") from None


def _carry_out(job: Job, began: float, plot: bool, quiet: bool, tell: Say) -> None:
    """Train, test, and write what came of it."""
    folder, data, device = job.folder, job.data, job.device
    recorder = Recorder(job)
    progress = None if quiet else make_progress()
    callbacks = [recorder, Heading(job, recorder, tell), *([progress] if progress else [])]
    with _limited_threads(job), _explaining(job, recorder, progress):
        theta, history = _train(job, callbacks)
        plan = history.plan
        folder.write_model(device.to_numpy(theta), _info(plan, data))
        test = _test(job, theta, plan)
        leave()  # the others have nothing left to do
        seconds = time.perf_counter() - began + (job.start.seconds if job.start else 0.0)
        folder.write_json("summary.json", summary(history, test, data, device, seconds))
        if progress:
            progress.close()
        if history.best:
            tell("best", f"validation accuracy {history.best.val_accuracy:.4f} in epoch {history.best.epoch}")
        tell("test", f"loss {test.loss:.4f} accuracy {100 * test.accuracy:.2f} % of {len(data.test):,} images")
        if plot:
            epochs = [dataclasses.asdict(epoch) for epoch in history.epochs]
            names = {"dataset": data.name, "backend": device.name}
            _draw(folder, epochs, _sizes(plan), names, test.accuracy)
    tell("run", f"{folder.path}{', its curves in history.png' if plot else ''}")


def _assist(work: Work) -> None:
    """Do what rank 0 does, and write and say nothing."""
    with _limited_threads(work):
        try:
            theta, history = _train(work, ())
        except Interrupted as interrupted:
            if not interrupted.is_of_all:
                raise
            leave()
            raise click.exceptions.Exit(interrupted.exit_code) from None
        _test(work, theta, history.plan)
    leave()


def _train(work: Work, callbacks: Sequence[Callback]) -> tuple[Any, History]:
    """Train until the end, or until a signal has come to any rank, which all learn of."""
    stop = StopRequest()
    with stop.listening():
        theta, history = train(
            work.config,
            work.data.train,
            work.device,
            callbacks,
            start=work.start,
            checkpoint_steps=work.checkpoint_steps,
            should_stop=stop,
            communicator=work.ranks,
        )
    signum = next(filter(None, work.ranks.gather(stop.signum)), None)
    if signum is not None:
        raise Interrupted(signum, is_of_all=True)
    return theta, history


def _test(work: Work, theta: Any, plan: Plan) -> Evaluation:
    return evaluate(theta, plan.layout, work.data.test, work.device, plan.batch_size, work.config.transfer, work.ranks)


def _limited_threads(work: Work) -> threadpoolctl.threadpool_limits:
    """Return what limits the BLAS library's threads: as the user says, else to the rank's part of its host's cores."""
    if work.ranks.size == 1:
        return threadpoolctl.threadpool_limits(work.threads, user_api="blas")
    share = max(1, min(_blas_threads(), work.ranks.cores // work.ranks.local_size))
    return threadpoolctl.threadpool_limits(work.threads or share)  # with OpenMP's, which are PyTorch's


def _blas_threads() -> int:
    pools = threadpoolctl.threadpool_info()
    return max((int(pool["num_threads"]) for pool in pools if pool["user_api"] == "blas"), default=1)


@contextmanager
def _explaining(job: Job, recorder: "Recorder", progress: Any) -> Iterator[None]:
    """Say of a run that is cut short what is left of it, and how it goes on; one that never began leaves nothing."""
    try:
        yield
    except BaseException as error:
        if progress:
            progress.close()
        folder = job.folder
        if job.is_new and recorder.steps == 0:
            folder.discard()
            raise
        if isinstance(error, TrainingError) and folder.checkpoints:
            error.args = (f"{error} (the last good checkpoint: {folder.checkpoints[-1]})",)
        elif isinstance(error, XpmlpError):
            error.args = (f"{error} (the run so far is in {folder.path})",)
        elif isinstance(error, OSError):
            _explain_system(error, folder)
        elif isinstance(error, Interrupted | KeyboardInterrupt):
            interrupted = error if isinstance(error, Interrupted) else Interrupted(signal.SIGINT)
            click.echo(f"{_command()}: {interrupted}{recorder.where}; go on with: {_way_on(folder)}", err=True)
            if interrupted.is_of_all:
                leave()
            abort(interrupted.exit_code)
            raise click.exceptions.Exit(interrupted.exit_code) from None
        raise
    finally:
        if progress:
            progress.close()


def _explain_system(error: OSError, folder: RunFolder) -> NoReturn:
    """Say what the system refused, and what to do about it."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    room = ": make room, then" if full else "; then"
    raise CheckpointError(
        f"{error.filename}: {error.strerror or error}{room} go on from the last checkpoint with: {_way_on(folder)}"
    ) from None


def _way_on(folder: RunFolder) -> str:
    return f"{_command()} --resume {shlex.quote(str(folder.path))}"


def _command() -> str:
    return click.get_current_context().command_path


class Recorder(Callback):
    """Writes the run's config before the first step, its metrics after each epoch, and its checkpoints.

    Parameters
    ----------
    job : Job
        The run; the folder of a new one is made before the first step, not earlier.

    Attributes
    ----------
    steps : int
        Made by this process or before it.
    settings : dict
        What ``config.json`` holds, or will.
    note : str
        What was wrong with the metrics of a run that goes on.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.steps = job.start.step if job.start else 0
        self.settings = {**job.record, **job.additions}
        self.note = ""
        self._plan: Plan | None = None

    @property
    def where(self) -> str:
        """How far the run is, as a part of a sentence."""
        if self._plan is None:
            return ""
        epoch = -(-self.steps // self._plan.steps_per_epoch)
        return f" after step {self.steps:,}, in epoch {max(1, epoch)} of {self._plan.epochs}"

    def on_begin(self, plan: Plan) -> None:
        """Write ``config.json``, or what has changed in it."""
        self._plan = plan
        folder, settings = self.job.folder, dataclasses.asdict(plan.config)
        settings["hidden"] = list(plan.config.hidden)
        if self.job.is_new:
            self.settings = {**self._first_record(plan, settings), **self.job.additions}
            folder.create()
            folder.write_json("config.json", self.settings)
        else:
            self.note = folder.restore_metrics(self.job.start.epochs if self.job.start else ())
            self.settings.update({**settings, **self._processes()})
            if (folder.path / "summary.json").exists():
                folder.remove("summary.json")  # it is of an end that is none any more
            if self.settings != self.job.record:
                folder.write_json("config.json", self.settings)

    def _first_record(self, plan: Plan, settings: Mapping[str, Any]) -> dict[str, Any]:
        data, device = self.job.data, self.job.device
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
        ranks = self.job.ranks
        return {"threads": _blas_threads(), "ranks": ranks.size, "hosts": ranks.hosts, "engine": ranks.engine}

    def on_step(self, step: int) -> None:
        """Remember how far the run is."""
        self.steps = step

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """Write the epoch's line."""
        self.job.folder.append_metrics(metrics)

    def on_checkpoint(self, take: Callable[[], Checkpoint]) -> None:
        """Write a checkpoint."""
        assert self._plan is not None
        self.job.folder.write_checkpoint(take(), _info(self._plan, self.job.data), self.settings.get("keep") or KEEP)


class Heading(Callback):
    """Says before the first step what is going to be done."""

    def __init__(self, job: Job, recorder: Recorder, say: Say) -> None:
        self.job, self.recorder, self.say = job, recorder, say

    def on_begin(self, plan: Plan) -> None:
        """Say it."""
        config, data, device = plan.config, self.job.data, self.job.device
        if self.recorder.note:
            self.say("metrics", self.recorder.note)
        if data.note:
            self.say("dataset", f"{data.name}, since {data.note}")
        if data.warning:
            self.say("warning", data.warning)
        height, width = data.train.image_shape
        counts = f"{plan.n_train:,} training, {plan.n_val:,} validation and {len(data.test):,} test images"
        self.say("data", f"{data.name}: {counts} of {height} × {width}")
        kernels = f", kernels {config.kernels}" if device.name == "numpy" or config.kernels == "plain" else ""
        self.say("backend", f"{device}{kernels}{', since ' if device.note else ''}{device.note}")
        if (ranks := self.job.ranks).size > 1:
            hosts = f"{ranks.hosts} host{'' if ranks.hosts == 1 else 's'}"
            threads = _blas_threads()
            each = f"{threads} BLAS thread{'' if threads == 1 else 's'} each"
            self.say("ranks", f"{ranks.size} on {hosts}, {ranks.engine}, {each}")
        self.say("network", f"{_sizes(plan)}, {plan.layout.size:,} parameters, {config.dtype}")
        how = [config.optimizer]
        if config.momentum is not None:
            how.append(f"momentum {config.momentum:g}{' (Nesterov)' if config.nesterov else ''}")
        if config.weight_decay:
            how.append(f"weight decay {config.weight_decay:g}")
        if config.center:
            how.append(f"inputs centred at {config.center:g}")
        if config.deform:
            fade = f", fading over the last {config.deform_fade:g} of the run" if config.deform_fade else ""
            how.append(f"images deformed with strength {config.deform:g}{fade}")
        if config.dropout:
            how.append(f"dropout {config.dropout:g}")
        how += [f"{config.schedule} learning rate {config.learning_rate:g}", f"batch size {config.batch_size}"]
        if config.average_every > 1:
            how.append(f"an average of the ranks every {config.average_every} steps")
        epochs = f"{config.epochs} epoch{'s' if plan.epochs > 1 else ''}"
        recipe = self.recorder.settings.get("recipe", "default")
        named = "" if recipe == "default" else f", recipe {recipe}"
        self.say("training", f"{', '.join(how)}, {epochs}, seed {config.seed}{named}")
        if not self.job.is_new:
            total = plan.epochs * plan.steps_per_epoch
            where = f"after step {plan.steps_done:,} of {total:,}" if self.job.start else "from the beginning"
            self.say("resumed", where)


def summary(
    history: History, test: Evaluation, data: LoadedData, backend: Backend, total_seconds: float
) -> dict[str, Any]:
    """Return what ``summary.json`` holds; the test figures are of the last epoch's parameters."""
    import importlib.metadata  # 20 ms, when all else is done

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
            "array-api-compat": importlib.metadata.version("array-api-compat"),
            backend.name: backend.describe()["version"],
        },
        "seed": history.plan.config.seed,
        "dataset": data.name,
    }


def _settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options that are a training run's settings."""
    return {field.name: options[field.name] for field in dataclasses.fields(TrainConfig)}


def _info(plan: Plan, data: LoadedData) -> ModelInfo:
    train = data.train
    return ModelInfo(plan.layout, train.image_shape, train.max_value, train.class_names, data.name)


def _is_over(config: TrainConfig, begun: TrainConfig, start: Checkpoint | None, folder: RunFolder) -> bool:
    """Return whether a run that has a summary is at its end, which more epochs may have moved."""
    if start:
        return len(start.epochs) == config.epochs or is_reached(config, start.epochs)
    if (config.epochs, config.target_accuracy) != (begun.epochs, begun.target_accuracy):
        raise CheckpointError(f"{folder.path} is finished and its checkpoints are gone: there is nothing to go on from")
    return True


def _tell_finished(folder: RunFolder, record: Mapping[str, Any], plot: bool, tell: Say) -> None:
    """Say what came of a run, and draw it where that was cut short."""
    summary = read_json(folder.path / "summary.json")
    accuracy = summary.get("test_accuracy")
    if not isinstance(accuracy, float):
        raise CheckpointError(f"{folder.path / 'summary.json'}: test_accuracy is {accuracy!r}: expected a number")
    tell("finished", f"{folder.path} has made its {summary.get('epochs')} epochs; test accuracy {100 * accuracy:.2f} %")
    if plot and not (folder.path / "history.png").exists():
        sizes = "-".join(map(str, record.get("sizes", ())))
        _draw(folder, read_metrics(folder.path / "metrics.jsonl"), sizes, record, accuracy)
        tell("drawn", str(folder.path / "history.png"))


def _draw(
    folder: RunFolder, epochs: Sequence[Mapping[str, Any]], sizes: str, record: Mapping[str, Any], accuracy: float
) -> None:
    title = f"{sizes} on {record.get('dataset')}, {record.get('backend')}"
    plot_history(epochs, folder.path / "history.png", title, accuracy)


def _require_version(record: Mapping[str, Any], path: Path) -> None:
    found = record.get("format_version")
    if not isinstance(found, int):
        raise CheckpointError(f"{path} has no format version: expected the config.json of a run")
    if found > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {found}: this xpmlp reads up to {FORMAT_VERSION}; update xpmlp"
        )


def _require_same_data(record: Mapping[str, Any], data: LoadedData, folder: RunFolder) -> None:
    for part, found in (("train", data.train.fingerprint), ("test", data.test.fingerprint)):
        was = str(record.get(f"{part}_sha256"))
        if found != was:
            raise CheckpointError(
                f"{folder.path} was begun on {record.get('dataset')} ({part} set {was[:12]}…): {data.name} is another "
                f"data set ({found[:12]}…); give the first, or start a new run"
            )


def _number(record: Mapping[str, Any], name: str, folder: RunFolder) -> int:
    value = record.get(name)
    if not isinstance(value, int):
        raise CheckpointError(f"{folder.path / 'config.json'}: {name} is {value!r}: expected a whole number")
    return value


def _threads(record: Mapping[str, Any], size: int) -> int | None:
    """Return the BLAS threads of the run so far, which decide its last bits, where this machine has as many cores.

    With another number of ranks there are other last bits, and another number of threads suits them.
    """
    threads = record.get("threads")
    fits = isinstance(threads, int) and threads <= (os.cpu_count() or 1) and record.get("ranks", 1) == size
    return threads if isinstance(threads, int) and fits else None


def _default_name(data: LoadedData, backend: Backend) -> str:
    """Return when, on what and with what; of a user's own folder its last part."""
    kind, _, folder = data.name.partition(":")
    own = f"-{re.sub(r'[^a-zA-Z0-9_-]+', '-', Path(folder).name)[:40]}" if folder else ""
    return f"runs/{time.strftime('%Y%m%d-%H%M%S')}-{kind}{own}-{backend.name}"


def _sizes(plan: Plan) -> str:
    return "-".join(map(str, plan.layout.sizes))
