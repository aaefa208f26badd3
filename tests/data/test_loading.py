"""Batches on the device: the same in every way of transfer, in the right order, and with nothing left behind."""

import sys
import threading
import tracemalloc
from collections import deque

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.conftest import make_dataset, run_python
from xpmlp.backends import get_backend
from xpmlp.backends.base import Copier
from xpmlp.data import Dataset, DeviceLoader
from xpmlp.data.loading import Staging, row_dtype
from xpmlp.errors import ConfigError, DataError

WAYS = {
    "resident": {"transfer": "resident"},
    "streamed": {"transfer": "stream"},
    "streamed, far ahead": {"transfer": "stream", "prefetch": 5},
}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "xpmlp-loader"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not threads()


class TestBatches:
    @ways
    @settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        n=st.integers(1, 30),
        batch_size=st.integers(1, 40),
        part=st.integers(0, 30),
        start=st.integers(0, 4),
        drop_last=st.booleans(),
    )
    def test_are_those_of_the_permutation(self, backend, way, n, batch_size, part, start, drop_last):
        dataset = make_dataset(n)
        rows = np.random.default_rng(n).permutation(n)[: n - part % n]
        expected = [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)][start:]
        if drop_last:
            expected = [batch for batch in expected if len(batch) == batch_size]
        batches = list(DeviceLoader(dataset, backend, batch_size, drop_last=drop_last, **way).epoch(rows, start))
        assert len(batches) == len(expected)
        for (images, labels), batch in zip(batches, expected, strict=True):
            images, labels = backend.to_numpy(images), backend.to_numpy(labels)
            assert images.dtype == np.uint8
            assert labels.dtype == np.int32
            assert np.array_equal(images, dataset.images[batch].reshape(len(batch), -1))
            assert np.array_equal(labels, dataset.labels[batch])

    def test_are_those_of_a_permutation_on_the_device(self, backend):
        loader, rows = DeviceLoader(make_dataset(20), backend, 7), np.random.default_rng(0).permutation(20)
        found = [backend.to_numpy(labels) for _, labels in loader.epoch(backend.asarray(rows.astype(np.int32)))]
        assert np.array_equal(np.concatenate(found), make_dataset(20).labels[rows])

    @ways
    def test_are_right_while_they_are_valid_where_buffers_are_reused(self, backend, way, tiny):
        rows = np.random.default_rng(0).permutation(240)
        loader = DeviceLoader(tiny, backend, 7, reuse_buffers=True, **way)
        for _ in range(2):
            for k, (images, labels) in enumerate(loader.epoch(rows)):
                batch = rows[7 * k : 7 * k + 7]
                assert np.array_equal(backend.to_numpy(images), tiny.images[batch].reshape(len(batch), -1))
                assert np.array_equal(backend.to_numpy(labels), tiny.labels[batch])

    @ways
    def test_of_several_epochs_are_right_where_the_device_reads_them_late(self, backend, way, tiny):
        """The next epoch's buffers may be the last one's, which queued work still reads."""
        loader = DeviceLoader(tiny, backend, 40, reuse_buffers=True, **way)
        orders = [np.random.default_rng(seed).permutation(240) for seed in range(3)]
        with backend.context():
            xp = backend.namespace
            seen = [xp.astype(images, xp.int32) for order in orders for images, _ in loader.epoch(order)]
        found = np.concatenate([backend.to_numpy(images) for images in seen])
        assert np.array_equal(found, tiny.images[np.concatenate(orders)].reshape(720, -1))

    def test_lie_on_the_device(self, backend, tiny):
        for way in WAYS.values():
            images, labels = next(iter(DeviceLoader(tiny, backend, 7, **way).epoch(np.arange(240))))
            assert str(images.device) == str(labels.device) == str(backend.asarray(1.0).device)

    def test_two_epochs_at_once_do_not_disturb_each_other(self, backend, tiny):
        loader = DeviceLoader(tiny, backend, 50, "stream", reuse_buffers=True)
        forth, back = np.arange(240), np.arange(240)[::-1]
        for (one, _), (other, _) in zip(loader.epoch(forth), loader.epoch(back), strict=True):
            assert not np.array_equal(backend.to_numpy(one), backend.to_numpy(other))
        batches = [backend.to_numpy(images) for images, _ in loader.epoch(back)]
        assert np.array_equal(np.concatenate(batches), tiny.images[::-1].reshape(240, -1))

    def test_of_labels_of_any_integer_dtype_are_int32(self, backend, tiny):
        import dataclasses

        wide = dataclasses.replace(tiny, labels=tiny.labels.astype(">i8"))
        for way in WAYS.values():
            _, labels = next(iter(DeviceLoader(wide, backend, 240, **way).epoch(np.arange(240))))
            assert backend.to_numpy(labels).tolist() == tiny.labels.tolist()

    def test_of_an_epoch_without_images_are_none(self, backend, tiny):
        for way in WAYS.values():
            assert list(DeviceLoader(tiny, backend, 7, **way).epoch(np.arange(0))) == []


class TestReuse:
    def test_nothing_is_allocated_a_batch_on_numpy(self, find_backend, tiny):
        loader = DeviceLoader(tiny, find_backend("numpy"), 8, "stream", reuse_buffers=True)
        places = {images.__array_interface__["data"][0] for images, _ in loader.epoch(np.arange(240))}
        assert len(places) == loader.prefetch + 1

    @pytest.mark.needs("cupy")
    def test_an_epoch_gives_its_memory_back_to_what_computes_on_cupy(self, find_backend, tiny):
        """CuPy's pool keeps a block for the stream that was the current one when it was allocated."""
        loader = DeviceLoader(tiny, find_backend("cupy"), 40, "stream", reuse_buffers=True)
        import cupy

        pool = cupy.cuda.MemoryPool()  # of its own, where no other test has left anything
        with cupy.cuda.using_allocator(pool.malloc):
            deque(loader.epoch(np.arange(240)), maxlen=0)
        assert pool.free_bytes() > 0
        pool.free_all_blocks(stream=cupy.cuda.get_current_stream())
        assert pool.free_bytes() == 0

    @pytest.mark.needs("cupy")
    def test_staging_buffers_are_page_locked_on_cupy(self, find_backend):
        """Else the host waits for each copy."""
        buffer = find_backend("cupy").copier().host_buffer((5, 4), "uint8")
        from cupy.cuda import runtime

        assert runtime.pointerGetAttributes(buffer.ctypes.data).type == runtime.memoryTypeHost

    @pytest.mark.needs("jax")
    def test_a_short_last_batch_does_not_compile_a_jax_step_every_epoch(self, find_backend, tiny):
        backend = find_backend("jax")
        traced = []

        def step(images, labels):
            traced.append(images.shape)
            return images.sum() + labels.sum()

        for way in WAYS.values():
            traced.clear()
            compiled, loader = backend.compile(lambda *batch: step(*batch)), DeviceLoader(tiny, backend, 100, **way)
            for _ in range(3):
                for images, labels in loader.epoch(np.arange(240)):
                    compiled(images, labels)
            assert traced == [(100, 20), (40, 20)]


class TestAutomaticTransfer:
    def test_keeps_a_small_data_set_on_the_device(self, backend, tiny):
        assert DeviceLoader(tiny, backend, 7).transfer == "resident"

    def test_streams_what_the_devices_memory_does_not_hold(self, find_backend, tiny, monkeypatch):
        backend = find_backend("numpy")
        for free, transfer in ((None, "resident"), (10**9, "resident"), (6000, "stream")):
            monkeypatch.setattr(type(backend), "free_memory", lambda self, free=free: free)
            assert DeviceLoader(tiny, backend, 7).transfer == transfer

    def test_streams_a_memmap(self, find_backend, tmp_path, tiny):
        np.save(tmp_path / "images.npy", tiny.images)
        mapped = Dataset(np.load(tmp_path / "images.npy", mmap_mode="r"), tiny.labels, tiny.class_names, 255, "mapped")
        loader = DeviceLoader(mapped, find_backend("numpy"), 50)
        assert loader.transfer == "stream"
        streamed = np.concatenate([images for images, _ in loader.epoch(np.arange(240))])
        assert np.array_equal(streamed, tiny.images.reshape(240, -1))


LAYOUTS = {
    "rows": lambda array: array,
    "columns": np.asfortranarray,
    "backwards": lambda array: array[::-1].copy()[::-1],
    "mirrored": lambda array: array[..., ::-1].copy()[..., ::-1],
    "every second": lambda array: np.repeat(array, 2, axis=0)[::2],
    "a part of wider ones": lambda array: np.concatenate([array, array], axis=-1)[..., : array.shape[-1]],
}
"""The same numbers, otherwise in memory."""


@pytest.mark.parametrize("layout", LAYOUTS)
class TestAnyMemoryLayout:
    @pytest.mark.parametrize("transfer", ["resident", "stream"])
    def test_gives_the_same_batches(self, backend, tiny, layout, transfer):
        laid_out = Dataset(LAYOUTS[layout](tiny.images), tiny.labels, tiny.class_names, 255, layout)
        order = np.random.default_rng(0).permutation(240)
        pairs = zip(*(DeviceLoader(d, backend, 50, transfer).epoch(order) for d in (laid_out, tiny)), strict=True)
        for (images, _), (expected, _) in pairs:
            assert np.array_equal(backend.to_numpy(images), backend.to_numpy(expected))

    def test_a_batch_takes_no_more_memory_than_its_own(self, layout, tmp_path):
        images = LAYOUTS[layout](np.random.default_rng(0).integers(0, 255, (5000, 10, 10)).astype(np.uint8))
        data = Dataset(images, np.zeros(5000, np.int32))
        loader = DeviceLoader(data, get_backend("numpy"), 50, "stream", reuse_buffers=True)
        tracemalloc.start()
        try:
            for _ in loader.epoch(np.random.default_rng(0).permutation(5000)):
                pass
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < images.nbytes / 4


class TestFailure:
    @pytest.mark.parametrize("reuse_buffers", [False, True])
    def test_in_the_thread_reaches_the_caller(self, backend, tiny, monkeypatch, reuse_buffers):
        fill = Staging.fill

        def fail(self, slot, rows):
            if 21 in rows:
                raise OSError("the disk is gone")
            fill(self, slot, rows)

        monkeypatch.setattr(Staging, "fill", fail)
        epoch = DeviceLoader(tiny, backend, 7, "stream", reuse_buffers=reuse_buffers).epoch(np.arange(240))
        assert len([next(epoch) for _ in range(3)]) == 3
        with pytest.raises(OSError, match="the disk is gone"):
            next(epoch)

    def test_in_the_callers_loop_leaves_no_thread(self, backend, tiny):
        def use():
            for _ in DeviceLoader(tiny, backend, 7, "stream").epoch(np.arange(240)):
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            use()

    def test_closing_early_leaves_no_thread(self, backend, tiny):
        loader = DeviceLoader(tiny, backend, 7, "stream")
        epoch = loader.epoch(np.arange(240))
        assert not threads(), "nothing begins before it is asked for"
        next(epoch)
        assert threads()
        loader.close()
        assert not threads()
        assert list(epoch) == []
        assert len(list(loader.epoch(np.arange(240)))) == 35, "another epoch can follow"

    def test_closing_early_leaves_no_copy_into_memory_that_others_have_then(self, backend, tiny, monkeypatch):
        """On CuPy the buffers' memory is the next arrays' at once."""
        loader = DeviceLoader(tiny, backend, 7, "stream", prefetch=3, reuse_buffers=True)
        fill, filled = Staging.fill, threading.Semaphore(0)

        def count(self, slot, rows):
            fill(self, slot, rows)
            filled.release()

        monkeypatch.setattr(Staging, "fill", count)
        epoch = loader.epoch(np.arange(240))
        next(epoch)
        for _ in range(4):
            assert filled.acquire(timeout=60)
        loader.close()
        theirs = np.full((7, 20), 213, np.uint8)
        arrays = [backend.asarray(theirs, copy=True) for _ in range(8)]
        backend.synchronize()
        for array in arrays:
            assert np.array_equal(backend.to_numpy(array), theirs)

    @pytest.mark.parametrize("rows", [[0, 240], [-1, 3]])
    def test_an_image_that_is_not_there_is_refused(self, backend, tiny, rows):
        """CuPy would wrap around, and JAX clamp, in silence."""
        for way in WAYS.values():
            with pytest.raises(DataError, match="the data set has 0 to 239"):
                DeviceLoader(tiny, backend, 2, **way).epoch(np.array(rows))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"batch_size": 0}, "batch size 0: expected at least 1"),
            ({"prefetch": 0}, "prefetch 0: expected at least 1"),
            ({"transfer": "fly"}, "unknown transfer 'fly': expected auto, resident or stream"),
        ],
    )
    def test_a_setting_outside_its_range_is_refused(self, tiny, find_backend, settings, message):
        with pytest.raises(ConfigError, match=message):
            DeviceLoader(**{"dataset": tiny, "backend": find_backend("numpy"), "batch_size": 7, **settings})

    def test_an_epoch_that_is_none_is_refused(self, tiny, find_backend):
        loader = DeviceLoader(tiny, find_backend("numpy"), 7)
        with pytest.raises(ConfigError, match="start -1"):
            loader.epoch(np.arange(3), start=-1)
        for rows in (np.arange(3.0), np.zeros((2, 2), int)):
            with pytest.raises(DataError, match="a permutation of .*: expected the images' numbers"):
                loader.epoch(rows)


class FakeDevice(Copier):
    """A device that does what is queued when told to, not before: one queue copies, one computes.

    Freed buffers go to a pool, which hands them out again at once and as they are, as CuPy's pools do: that of the
    device's memory in the order of the computing queue, that of the host's in no order at all. A computation reads a
    batch and notes what it sees, or uses memory of the pool for an intermediate result.
    """

    reuses_buffers = True
    POISON = 213

    def __init__(self):
        self.queues = {"copy": deque(), "compute": deque()}
        self.pools, self.seen, self.intermediates = {"host": [], "device": []}, [], []

    def _allocate(self, pool, shape, dtype):
        for i, buffer in enumerate(self.pools[pool]):
            if (buffer.shape, buffer.dtype) == (shape, dtype):
                return self.pools[pool].pop(i)
        return np.full(shape, self.POISON, dtype)

    def host_buffer(self, shape, dtype):
        return self._allocate("host", shape, dtype)

    def device_buffer(self, host):
        return self._allocate("device", host.shape, host.dtype)

    def free(self, slot):
        self.pools["host"] += [slot.images, slot.labels]
        self.pools["device"] += [slot.device_images, slot.device_labels]

    def event(self):
        return {"recorded": 0, "happened": 0}

    def copy(self, host, device, n):
        self.queues["copy"].append(lambda: np.copyto(device[:n], host[:n]))
        return device[:n]

    def compute(self, batch):
        self.queues["compute"].append(lambda: self.seen.append(tuple(array.copy() for array in batch)))

    def compute_an_intermediate(self, shape):
        buffer = self._allocate("device", shape, np.dtype("uint8"))
        self.queues["compute"].append(lambda: buffer.fill(7))
        self.queues["compute"].append(lambda: self.intermediates.append(buffer.copy()))
        self.pools["device"].append(buffer)

    def _record(self, queue, event):
        event["recorded"] += 1
        time = event["recorded"]
        self.queues[queue].append(lambda: event.update(happened=time))

    def _wait(self, queue, event):
        self.queues[queue].append((event, event["recorded"]))

    def record_copied(self, event):
        self._record("copy", event)

    def record_used(self, event):
        self._record("compute", event)

    def copying_waits_for(self, event):
        self._wait("copy", event)

    def computing_waits_for(self, event):
        self._wait("compute", event)

    def host_waits_for(self, event):
        time = event["recorded"]
        while event["happened"] < time:
            assert self.run("copy") or self.run("compute"), "the host waits for what will never happen"

    def run(self, queue):
        """Do the next thing in a queue, and return whether it could be done."""
        if not self.queues[queue]:
            return False
        first = self.queues[queue][0]
        if isinstance(first, tuple):
            event, time = first
            if event["happened"] < time:
                return False
        else:
            first()
        self.queues[queue].popleft()
        return True

    def finish(self):
        while self.queues["copy"]:
            assert self.run("copy") or self.run("compute"), "the copies never end"

    def end(self):
        while self.queues["copy"] or self.queues["compute"]:
            assert self.run("copy") or self.run("compute"), "the work never ends"


class StagedEpochs(RuleBasedStateMachine):
    """Any order in which batches are filled, used and released, epochs end or are left, and the device lags behind."""

    staging = Staging

    @initialize(n=st.integers(1, 25), batch_size=st.integers(1, 4), prefetch=st.integers(1, 3), seed=st.integers(0, 9))
    def begin(self, n, batch_size, prefetch, seed):
        self.dataset, self.device, self.expected = make_dataset(n, seed), FakeDevice(), []
        self.batch_size, self.n_slots = batch_size, prefetch + 1
        self.rng = np.random.default_rng(seed)
        self.begin_epoch()

    def begin_epoch(self):
        n = len(self.dataset)
        rows = self.rng.permutation(n)
        self.todo = deque(rows[first : first + self.batch_size] for first in range(0, n, self.batch_size))
        images = self.dataset.images.reshape(n, -1)
        self.stage = self.staging(images, self.dataset.labels, self.batch_size, self.device)
        self.free = deque(self.stage.new_slot() for _ in range(self.n_slots))
        self.filled, self.in_use = deque(), None

    @precondition(lambda self: self.free and self.todo)
    @rule()
    def fill(self):
        slot, rows = self.free.popleft(), self.todo.popleft()
        self.stage.fill(slot, rows)
        self.filled.append((slot, rows))

    @precondition(lambda self: self.filled and self.in_use is None)
    @rule(times=st.integers(1, 2))
    def use(self, times):
        self.in_use, rows = self.filled.popleft()
        batch = self.stage.use(self.in_use)
        for _ in range(times):
            self.device.compute(batch)
            self.expected.append(rows)

    @precondition(lambda self: self.in_use is not None)
    @rule()
    def release(self):
        self.stage.release(self.in_use)
        self.free.append(self.in_use)
        self.in_use = None

    @precondition(lambda self: not self.todo or self.in_use is not None)
    @rule(computes=st.booleans())
    def end_or_leave_the_epoch_and_begin_another(self, computes):
        self.device.finish()
        for slot in (*self.free, *(slot for slot, _ in self.filled), *filter(None, [self.in_use])):
            self.device.free(slot)
        if computes:  # an evaluation, say
            self.device.compute_an_intermediate((self.batch_size, self.dataset.images[0].size))
        self.begin_epoch()

    @rule(queue=st.sampled_from(["copy", "compute"]), times=st.integers(1, 6))
    def the_device_goes_on(self, queue, times):
        for _ in range(times):
            self.device.run(queue)

    def teardown(self):
        if not hasattr(self, "device"):
            return
        self.device.end()
        assert len(self.device.seen) == len(self.expected)
        for (images, labels), rows in zip(self.device.seen, self.expected, strict=True):
            assert np.array_equal(images, self.dataset.images[rows].reshape(len(rows), -1))
            assert np.array_equal(labels, self.dataset.labels[rows])
        for intermediate in self.device.intermediates:
            assert np.all(intermediate == 7)


THOROUGH = settings(max_examples=150, stateful_step_count=40)


def test_every_computation_sees_its_own_batch_however_the_device_lags():
    run_state_machine_as_test(StagedEpochs, settings=THOROUGH)


@pytest.mark.parametrize("missing", ["host_waits_for", "copying_waits_for", "computing_waits_for", "finish"])
def test_without_any_one_of_the_waits_some_computation_sees_another(missing):
    class Careless(Staging):
        def new_slot(self):
            setattr(self.copier, missing, lambda *event: None)
            return super().new_slot()

    class CarelessEpochs(StagedEpochs):
        staging = Careless

    search = settings(
        THOROUGH, max_examples=500, database=None, phases=[Phase.generate], report_multiple_bugs=False
    )  # a counterexample is enough, it need not be small
    with pytest.raises(AssertionError):
        run_state_machine_as_test(CarelessEpochs, settings=search)


@pytest.mark.needs(module="cupy")
def test_cupy_has_what_its_copier_calls():
    """On a machine without a GPU the copier cannot be made, but the calls that it makes can be looked up."""
    import cupy
    import cupyx

    assert callable(cupyx.empty_pinned)
    for kind, names in {
        cupy.cuda.Stream: ("record", "wait_event", "synchronize"),
        cupy.cuda.Event: ("synchronize",),
        cupy.ndarray: ("set",),
        cupy.cuda: ("get_current_stream",),
    }.items():
        for name in names:
            assert callable(getattr(kind, name)), name


def test_rows_are_counted_as_narrowly_as_they_can_be():
    assert (row_dtype(60_000), row_dtype(2**31), row_dtype(2**31 + 1)) == (np.int32, np.int32, np.int64)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read as Linux says it")
@pytest.mark.slow
def test_twenty_gigabytes_are_trained_on_in_little_memory(tmp_path):
    """A sparse file of 25 million images, 50 steps in random order."""
    code = f"""
import numpy as np
from xpmlp import Callback, Dataset, TrainConfig, get_backend
from xpmlp.training.run import train_network as train

n = 20 * 10**9 // 784
images = np.memmap({str(tmp_path / "images")!r}, np.uint8, "w+", shape=(n, 28, 28))
dataset = Dataset(images, np.zeros(n, np.uint8), ("a", "b"), 255, "a sparse file")

class Enough(Exception):
    pass

class Stop(Callback):
    def on_step(self, step):
        if step == 50:
            raise Enough

try:
    train(TrainConfig(val_size=0), dataset, get_backend("numpy"), [Stop()])
except Enough:
    (peak,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM:")]
    print(int(peak.split()[1]) / 1024)  # not ru_maxrss, which begins with that of the process that started this one
"""
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 600
