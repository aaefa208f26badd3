"""Batches on the device."""

from collections.abc import Iterator

import numpy as np

from xpmlp.backends.base import Backend
from xpmlp.data.datasets import Dataset
from xpmlp.errors import ConfigError, DataError
from xpmlp.namespaces import Array


class DeviceLoader:
    """Batches of a data set that is copied to the device once, as bytes, and gathered there.

    It is given each epoch's permutation and draws nothing.

    Parameters
    ----------
    dataset : Dataset
        What is copied.
    backend : Backend
        Whose device it is copied to.
    batch_size : int
        Images a batch, at least 1; the last batch of an epoch may be shorter.

    Raises
    ------
    ConfigError
        If the batch size is below 1.
    """

    def __init__(self, dataset: Dataset, backend: Backend, batch_size: int) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch size {batch_size}: expected at least 1")
        self.batch_size = batch_size
        self._n = len(dataset)
        self._backend = backend
        self._images = backend.asarray(dataset.images.reshape(self._n, -1))
        self._labels = backend.asarray(dataset.labels.astype(np.int32))

    def epoch(self, permutation: np.ndarray, start: int = 0) -> Iterator[tuple[Array, Array]]:
        """Yield the batches of the images that a permutation names, in its order.

        Parameters
        ----------
        permutation : numpy.ndarray of any integer dtype, shape (m,)
            Which images, by their positions in the data set: all of them, or a part. It is sent to the device once.
        start : int
            The batch to begin with.

        Yields
        ------
        images : array of uint8, shape (batch, height · width)
            On the device.
        labels : array of int32, shape (batch,)
            On the device.

        Raises
        ------
        DataError
            If the permutation names an image that is not there, which some libraries would not say.
        """
        if len(permutation) and not 0 <= permutation.min() <= permutation.max() < self._n:
            raise DataError(
                f"a permutation names images {permutation.min()} to {permutation.max()}: "
                f"the data set has 0 to {self._n - 1}"
            )
        xp = self._backend.namespace
        rows = self._backend.asarray(permutation.astype(np.int32 if self._n < 2**31 else np.int64))
        for first in range(start * self.batch_size, len(permutation), self.batch_size):
            batch = rows[first : min(first + self.batch_size, len(permutation))]
            yield xp.take(self._images, batch, axis=0), xp.take(self._labels, batch, axis=0)
