"""The I/O thread: its beginning, its end, and that of its process."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rayserve.io_thread import IOThread

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


def test_an_end_that_comes_before_the_thread_has_begun_ends_all_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A process with much to do may let a new thread wait for long, and be through with it before it runs."""
    gate = threading.Event()
    run = IOThread._run

    def run_late(self: IOThread) -> None:
        assert gate.wait(10)
        run(self)

    monkeypatch.setattr(IOThread, "_run", run_late)
    io = IOThread(instance="i", node="n", run_dir=str(tmp_path))
    io.start()
    io.soon(io._end)
    gate.set()
    io._thread.join(10)
    task = io._subscriber._task
    assert task is not None
    assert task.done()
    io.loop.close()
