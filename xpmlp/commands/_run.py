"""One run of ``xpmlp train``, new or resumed, from the options to the last line, in order."""

import dataclasses
import errno
import os
import platform
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import threadpoolctl

import xpmlp
from xpmlp.backends import GPUS, Backend, get_backend, own_process
from xpmlp.backends._driver import ask_driver
from xpmlp.backends.base import keep_freed_memory
from xpmlp.commands._progress import Say, TrainingProgress, make_download_progress, make_progress, say, say_nothing
from xpmlp.commands._recording import FORMAT_VERSION, KEEP, Recorder, Run, Task, blas_threads, draw
from xpmlp.commands._signals import Interrupted, StopRequest
from xpmlp.communication import Communicator, abort, join, join_gpus, leave, those_that_differ
from xpmlp.data import LoadedData, load_dataset
from xpmlp.data.datasets import DATA_VARIABLE
from xpmlp.errors import CheckpointError, CommunicationError, ConfigError, TrainingError, XpmlpError, expected_one_of
from xpmlp.training.config import RECIPES, TrainConfig, continued
from xpmlp.training.evaluation import evaluate
from xpmlp.training.folder import RunFolder, read_checkpoint, read_json, read_settings
from xpmlp.training.records import Checkpoint
from xpmlp.training.run import is_reached, train_network
from xpmlp.training.steps import Step
from xpmlp.training.threads import FixedThreads, tuned_threads

_EACH_HOSTS = ("data_dir", "threads")
"""Options that may differ between the ranks; a rank without one takes rank 0's."""

_SETTINGS = tuple(field.name for field in dataclasses.fields(TrainConfig))

_RECORDED = {
    "recipe": "recipe",
    "precision": "precision",
    "dataset": "dataset_spec",
    "data_dir": "data_dir",
    "backend": "backend_spec",
    "label_column": "label_column",
    "shape": "shape",
    "checkpoint_steps": "checkpoint_steps",
    "keep": "keep",
}
"""Options that ``config.json`` holds besides the settings, and their names there."""


def run(
    *,
    resume: str | None,
    given: set[str],
    plot: bool,
    quiet: bool,
    distributed: str,
    whole: Path | None = None,
    **options: Any,
) -> None:
    """Train as the command line says; `given` are the options that the user has set.

    `whole` is the folder that is resumed, if the run is one of several in it.
    """
    began = time.perf_counter()
    ranks = join(distributed)
    is_first = ranks.rank == 0
    quiet = quiet or not is_first
    tell, progress = (say_nothing, None) if quiet else (say, make_download_progress())
    command = {**options, "resume": resume, "given": sorted(given - set(_EACH_HOSTS)), "xpmlp": xpmlp.__version__}
    same = repr(sorted((name, value) for name, value in command.items() if name not in _EACH_HOSTS))  # nan is nan
    if ranks.size > 1 and (differ := those_that_differ(ranks, same)):
        raise CommunicationError(
            f"rank {differ[0]} was started with another command or another version of xpmlp than rank 0: "
            "all ranks of a run need the same"
        )
    found = None
    if is_first and resume is None:
        found = _begin(options, given, tell)
    elif is_first:
        found = _take_up(str(resume), given, options, plot, tell, ranks.size)
    task, recorder = found or (None, None)
    try:
        task = ranks.broadcast(task)
        if task is None:  # from a finished run
            leave()
            return
        if not is_first:
            task = dataclasses.replace(task, **{name: options[name] for name in _EACH_HOSTS if name in given})
        device = _equip(task, ranks)
        data = _load(task, ranks, progress)
        ranks = join_gpus(ranks, device.context) if device.name == "cupy" else ranks
        work = Run(task, data, device, ranks)
        if recorder:
            recorder.attach(work)
            recorder.whole = whole
        _carry_out(work, recorder, began, plot, quiet)
    finally:
        if recorder:
            recorder.folder.close()


def _begin(options: Mapping[str, Any], given: set[str], tell: Say) -> tuple[Task, Recorder]:
    """Return a new run."""
    config = TrainConfig(**{**{name: options[name] for name in _SETTINGS}, **_recipe(options, given)})
    out, data_dir = options["out"], options["data_dir"]
    folder = RunFolder("runs" if out is None else out, is_default=out is None)  # refused before the work
    record = {recorded: options[name] for name, recorded in _RECORDED.items()}
    record["data_dir"] = data_dir and str(Path(data_dir).absolute())
    record["keep"] = options["keep"] or KEEP
    names = ("backend", "precision", "dataset", "data_dir", "label_column", "shape", "threads", "checkpoint_steps")
    task = Task(config, **{name: options[name] for name in names}, start=None)
    return task, Recorder(folder, record, tell, is_new=True)


def _recipe(options: Mapping[str, Any], given: set[str]) -> dict[str, Any]:
    """Return a recipe's settings, without those that the user has set.

    Its rate, momentum and center apply only with its optimizer, its fading only with a deformation.
    """
    name, beaten = options["recipe"], set(given)
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}: {expected_one_of(name, RECIPES)}")
    if "optimizer" in given:
        beaten |= {"learning_rate", "momentum", "center"}
    if "deform" in given and not options["deform"]:
        beaten.add("deform_fade")
    return {setting: value for setting, value in RECIPES[name].items() if setting not in beaten}


def _take_up(
    resume: str, given: set[str], options: Mapping[str, Any], plot: bool, tell: Say, size: int
) -> tuple[Task, Recorder] | None:
    """Return a resumed run on so many ranks; if it is finished, say so and return None."""
    if "out" in given:
        raise ConfigError(f"--out {options['out']}: a resumed run stays in its folder {resume}; leave it out")
    if "recipe" in given:
        raise ConfigError(f"--recipe {options['recipe']}: a resumed run keeps its settings; leave it out")
    folder = RunFolder.reopen(resume)
    try:
        record = read_json(folder.path / "config.json")
        begun, n_images = _begun(record, folder.path / "config.json")
        config = continued(begun, {name: options[name] for name in _SETTINGS if name in given}, n_images)
        start = _last_checkpoint(folder)
        if (folder.path / "summary.json").exists() and _is_over(config, begun, start, folder):
            _tell_finished(folder, plot, tell)
            folder.close()
            return None
    except BaseException:
        folder.close()
        raise
    known: dict[str, Any] = {
        name: options[name] if name in given else record.get(recorded) for name, recorded in _RECORDED.items()
    }
    if "dataset" in given:  # the run's data folder belongs to the run's own data set
        known["data_dir"] = options["data_dir"]
    threads = options["threads"] if "threads" in given else _recorded_threads(record, size)
    names = ("backend", "precision", "dataset", "data_dir", "label_column", "shape", "checkpoint_steps")
    task = Task(config, **{name: known[name] for name in names}, start=start, threads=threads)
    record |= {name: options[name] for name in ("checkpoint_steps", "keep", "precision") if name in given}
    return task, Recorder(folder, record, tell, is_new=False)


def _equip(task: Task, ranks: Communicator) -> Backend:
    """Return the backend of all ranks; each rank takes its own GPU of its host."""
    dtype, precision = task.config.dtype, task.precision
    own_process(task.backend, dtype)
    first = get_backend(task.backend, dtype, precision) if ranks.rank == 0 else None
    if ranks.size == 1:
        assert first is not None
        return first
    spec = ranks.broadcast(first and (first.name if task.backend == "auto" else task.backend))
    if spec not in GPUS:
        return first or get_backend(spec, dtype, precision)
    n, visible = ask_driver().devices, (platform.node(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    sees_its_own = ranks.gather(visible).count(visible) == 1  # as with launchers such as Slurm's
    if n < ranks.local_size and not sees_its_own:
        raise ConfigError(
            f"{ranks.local_size} ranks on a host with {n} GPU{'' if n == 1 else 's'}: start as many as it has, or let "
            f"each see one of its own (CUDA_VISIBLE_DEVICES), or name one for all, as --backend {spec}:0"
        )
    return get_backend(f"{spec}:{0 if sees_its_own else ranks.local_rank}", dtype, precision)


def _load(task: Task, ranks: Communicator, progress: Any) -> LoadedData:
    """Return the data; the first rank of a host downloads them for the others."""
    if told := ranks.broadcast(os.environ.get(DATA_VARIABLE)):
        os.environ.setdefault(DATA_VARIABLE, told)  # launchers do not pass the user's variables on to other hosts
    own: dict[str, Any] = {"label_column": task.label_column, "shape": task.shape, "seed": task.config.seed}
    data = load_dataset(task.dataset, task.data_dir, progress=progress, **own) if ranks.rank == 0 else None
    name = ranks.broadcast(data and data.name)
    if data is None and ranks.local_rank == 0:
        data = load_dataset(name, task.data_dir, **own)
    ranks.barrier()
    return data or load_dataset(name, task.data_dir, **own)


def _carry_out(work: Run, recorder: Recorder | None, began: float, plot: bool, quiet: bool) -> None:
    """Train and test; rank 0, which has the recorder, writes and prints the results."""
    task, stop, progress = work.task, StopRequest(), make_progress(quiet)
    keep_freed_memory()  # not before: the memory that reading the data has freed goes back to the system first
    with _threads(work, recorder) as watched, _explaining(recorder, progress):
        with stop.listening():
            theta, history = train_network(
                task.config,
                work.data.train,
                work.device,
                [recorder, progress] if recorder else (),
                start=task.start,
                checkpoint_steps=task.checkpoint_steps,
                should_stop=stop,
                communicator=work.ranks,
                watched=watched,
            )
        signum = next(filter(None, work.ranks.gather(stop.signum)), None)  # all ranks learn it
        if signum is not None:
            raise Interrupted(signum, is_of_all=True)
        if recorder:
            recorder.write_model(work.device.to_numpy(theta))
        layout, size, transfer = history.plan.layout, history.plan.batch_size, task.config.transfer
        test = evaluate(theta, layout, work.data.test, work.device, size, transfer, work.ranks)
        leave()  # the other ranks have finished
        progress.close()
        if recorder:
            before = task.start.seconds if task.start else 0.0
            recorder.finish(history, test, before + time.perf_counter() - began)
            if plot:
                draw(recorder.folder)
    if recorder:
        recorder.tell("run", f"{recorder.folder.path}{', its curves in history.png' if plot else ''}")


@contextmanager
def _threads(work: Run, recorder: Recorder | None) -> Iterator[Callable[[Step], Step]]:
    """Give the function that watches a step, with the user's number of BLAS threads, or a measured one.

    With several ranks on a host, each uses its share of the cores. This includes OpenMP's threads, which PyTorch uses.
    """
    ranks, threads = work.ranks, work.task.threads
    if ranks.size > 1:
        share = max(1, min(blas_threads(), ranks.cores // ranks.local_size))
        with threadpoolctl.threadpool_limits(threads or share):
            yield FixedThreads().watched
    elif threads:
        with threadpoolctl.threadpool_limits(threads, user_api="blas"):
            yield FixedThreads().watched
    else:
        assert recorder is not None
        with tuned_threads(work.device, on_change=recorder.on_threads) as tuner:
            recorder.tunes_threads = tuner.is_tuned
            yield tuner.watched


@contextmanager
def _explaining(recorder: Recorder | None, progress: TrainingProgress) -> Iterator[None]:
    """Explain what an interrupted run has left, and how to resume it. A run that never began leaves nothing.

    Rank 0, which has the recorder, does this; the others end with it if a signal ends all.
    """
    try:
        yield
    except BaseException as error:
        progress.close()
        if recorder is None:
            if isinstance(error, Interrupted) and error.is_of_all:
                leave()
                raise click.exceptions.Exit(error.exit_code) from None
            raise
        folder = recorder.folder
        if recorder.is_new and recorder.steps == 0:
            folder.discard()
            raise
        command = click.get_current_context().command_path
        way_on = f"{command} --resume {shlex.quote(str(recorder.whole or folder.path))}"
        if isinstance(error, TrainingError) and folder.checkpoints:
            error.args = (f"{error} (the last good checkpoint: {folder.checkpoints[-1]})",)
        elif isinstance(error, XpmlpError):
            error.args = (f"{error} (the run so far is in {folder.path})",)
        elif isinstance(error, OSError) and not isinstance(error, BrokenPipeError):  # its reader has closed it
            room = ": make room, then" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "; then"
            raise CheckpointError(
                f"{error.filename}: {error.strerror or error}{room} resume from the last checkpoint with: {way_on}"
            ) from None
        elif isinstance(error, Interrupted | KeyboardInterrupt):
            interrupted = error if isinstance(error, Interrupted) else Interrupted(signal.SIGINT)
            click.echo(f"{command}: {interrupted}{recorder.where}; continue with: {way_on}", err=True)
            if interrupted.is_of_all:
                leave()
            abort(interrupted.exit_code)
            raise click.exceptions.Exit(interrupted.exit_code) from None
        raise


def _last_checkpoint(folder: RunFolder) -> Checkpoint | None:
    """Return the checkpoint from which a run can resume; None if there is none yet."""
    paths = folder.checkpoints
    if not paths:
        return None
    try:
        return read_checkpoint(paths[-1])[0]
    except CheckpointError as error:
        before = paths[-2].name if len(paths) > 1 else "the beginning"
        raise CheckpointError(f"{error}; remove it to resume from {before}") from None


def _is_over(config: TrainConfig, begun: TrainConfig, start: Checkpoint | None, folder: RunFolder) -> bool:
    """Return whether a run with a summary is at its end; more epochs may have moved the end."""
    if start:
        return len(start.epochs) == config.epochs or is_reached(config, start.epochs)
    if (config.epochs, config.target_accuracy) != (begun.epochs, begun.target_accuracy):
        raise CheckpointError(f"{folder.path} is finished and its checkpoints are gone: nothing to resume from")
    return True


def _tell_finished(folder: RunFolder, plot: bool, tell: Say) -> None:
    """Print a finished run's results; draw its curves if that was interrupted."""
    summary = read_json(folder.path / "summary.json")
    accuracy, picture = summary.get("test_accuracy"), folder.path / "history.png"
    if not isinstance(accuracy, float):
        raise CheckpointError(f"{folder.path / 'summary.json'}: test_accuracy is {accuracy!r}: expected a number")
    n = summary.get("epochs")
    epochs = f"{n} epoch{'' if n == 1 else 's'}"
    tell("finished", f"{folder.path} has made its {epochs}; test accuracy {100 * accuracy:.2f} %")
    if plot and not picture.exists():
        draw(folder)
        tell("drawn", str(picture))


def _begun(record: Mapping[str, Any], path: Path) -> tuple[TrainConfig, int]:
    """Return a run's original settings from ``config.json``, and its number of images."""
    found = record.get("format_version")
    if not isinstance(found, int):
        raise CheckpointError(f"{path} has no format version: expected the config.json of a run")
    if found > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {found}: this xpmlp reads up to {FORMAT_VERSION}; update xpmlp"
        )
    begun = read_settings(record, path)
    for name in ("n_train", "n_val"):
        if not isinstance(record.get(name), int):
            raise CheckpointError(f"{path}: {name} is {record.get(name)!r}: expected a whole number")
    return begun, record["n_train"] + record["n_val"]


def _recorded_threads(record: Mapping[str, Any], size: int) -> int | None:
    """Return the number of BLAS threads that the user set, which decides the results' last bits.

    With another number of ranks, the last bits differ anyway, and another number of threads is better.
    """
    asked = record.get("threads_asked", record.get("threads"))
    return asked if isinstance(asked, int) and record.get("ranks", 1) == size else None
