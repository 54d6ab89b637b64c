"""Threads, memory and output of a program that computes; what its environment sets already stays as it is."""

import ctypes
import io
import os
import sys

# By the numbers that glibc gives them. It hands the memory of each large tensor back at once and asks for it anew, page
# by page: with these it keeps it. A training step (lite0, 160 pixels, one thread) takes 1.4 times the CPU time without.
_ALLOCATOR = {
    "MALLOC_MMAP_MAX_": (-4, 0),
    "MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1),
    "MALLOC_TOP_PAD_": (-2, 2**28),
}


def configure() -> None:
    """Set up the process of a program: before torch is imported, or its threads stay as they are."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a log shows each line when it is written
    # Threads that wait leave the core to others: on a shared machine a spinning one costs many times its work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "gnu_get_libc_version") or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    for name, (parameter, value) in _ALLOCATOR.items():
        if name not in os.environ:
            libc.mallopt(parameter, value)  # type: ignore[union-attr]  # what has that function is glibc
