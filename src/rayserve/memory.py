"""Memory in processes that live long: what is never garbage, and what is freed only to be needed again.

Both are settled once, when a process has imported what it needs and before it does any work.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Final

__all__ = ["keep_freed", "spare_imports"]

# mallopt(3), by <malloc.h> of glibc
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 16 * 2**20
_HEAP_BYTES: Final = 4 * 2**20


def spare_imports() -> None:
    """Exempt all objects there are now from later garbage collections.

    A full collection looks at every container of the process. Ray and what it imports make some 200,000 of them:
    looking at them again and again costs milliseconds each time and finds nothing. What is freed by its reference count
    still is; only cycles among today's objects stay.
    """
    gc.collect()
    gc.freeze()


def keep_freed() -> None:
    """Let blocks up to 4 MiB come from the heap, and up to 16 MiB of free heap stay with the process.

    By default glibc gives blocks over 128 KiB, such as pieces of a large body, back to the kernel when they are freed,
    and the next one costs a page fault for each of its pages. Does nothing where malloc is not glibc's.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _HEAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
