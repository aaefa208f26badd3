"""Nothing innocent has effects on the process: its settings, and those of the libraries, stay as they were."""

import json

import pytest

from tests.conftest import run_python

CALLS = {
    "a backend": "xpmlp.get_backend(SPEC)",
    "a backend of an array": "xpmlp.backend_of(xpmlp.get_backend(SPEC).asarray(X))",
    "training": "xpmlp.train((X, y), backend=SPEC, hidden=(4,), epochs=1)",
    "a model": "xpmlp.train((X, y), backend='numpy', hidden=(4,), epochs=1)[0].to(SPEC).predict(X)",
    "a classifier": "xpmlp.MLPClassifier((4,), max_iter=1, random_state=0, backend=SPEC).fit(X, y).predict(X)",
    "a regressor": "xpmlp.MLPRegressor(max_iter=1, random_state=0, backend=SPEC).fit(X, X).score(X, X)",
    "batches": "list(xpmlp.DeviceLoader(xpmlp.Dataset.of(X, y), xpmlp.get_backend(SPEC), 10, transfer='stream'))",
}

PROBE = """
import ctypes, json, locale, os, random, signal, sys, threading, warnings
import numpy as np
import sklearn.neural_network  # whose own import sets variables of OpenMP
import xpmlp
SPEC, CALLS = sys.argv[1], json.loads(sys.argv[2])
library = SPEC.partition(":")[0]
warnings.simplefilter("ignore")
X = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
y = np.arange(40) % 2
mallopts = []
if sys.platform.startswith("linux"):
    class Watched(ctypes.CDLL):
        def __getattr__(self, name):
            if name in ("mallopt", "cuInit"):
                mallopts.append(name)
            return super().__getattr__(name)
    ctypes.CDLL = Watched
if library == "torch":
    import torch
elif library == "jax":
    import jax
elif library == "cupy":
    import cupy
elif library == "dpnp":
    import dpnp

def settings():
    found = {
        "environment": dict(os.environ),
        "handlers": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
        "random": (random.getstate(), [str(part) for part in np.random.get_state()]),
        "errors": np.geterr(),
        "warnings": list(warnings.filters)[:1],
        "recursion": sys.getrecursionlimit(),
        "locale": locale.setlocale(locale.LC_ALL),
        "folder": os.getcwd(),
        "mallopt, cuInit": list(mallopts),
    }
    if library == "torch":
        found["torch"] = (
            torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_autocast_enabled(),
            torch.get_float32_matmul_precision(), torch.initial_seed(), str(torch.get_default_device()),
        )
    elif library == "jax":
        found["jax"] = {name: getattr(jax.config, name) for name in (
            "jax_enable_x64", "jax_default_matmul_precision", "jax_default_device", "jax_debug_nans",
        )}
    elif library == "cupy":
        found["cupy"] = (
            cupy.cuda.Device().id, cupy.cuda.get_current_stream().ptr, str(cupy.cuda.get_allocator()),
            cupy._core.get_compute_type(np.float32),
        )
    return found

for what, call in CALLS.items():
    before = settings()
    exec(call)
    after = settings()
    changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    print(what, changed or "changes nothing")
"""


@pytest.mark.parametrize(
    "spec",
    [
        "numpy",
        *(pytest.param(spec, marks=pytest.mark.needs(spec)) for spec in ("torch", "jax", "dpnp", "cupy", "cupy:1")),
    ],
)
def test_a_public_call_changes_no_setting(spec):
    done = run_python("-c", PROBE, spec, json.dumps(CALLS))
    assert done.stderr == ""
    assert done.stdout.splitlines() == [f"{what} changes nothing" for what in CALLS]


def test_the_choice_of_a_backend_starts_no_driver():
    """Children that are forked after ``cuInit`` have no CUDA."""
    done = run_python("-c", PROBE, "numpy", json.dumps({"auto": "xpmlp.get_backend('auto')"}))
    assert done.stdout == "auto changes nothing\n"
