"""The servers we measure against, each started on a free port of loopback and stopped afterwards.

uvicorn          uvloop, httptools, no access log, one process; `subjects.asgi`
uvicorn FastAPI  the same; `fastapi_app.app`
gunicorn Flask   gunicorn's default: one sync worker; `subjects.wsgi`
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from benchmarks.processes import descendants

__all__ = ["FASTAPI", "GUNICORN", "UVICORN", "Subject", "peers"]

UVICORN, FASTAPI, GUNICORN = "uvicorn", "uvicorn FastAPI", "gunicorn Flask"
_START_S = 30.0
_STOP_S = 10.0

_UVICORN = (
    "-m", "uvicorn", "--port", "{port}", "--loop", "uvloop", "--http", "httptools",
    "--interface", "asgi3", "--lifespan", "off", "--no-access-log", "--log-level", "error",
)  # fmt: skip
_COMMANDS: dict[str, tuple[str, ...]] = {
    UVICORN: (*_UVICORN, "benchmarks.subjects:asgi"),
    FASTAPI: (*_UVICORN, "benchmarks.fastapi_app:app"),
    GUNICORN: ("-m", "gunicorn", "benchmarks.subjects:wsgi()", "--bind", "127.0.0.1:{port}", "--log-level", "error"),
}


@dataclass(frozen=True)
class Subject:
    """A server under test.

    Attributes:
        name: as the tables call it.
        url: where it listens.
        pids: its processes, whose CPU counts.
    """

    name: str
    url: str
    pids: tuple[int, ...]


@contextmanager
def peers() -> Iterator[dict[str, Subject]]:
    """Run all; each answers when this enters."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(_running(name, command)) for name, command in _COMMANDS.items()}


@contextmanager
def _running(name: str, command: Sequence[str]) -> Iterator[Subject]:
    port = _free_port()
    server = subprocess.Popen(
        [sys.executable, *(word.format(port=port) for word in command)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _await_answer(name, url, server)
        yield Subject(name, url, (server.pid, *descendants(server.pid)))
    finally:
        server.terminate()
        try:
            server.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _free_port() -> int:
    """Return a port that is free now; the server binds it itself: given a socket, uvicorn leaves Nagle's delay on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _await_answer(name: str, url: str, server: subprocess.Popen[bytes]) -> None:
    question = urllib.request.Request(f"{url}/double", b'{"x": 1}', {"Content-Type": "application/json"})
    until = time.monotonic() + _START_S
    while True:
        try:
            with urllib.request.urlopen(question, timeout=_START_S) as answer:
                if json.load(answer) != {"y": 2}:
                    raise RuntimeError(f"{name} does not answer as it should")
                return
        except OSError as error:
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{name} did not start: {error}") from error
            time.sleep(0.05)
