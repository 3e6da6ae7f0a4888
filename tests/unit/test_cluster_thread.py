"""Work on a thread that stays, and waits that end."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from rayserve.cluster.thread import KeptThread


def test_all_work_runs_on_one_thread_and_results_come_back() -> None:
    kept = KeptThread("kept")
    first = kept.run(threading.current_thread)
    assert first is not threading.current_thread()
    assert kept.run(threading.current_thread) is first
    assert first.name == "kept" and first.daemon


def test_errors_come_back_and_the_thread_stays() -> None:
    kept = KeptThread("kept")
    first = kept.run(threading.current_thread)
    with pytest.raises(ZeroDivisionError):
        kept.run(lambda: 1 // 0)
    with pytest.raises(SystemExit):
        kept.run(sys.exit)
    assert kept.run(threading.current_thread) is first


def test_a_wait_ends_and_work_behind_a_stuck_one_is_dropped() -> None:
    kept, gate, done = KeptThread("kept"), threading.Event(), []
    with pytest.raises(TimeoutError):
        kept.run(gate.wait, timeout_s=0.01)
    with pytest.raises(TimeoutError):
        kept.run(lambda: done.append("dropped"), timeout_s=0.01)
    gate.set()
    kept.run(lambda: done.append("later"))
    assert done == ["later"]


def test_posted_work_runs_before_what_comes_behind() -> None:
    kept, order = KeptThread("kept"), []
    promise = kept.post(lambda: order.append("posted"))
    kept.run(lambda: order.append("run"))
    assert promise.done()
    assert order == ["posted", "run"]


def test_ray_is_not_imported_before_it_is_needed() -> None:
    code = """
import sys
import rayserve.cluster.actors, rayserve.cluster.connect, rayserve.cluster.nodes, rayserve.cluster.objects
import rayserve.cluster.pickling, rayserve.cluster.store, rayserve.controller.doorkeeper, rayserve.feed.subscriber
assert not rayserve.cluster.connect.is_connected()
assert not rayserve.cluster.objects.is_object_ref(object())
assert "ray" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
