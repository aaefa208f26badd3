"""What more ranks gain: the sum's time by its length, fitted, and a prediction for links and ranks that are not here.

A step of n ranks computes with its n-th part of the batch and then sums one vector:

    (S1)  t(n) = c(B / n) + T(n) / H

where c(b) is what one rank alone takes for a step of b images, T(n) the all-reduce's time, and H the steps from one
sum to the next (``--average-every``). Reducing and gathering by halves (Rabenseifner 2004, "Optimization of
Collective Reduction Operations"; Thakur, Rabenseifner & Gropp 2005, "Optimization of Collective Communication
Operations in MPICH") sends 2 ceil(log2 n) messages one after the other, of 2 (n - 1) / n times the vector all together:

    (S2)  T(n) = 2 ceil(log2 n) * latency + 2 (n - 1) / n * bytes / bandwidth

the additions left out, and for an n that is no power of two what its odd ranks exchange before and after. The
efficiency is that of n ranks against one that makes the same step alone:

    (S3)  e(n) = c(B) / (n t(n))

It is above 1 where a smaller part fits the caches better.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Link(NamedTuple):
    """What joins two ranks."""

    name: str
    latency: float  # seconds from one rank's sending to the other's having it, whatever the length
    bandwidth: float  # bytes a second in one direction


LINKS = (
    Link("NVLink (5 µs, 450 GB/s)", 5e-6, 450e9),
    Link("100 Gb/s (2 µs)", 2e-6, 12.5e9),
    Link("10 Gb/s (25 µs)", 25e-6, 1.25e9),
    Link("100 Mb/s, internet (20 ms)", 20e-3, 12.5e6),
)
"""The links that are predicted for: bandwidths as they are sold, latencies as they are usual, neither measured here."""


class Line(NamedTuple):
    """Seconds as a line over bytes."""

    start: float  # α
    slope: float  # β


def fit_line(n_bytes: Sequence[float], seconds: Sequence[float]) -> Line:
    """Return the line with the least squares of the logarithms' errors: twice as long counts as half as long does.

    So short vectors count as much as long ones, and neither number is below 0.
    """
    from scipy.optimize import least_squares  # 100 ms that only a fit pays

    x, y = np.asarray(n_bytes, dtype=np.float64), np.asarray(seconds, dtype=np.float64)
    begin = np.log([y[x.argmin()], y[x.argmax()] / x.max()])
    found = least_squares(lambda line: np.logaddexp(line[0], line[1] + np.log(x)) - np.log(y), begin)
    start, slope = np.exp(found.x)
    return Line(float(start), float(slope))


def sum_seconds(n_ranks: int, n_bytes: float, link: Link) -> float:
    """Return how long an all-reduce takes (S2)."""
    messages, share = _messages(n_ranks)
    return messages * link.latency + share * n_bytes / link.bandwidth


def link_behind(line: Line, n_ranks: int, name: str) -> Link:
    """Return the link by which (S2) gives the line that was measured with so many ranks."""
    messages, share = _messages(n_ranks)
    return Link(name, line.start / messages, share / line.slope if line.slope else math.inf)


def _messages(n_ranks: int) -> tuple[int, float]:
    """Return how many follow each other, and how much of the vector they are all together (S2)."""
    return 2 * math.ceil(math.log2(n_ranks)), 2 * (n_ranks - 1) / n_ranks


class Computing(NamedTuple):
    """What steps of one rank alone take, c(b)."""

    batch_sizes: tuple[int, ...]  # ascending
    seconds: tuple[float, ...]

    def at(self, batch_size: float) -> float:
        """Return a step's seconds: on a line between the sizes that were measured, in proportion above them."""
        above = max(1.0, batch_size / self.batch_sizes[-1])
        return above * float(np.interp(batch_size, self.batch_sizes, self.seconds))


def efficiency(
    computing: Computing, batch_size: int, n_ranks: int, n_bytes: float, link: Link, average_every: int = 1
) -> float | None:
    """Return the efficiency of so many ranks (S1, S3), None where there are more of them than rows in a batch."""
    if n_ranks > batch_size:
        return None
    step = computing.at(math.ceil(batch_size / n_ranks)) + sum_seconds(n_ranks, n_bytes, link) / average_every
    return computing.at(batch_size) / (n_ranks * step)
