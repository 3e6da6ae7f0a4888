"""What long-lived processes do about memory, each in a process of its own: it cannot be undone."""

from __future__ import annotations

import subprocess
import sys

import pytest


def told(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def test_imports_are_spared_and_later_cycles_are_still_collected() -> None:
    code = """
import gc, weakref
class Node: pass
from rayserve.memory import spare_imports
spare_imports()
assert len(gc.get_objects()) < gc.get_freeze_count()
one = Node(); one.itself = one
gone = weakref.ref(one)
del one
gc.collect()
print(gone() is None)
"""
    assert told(code) == "True"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_freed_blocks_are_used_again_without_page_faults() -> None:
    code = """
import resource
from rayserve.memory import keep_freed
keep_freed()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        pieces = [b"x" * (256 * 1024 + number) for number in range(8)]
        del pieces
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
    assert int(told(code)) < 1000  # of 51,200 pages written
