"""The steps of several ranks that train one model: all of them each time, or each its own between averages."""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from xpmlp.backends.base import Backend
from xpmlp.communication import Communicator, part_of, those_that_differ
from xpmlp.config import TrainConfig
from xpmlp.data.datasets import Dataset
from xpmlp.data.loading import Batch, DeviceLoader
from xpmlp.errors import CommunicationError, ConfigError
from xpmlp.math.layout import join
from xpmlp.math.optimizers import Scalars, State, sgd
from xpmlp.namespaces import Array, array_namespace
from xpmlp.noise import Noise
from xpmlp.records import Checkpoint
from xpmlp.steps import TAIL, GradientStep, Totals, TrainStep, UpdateStep, add_summed, zero_totals

_OUTER, _OUTER_RATE = sgd(0.5, nesterov=True), 0.7
"""What makes a step of the ranks' average, and its rate. DiLoCo's momentum of 0.9, for rounds of 500 AdamW steps, costs
accuracy where each rank's own steps have momentum (MNIST, 4 ranks: 93 % where this has 97.7 %)."""

OUTER_VELOCITY = "outer_velocity"
"""What its vector is called beside the optimizer's own."""


class StepOfAll:
    """A step that several ranks make together: each one's gradient, the sum of them, the same update on all.

    It is called as what `make_train_step` returns, with a batch as `parts_of` yields it.

    Parameters
    ----------
    communicator : Communicator
        The ranks.
    backend : Backend
        Whose arrays they compute with.
    gradient_step, update_step : callable
        What `make_gradient_step` and `make_update_step` return, compiled.
    wishes_to_stop : callable
        Whether this rank does.
    """

    def __init__(
        self,
        communicator: Communicator,
        backend: Backend,
        gradient_step: GradientStep,
        update_step: UpdateStep,
        wishes_to_stop: Callable[[], bool],
    ) -> None:
        self._communicator, self._backend = communicator, backend
        self._gradient_step, self._update_step, self._wishes_to_stop = gradient_step, update_step, wishes_to_stop
        self._steps, self._is_to_stop = 0, False

    def __call__(
        self,
        theta: Array,
        state: State,
        totals: Totals,
        part: "Part",
        scalars: Scalars,
        noise: Noise | None = None,
    ) -> tuple[Array, State, Totals]:
        """Make the step; all ranks call it, those that have no row of the batch too."""
        wish = 1.0 if self._wishes_to_stop() else 0.0
        if part.batch is None:
            vector = np.zeros(theta.shape[0] + TAIL, str(theta.dtype).rpartition(".")[2])
            vector[-1] = wish
            vector = self._backend.asarray(vector)
        else:
            noise = noise and noise.of(part.rows)
            vector = self._gradient_step(theta, part.batch, part.share, wish, noise)
        vector, wishes = _sum(vector, self._backend, self._communicator)
        self._steps += 1
        if self._steps % self._communicator.steps_between_looks == 0:  # the same steps on all ranks
            self._is_to_stop = float(wishes) > 0
        return self._update_step(theta, state, totals, vector, scalars)

    def is_to_stop(self) -> bool:
        """Return whether a rank has wished to stop, which all ranks learn of after the same step."""
        return self._is_to_stop


def _sum(vector: Array, backend: Backend, communicator: Communicator) -> tuple[Array, Array]:
    """Return the sum of the ranks' vectors and its last number, which costs nothing to look at on the host.

    The vector is handed over, save where it is not of the communicator's library, which then goes through the host.
    """
    if communicator.library in (None, backend.library):
        vector = communicator.sum(vector)
        return vector, vector[-1]
    host = communicator.sum(backend.to_numpy(vector))
    return backend.asarray(host), host[-1]


class Rounds:
    """Steps that each rank makes alone on its parts of the batches, and after some of them one step of all.

    That step goes from where the round began towards the mean of where the ranks have come, with a momentum of its own:
    local SGD (Stich 2019, "Local SGD Converges Fast and Communicates Little") with the outer step of DiLoCo (Douillard
    et al. 2023, "DiLoCo: Distributed Low-Communication Training of Language Models", algorithm 1)::

        g ← start − mean of the ranks' theta
        v ← 0.5 · v + g
        theta ← start − 0.7 · (g + 0.5 · v)

    The optimizer's vectors stay each rank's own in between. It is called as what `make_train_step` returns, with a
    `Part` for a batch.

    Parameters
    ----------
    communicator : Communicator
        The ranks.
    backend : Backend
        Whose arrays they compute with.
    step : callable
        What `make_train_step` returns, compiled.
    config : TrainConfig
        How many steps a round has.
    wishes_to_stop : callable
        Whether this rank does; all learn of it at a round's end.
    theta : array, shape (layout.size,)
        Where the first round begins.
    """

    def __init__(
        self,
        communicator: Communicator,
        backend: Backend,
        step: TrainStep,
        config: TrainConfig,
        wishes_to_stop: Callable[[], bool],
        theta: Array,
    ) -> None:
        self._communicator, self._backend, self._step = communicator, backend, step
        self._every, self._dtype, self._wishes_to_stop = config.average_every, config.dtype, wishes_to_stop
        self._start = backend.namespace.asarray(theta, copy=True)
        self._own = zero_totals(backend, config.dtype)
        self._steps, self._is_to_stop = 0, False

    def __call__(
        self,
        theta: Array,
        state: State,
        totals: Totals,
        part: "Part",
        scalars: Scalars,
        noise: Noise | None = None,
    ) -> tuple[Array, State, Totals]:
        """Make a step, and the round's last one with all ranks, which all call it as often."""
        if part.batch is not None:
            own = {name: vector for name, vector in state.items() if name != OUTER_VELOCITY}
            noise = noise and noise.of(part.rows)
            theta, own, self._own = self._step(theta, own, self._own, part.batch, scalars, noise)
            state = {**own, OUTER_VELOCITY: state[OUTER_VELOCITY]}
        self._steps += 1
        if self._steps == self._every:
            return self._average(theta, state, totals)
        return theta, state, totals

    def is_to_stop(self) -> bool:
        """Return whether a rank had wished to stop when the last round ended."""
        return self._is_to_stop

    def settle(self, theta: Array, state: State, totals: Totals) -> tuple[Array, State, Totals]:
        """Return what the ranks have in common: a round is ended, and the optimizer's vectors are averaged too."""
        if self._steps:
            theta, state, totals = self._average(theta, state, totals)
        shared = {
            name: vector
            if name == OUTER_VELOCITY
            else _sum(vector, self._backend, self._communicator)[0] / self._communicator.size
            for name, vector in state.items()
        }
        return theta, shared, totals

    def _average(self, theta: Array, state: State, totals: Totals) -> tuple[Array, State, Totals]:
        xp = array_namespace(theta=theta)
        loss, correct, n = self._own.loss, xp.astype(self._own.correct, theta.dtype), theta.shape[0]
        vector = join((theta, loss, correct, xp.zeros_like(loss) + (1.0 if self._wishes_to_stop() else 0.0)))
        vector, wishes = _sum(vector, self._backend, self._communicator)
        self._is_to_stop = float(wishes) > 0
        totals = add_summed(totals, vector, n)
        towards = self._start - vector[:n] / self._communicator.size
        velocity = {"velocity": state[OUTER_VELOCITY]}
        theta, velocity = _OUTER.update(self._start, velocity, towards, {"learning_rate": _OUTER_RATE})
        self._start = xp.asarray(theta, copy=True)  # the steps change theta itself
        self._own, self._steps = zero_totals(self._backend, self._dtype), 0
        return theta, {**state, OUTER_VELOCITY: velocity["velocity"]}, totals


class Part(NamedTuple):
    """One rank's part of a batch."""

    batch: Batch | None
    """Its rows; None where it has none."""
    share: float
    """How great a part of the batch they are."""
    rows: slice
    """Which."""


def parts_of(
    loader: DeviceLoader, order: np.ndarray, first: int, batch_size: int, communicator: Communicator, in_parts: bool
) -> Iterable[Any]:
    """Return an epoch's batches from the first on, or this rank's `Part` of each."""
    if not in_parts:
        return loader.batches(order, first)
    n_whole = len(order) - len(order) % batch_size
    whole, rest = order[:n_whole].reshape(-1, batch_size), order[n_whole:]
    in_whole, in_rest = part_of(batch_size, communicator), part_of(len(rest), communicator)
    own, own_rest = whole[:, in_whole], rest[in_rest]
    shares, places = [own.shape[1] / batch_size] * len(whole), [in_whole] * len(whole)
    if len(rest):
        shares.append(len(own_rest) / len(rest))
        places.append(in_rest)
    rows = np.concatenate([own.reshape(-1), own_rest])
    # Each of its parts is a batch of the loader's own size, save the last one, which may be shorter or empty.
    return itertools.starmap(Part, itertools.zip_longest(loader.batches(rows, first), shares[first:], places[first:]))


def require_rows_for_all(communicator: Communicator, batch_size: int) -> None:
    """Refuse more ranks than a batch has rows."""
    if batch_size < communicator.size:
        raise ConfigError(
            f"batch size {batch_size}: {communicator.size} ranks share each batch; "
            f"make it at least {communicator.size}, or start fewer ranks"
        )


def require_same_work(
    communicator: Communicator,
    config: TrainConfig,
    dataset: Dataset,
    start: Checkpoint | None,
    checkpoint_steps: int | None,
) -> None:
    """Refuse ranks that would train on other data, with other settings or from elsewhere than rank 0."""
    arrays = (start.theta, *(start.state[name] for name in sorted(start.state))) if start else ()
    begun = start and (start.step, [hashlib.sha256(array.data).hexdigest() for array in arrays])
    for what, content in (
        ("other settings", dataclasses.asdict(dataclasses.replace(config, transfer="auto"))),
        ("another training set", dataset.fingerprint),
        ("another checkpoint", begun),
        ("another number of steps between checkpoints", checkpoint_steps),
    ):
        differ = those_that_differ(communicator, content)
        if differ:
            raise CommunicationError(
                f"{_ranks(differ)} {what} than rank 0: all ranks need the same command and the same data"
            )


def require_same_parameters(communicator: Communicator, theta: Array, backend: Backend, when: str) -> None:
    """Refuse ranks whose parameters are not rank 0's, bit for bit."""
    differ = those_that_differ(communicator, hashlib.sha256(backend.to_numpy(theta).data).digest())
    if differ:
        raise CommunicationError(
            f"{_ranks(differ)} other parameters than rank 0 {when}: their results differ, as those of other processors "
            "or libraries do; start the ranks on machines that are alike"
        )


def _ranks(ranks: Sequence[int]) -> str:
    """Return which ranks have something, as the beginning of a sentence."""
    names = ", ".join(map(str, ranks[:5])) + (f" and {len(ranks) - 5} more" if len(ranks) > 5 else "")
    return f"rank {names} has" if len(ranks) == 1 else f"ranks {names} have"
