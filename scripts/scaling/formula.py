"""Fit the sum's time to its length, and predict the gain of more ranks and other links.

In a step, each of n ranks computes with its n-th part of the batch. Then all sum one vector:

    (S1)  t(n) = c(B / n) + T(n) / H

c(b) is the time of one rank alone for a step of b images, T(n) the time of the all-reduce. H is the number of steps
from one sum to the next (``--average-every``). An all-reduce by halves reduces, then gathers. (Rabenseifner 2004,
"Optimization of Collective Reduction Operations"; Thakur, Rabenseifner & Gropp 2005, "Optimization of Collective
Communication Operations in MPICH".) It sends 2 ceil(log2 n) messages one after the other. Together they are 2 (n - 1) /
n times the vector:

    (S2)  T(n) = 2 ceil(log2 n) * latency + 2 (n - 1) / n * bytes / bandwidth

This leaves out the additions. If n is not a power of two, it also leaves out the messages of the extra ranks before and
after. The efficiency compares n ranks with one that makes the same step alone:

    (S3)  e(n) = c(B) / (n t(n))

It is above 1 if a smaller part fits the caches better.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Link(NamedTuple):
    """The connection of two ranks."""

    name: str
    latency: float  # seconds from sending to receiving, for any length
    bandwidth: float  # bytes a second in one direction


LINKS = (
    Link("NVLink (5 µs, 450 GB/s)", 5e-6, 450e9),
    Link("100 Gb/s (2 µs)", 2e-6, 12.5e9),
    Link("10 Gb/s (25 µs)", 25e-6, 1.25e9),
    Link("100 Mb/s, internet (20 ms)", 20e-3, 12.5e6),
)
"""The links of the prediction: nominal bandwidths and usual latencies, neither measured here."""


class Line(NamedTuple):
    """Seconds as a linear function of bytes."""

    start: float  # α
    slope: float  # β


def fit_line(n_bytes: Sequence[float], seconds: Sequence[float]) -> Line:
    """Return the least-squares line of the logarithms: errors by a factor of 2 and of 1/2 count the same.

    So short vectors count as much as long ones. Neither number is below 0.
    """
    from scipy.optimize import least_squares  # an import of 100 ms that only a fit needs

    x, y = np.asarray(n_bytes, dtype=np.float64), np.asarray(seconds, dtype=np.float64)
    begin = np.log([y[x.argmin()], y[x.argmax()] / x.max()])
    found = least_squares(lambda line: np.logaddexp(line[0], line[1] + np.log(x)) - np.log(y), begin)
    start, slope = np.exp(found.x)
    return Line(float(start), float(slope))


def sum_seconds(n_ranks: int, n_bytes: float, link: Link) -> float:
    """Return the seconds of an all-reduce (S2)."""
    messages, share = _messages(n_ranks)
    return messages * link.latency + share * n_bytes / link.bandwidth


def link_behind(line: Line, n_ranks: int, name: str) -> Link:
    """Return the link for which (S2) gives the line measured with so many ranks."""
    messages, share = _messages(n_ranks)
    return Link(name, line.start / messages, share / line.slope if line.slope else math.inf)


def _messages(n_ranks: int) -> tuple[int, float]:
    """Return the number of successive messages, and their total as a multiple of the vector (S2)."""
    return 2 * math.ceil(math.log2(n_ranks)), 2 * (n_ranks - 1) / n_ranks


class Computing(NamedTuple):
    """The seconds of one rank's steps alone, c(b)."""

    batch_sizes: tuple[int, ...]  # ascending
    seconds: tuple[float, ...]

    def at(self, batch_size: float) -> float:
        """Return a step's seconds: linear between the measured sizes, proportional above them."""
        above = max(1.0, batch_size / self.batch_sizes[-1])
        return above * float(np.interp(batch_size, self.batch_sizes, self.seconds))


def efficiency(
    computing: Computing, batch_size: int, n_ranks: int, n_bytes: float, link: Link, average_every: int = 1
) -> float | None:
    """Return the efficiency of so many ranks (S1, S3); None if there are more ranks than rows in a batch."""
    if n_ranks > batch_size:
        return None
    step = computing.at(math.ceil(batch_size / n_ranks)) + sum_seconds(n_ranks, n_bytes, link) / average_every
    return computing.at(batch_size) / (n_ranks * step)
