"""IDX files: what is written is read, and what is damaged is refused."""

import gzip
import importlib
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xpmlp.data import idx
from xpmlp.errors import DataError, XpmlpError


@pytest.fixture(autouse=True, params=["gzip", pytest.param("isal.igzip", marks=pytest.mark.needs(module="isal"))])
def with_either_library(request, monkeypatch):
    """Either library that may read gzipped files."""
    monkeypatch.setattr(idx, "unzip", importlib.import_module(request.param).open)


KINDS = ("uint8", "int8", "int16", "int32", "float32", "float64")


@given(
    array=st.sampled_from(KINDS).flatmap(lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, min_side=0))),
    zipped=st.booleans(),
    foreign=st.booleans(),
)
def test_what_is_written_is_read(tmp_path_factory, array, zipped, foreign):
    content = b"".join(idx.contents_of(array.astype(array.dtype.newbyteorder()) if foreign else array))
    content = gzip.compress(content) if zipped else content
    path = tmp_path_factory.getbasetemp() / "written"
    path.write_bytes(content)
    back = idx.read(path)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable


@pytest.mark.parametrize("name", ["plain", "zipped.gz"])
def test_a_path_is_read_and_written(tmp_path, name):
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    idx.write(tmp_path / name, array)
    assert np.array_equal(idx.read(str(tmp_path / name)), array)
    assert ((tmp_path / name).read_bytes()[:2] == b"\x1f\x8b") == name.endswith(".gz")


def test_the_header_is_the_formats():
    content = b"".join(idx.contents_of(np.array([[1, -2]], dtype=np.int16)))
    assert content == b"\0\0\x0b\x02" + struct.pack(">IIhh", 1, 2, 1, -2)


WHOLE = b"\0\0\x08\x01\0\0\0\x03abc"
BOMB = b"\0\0\x08\x03" + struct.pack(">3I", 2**31, 2**31, 4)


DAMAGED = {
    "empty": (b"", "begins with nothing: expected an IDX file"),
    "another format": (b"\x89PNG", "a PNG picture; expected an IDX file"),
    "an unknown type": (b"\0\0\x07\x01\0\0\0\x01a", "begins with 00 00 07 01"),
    "half a header": (b"\0\0\x08\x02\0\0\0\x01", "ends within its header of 2 axes"),
    "too short": (WHOLE[:-1], "promises 3 bytes .*, the file's length is for 2"),
    "too long": (WHOLE + b"d", "promises 3 bytes .*, the file's length is for 4"),
    "zipped, too short": (gzip.compress(WHOLE[:-1]), "promises 3 bytes .*, 2 are there"),
    "zipped, too long": (gzip.compress(WHOLE + b"d"), "promises 3 bytes .*, more follow"),
    "half a zip": (gzip.compress(WHOLE)[:-9], "damaged gzip data"),
    "a zip with other bits": (gzip.compress(WHOLE)[:10] + b"\xff\xff" + gzip.compress(WHOLE)[12:], "damaged gzip data"),
    "a promise": (BOMB, "the file's length is for"),
    "a zipped promise": (gzip.compress(BOMB), "the file's length is for"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        idx.read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


VALID = [
    np.arange(600, dtype=np.uint8).reshape(3, 20, 10),
    np.arange(64, dtype=np.uint8),
    np.linspace(-1, 1, 33, dtype=np.float32),
]


@settings(max_examples=700, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    array=st.sampled_from(VALID),
    zipped=st.booleans(),
    change=st.sampled_from(["flip", "cut", "insert", "remove", "repeat"]),
    where=st.floats(0, 1, exclude_max=True),
    value=st.integers(1, 255),
    length=st.integers(1, 40),
)
def test_a_file_with_a_fault_is_read_correctly_or_refused(tmp_path, array, zipped, change, where, value, length):
    content = b"".join(idx.contents_of(array))
    content = gzip.compress(content, mtime=0) if zipped else content
    place = int(where * len(content))
    before, after = content[:place], content[place:]
    mutated = {
        "flip": before + bytes([after[0] ^ value]) + after[1:],
        "cut": before,
        "insert": before + bytes([value]) * length + after,
        "remove": before + after[length:],
        "repeat": content + content,
    }[change]
    path = tmp_path / "mutated"
    path.write_bytes(mutated)
    tracemalloc.start()
    refusal = None
    try:
        found = idx.read(path)
    except DataError as error:
        refusal = str(error)
    else:
        # What is read is what the file says: written again, it is the same file.
        assert b"".join(idx.contents_of(found)) == (gzip.decompress(mutated) if zipped else mutated)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert refusal is None or (str(path) in refusal and "\n" not in refusal)
    assert peak < 2 * array.nbytes + 8_000_000


@pytest.mark.parametrize("kind", ["uint8", "float64"])
@pytest.mark.parametrize("is_zipped", [False, True])
def test_reading_takes_little_more_memory_than_the_array(tmp_path, kind, is_zipped):
    array = np.zeros(40_000_000 // np.dtype(kind).itemsize, kind)
    path = tmp_path / ("images.gz" if is_zipped else "images")
    idx.write(path, array)
    tracemalloc.start()
    found = idx.read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.nbytes == array.nbytes
    assert peak < 1.3 * array.nbytes + 8_000_000


def test_a_bomb_costs_no_memory(tmp_path):
    """A gzip file of 100 MB of zeros behind a header that promises 3 bytes."""
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(WHOLE[:8] + bytes(100_000_000), 9))
    tracemalloc.start()
    with pytest.raises(DataError, match="more follow"):
        idx.read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8_000_000


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        idx.read(tmp_path / "nothing")
    with pytest.raises(DataError, match="Is a directory"):
        idx.read(tmp_path)
    with pytest.raises(DataError, match="No such file"):
        idx.write(tmp_path / "no" / "folder", np.zeros(1, dtype=np.uint8))


def test_what_the_format_has_not_is_not_written(tmp_path):
    with pytest.raises(DataError, match="int64 of shape"):
        idx.write(tmp_path / "images", np.zeros(3, dtype=np.int64))


def test_a_fault_is_a_value_error_too():
    assert issubclass(DataError, ValueError)
    assert issubclass(DataError, XpmlpError)
