"""When queued work is done, in each mode, and what waits for what."""

import pytest

from tests.cuda_on_cpu.emulated import check  # skips this module where the device is not installed

# A copy from pinned memory reads it when the copy's turn comes: the host's last write tells when that was.
LATE = """
    pinned = cupyx.empty_pinned(3, "float32")
    pinned[...] = 1
    a, b = cupy.zeros(3, "float32"), cupy.zeros(3, "float32")
    runtime.deviceSynchronize()
    stream = Stream(non_blocking=True)

    def values(x):
        return host_view(x).tolist()

    """


def test_now_is_done_when_queued():
    check(LATE + "a.set(pinned, stream=stream); assert values(a) == [1, 1, 1]")


def test_lazy_is_done_when_the_stream_is_waited_for():
    check(
        LATE
        + """
    a.set(pinned, stream=stream)
    assert values(a) == [0, 0, 0]
    pinned[...] = 2
    stream.synchronize()
    assert values(a) == [2, 2, 2]
    """,
        mode="lazy",
    )


def test_lazy_kernels_wait_too():
    check(LATE + "a += 5; assert values(a) == [0, 0, 0]; assert a.tolist() == [5, 5, 5]", mode="lazy")


def test_an_event_waits_for_what_came_before_it_alone():
    check(
        LATE
        + """
    a.set(pinned, stream=stream)
    event = stream.record()
    b.set(pinned, stream=stream)
    event.synchronize()
    assert event.done
    assert values(a) == [1, 1, 1]
    assert values(b) == [0, 0, 0]
    """,
        mode="lazy",
    )


def test_an_event_that_was_never_recorded_waits_for_nothing():
    check(LATE + "event = Event(); a += 5; event.synchronize(); assert values(a) == [0, 0, 0]", mode="lazy")


def test_a_stream_waits_for_another_ones_event():
    check(
        LATE
        + """
    a.set(pinned, stream=stream)
    event = stream.record()
    other = Stream(non_blocking=True)
    other.wait_event(event)
    with other:
        b += a
    other.synchronize()
    assert values(b) == [1, 1, 1]
    """,
        mode="lazy",
    )


def test_waiting_for_one_stream_leaves_another_alone():
    check(
        LATE
        + """
    a.set(pinned, stream=stream)
    other = Stream(non_blocking=True)
    b.set(pinned, stream=other)
    other.synchronize()
    assert (values(a), values(b)) == ([0, 0, 0], [1, 1, 1])
    runtime.deviceSynchronize()
    assert values(a) == [1, 1, 1]
    """,
        mode="lazy",
    )


@pytest.mark.parametrize(("non_blocking", "expected"), [(False, [1, 1, 1]), (True, [0, 0, 0])])
def test_the_default_stream_waits_for_blocking_streams(non_blocking, expected):
    check(
        LATE
        + f"""
    a.set(pinned, stream=Stream(non_blocking={non_blocking}))
    b += a
    Stream.null.synchronize()
    assert values(b) == {expected}
    """,
        mode="lazy",
    )


@pytest.mark.parametrize(("non_blocking", "expected"), [(False, [5, 5, 5]), (True, [0, 0, 0])])
def test_blocking_streams_wait_for_the_default_stream(non_blocking, expected):
    check(
        LATE
        + f"""
    a += 5
    other = Stream(non_blocking={non_blocking})
    with other:
        b += a
    other.synchronize()
    assert values(b) == {expected}
    """,
        mode="lazy",
    )


def test_the_work_of_a_stream_that_is_gone_is_still_done():
    check(
        LATE
        + """
    a.set(pinned, stream=stream)
    del stream
    assert values(a) == [0, 0, 0]
    runtime.deviceSynchronize()
    assert values(a) == [1, 1, 1]
    """,
        mode="lazy",
    )


def test_asking_again_and_again_comes_to_an_end():
    check(
        LATE
        + """
    a.set(pinned, stream=stream)
    event = stream.record()
    assert not event.done
    while not event.done:
        pass
    assert values(a) == [1, 1, 1]
    assert stream.done
    """,
        mode="lazy",
    )


def test_freeing_waits_for_the_device():
    check(
        LATE
        + """
    a.set(pinned, stream=stream)
    runtime.free(runtime.malloc(100))
    assert values(a) == [1, 1, 1]
    """,
        mode="lazy",
    )


def test_a_copy_from_pageable_memory_has_read_it_when_the_call_returns():
    check(
        LATE
        + """
    pageable = np.ones(3, "float32")
    runtime.memcpyAsync(a.data.ptr, pageable.ctypes.data, 12, runtime.memcpyHostToDevice, stream.ptr)
    runtime.memcpy(b.data.ptr, pageable.ctypes.data, 12, runtime.memcpyHostToDevice)
    pageable[:] = 2
    assert (values(a), values(b)) == ([0, 0, 0], [0, 0, 0])
    runtime.deviceSynchronize()
    assert (values(a), values(b)) == ([1, 1, 1], [1, 1, 1])
    """,
        mode="lazy",
    )


def test_a_copy_to_the_host_waits_unless_it_is_asynchronous_and_into_pinned_memory():
    check(
        LATE
        + """
    pageable = np.zeros(3, "float32")
    a += 5
    runtime.memcpyAsync(pinned.ctypes.data, a.data.ptr, 12, runtime.memcpyDeviceToHost, 0)
    assert pinned.tolist() == [1, 1, 1]
    runtime.memcpyAsync(pageable.ctypes.data, a.data.ptr, 12, runtime.memcpyDeviceToHost, 0)
    assert (pinned.tolist(), pageable.tolist()) == ([5, 5, 5], [5, 5, 5])
    a += 1
    runtime.memcpy(pinned.ctypes.data, a.data.ptr, 12, runtime.memcpyDeviceToHost)
    assert pinned.tolist() == [6, 6, 6]
    """,
        mode="lazy",
    )


def test_a_copy_within_the_device_does_not_wait():
    check(
        LATE
        + """
    a += 5
    runtime.memcpy(b.data.ptr, a.data.ptr, 12, runtime.memcpyDeviceToDevice)
    assert values(b) == [0, 0, 0]
    assert b.tolist() == [5, 5, 5]
    """,
        mode="lazy",
    )


def test_skew_lets_a_copy_overtake_the_work_that_it_should_wait_for():
    check(
        LATE
        + """
    a += 5
    with stream:
        b[...] = a
    assert values(b) == [0, 0, 0]
    stream.wait_event(Stream.null.record())
    with stream:
        b[...] = a
    assert values(b) == [5, 5, 5]
    """,
        mode="skew",
    )


@pytest.mark.parametrize("mode", ["now", "lazy"])
def test_host_functions_run_in_their_turn(mode):
    check(
        LATE
        + """
    seen = []
    a.set(pinned, stream=stream)
    stream.launch_host_func(lambda note: seen.append((note, values(a))), "first")
    pinned[...] = 2
    a.set(pinned, stream=stream)
    stream.synchronize()
    assert seen == [("first", [1, 1, 1] if MODE == "now" else [2, 2, 2])]
    """.replace("MODE", repr(mode)),
        mode=mode,
    )


ORDERS = """
    from cuda_on_cpu.control import interleave

    def order(seed):  # in which two streams' work is done
        interleave(seed)
        done, one, other = [], Stream(non_blocking=True), Stream(non_blocking=True)
        for k in range(4):
            one.launch_host_func(done.append, ("one", k))
            other.launch_host_func(done.append, ("other", k))
        one.synchronize(), other.synchronize()
        return done

    """


def test_random_keeps_each_streams_order_and_a_seed_decides_the_rest():
    check(
        ORDERS
        + """
    found = [order(seed) for seed in range(20)]
    assert found == [order(seed) for seed in range(20)]
    assert len(set(map(tuple, found))) > 5
    for done in found:
        for name in ("one", "other"):
            assert [k for stream, k in done if stream == name] == [0, 1, 2, 3]
    """
    )


def test_random_is_as_late_as_lazy_may_be_and_no_later():
    check(
        LATE
        + """
    from cuda_on_cpu.control import interleave

    seen = set()
    for seed in range(30):
        interleave(seed)
        a.set(pinned, stream=stream)
        pinned[...] += 1
        stream.synchronize()
        seen.add(float(pinned[0]) - values(a)[0])
    assert seen == {0, 1}, seen
    """
    )


def test_a_sort_is_done_in_its_turn():
    check(
        """
    a = cupy.asarray(np.array([3, 1, 2], "float32"))
    a.sort()
    assert host_view(a).tolist() != [1, 2, 3]
    assert a.tolist() == [1, 2, 3]
    """,
        mode="lazy",
    )
