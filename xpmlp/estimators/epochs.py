"""The epochs of one fit, as work for the one loop, in scikit-learn's order of draws and decisions."""

import itertools
import time
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from sklearn.utils import gen_batches

from xpmlp.data.dropout import Dropout
from xpmlp.data.loading import SampleRows, gather
from xpmlp.data.noise import Noise
from xpmlp.estimators.inputs import Place, SparseSamples, require_some
from xpmlp.estimators.parameters import functions
from xpmlp.estimators.rates import Rates
from xpmlp.estimators.scores import logits, mean_loss
from xpmlp.math.activations import predictions
from xpmlp.math.layout import Layout
from xpmlp.math.optimizers import Scalars, State
from xpmlp.namespaces import Array, float_name
from xpmlp.training.steps import Carry, zero_totals

if TYPE_CHECKING:
    from xpmlp.estimators.base import Perceptron

Samples: TypeAlias = tuple[Array, Array, Array | None]  # samples, targets and weights


class Task(NamedTuple):
    """The data for an estimator's training."""

    layout: Layout
    data: Samples
    held_out: Samples | None
    """The validation data, if given."""
    place: Place

    def batch_size(self, e: "Perceptron") -> int:
        """Return how many samples are computed with at once at most."""
        return int(self.data[0].shape[0] if e.batch_size == "auto" else e.batch_size)


class EpochFigures(NamedTuple):
    """The figures that a callback gets after each epoch; with lbfgs, after each iteration."""

    epoch: int
    """Counted from 1 in each fit."""
    loss: float
    """The mean loss over the epoch's samples, with the penalty, as in `loss_curve_`."""
    validation_loss: float | None
    """The mean loss over the held-out samples after the epoch, without the penalty; None if none are held out."""
    validation_score: float | None
    """Their score; None without early stopping."""
    learning_rate: float | None
    """Of the epoch's last step, without Adam's correction; None with lbfgs."""
    seconds: float
    """Seconds of the epoch."""


class WholeEpochs:
    """Work without actions within an epoch; see `xpmlp.training.loop.Work`."""

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


class Epochs(WholeEpochs):
    """One fit in the form that the loop requires; see `xpmlp.training.loop.Work`.

    In a stack of networks, which makes the batches itself, `rows` are the task's training samples.
    """

    def __init__(self, e: "Perceptron", task: Task, epochs: int, rows: np.ndarray | None = None) -> None:
        self.e, (self.layout, self.data, self.held_out, self.place) = e, task
        layout, data, _, place = task
        self.epochs, self.is_over = epochs, False
        self.raised: BaseException | None = None
        """What a callback has raised."""
        self.dtype = float_name(data[0].dtype)
        self.rows = np.arange(data[0].shape[0], dtype=int) if rows is None else rows
        n, hidden = len(self.rows), layout.sizes[1:-1]
        batch_size = _batch_size(e, n)
        self.parts = list(gen_batches(n, batch_size))
        self.dropout = Dropout(e.dropout, hidden, batch_size, place.device) if e.dropout and hidden else None
        self.n_seen, self._begun = n, time.perf_counter()
        self._counting = _counting(data[2], place)
        self.has_best, self._best_loss = False, np.inf
        self.best_before = getattr(e, "_best_coefs", None)
        self.was_best = e.coefs_ is self.best_before
        e._optimizer.place, e._optimizer.total_steps = 0, epochs * len(self.parts)

    @property
    def is_done(self) -> bool:
        """Whether the last epoch was made."""
        return self.is_over or self.e.n_iter_ == self.epochs

    def first(self) -> Carry:
        """Return what the first step is handed: the parameters and the optimizer's state as the estimator has them."""
        xp, place, rates = self.place.xp, self.place, self.e._optimizer
        dtype = getattr(xp, self.dtype)
        theta = xp.astype(self.e._theta(self.layout, place), dtype, copy=False)
        state: State = rates.rule.init(theta)
        if rates.state is not None:
            state = {name: xp.astype(place.to_device(v), dtype, copy=False) for name, v in rates.state.items()}
        return Carry(theta, state, zero_totals(place.device, self.dtype))

    def begin_epoch(self, step: int) -> tuple[Iterator[tuple[Samples | SampleRows, Noise | None]], int] | None:
        """Draw the epoch's order. A batch whose weights are all 0 is left out: there is nothing to learn from."""
        e = self.e
        if self.is_done:
            return None
        self.draw()
        kept = self.parts
        if self._counting is not None:
            kept = [part for part in kept if self._counting[self.rows[part]].any()]
            self.n_seen = sum(part.stop - part.start for part in kept)
            e._optimizer.place += len(self.parts) - len(kept)
        batches = self._named(kept) if self.place.device.run_length > 1 else self._taken(kept)
        return zip(batches, self.noise(), strict=False), step + len(kept)

    def _taken(self, parts: Iterable[slice]) -> Iterator[Samples]:
        """Yield batches that are gathered."""
        order: Any = None
        if self.e.shuffle:
            order = self.rows if self.place.device.name == "numpy" else self.place.to_device(self.rows)
        for part in parts:
            yield take(self.place.xp, self.data, part if order is None else order[part])

    def _named(self, parts: Iterable[slice]) -> Iterator[SampleRows]:
        """Yield batches that the step gathers, so that a library can make many steps in one call."""
        for _, group in itertools.groupby(parts, key=lambda part: part.stop - part.start):
            table = self.place.to_device(np.stack([self.rows[part] for part in group]))
            for line in range(table.shape[0]):
                yield SampleRows(self.data, table, line)

    def draw(self) -> None:
        """Begin an epoch, and draw its order."""
        self._begun = time.perf_counter()
        if self.e.shuffle:
            drawn = np.arange(len(self.rows))
            self.e._random_state.shuffle(drawn)  # as sklearn.utils.shuffle, which takes longer than a small epoch
            self.rows = self.rows[drawn]

    def noise(self) -> Iterator[Noise | None]:
        """Yield what is drawn for each step of an epoch."""
        if self.dropout is None:
            return itertools.repeat(None)
        seed = int(self.e._random_state.randint(2**31 - 1)) + self.e.t_  # each call of partial_fit has its own
        return (Noise(dropout=drawn) for drawn in self.dropout.epoch(seed, steps=len(self.parts)))

    def scalars(self, step: int) -> Scalars:
        """Return the numbers of the optimizer's next step; it counts its own, over all fits."""
        rates: Rates = self.e._optimizer
        return rates.next_scalars()

    def end_epoch(self, step: int, carry: Carry) -> Carry:
        """Report the loss, and decide whether it was the last epoch."""
        self.judge(self.place.device.to_numpy(carry.totals.loss), carry.theta)
        return carry._replace(totals=zero_totals(self.place.device, self.dtype))

    def judge(self, loss: Any, theta: Array) -> None:
        """Note an epoch's sum of losses, validate, and decide whether to stop."""
        e, n = self.e, len(self.rows)
        e.n_iter_ += 1
        e.t_ += n
        e.loss_ = e._loss_type(loss) / self.n_seen
        e.loss_curve_.append(e.loss_)
        if e.verbose:
            print(f"Iteration {e.n_iter_}, loss = {e.loss_:.8f}")  # noqa: T201
        score = self._validate(theta) if self.held_out else None
        is_better = self._improves_loss() if score is None else self._improves_score(score)
        self._keep_best(theta, score)
        e._no_improvement_count = 0 if is_better else e._no_improvement_count + 1
        rate = e._optimizer.rate
        e._optimizer.iteration_ends(e.t_)
        if e._no_improvement_count > e.n_iter_no_change and not e._optimizer.is_scheduled:
            what = "Validation score" if e.early_stopping else "Training loss"
            reason = f"{what} did not improve more than tol={e.tol:f} for {e.n_iter_no_change} consecutive epochs."
            self.is_over = e._optimizer.trigger_stopping(reason, e.verbose)
            if not self.is_over:
                e._no_improvement_count = 0
        if e.callbacks is not None:
            self._call_back(score, rate)

    def _call_back(self, score: float | None, rate: float) -> None:
        """Hand the epoch's figures to the callbacks. What they raise ends the fit, and is raised behind it."""
        e, seconds = self.e, time.perf_counter() - self._begun
        validation_loss = e.validation_loss_curve_[-1] if self.held_out else None
        figures = EpochFigures(e.n_iter_, float(e.loss_), validation_loss, score, rate, seconds)
        try:
            for function in functions(e.callbacks):
                self.is_over = is_true(function(figures)) or self.is_over
        except BaseException as error:
            self.raised, self.is_over = error, True

    def _improves_loss(self) -> bool:
        """Return whether the epoch's loss is better by `tol` than the best before."""
        e = self.e
        is_better = e.loss_ <= e.best_loss_ - e.tol
        e.best_loss_ = min(e.best_loss_, e.loss_)
        return bool(is_better)

    def _validate(self, theta: Array) -> float | None:
        """Note the held-out samples' loss, and return their score where early stopping goes by it."""
        e = self.e
        assert self.held_out is not None
        X, T, weights = self.held_out
        S = logits(self.layout.unflatten(theta), X, e._between())
        e.validation_loss_curve_.append(mean_loss(S, T, weights, e._loss_head()))
        if not e.early_stopping:
            return None
        score: float = e._validation_score(predictions(S, e.out_activation_), T, weights)
        e.validation_scores_.append(score)
        if e.verbose:
            print(f"Validation score: {score:f}")  # noqa: T201
        return score

    def _improves_score(self, score: float) -> bool:
        """Return whether the held-out samples' score is better by `tol`."""
        return not score < float(self.e.best_validation_score_) + self.e.tol

    def _keep_best(self, theta: Array, score: float | None) -> None:
        """Keep the parameters of the best score or, without early stopping, of the lowest validation loss."""
        e = self.e
        if score is not None and score > e.best_validation_score_:
            e.best_validation_score_ = score
        elif score is None and self.held_out and e.validation_loss_curve_[-1] < self._best_loss:
            self.has_best, self._best_loss = True, e.validation_loss_curve_[-1]
        else:
            return
        e._set_parameters(self.layout, theta, self.place)
        e._keep_best()


def is_true(value: Any) -> bool:
    """Return whether a callback has returned True, Python's or NumPy's."""
    return isinstance(value, bool | np.bool_) and bool(value)


def _batch_size(e: "Perceptron", n: int) -> int:
    if e.batch_size == "auto":
        return min(200, n)
    if e.batch_size > n:
        problem = "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped"
        warnings.warn(problem, stacklevel=8)
    return int(min(max(e.batch_size, 1), n))


def _take_rows(xp: Any, array: Array, rows: Any) -> Array:
    return gather(array, rows) if isinstance(array, np.ndarray) else xp.take(array, rows, axis=0)


def take(xp: Any, data: Samples, rows: Any) -> Samples:
    """Return some of the samples, named by a slice or by their numbers."""
    X, T, weights = data
    if isinstance(rows, slice):
        return X[rows, :], T[rows, ...], None if weights is None else weights[rows]
    X = X[rows, :] if isinstance(X, SparseSamples) else _take_rows(xp, X, rows)
    return X, _take_rows(xp, T, rows), None if weights is None else _take_rows(xp, weights, rows)


def _counting(weights: Array | None, place: Place) -> np.ndarray | None:
    """Return which samples count, on the host, where the batches are drawn; None where all do."""
    if weights is None or not bool(place.xp.any(weights == 0)):
        return None
    require_some(weights, place.xp)  # of the samples that are not held out
    return place.host(weights != 0)
