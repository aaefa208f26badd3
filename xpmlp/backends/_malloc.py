"""Keeping glibc's allocator from handing a step's arrays back to the operating system after every step."""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h

_KEPT = 256 << 20
"""Bytes that may lie free in the process before the system gets them back."""

_LARGEST = 32 << 20
"""Arrays up to here come from that memory; glibc allows no greater threshold."""


def keep_freed_memory() -> None:
    """Let the allocator keep what a training step frees, for the next step to take.

    By default glibc returns large blocks to the system as they are freed, and the system hands them out anew, page by
    page, each cleared first: half the time of a step of 784-256-128-10. This holds for the whole process; with
    another C library it does nothing, and values that the user set in the environment stay.
    """
    if not sys.platform.startswith("linux"):
        return
    if any(name in os.environ for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_THRESHOLD, _LARGEST)
    mallopt(M_TRIM_THRESHOLD, _KEPT)
