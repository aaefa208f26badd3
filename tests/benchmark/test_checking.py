"""Parity: every backend against NumPy in float64, by the code that ``xpmlp check`` runs."""

import numpy as np
import pytest

from xpmlp.backends._numpy import NumpyBackend
from xpmlp.benchmark.checking import (
    MARGIN,
    OPTIMIZERS,
    Measurement,
    check_backend,
    check_one_pass,
    check_round_trip,
    check_training,
    make_problem,
    relative_error,
    train_steps,
)
from xpmlp.math.network import forward


@pytest.fixture(scope="module")
def problem():
    """A smaller one than the command's, which is for the user's hardware."""
    return make_problem((100, 64, 32, 10), n=64)


def outside(measurements):
    return [measured for measured in measurements if not measured.is_within]


def test_one_pass_is_within_its_bounds(backend, problem, dtype):
    measurements = list(check_one_pass(backend, problem, dtype))
    assert {"logits S", "loss L", "gradient W1", "gradient b3"} <= {measured.what for measured in measurements}
    assert not outside(measurements)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_hundred_steps_are_within_their_bounds(backend, problem, dtype, name):
    assert not outside([check_training(backend, problem, dtype, name)])


def test_arrays_come_back_as_they_were(backend, dtype):
    assert not outside([check_round_trip(backend, dtype)])


@pytest.mark.slow
def test_a_hundred_steps_learn_and_do_not_end_where_float32_sees_nothing():
    problem = make_problem()
    for name in OPTIMIZERS:
        optimizer_theta, loss = train_steps(NumpyBackend(), problem, "float64", name)
        assert 0.5 < loss < 2.2, name
        assert relative_error(optimizer_theta, problem.theta) > 1e-4, name


def test_no_pre_activation_of_the_problem_is_near_a_corner(problem):
    layers = problem.layout.unflatten(problem.theta)
    _, activations = forward(layers, problem.X)
    for (W, b), A in zip(layers[:-1], activations, strict=False):
        assert np.abs(A @ W + b).min() >= MARGIN


class Imprecise(NumpyBackend):
    """A library whose steps go a thousandth too far, and that loses what is small at its door."""

    def compile(self, step, *, donate=()):
        def wrong(*arguments):
            *others, scalars = arguments
            if isinstance(scalars, dict):
                scalars = {key: 1.001 * value for key, value in scalars.items()}
            return step(*others, scalars)

        return wrong

    def asarray(self, host, *, copy=None):
        array = np.array(super().asarray(host, copy=copy))
        return array.astype(np.float16).astype(array.dtype) if array.dtype.kind == "f" else array


def test_an_imprecise_library_is_found_out(problem, dtype):
    library = Imprecise()
    assert not check_round_trip(library, dtype).is_within
    assert outside(check_one_pass(library, problem, dtype))
    assert outside([check_training(library, problem, "float64", name) for name in OPTIMIZERS])


def test_an_error_that_is_no_number_is_outside_its_bound():
    assert not Measurement("loss", "float32", float("nan"), 1e-3).is_within


@pytest.mark.full
def test_everything_is_measured_in_both_precisions():
    measured = list(check_backend("numpy"))
    assert len(measured) == 2 * (1 + 2 * (2 + 6 + len(OPTIMIZERS)))
    assert {each.dtype for each in measured} == {"float32", "float64"}
    assert {"", "plain"} < {each.kernels for each in measured}
