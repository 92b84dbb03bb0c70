"""The C library's allocator, told to keep what a training step frees, since the next step asks for it again.

glibc gives freed memory back to the system as soon as a few megabytes are free at the heap's end, and takes large
blocks from the system one by one. A step on a CPU allocates and frees the same tens of megabytes hundreds of times, so
that the system spends its time clearing pages: 7,800 page faults a step of a model of 0.9 million parameters, and a
tenth of the step's time. Knows Linux with glibc; elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
import sys

# From malloc.h. Blocks above the mmap threshold come from the system one by one; 32 MB is the most that glibc takes.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MMAP_THRESHOLD = 32 << 20
KEPT = 1 << 30


def keep_freed_memory(kept: int = KEPT) -> bool:
    """Lets this process keep up to `kept` bytes of freed memory at the heap's end, until it ends.

    Returns whether the C library took it. Blocks of more than 32 MB still go back at once.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return False
    return bool(library.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD) and library.mallopt(M_TRIM_THRESHOLD, kept))
