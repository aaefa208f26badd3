"""Arrays and their description in one file: what comes back, and what is refused."""

import json
import os

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xpmlp.errors import CheckpointError
from xpmlp.storage import tensors

ANY_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)

arrays = npst.arrays(
    dtype=st.sampled_from(["<f4", ">f4", "<f8", ">f8", "<i4", ">i8", "u1", "?"]),
    shape=npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)


def views(array: np.ndarray) -> list[np.ndarray]:
    """Return the array as others see it: transposed, with steps, backwards, repeated, of Fortran's order."""
    seen = [array, array.T, np.asfortranarray(array), np.broadcast_to(array, (2, *array.shape))]
    if array.ndim:
        seen += [array[::2], array[::-1], array[..., ::-1], array[..., ::2]]
    return seen


@ANY_FOLDER
@given(arrays)
def test_every_view_of_every_array_comes_back_as_it_is(tmp_path, array):
    written = {f"view {k}": view for k, view in enumerate(views(array))}
    tensors.write(tmp_path / "file", "thing", written, {})
    found = tensors.read(tmp_path / "file", ("thing",))
    assert found.is_intact
    assert set(found.tensors) == set(written)
    for name, view in written.items():
        back = found.tensors[name]
        assert back.shape == view.shape
        assert back.dtype == view.dtype.newbyteorder("=")
        np.testing.assert_array_equal(back, view)


def test_the_description_comes_back_as_json_has_it(tmp_path):
    description = {"names": ("één", "zwei"), "big": 2**127 + 1, "exact": 0.1, "none": None}
    tensors.write(tmp_path / "file", "thing", {"x": np.zeros(2)}, description)
    found = tensors.read(tmp_path / "file", ("thing",)).description
    assert found["names"] == ["één", "zwei"]
    assert (found["big"], found["exact"], found["none"]) == (2**127 + 1, 0.1, None)
    assert (found["kind"], found["format_version"]) == ("thing", tensors.FORMAT_VERSION)


def test_the_same_contents_are_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        tensors.write(tmp_path / name, "thing", {"b": np.ones(3), "a": np.zeros(2)}, {"y": 1, "x": 2})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def refused(path) -> str:
    """Return why a file is refused, by its structure or by its sum."""
    try:
        found = tensors.read(path, ("thing",))
    except CheckpointError as caught:
        error = str(caught)
    else:
        error = "" if found.is_intact else "its sum"
    assert "\n" not in error
    return error


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "file"
    tensors.write(path, "thing", {"x": np.arange(6.0).reshape(2, 3), "n": np.array(3)}, {"names": ["a"]})
    return path


def test_a_file_that_is_cut_off_anywhere_is_refused(written):
    content = written.read_bytes()
    for length in range(len(content)):
        written.write_bytes(content[:length])
        assert refused(written), length


def test_a_bit_that_is_flipped_anywhere_is_found(written):
    content = written.read_bytes()
    for position in range(len(content)):
        for bit in (0, 5, 7):
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            written.write_bytes(flipped)
            assert refused(written), (position, bit)


def test_bytes_that_follow_are_found(written):
    written.write_bytes(written.read_bytes() + b"\0")
    assert refused(written)


def test_refuses_what_it_did_not_write(tmp_path):
    from safetensors.numpy import save_file

    def read(name, kinds=("model", "checkpoint")):
        with pytest.raises(CheckpointError) as caught:
            tensors.read(tmp_path / name, kinds)
        return str(caught.value).removeprefix(f"{tmp_path}/")

    def described(content):
        save_file({"x": np.zeros(2)}, tmp_path / "described", {"xpmlp": content})
        return read("described")

    (tmp_path / "picture").write_bytes(b"\x89PNG" * 100)
    (tmp_path / "empty").touch()
    save_file({"x": np.zeros(2)}, tmp_path / "other", {"format": "pt"})
    save_file({"x": np.zeros(2)}, tmp_path / "bare")
    tensors.write(tmp_path / "thing", "thing", {}, {})
    expected = "expected a model or checkpoint that xpmlp wrote"
    assert read("nothing") == f"nothing: no such file; {expected}"
    assert read("") == f"{tmp_path} is a folder: {expected}, a file"
    assert read("picture").startswith("picture is not a complete safetensors file (")
    assert read("empty").startswith("empty is not a complete safetensors file (")
    assert read("other") == read("bare").replace("bare", "other")
    assert read("other") == f"other is another program's safetensors file: {expected}"
    assert read("thing") == f"thing is a thing: {expected}"
    newer = json.dumps({"kind": "model", "format_version": 7, "sum": ""})
    known = f"this xpmlp reads up to {tensors.FORMAT_VERSION}; update xpmlp"
    assert described(newer) == f"described has format version 7: {known}"
    for content in ("no JSON", "[1]", "{}", '{"kind": "model", "format_version": "one", "sum": ""}'):
        assert described(content) == f"described is damaged: its description cannot be read; {expected}"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_says_so(written):
    written.chmod(0)
    assert "Permission denied" in refused(written)


def test_a_type_that_numpy_has_not_is_another_programs(tmp_path):
    header = json.dumps({"x": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "file").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    assert "is another program's safetensors file" in refused(tmp_path / "file")
