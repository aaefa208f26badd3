"""A device whose memory runs out in the midst of training: one line, and the run goes on from its checkpoint."""

import pytest

from tests.conftest import results
from xpmlp.commands import main

OPTIONS = ("--epochs", "3", "--hidden", "16,8", "--batch-size", "16", "--no-plot", "--checkpoint-steps", "3")


@pytest.fixture
def memory(find_backend, monkeypatch):
    """Return a function after which so many allocations on the device succeed, and no more; None: all do."""
    find_backend("cupy")
    import cupy

    pool, left = cupy.get_default_memory_pool(), None

    def malloc(size):
        nonlocal left
        if left is not None:
            if left == 0:
                raise cupy.cuda.memory.OutOfMemoryError(size, pool.total_bytes())
            left -= 1
        return pool.malloc(size)

    def allow(n):
        nonlocal left
        left = n

    before = cupy.cuda.get_allocator()
    cupy.cuda.set_allocator(malloc)
    yield allow
    cupy.cuda.set_allocator(before)


@pytest.mark.needs("cupy")
@pytest.mark.parametrize("allowed", [350, 600])
def test_that_runs_out_is_one_line_and_the_run_goes_on(memory, idx_folder, tmp_path, monkeypatch, capsys, allowed):
    monkeypatch.chdir(tmp_path)
    options = ("--backend", "cupy", "--dataset", f"idx:{idx_folder}", *OPTIONS)
    assert main(["train", *options, "--out", "whole", "--quiet"]) == 0
    memory(allowed)
    assert main(["train", *options, "--out", "run", "--quiet"]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "ran out of memory with batch size 16: try a smaller one, such as 8" in errors
    assert "(the run so far is in run)" in errors
    memory(None)
    assert main(["train", "--resume", "run", "--quiet"]) == 0
    assert results(tmp_path / "run") == results(tmp_path / "whole")
