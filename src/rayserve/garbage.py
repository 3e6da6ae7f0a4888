"""Garbage collection in processes that live long.

A full collection looks at every container of the process. Ray and what it imports make some 200,000 of them, which live
as long as the process does: looking at them again and again costs milliseconds each time and finds nothing.
"""

from __future__ import annotations

import gc

__all__ = ["spare_imports"]


def spare_imports() -> None:
    """Exempt all objects there are now from later collections; call it once imports are done, before any work.

    What is freed by its reference count still is; only cycles among today's objects stay.
    """
    gc.collect()
    gc.freeze()
