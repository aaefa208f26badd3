"""Batches on the device: the data set is copied there once, or batch by batch ahead of use."""

import math
import mmap
import queue
import threading
import weakref
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from xpmlp.backends import on_host
from xpmlp.backends.base import Backend, Copier
from xpmlp.data.dataset import Dataset
from xpmlp.errors import ConfigError, DataError, expected_one_of
from xpmlp.namespaces import Array, array_namespace

TRANSFERS = ("auto", "resident", "stream")
Batch: TypeAlias = tuple[Any, ...]
"""A batch's images and labels; or all images and labels, a table of row numbers, and the table's line for the batch."""

_SHARE = 0.5  # share of the device's free memory that a resident data set may take; training needs the rest


class DeviceLoader:
    """Batches of a data set, on a backend's device.

    The caller gives each epoch's permutation; the loader draws no random numbers. All ways to transfer give the same
    batches, bit for bit. The attribute `transfer` names the one in use.

    Parameters
    ----------
    dataset : Dataset
        The data. Its images may be a `numpy.memmap` larger than memory.
    backend : Backend
        The backend whose device gets the batches.
    batch_size : int
        Images a batch, at least 1; the last batch of an epoch may be shorter.
    transfer : {"auto", "resident", "stream"}
        ``resident``: copy all images to the device once, as bytes, and gather batches there. ``stream``: keep the
        images on the host; a thread gathers and copies batches ahead of use. ``auto``: resident, unless the images are
        a memmap or would take more than half of the device's free memory.
    drop_last : bool
        Leave out the last batch of an epoch if it is shorter.
    prefetch : int
        For ``stream``: the number of batches that are prepared while one is used, at least 1.
    reuse_buffers : bool
        True: a streamed batch is valid until the caller requests the next one, and NumPy and CuPy allocate nothing per
        batch. False: each batch has its own memory.
    """

    def __init__(
        self,
        dataset: Dataset,
        backend: Backend,
        batch_size: int,
        transfer: str = "auto",
        drop_last: bool = False,
        prefetch: int = 2,
        reuse_buffers: bool = False,
    ) -> None:
        for what, count in {"batch size": batch_size, "prefetch": prefetch}.items():
            if count < 1:
                raise ConfigError(f"{what} {count}: expected at least 1")
        if transfer not in TRANSFERS:
            raise ConfigError(f"unknown transfer {transfer!r}: {expected_one_of(transfer, TRANSFERS)}")
        self.batch_size, self.drop_last = batch_size, drop_last
        self.prefetch, self.reuse_buffers = prefetch, reuse_buffers
        self.transfer = _choose(dataset, backend) if transfer == "auto" else transfer
        self._backend, self._n = backend, len(dataset)
        self._open: weakref.WeakSet[Generator[Batch]] = weakref.WeakSet()
        images = dataset.images
        if self.transfer == "resident":
            self._images = backend.asarray(images.reshape(self._n, -1))
            self._labels = backend.asarray(dataset.labels.astype(np.int32))
        else:
            mapping = _mapping(images)
            if mapping is not None and hasattr(mmap, "MADV_RANDOM"):
                mapping.madvise(mmap.MADV_RANDOM)  # else the system reads 64 kB of the file for a row of 784 bytes
            self._images, self._labels = images, dataset.labels

    def epoch(self, permutation: np.ndarray, start: int = 0) -> Iterator[tuple[Array, Array]]:
        """Return an iterator over the batches of a permutation's images, in its order.

        Parameters
        ----------
        permutation : array of any integer dtype, of any library, shape (m,)
            The images' positions in the data set: all of them, or a part.
        start : int
            The first batch, at least 0.

        Yields
        ------
        images, labels : arrays of uint8 (batch, height · width) and of int32 (batch,), on the device
        """
        return (self._read(batch) for batch in self.batches(permutation, start))

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        """Return an iterator over the batches of all images, in the data set's order."""
        return self.epoch(np.arange(self._n))

    def __len__(self) -> int:
        return self._n // self.batch_size if self.drop_last else -(-self._n // self.batch_size)

    def batches(self, permutation: np.ndarray, start: int = 0) -> Iterator[Batch]:
        """Return an iterator over the same batches in the form that `read_batch` reads; see `epoch` for the arguments.

        A resident batch is not gathered yet: a compiled step gathers it.
        """
        if start < 0:
            raise ConfigError(f"start {start}: expected the number of a batch, at least 0")
        permutation = np.asarray(on_host(permutation))
        if permutation.ndim != 1 or permutation.dtype.kind not in "iu":
            what = f"{permutation.dtype}, shape {permutation.shape}"
            raise DataError(f"a permutation of {what}: expected the images' numbers (m,)")
        if len(permutation) and not 0 <= permutation.min() <= permutation.max() < self._n:
            # Some libraries would silently return another image.
            named = f"images {permutation.min()} to {permutation.max()}"
            raise DataError(f"a permutation names {named}: the data set has 0 to {self._n - 1}")
        stop = len(permutation)
        if self.drop_last:
            stop -= stop % self.batch_size
        firsts = range(start * self.batch_size, stop, self.batch_size)
        parts = [slice(first, min(first + self.batch_size, stop)) for first in firsts]
        batches = self._name if self.transfer == "resident" else self._stream
        generator = batches(permutation, parts)
        self._open.add(generator)
        return generator

    def _read(self, batch: Batch) -> tuple[Array, Array]:
        with self._backend.context():
            return read_batch(batch)

    def close(self) -> None:
        """End unfinished epochs. Their threads have ended when this returns."""
        for generator in list(self._open):
            generator.close()

    def _name(self, permutation: np.ndarray, parts: list[slice]) -> Generator[Batch]:
        """Yield the images and labels, the batches' rows as a table, and the batch's line in it."""
        rows = permutation.astype(row_dtype(self._n), copy=False)
        whole = [part for part in parts if part.stop - part.start == self.batch_size]
        if whole:
            table = self._backend.asarray(rows[whole[0].start : whole[-1].stop].reshape(-1, self.batch_size))
            for i in range(len(whole)):
                yield self._images, self._labels, table, i
        for part in parts[len(whole) :]:
            yield self._images, self._labels, self._backend.asarray(rows[part][None, :]), 0

    def _stream(self, permutation: np.ndarray, parts: list[slice]) -> Generator[Batch]:
        staging = Staging(self._images, self._labels, self.batch_size, self._backend.copier())
        free: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()
        filled: queue.SimpleQueue[Slot | BaseException] = queue.SimpleQueue()
        is_over = threading.Event()
        for _ in range(self.prefetch + 1):  # one in use, besides those being prepared
            free.put(staging.new_slot())

        def work() -> None:
            try:
                with self._backend.context():
                    for part in parts:
                        slot = free.get()
                        if slot is None or is_over.is_set():
                            return
                        staging.fill(slot, permutation[part])
                        filled.put(slot)
            except BaseException as error:  # the caller raises it
                filled.put(error)

        thread = threading.Thread(target=work, name="xpmlp-loader", daemon=True)
        thread.start()
        try:
            for _ in parts:
                slot = filled.get()
                if isinstance(slot, BaseException):
                    raise slot
                batch = staging.use(slot)
                if self.reuse_buffers or not staging.copier.reuses_buffers:
                    yield batch
                    del batch
                    staging.release(slot)
                else:
                    xp = self._backend.namespace
                    with self._backend.context():
                        images, labels = (xp.asarray(array, copy=True) for array in batch)
                    staging.release(slot)
                    yield images, labels
                free.put(slot)
        finally:
            is_over.set()
            free.put(None)  # wakes the thread, if it waits for a slot
            thread.join()
            staging.copier.finish()


@dataclass
class Slot:
    """The buffers of one streamed batch, and the events of their last copy and use."""

    images: np.ndarray
    labels: np.ndarray
    device_images: Any
    device_labels: Any
    copied: Any  # the event after the last copy out of the host's buffers
    used: Any  # the event after the last use of the device's buffers
    batch: tuple[Array, Array] | None = None


class Staging:
    """Keeps the order in which a slot's buffers are filled, copied, used and filled again."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, batch_size: int, copier: Copier) -> None:
        self._images, self._labels, self._batch_size, self.copier = images, labels, batch_size, copier

    def new_slot(self) -> Slot:
        """Return a slot with its own buffers.

        The device's buffers may come from a pool, in memory that queued steps still read. The first copy waits for
        those steps.
        """
        n_pixels = math.prod(self._images.shape[1:])
        images = self.copier.host_buffer((self._batch_size, n_pixels), self._images.dtype.name)
        labels = self.copier.host_buffer((self._batch_size,), "int32")
        buffers = self.copier.device_buffer(images), self.copier.device_buffer(labels)
        slot = Slot(images, labels, *buffers, copied=self.copier.event(), used=self.copier.event())
        self.copier.record_used(slot.used)
        return slot

    def fill(self, slot: Slot, rows: np.ndarray) -> None:
        """Gather rows into a free slot, and queue their copy to the device."""
        copier, n = self.copier, len(rows)
        copier.host_waits_for(slot.copied)  # the last copy has left the host's buffers
        gather(self._images, rows, slot.images[:n].reshape(n, *self._images.shape[1:]))
        slot.labels[:n] = self._labels[rows]
        copier.copying_waits_for(slot.used)  # the last step has left the device's buffers
        slot.batch = (
            copier.copy(slot.images, slot.device_images, n),
            copier.copy(slot.labels, slot.device_labels, n),
        )
        copier.record_copied(slot.copied)

    def use(self, slot: Slot) -> tuple[Array, Array]:
        """Return a filled slot's batch; computations with it wait for its copy."""
        assert slot.batch is not None
        self.copier.computing_waits_for(slot.copied)
        batch, slot.batch = slot.batch, None
        return batch

    def release(self, slot: Slot) -> None:
        """Take a slot back, once all computations with its batch are queued."""
        self.copier.record_used(slot.used)


def gather(array: np.ndarray, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return rows of an array in any memory layout; read only those rows. With `out` they must be in range."""
    if array.flags.c_contiguous:
        mode = "raise" if out is None else "clip"  # which with out= buffers the whole batch
        return array.take(rows, axis=0, out=out, mode=mode)  # type: ignore[call-overload, no-any-return]
    found = array[rows]  # take would copy the whole array first
    if out is None:
        return np.ascontiguousarray(found)
    out[...] = found
    return out


def read_batch(batch: Batch) -> tuple[Array, Array]:
    """Return a batch's images (uint8, n × d) and labels (int32, n), on the device; a compiled step may call it."""
    if len(batch) == 2:
        return batch
    images, labels, table, line = batch
    xp = array_namespace(images=images)
    rows = table[line, :]
    return xp.take(images, rows, axis=0), xp.take(labels, rows, axis=0)


class SampleRows(NamedTuple):
    """A batch of samples by their numbers, for a step that gathers it."""

    samples: tuple[Array, Array, Array | None]
    """All samples, (n, d), their targets, (n, …), and their weights, (n,), or None."""
    table: Array
    """The numbers of several batches' samples, (batches, batch size)."""
    line: int
    """The batch's line in the table."""

    def read(self) -> tuple[Array, Array, Array | None]:
        """Return the batch's samples, targets and weights, on the device; a compiled step may call it."""
        X, T, weights = self.samples
        xp, rows = array_namespace(X=X, table=self.table), self.table[self.line, :]
        taken = None if weights is None else xp.take(weights, rows, axis=0)
        return xp.take(X, rows, axis=0), xp.take(T, rows, axis=0), taken


def row_dtype(n: int) -> type[np.signedinteger[Any]]:
    """Return the narrowest of int32 and int64 that counts n images."""
    return np.int32 if n <= 2**31 else np.int64


def _choose(dataset: Dataset, backend: Backend) -> str:
    free = backend.free_memory()
    needed = dataset.images.nbytes + 8 * len(dataset)  # with labels and a permutation, int32
    is_large = free is not None and needed > _SHARE * free
    return "stream" if is_large or _mapping(dataset.images) is not None else "resident"


def _mapping(array: Any) -> mmap.mmap | None:
    """Return the memory map that an array is a view of."""
    while array is not None and not isinstance(array, mmap.mmap):
        array = getattr(array, "base", None)
    return array
