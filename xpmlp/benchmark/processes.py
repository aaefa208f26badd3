"""Processes of the benchmark: each is told what to do in JSON, and answers in JSON, a line as each thing is done."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any


def ask(
    module: str, task: Mapping[str, Any], start: Sequence[str] = (), timeout: float | None = None, **environment: str
) -> tuple[list[dict[str, Any]], str]:
    """Return all that a module answers in a process of its own, and why it failed, where it did; `start` starts it."""
    command = [*start, sys.executable, "-m", f"xpmlp.benchmark.{module}", json.dumps(task)]
    env = {**os.environ, **environment}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout, env=env)
    except subprocess.TimeoutExpired:
        return [], f"no end after {timeout} s"
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"at"')]
    return answers, f"exit code {done.returncode}: {_last_words(done.stderr)}" if done.returncode else ""


def _last_words(text: str) -> str:
    """Return the last line that says something; an error of ours or of Python's before a launcher's banner."""
    lines = [line.strip() for line in text.splitlines() if any(sign.isalpha() for sign in line)]
    own = [line for line in lines if "Error" in line or "error" in line]
    return (own or lines or ["no message"])[-1]


def answer(**what: Any) -> None:
    """Print a line of JSON at once, with the time."""
    print(json.dumps({"at": time.time(), **what}), flush=True)  # noqa: T201


def peak_memory(pid: int | str = "self") -> int | None:
    """Return the most memory that a process has had resident, in bytes."""
    try:
        with open(f"/proc/{pid}/status") as file:  # ru_maxrss begins with that of the process that forked it
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:")), None)
    except OSError:
        return None


def spread(seconds: Sequence[float]) -> dict[str, Any]:
    """Return the median, the least and the greatest, where there are any."""
    median = statistics.median(seconds) if seconds else None
    return {"seconds": median, "least": min(seconds, default=None), "most": max(seconds, default=None)}
