"""One fit: by batches, as work for the one loop, or by L-BFGS, in scikit-learn's order of draws and decisions."""

import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from xpmlp.backends.base import free_host_memory
from xpmlp.data.dropout import Dropout
from xpmlp.estimators._sklearn import check_optimize_result
from xpmlp.estimators.epochs import EpochFigures, Epochs, Samples, Task, is_true, take
from xpmlp.estimators.inputs import SparseSamples, require_some, widest_float
from xpmlp.estimators.parameters import functions
from xpmlp.estimators.rates import Rates
from xpmlp.math.layout import Layout
from xpmlp.math.optimizers import State
from xpmlp.namespaces import Array, float_name
from xpmlp.training.distributed import SingleProcess
from xpmlp.training.interrupts import first_interrupt
from xpmlp.training.loop import Loop
from xpmlp.training.objectives import SampleObjective
from xpmlp.training.steps import compiled_gradient, compiled_step, release
from xpmlp.training.threads import tuned_threads

if TYPE_CHECKING:
    from xpmlp.estimators.base import Perceptron


def begin_by_batches(e: "Perceptron", task: Task, incremental: bool) -> Epochs:
    """Return the epochs of a stochastic optimizer, in `partial_fit` a single one, of samples in one piece."""
    if e.early_stopping and task.held_out is None:
        train, held_out = split(e, task)
        xp = task.place.xp
        task = task._replace(data=take(xp, task.data, train), held_out=take(xp, task.data, held_out))
    return begin(e, task._replace(data=_rows_in_one_piece(task.data)), incremental)


def fit_by_batches(work: Epochs, incremental: bool) -> None:
    """Make an estimator's epochs."""
    e, layout, device = work.e, work.layout, work.place.device
    step = compiled_step(device, objective_of(e, layout, work.dropout), e._optimizer.rule)
    with first_interrupt() as is_interrupted, tuned_threads(device, work.epochs * len(work.parts)) as tuner:
        strategy = SingleProcess(tuner.watched(step), is_interrupted)
        loop = Loop(work, strategy, device, work.first())
        try:
            loop.run()
        finally:
            release(step)
    finish(work, loop.carry.theta, loop.carry.state, incremental, loop.is_stopped)


def begin(e: "Perceptron", task: Task, incremental: bool = False, rows: np.ndarray | None = None) -> Epochs:
    """Return the epochs that an estimator is trained for; see `Epochs` for the rows."""
    if not (incremental and hasattr(e, "_optimizer") and e._optimizer.goes_on_for(e, task.layout)):
        e._optimizer = Rates.of(e, task.layout)
    if not hasattr(e, "loss_curve_"):  # lbfgs came before
        e.loss_curve_, e._no_improvement_count = [], 0
        e.validation_scores_ = e.best_validation_score_ = e.best_loss_ = None
    if e.early_stopping and e.validation_scores_ is None:  # switched on between two warm starts, or off
        e.validation_scores_, e.best_validation_score_ = [], -np.inf
    if not e.early_stopping and e.best_loss_ is None:
        e.best_loss_ = np.inf
    if task.held_out is None:
        e.validation_loss_curve_ = None
    elif getattr(e, "validation_loss_curve_", None) is None:
        e.validation_loss_curve_ = []
    if task.held_out and task.held_out[2] is not None:
        require_some(task.held_out[2], task.place.xp)
    e.n_iter_ = 0
    return Epochs(e, task, 1 if incremental else e.max_iter, rows)


def finish(work: Epochs, theta: Array, state: State, incremental: bool = False, is_stopped: bool = False) -> None:
    """Give an estimator its learned parameters: the last ones, or the best."""
    e = work.e
    e._optimizer.state = state
    e._set_parameters(work.layout, theta, work.place)
    if is_stopped:
        warnings.warn("Training interrupted by user.", stacklevel=7)
    elif not (incremental or work.is_over or e._optimizer.is_scheduled):
        reached = f"Maximum iterations ({e.max_iter}) reached and the optimization hasn't converged yet."
        warnings.warn(f"Stochastic Optimizer: {reached}", ConvergenceWarning, stacklevel=7)
    # scikit-learn goes on training the very arrays that an earlier fit has kept as its best: no better, they go on.
    if work.has_best or (e.early_stopping and (e._best_coefs is not work.best_before or not work.was_best)):
        e.coefs_, e.intercepts_ = e._best_coefs, e._best_intercepts
    elif e.early_stopping:
        e._best_coefs, e._best_intercepts = e.coefs_, e.intercepts_
    if work.raised is not None:
        raise work.raised


def objective_of(e: "Perceptron", layout: Layout, dropout: Dropout | None = None) -> SampleObjective:
    """Return an estimator's objective; the penalty of adamw is in its steps."""
    alpha = 0.0 if e.solver == "adamw" else float(e.alpha)
    return SampleObjective(layout, e._between(), e._loss_head(), alpha, dropout)


def split(e: "Perceptron", task: Task) -> tuple[Array, Array]:
    """Return the samples to train on and those to stop by, by their numbers, as scikit-learn would draw them.

    Two classes are split in proportion. On the host, this needs their labels in order. For another library, the number
    of each class is enough. A draw among sorted labels, mapped back through a stable sort, equals the draw among the
    labels themselves.
    """
    (X, T, _), place = task.data, task.place
    n, xp, labels, order = X.shape[0], place.xp, None, None
    if isinstance(e, ClassifierMixin) and e.n_outputs_ == 1:
        second = T[:, 0]
        n_second = int(xp.sum(xp.astype(second, xp.int32)))
        labels = np.repeat(["False", "True"], [n - n_second, n_second])  # as scikit-learn's message has them
        order = xp.argsort(xp.astype(second, xp.int32), stable=True)
    part = e.validation_fraction
    parts = train_test_split(np.arange(n), random_state=e._random_state, test_size=part, stratify=labels)
    if len(parts[1]) < 2:
        raise ValueError("The validation set is too small. Increase 'validation_fraction' or the size of your dataset.")
    drawn = [place.to_device(rows) for rows in parts]
    train, held_out = (rows if order is None else xp.take(order, rows, axis=0) for rows in drawn)
    return train, held_out


def _rows_in_one_piece(data: Samples) -> Samples:
    """Return samples on the host in row order, which makes gathering fast, if a copy fits in memory."""

    def copied(array: Any) -> Any:
        if isinstance(array, SparseSamples):
            return array.by_rows()
        if not isinstance(array, np.ndarray) or array.flags.c_contiguous:
            return array
        free = free_host_memory()
        return np.ascontiguousarray(array) if free is None or array.nbytes < free / 2 else array

    X, T, weights = map(copied, data)
    return X, T, weights


def fit_lbfgs(e: "Perceptron", task: Task) -> None:
    """Fit an estimator with SciPy's L-BFGS-B: at each evaluation the parameters come to the device from the host."""
    from scipy import optimize

    layout, data, _, place = task
    device, dtype = place.device, float_name(data[0].dtype)
    evaluate = compiled_gradient(device, objective_of(e, layout))

    def loss_and_gradient(packed: np.ndarray) -> tuple[np.float64, np.ndarray]:
        gradient, loss, _, _ = evaluate(device.asarray(packed.astype(dtype), copy=True), data)
        return np.float64(device.to_numpy(loss)), device.to_numpy(gradient).astype(np.float64)

    start = place.host(e._theta(layout, place))  # SciPy evaluates at points of its dtype
    options = {"maxfun": e.max_fun, "maxiter": e.max_iter, "gtol": e.tol}
    calls = _Iterations(e.callbacks)
    try:
        found = optimize.minimize(
            loss_and_gradient, start, method="L-BFGS-B", jac=True, options=options, callback=calls.callback
        )
    finally:
        release(evaluate)
    e.n_iter_ = calls.count if calls.is_over else check_optimize_result("lbfgs", found, e.max_iter)
    e.loss_ = e._loss_type(found.fun)
    kept = e.dtype or float_name(widest_float(device))
    e._set_parameters(layout, device.asarray(found.x.astype(kept), copy=True), place)
    if calls.raised is not None:
        raise calls.raised


class _Iterations:
    """Hands figures of SciPy's iterations to an estimator's callbacks."""

    def __init__(self, callbacks: Any) -> None:
        self.functions, self.count, self.is_over = functions(callbacks), 0, False
        self.raised: BaseException | None = None
        self.callback = self._call if self.functions else None
        self._begun = time.perf_counter()

    def _call(self, intermediate_result: Any) -> None:  # SciPy goes by the name of the argument
        self.count += 1
        seconds, self._begun = time.perf_counter() - self._begun, time.perf_counter()
        figures = EpochFigures(self.count, float(intermediate_result.fun), None, None, None, seconds)
        try:
            for function in self.functions:
                self.is_over = is_true(function(figures)) or self.is_over
        except BaseException as error:
            self.raised, self.is_over = error, True
        if self.is_over:
            raise StopIteration
