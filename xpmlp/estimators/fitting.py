"""One fit: by batches, as work for the one loop, or by L-BFGS, in scikit-learn's order of draws and decisions."""

import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import gen_batches

from xpmlp.backends.base import free_host_memory
from xpmlp.data.loading import gather
from xpmlp.estimators._sklearn import check_optimize_result
from xpmlp.estimators.inputs import Place, SparseSamples, widest_float
from xpmlp.estimators.rates import Rates
from xpmlp.estimators.scores import infer
from xpmlp.math.layout import Layout
from xpmlp.math.optimizers import Scalars, State
from xpmlp.namespaces import Array, float_name
from xpmlp.training.distributed import SingleProcess
from xpmlp.training.interrupts import first_interrupt
from xpmlp.training.loop import Loop
from xpmlp.training.objectives import SampleObjective
from xpmlp.training.steps import Carry, compiled_gradient, compiled_step, release, zero_totals
from xpmlp.training.threads import tuned_threads

if TYPE_CHECKING:
    from xpmlp.estimators.base import Perceptron

STOCHASTIC = ("sgd", "adam")

Samples: TypeAlias = tuple[Array, Array, Array | None]  # samples, targets and weights


def fit_by_batches(e: "Perceptron", layout: Layout, data: Samples, place: Place, incremental: bool) -> None:
    """Fit an estimator with its stochastic optimizer, for all its epochs or, in `partial_fit`, for one."""
    if not incremental or not hasattr(e, "_optimizer"):
        e._optimizer = Rates.of(e)
    if e.early_stopping and incremental:
        raise ValueError("partial_fit does not support early_stopping=True")
    held_out = None
    if e.early_stopping:
        data, held_out = _split(e, data, place)
    # scikit-learn goes on training the very arrays that an earlier fit has kept as its best: no better, they go on.
    best_before, is_best = e._best_coefs, e.coefs_ is e._best_coefs
    if e.early_stopping and e.validation_scores_ is None:  # switched on between two warm starts, or off
        e.validation_scores_, e.best_validation_score_ = [], -np.inf
    if not e.early_stopping and e.best_loss_ is None:
        e.best_loss_ = np.inf
    data = _rows_in_one_piece(data)
    objective = SampleObjective(layout, e.activation, e.out_activation_, float(e.alpha))
    e.n_iter_ = 0
    work = _Fit(e, layout, data, held_out, place, 1 if incremental else e.max_iter)
    step = compiled_step(place.device, objective, e._optimizer.rule)
    with first_interrupt() as is_interrupted, tuned_threads(place.device, work.epochs * len(work.parts)) as tuner:
        strategy = SingleProcess(tuner.watched(step) if tuner else step, is_interrupted)
        loop = Loop(work, strategy, place.device, work.first())
        try:
            loop.run()
        finally:
            release(step)
    e._optimizer.state = loop.carry.state
    e._set_parameters(layout, loop.carry.theta, place)
    if loop.is_stopped:
        warnings.warn("Training interrupted by user.", stacklevel=5)
    elif not incremental and not work.is_over:
        reached = f"Maximum iterations ({e.max_iter}) reached and the optimization hasn't converged yet."
        warnings.warn(f"Stochastic Optimizer: {reached}", ConvergenceWarning, stacklevel=5)
    if e.early_stopping and (e._best_coefs is not best_before or not is_best):
        e.coefs_, e.intercepts_ = e._best_coefs, e._best_intercepts
    elif e.early_stopping:
        e._best_coefs, e._best_intercepts = e.coefs_, e.intercepts_


class _Fit:
    """What the loop asks of one fit; see `xpmlp.training.loop.Work`."""

    def __init__(
        self, e: "Perceptron", layout: Layout, data: Samples, held_out: Samples | None, place: Place, epochs: int
    ) -> None:
        self.e, self.layout, self.data, self.held_out, self.place = e, layout, data, held_out, place
        self.epochs, self.is_over = epochs, False
        n = data[0].shape[0]
        self.dtype, self.rows = float_name(data[0].dtype), np.arange(n, dtype=int)
        self.parts = list(gen_batches(n, _batch_size(e, n)))

    def first(self) -> Carry:
        """Return what the first step is handed: the parameters and the optimizer's state as the estimator has them."""
        xp, place, rates = self.place.xp, self.place, self.e._optimizer
        dtype = getattr(xp, self.dtype)
        theta = xp.astype(self.e._theta(self.layout, place), dtype, copy=False)
        state: State = rates.rule.init(theta)
        if rates.state is not None:
            state = {name: xp.astype(place.to_device(v), dtype, copy=False) for name, v in rates.state.items()}
        return Carry(theta, state, zero_totals(place.device, self.dtype))

    def begin_epoch(self, step: int) -> tuple[Iterator[tuple[Samples, None]], int] | None:
        """Draw the epoch's order."""
        e = self.e
        if self.is_over or e.n_iter_ == self.epochs:
            return None
        parts: Iterable[Any] = self.parts
        if e.shuffle:
            drawn = np.arange(len(self.rows))
            e._random_state.shuffle(drawn)  # as sklearn.utils.shuffle draws, which takes longer than a small epoch
            self.rows = self.rows[drawn]
            order = self.rows if self.place.device.name == "numpy" else self.place.to_device(self.rows)
            parts = (order[part] for part in self.parts)
        return ((_take(self.place.xp, self.data, part), None) for part in parts), step + len(self.parts)

    def scalars(self, step: int) -> Scalars:
        """Return the numbers of the optimizer's next step; it counts its own, over all fits."""
        rates: Rates = self.e._optimizer
        return rates.next_scalars()

    def next_due(self, step: int) -> int:
        """Return no step that comes: nothing is to be done within an epoch."""
        return 2**62

    def after_step(self, step: int) -> None:
        """Do nothing."""

    def keep(self, step: int, carry: Carry) -> None:
        """Do nothing."""

    def keeps(self, step: int) -> bool:
        """Return that nothing is to be kept."""
        return False

    def end_epoch(self, step: int, carry: Carry) -> Carry:
        """Report the loss, and decide whether it was the last epoch."""
        e, n = self.e, len(self.rows)
        e.n_iter_ += 1
        e.t_ += n
        e.loss_ = e._loss_type(self.place.device.to_numpy(carry.totals.loss)) / n
        e.loss_curve_.append(e.loss_)
        if e.verbose:
            print(f"Iteration {e.n_iter_}, loss = {e.loss_:.8f}")  # noqa: T201
        is_better = self._improves_score(carry.theta) if self.held_out else self._improves_loss()
        e._no_improvement_count = 0 if is_better else e._no_improvement_count + 1
        e._optimizer.iteration_ends(e.t_)
        if e._no_improvement_count > e.n_iter_no_change:
            what = "Validation score" if e.early_stopping else "Training loss"
            reason = f"{what} did not improve more than tol={e.tol:f} for {e.n_iter_no_change} consecutive epochs."
            self.is_over = e._optimizer.trigger_stopping(reason, e.verbose)
            if not self.is_over:
                e._no_improvement_count = 0
        return carry._replace(totals=zero_totals(self.place.device, self.dtype))

    def _improves_loss(self) -> bool:
        """Return whether the epoch's loss is better by `tol` than the best before."""
        e = self.e
        is_better = e.loss_ <= e.best_loss_ - e.tol
        e.best_loss_ = min(e.best_loss_, e.loss_)
        return bool(is_better)

    def _improves_score(self, theta: Array) -> bool:
        """Return whether the held-out samples' score is better by `tol`, and keep the parameters of the best."""
        e = self.e
        assert self.held_out is not None
        X, T, weights = self.held_out
        P = infer(self.layout.unflatten(theta), X, e.activation, e.out_activation_)
        score = e._validation_score(P, T, weights)
        e.validation_scores_.append(score)
        if e.verbose:
            print(f"Validation score: {score:f}")  # noqa: T201
        is_better = not score < e.best_validation_score_ + e.tol
        if score > e.best_validation_score_:
            e.best_validation_score_ = score
            e._set_parameters(self.layout, theta, self.place)
            e._keep_best()
        return is_better


def _batch_size(e: "Perceptron", n: int) -> int:
    if e.batch_size == "auto":
        return min(200, n)
    if e.batch_size > n:
        problem = "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped"
        warnings.warn(problem, stacklevel=7)
    return int(min(max(e.batch_size, 1), n))


def _split(e: "Perceptron", data: Samples, place: Place) -> tuple[Samples, Samples]:
    """Return the samples to train on and those to stop by, the ones that scikit-learn would draw.

    Two classes are split in proportion. That needs their labels in order, on the host; in any other library their
    number is enough, since the draw among sorted labels, taken from where a stable sort has put them, is the draw
    among the labels themselves.
    """
    X, T, _ = data
    n, xp, labels, order = X.shape[0], place.xp, None, None
    if isinstance(e, ClassifierMixin) and e.n_outputs_ == 1:
        second = T[:, 0]
        n_second = int(xp.sum(xp.astype(second, xp.int32)))
        labels = np.repeat([False, True], [n - n_second, n_second])
        order = xp.argsort(xp.astype(second, xp.int32), stable=True)
    part = e.validation_fraction
    parts = train_test_split(np.arange(n), random_state=e._random_state, test_size=part, stratify=labels)
    if len(parts[1]) < 2:
        raise ValueError("The validation set is too small. Increase 'validation_fraction' or the size of your dataset.")
    drawn = [place.to_device(rows) for rows in parts]
    train, held_out = (rows if order is None else xp.take(order, rows, axis=0) for rows in drawn)
    return _take(xp, data, train), _take(xp, data, held_out)


def _rows_in_one_piece(data: Samples) -> Samples:
    """Return samples on the host row after row in memory, where batches are gathered fast, if a copy fits."""

    def copied(array: Any) -> Any:
        if isinstance(array, SparseSamples):
            return array.by_rows()
        if not isinstance(array, np.ndarray) or array.flags.c_contiguous:
            return array
        free = free_host_memory()
        return np.ascontiguousarray(array) if free is None or array.nbytes < free / 2 else array

    X, T, weights = map(copied, data)
    return X, T, weights


def _take_rows(xp: Any, array: Array, rows: Any) -> Array:
    return gather(array, rows) if isinstance(array, np.ndarray) else xp.take(array, rows, axis=0)


def _take(xp: Any, data: Samples, rows: Any) -> Samples:
    """Return some of the samples, named by a slice or by their numbers."""
    X, T, weights = data
    if isinstance(rows, slice):
        return X[rows, :], T[rows, ...], None if weights is None else weights[rows]
    X = X[rows, :] if isinstance(X, SparseSamples) else _take_rows(xp, X, rows)
    return X, _take_rows(xp, T, rows), None if weights is None else _take_rows(xp, weights, rows)


def fit_lbfgs(e: "Perceptron", layout: Layout, data: Samples, place: Place) -> None:
    """Fit an estimator with SciPy's L-BFGS-B: at each evaluation the parameters come to the device from the host."""
    from scipy import optimize

    device, dtype = place.device, float_name(data[0].dtype)
    objective = SampleObjective(layout, e.activation, e.out_activation_, float(e.alpha))
    evaluate = compiled_gradient(device, objective)

    def loss_and_gradient(packed: np.ndarray) -> tuple[np.float64, np.ndarray]:
        gradient, loss, _, _ = evaluate(device.asarray(packed.astype(dtype), copy=True), data)
        return np.float64(device.to_numpy(loss)), device.to_numpy(gradient).astype(np.float64)

    start = place.host(e._theta(layout, place))  # SciPy evaluates at points of its dtype
    options = {"maxfun": e.max_fun, "maxiter": e.max_iter, "gtol": e.tol}
    try:
        found = optimize.minimize(loss_and_gradient, start, method="L-BFGS-B", jac=True, options=options)
    finally:
        release(evaluate)
    e.n_iter_ = check_optimize_result("lbfgs", found, e.max_iter)
    e.loss_ = e._loss_type(found.fun)
    kept = e.dtype or float_name(widest_float(place.xp))
    e._set_parameters(layout, device.asarray(found.x.astype(kept), copy=True), place)
