"""Progress is for terminals: nothing in a pipe, counts on a terminal, and never an error of its own."""

from __future__ import annotations

import io
import sys
import threading

import pytest

from rayserve import progress
from rayserve.progress import shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_FIRST_S", 0.0)
    monkeypatch.setattr(progress, "_EVERY_S", 0.001)
    monkeypatch.setenv("TERM", "xterm")


def test_case_6_nothing_is_said_in_a_pipe(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    with shown("starting backend", lambda: pytest.fail("nobody looks, so nobody should ask")):
        pass
    assert pipe.getvalue() == ""


def test_case_6_a_terminal_sees_how_far_it_is(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    asked = threading.Event()

    def poll() -> tuple[int, int]:
        if "1 of 2 ready" in terminal.getvalue():
            asked.set()
        return (1, 2)

    with shown("starting backend", poll):
        assert asked.wait(20.0)
    assert "starting backend: 1 of 2 ready" in terminal.getvalue()


def test_a_failing_poll_ends_the_counting_only(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    asked = threading.Event()

    def poll() -> tuple[int, int]:
        asked.set()
        raise OSError("no answer")

    with shown("starting backend", poll):
        assert asked.wait(20.0)
    assert "starting backend" in terminal.getvalue()


def test_the_callers_error_passes_through(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(KeyboardInterrupt), shown("starting backend"):
        raise KeyboardInterrupt
