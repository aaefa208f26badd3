"""One run of ``xpmlp train``, new or taken up again, from the options to the last line, in order."""

import dataclasses
import errno
import os
import platform
import shlex
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import threadpoolctl

import xpmlp
from xpmlp.backends import Backend, get_backend, own_process
from xpmlp.backends._driver import ask_driver
from xpmlp.commands._progress import Say, make_download_progress, make_progress, say, say_nothing
from xpmlp.commands._recording import FORMAT_VERSION, KEEP, Recorder, Run, Task, blas_threads, draw, sizes_of
from xpmlp.commands._signals import Interrupted, StopRequest
from xpmlp.communication import Communicator, abort, join, join_gpus, leave, those_that_differ
from xpmlp.data import LoadedData, load_dataset
from xpmlp.data.datasets import DATA_VARIABLE
from xpmlp.errors import CheckpointError, CommunicationError, ConfigError, TrainingError, XpmlpError
from xpmlp.models.model import Evaluation
from xpmlp.training.config import RECIPES, TrainConfig, continued
from xpmlp.training.evaluation import evaluate
from xpmlp.training.folder import RunFolder, read_checkpoint, read_json, read_metrics, read_settings
from xpmlp.training.records import Callback, Checkpoint, History, Plan
from xpmlp.training.run import is_reached, train_network

_EACH_HOSTS = ("data_dir", "threads")
"""Options that may differ between the ranks; one without takes rank 0's."""

_SETTINGS = tuple(field.name for field in dataclasses.fields(TrainConfig))


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
    tell, progress = (say_nothing, None) if quiet else (say, make_download_progress())
    shared = sorted(given - set(_EACH_HOSTS))
    _require_same_command(ranks, {**options, "resume": resume, "given": shared, "xpmlp": xpmlp.__version__})
    task, recorder = None, None
    if is_first and resume is None:
        task, recorder = _begin(options, given, tell)
    elif is_first and (found := _take_up(str(resume), given, options, plot, tell, ranks.size)):
        task, recorder = found
    try:
        task = ranks.broadcast(task)
        if task is None:  # of a run that is finished
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
            _carry_out(work, recorder, began, plot, quiet)
        else:
            _assist(work)
    finally:
        if recorder:
            recorder.close()


def _require_same_command(ranks: Communicator, command: dict[str, Any]) -> None:
    """Refuse ranks that were started with other options than rank 0, which speaks for all."""
    same = repr(sorted((name, value) for name, value in command.items() if name not in _EACH_HOSTS))  # nan is nan
    if ranks.size > 1 and (differ := those_that_differ(ranks, same)):
        raise CommunicationError(
            f"rank {differ[0]} was started with another command or another version of xpmlp than rank 0: "
            "all ranks of a run need the same"
        )


def _begin(options: Mapping[str, Any], given: set[str], tell: Say) -> tuple[Task, Recorder]:
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
    return task, Recorder(None if out is None else folder, {}, additions, tell)


def _take_up(
    resume: str, given: set[str], options: Mapping[str, Any], plot: bool, tell: Say, size: int
) -> tuple[Task, Recorder] | None:
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
    return task, Recorder(folder, record, {name: options[name] for name in names if name in given}, tell)


def _equip(task: Task, ranks: Communicator) -> Backend:
    """Return the backend that all ranks compute with; of a host's GPUs each rank takes one of its own."""
    dtype, precision = task.config.dtype, task.precision
    own_process(task.backend, dtype)
    first = get_backend(task.backend, dtype, precision) if ranks.rank == 0 else None
    if ranks.size == 1:
        assert first is not None
        return first
    spec = ranks.broadcast(first and (first.name if task.backend == "auto" else task.backend))
    if spec not in ("cupy", "torch:cuda", "jax:gpu"):
        return first or get_backend(spec, dtype, precision)
    n, visible = ask_driver().devices, (platform.node(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    sees_its_own = ranks.gather(visible).count(visible) == 1  # as launchers such as Slurm's arrange it
    if n < ranks.local_size and not sees_its_own:
        raise ConfigError(
            f"{ranks.local_size} ranks on a host with {n} GPU{'' if n == 1 else 's'}: start as many as it has, or let "
            f"each see one of its own (CUDA_VISIBLE_DEVICES), or name one for all, as --backend {spec}:0"
        )
    return get_backend(f"{spec}:{0 if sees_its_own else ranks.local_rank}", dtype, precision)


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


def _settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options that are a training run's settings."""
    return {name: options[name] for name in _SETTINGS}


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


def _carry_out(work: Run, recorder: Recorder, began: float, plot: bool, quiet: bool) -> None:
    """Train, test, and write what came of it."""
    progress = None if quiet else make_progress()
    with _limited_threads(work), _explaining(recorder, progress):
        theta, history = _train(work, [recorder, *([progress] if progress else [])])
        plan = history.plan
        recorder.write_model(work.device.to_numpy(theta), plan)
        test = _test(work, theta, plan)
        leave()  # the others have nothing left to do
        if progress:
            progress.close()
        start = work.task.start
        recorder.finish(history, test, time.perf_counter() - began + (start.seconds if start else 0.0))
        if plot:
            epochs = [dataclasses.asdict(epoch) for epoch in history.epochs]
            names = {"dataset": work.data.name, "backend": work.device.name}
            draw(recorder.folder, epochs, sizes_of(plan), names, test.accuracy)
    recorder.tell("run", f"{recorder.folder.path}{', its curves in history.png' if plot else ''}")


def _assist(work: Run) -> None:
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


def _train(work: Run, callbacks: Sequence[Callback]) -> tuple[Any, History]:
    """Train until the end, or until a signal has come to any rank, which all learn of."""
    stop, task = StopRequest(), work.task
    with stop.listening():
        theta, history = train_network(
            task.config,
            work.data.train,
            work.device,
            callbacks,
            start=task.start,
            checkpoint_steps=task.checkpoint_steps,
            should_stop=stop,
            communicator=work.ranks,
        )
    signum = next(filter(None, work.ranks.gather(stop.signum)), None)
    if signum is not None:
        raise Interrupted(signum, is_of_all=True)
    return theta, history


def _test(work: Run, theta: Any, plan: Plan) -> Evaluation:
    transfer = work.task.config.transfer
    return evaluate(theta, plan.layout, work.data.test, work.device, plan.batch_size, transfer, work.ranks)


def _limited_threads(work: Run) -> threadpoolctl.threadpool_limits:
    """Return what limits the BLAS library's threads: as the user says, else to the rank's part of its host's cores."""
    ranks, threads = work.ranks, work.task.threads
    if ranks.size == 1:
        return threadpoolctl.threadpool_limits(threads, user_api="blas")
    share = max(1, min(blas_threads(), ranks.cores // ranks.local_size))
    return threadpoolctl.threadpool_limits(threads or share)  # with OpenMP's, which are PyTorch's


@contextmanager
def _explaining(recorder: Recorder, progress: Any) -> Iterator[None]:
    """Say of a run that is cut short what is left of it, and how it goes on; one that never began leaves nothing."""
    folder = recorder.folder
    try:
        yield
    except BaseException as error:
        if progress:
            progress.close()
        if not recorder.record and recorder.steps == 0:
            folder.discard()
            raise
        command = click.get_current_context().command_path
        way_on = f"{command} --resume {shlex.quote(str(folder.path))}"
        if isinstance(error, TrainingError) and folder.checkpoints:
            error.args = (f"{error} (the last good checkpoint: {folder.checkpoints[-1]})",)
        elif isinstance(error, XpmlpError):
            error.args = (f"{error} (the run so far is in {folder.path})",)
        elif isinstance(error, OSError):
            room = ": make room, then" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "; then"
            raise CheckpointError(
                f"{error.filename}: {error.strerror or error}{room} go on from the last checkpoint with: {way_on}"
            ) from None
        elif isinstance(error, Interrupted | KeyboardInterrupt):
            interrupted = error if isinstance(error, Interrupted) else Interrupted(signal.SIGINT)
            click.echo(f"{command}: {interrupted}{recorder.where}; go on with: {way_on}", err=True)
            if interrupted.is_of_all:
                leave()
            abort(interrupted.exit_code)
            raise click.exceptions.Exit(interrupted.exit_code) from None
        raise
    finally:
        if progress:
            progress.close()


# --- a run that was begun before -----------------------------------------------------------------------------------


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
        draw(folder, read_metrics(folder.path / "metrics.jsonl"), sizes, record, accuracy)
        tell("drawn", str(folder.path / "history.png"))


def _require_version(record: Mapping[str, Any], path: Path) -> None:
    found = record.get("format_version")
    if not isinstance(found, int):
        raise CheckpointError(f"{path} has no format version: expected the config.json of a run")
    if found > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {found}: this xpmlp reads up to {FORMAT_VERSION}; update xpmlp"
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
