"""The learning rate over the steps of a run."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xpmlp.errors import ConfigError
from xpmlp.math.schedules import constant, cosine, fading, one_cycle


def test_constant_is_the_same_at_every_step():
    assert {constant(0.3)(step) for step in (1, 2, 1000)} == {0.3}


def test_one_cycle_rises_over_a_tenth_and_falls_to_nothing():
    rate = one_cycle(0.2, 100)
    assert [rate(step) for step in (1, 5, 10)] == pytest.approx([0.02, 0.1, 0.2])
    assert rate(55) == pytest.approx(0.2 * 46 / 91)
    assert rate(100) == pytest.approx(0.2 / 91)
    assert rate(101) == pytest.approx(0)


def test_fading_falls_over_the_last_part_to_nothing_at_the_last_step():
    value = fading(2.0, 100, 0.2)
    assert [value(step) for step in (1, 80, 85, 90, 99, 100, 101)] == pytest.approx([2, 2, 1.5, 1, 0.1, 0, 0])
    assert {fading(2.0, 100, 0.0)(step) for step in (1, 50, 100)} == {2.0}


def test_cosine_is_half_a_wave():
    rate = cosine(0.2, 100)
    assert [rate(step) for step in (1, 51, 101)] == pytest.approx([0.2, 0.1, 0])
    assert rate(26) == pytest.approx(0.1 * (1 + math.cos(math.pi / 4)))


@given(peak=st.floats(1e-6, 1e3), total=st.integers(1, 5000))
def test_every_step_moves_and_none_exceeds_the_peak(peak, total):
    for make in (cosine, one_cycle):
        rates = [make(peak, total)(step) for step in range(1, total + 1)]
        assert min(rates) > 0
        assert max(rates) <= peak * (1 + 1e-12)
        assert max(rates) >= 0.9 * peak
        top = rates.index(max(rates))
        assert rates[: top + 1] == sorted(rates[: top + 1])
        assert rates[top:] == sorted(rates[top:], reverse=True)


@pytest.mark.parametrize("rate", [0, -0.1, math.nan, math.inf])
def test_refuses_a_rate_that_is_none(rate):
    for make in (constant, lambda peak: cosine(peak, 9), lambda peak: one_cycle(peak, 9)):
        with pytest.raises(ConfigError, match=r"learning rate .*: expected a finite number above 0"):
            make(rate)


def test_refuses_a_run_without_steps():
    for make in (cosine, one_cycle):
        with pytest.raises(ConfigError, match="0 steps"):
            make(0.1, 0)
