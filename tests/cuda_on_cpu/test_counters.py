"""What was asked of the device is counted."""

from tests.cuda_on_cpu.emulated import check  # skips this module where the device is not installed

BEGIN = """
    from cuda_on_cpu.control import count
    a, b = cupy.ones((3, 4), "float32"), cupy.ones((4, 5), "float32")
    a + 1
    a @ b
    before = count()

    def asked():
        return {name: n for name, n in (count() - before)._asdict().items() if n}
    """


def test_a_kernel():
    check(BEGIN + "a + 1; assert asked() == {'kernels': 1}, asked()")


def test_a_product():
    check(BEGIN + "a @ b; assert asked() == {'library_calls': 1}, asked()")


def test_copies_and_their_bytes():
    check(BEGIN + "cupy.asarray(np.ones(5)); assert asked() == {'copies_to_device': 1, 'bytes_to_device': 40}")
    check(
        BEGIN
        + """
    cupy.empty_like(a).data.copy_from_device(a.data, 48)
    assert asked() == {'copies_on_device': 1, 'bytes_on_device': 48}
    """
    )
    check(
        BEGIN
        + """
    a.get()
    found = asked()
    assert found.pop('waits')
    assert found == {'copies_to_host': 1, 'bytes_to_host': 48}
    """
    )


def test_waits():
    check(BEGIN + "float(a[0, 0]); found = asked(); assert found['waits'] >= 1 and found['bytes_to_host'] == 4")
    check(BEGIN + "Stream.null.synchronize(); assert asked() == {'waits': 1}")
    check(BEGIN + "event = Event(); event.record(); event.synchronize(); assert asked() == {'waits': 1}")
