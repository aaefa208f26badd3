"""The learning rate as a function of the step, counted from 1 as the optimizers count."""

import math
from collections.abc import Callable
from typing import TypeAlias

from xpmlp.errors import ConfigError

Schedule: TypeAlias = Callable[[int], float]


def constant(learning_rate: float) -> Schedule:
    """Return the same rate at every step."""
    _check(learning_rate, 1)
    return lambda step: learning_rate


def cosine(peak: float, total_steps: int) -> Schedule:
    """Return half a cosine from the peak at step 1 to 0 just after the last step (Loshchilov & Hutter 2017, eq. 5)."""
    _check(peak, total_steps)
    return lambda step: peak * 0.5 * (1 + math.cos(math.pi * (step - 1) / total_steps))


def one_cycle(peak: float, total_steps: int) -> Schedule:
    """Return a rise from 0 to the peak over the first tenth of all steps, then a fall to 0 after the last step.

    Both are linear. After Smith 2018, "A disciplined approach to neural network hyper-parameters".
    """
    _check(peak, total_steps)
    top = max(1.0, 0.1 * total_steps)
    return lambda step: peak * min(step / top, (total_steps + 1 - step) / (total_steps + 1 - top))


def fading(value: float, total_steps: int, part: float) -> Schedule:
    """Return a constant value, with a linear fall to 0 over the last part of all steps."""
    fall = part * total_steps
    return lambda step: value * max(0.0, min(1.0, (total_steps - step) / fall)) if fall else value


def _check(learning_rate: float, total_steps: int) -> None:
    if not 0 < learning_rate < math.inf:
        raise ConfigError(f"learning rate {learning_rate}: expected a finite number above 0")
    if total_steps < 1:
        raise ConfigError(f"{total_steps} steps in all: expected at least 1")
