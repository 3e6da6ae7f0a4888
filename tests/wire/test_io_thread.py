"""The I/O thread of a driver, and the end of its process."""

import subprocess
import sys
from pathlib import Path

_LEAVES_IT_RUNNING = """
import atexit, sys
from rayserve.io_thread import IOThread
io = IOThread(instance="i", node="n", run_dir=sys.argv[1])
# What registers first runs last.
atexit.register(lambda: print("alive" if io._thread.is_alive() else "ended"))
io.start()
io.call(lambda: print("started"))
"""


def test_a_process_that_ends_ends_its_thread_first(tmp_path: Path) -> None:
    """What wakes up in uvloop after Python's end, as the subscriber here does to connect again, crashes the process."""
    command = [sys.executable, "-c", _LEAVES_IT_RUNNING, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == ["started", "ended"]
