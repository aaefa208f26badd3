"""Scale a data set's numbers for a network: X = (values − shift) · factor (derivation.md, F1)."""

from dataclasses import dataclass

import numpy as np

_BLOCK = 1024  # samples that are scaled at once


@dataclass(frozen=True)
class Scaling:
    """The number to subtract from floats, and the factor to multiply the difference by.

    Parameters
    ----------
    shift, factor : tuple of float
        One number for all values (images), or one for each value of a sample (columns of a table).
    """

    shift: tuple[float, ...]
    factor: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("shift", "factor"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        if len(self.shift) != len(self.factor) or not self.shift:
            raise ValueError(f"{len(self.shift)} shifts and {len(self.factor)} factors: expected as many, at least one")
        if not np.isfinite([*self.shift, *self.factor]).all():
            raise ValueError("a shift or factor is not finite")

    @classmethod
    def of_range(cls, low: float, high: float) -> "Scaling":
        """Return the scaling of values from `low` to `high` to 0 to 1."""
        return cls((float(low),), (1 / (high - low) if high > low else 1.0,))

    @classmethod
    def of_columns(cls, rows: np.ndarray) -> "Scaling":
        """Return the scaling that gives each column of some rows, (n, d), mean 0 and standard deviation 1.

        A constant column is only shifted.
        """
        mean, deviation = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
        is_constant = deviation <= 1e-12 * np.abs(mean)
        return cls(tuple(mean.tolist()), tuple((1 / np.where(is_constant, 1, deviation)).tolist()))

    def scaled(self, rows: np.ndarray, dtype: str) -> np.ndarray:
        """Return rows, (n, d) or (n, …), scaled in float64 and cast to a dtype, a block of rows at a time."""
        n = len(rows)
        scaled = np.empty((n, rows[0].size if n else 0), dtype)
        for first in range(0, n, _BLOCK):
            block = rows[first : first + _BLOCK].astype(np.float64).reshape(-1, scaled.shape[1])
            block -= self.shift
            block *= self.factor
            scaled[first : first + _BLOCK] = block
        return scaled.reshape(rows.shape)

    def arrays(self, dtype: str) -> tuple[np.ndarray, np.ndarray]:
        """Return shift and factor as rows, (1, d) or (1, 1)."""
        return np.array([self.shift], dtype), np.array([self.factor], dtype)

    def rest_of_shift(self, dtype: str) -> np.ndarray:
        """Return what the shift loses by rounding to a dtype, in that dtype, (1, d) or (1, 1)."""
        shift = np.array([self.shift])
        rest: np.ndarray = (shift - shift.astype(dtype)).astype(dtype)
        return rest
