"""Try every backend, each in its own process, so that one does not affect the next."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from xpmlp.backends import backend_class, backend_names, get_backend
from xpmlp.backends.base import CPU_WAY_OUT
from xpmlp.errors import BackendError

TIME_LIMIT = 120.0
"""Seconds to wait for a library's answer."""


@dataclass(frozen=True)
class Report:
    """One backend's report: why it cannot run, or its version, device and free memory in bytes."""

    spec: str
    problem: str | None = None
    version: str = ""
    device: str = ""
    memory: int | None = None


def probe_all() -> Iterator[Report]:
    """Yield a report for every backend, and one for each of its further devices that can run."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        for reports in pool.map(probe_apart, backend_names()):
            yield from reports


def probe(name: str) -> list[Report]:
    """Return one backend's reports, made in this process."""
    reports = []
    try:
        devices = backend_class(name).devices()
    except BackendError as error:
        return [Report(name, problem=_without_way_out(error))]
    for device in devices:
        spec = f"{name}:{device}" if device else name
        try:
            backend = get_backend(spec)
        except BackendError as error:
            if device is None:
                reports.append(Report(spec, problem=_without_way_out(error)))
            continue
        described = backend.describe()
        reports.append(Report(spec, None, described["version"], described["device"], backend.free_memory()))
    return reports


def _without_way_out(error: BackendError) -> str:
    """Return the problem, without the advice for a run on this backend."""
    return str(error).removesuffix(f", {CPU_WAY_OUT}")


def probe_apart(name: str) -> list[Report]:
    """Return one backend's reports, made in another process, so that this process uses no device memory."""
    command = [sys.executable, "-m", "xpmlp.backends.probe", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return [Report(name, problem=f"it did not answer in {TIME_LIMIT:.0f} s")]
    if done.returncode:
        said = done.stderr.strip().splitlines() or [""]
        return [Report(name, problem=f"its process ended with {done.returncode}: {said[-1]}")]
    return [Report(**report) for report in json.loads(done.stdout.splitlines()[-1])]


if __name__ == "__main__":
    print(json.dumps([asdict(report) for report in probe(sys.argv[1])]))  # noqa: T201
