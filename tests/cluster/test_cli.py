"""`rayserve` as a user types it: a process of its own for each command, over real HTTP, until nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from urllib.parse import urlsplit

import httpx
import pytest
from tests.conditions import WITHIN_S

from rayserve.actor_names import controller_name
from rayserve.cluster import actors
from rayserve.cluster.connect import Connection
from rayserve.controller.listen import open_listeners

HERE = Path(__file__).parent
COMMAND = (sys.executable, "-P", "-m", "rayserve.cli")
_UP_S = 45.0


def rayserve(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], cwd=HERE, env={**os.environ, **environment}, capture_output=True, text=True, timeout=50
    )


class Served:
    """A `rayserve run` that is up."""

    def __init__(self, process: subprocess.Popen[str], name: str) -> None:
        self.process = process
        self._lines: SimpleQueue[str] = SimpleQueue()
        Thread(target=self._read, daemon=True).start()
        first = self._lines.get(timeout=_UP_S)
        assert first.startswith(f'instance "{name}" serves at http://'), first
        self.url = first.split()[-1]
        assert self._lines.get(timeout=WITHIN_S).startswith("metrics and status at http://127.0.0.1:")
        assert self._lines.get(timeout=WITHIN_S) == "/hello\tGET\thello\t1 hello"

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put("")

    def get(self) -> str:
        return httpx.get(f"{self.url}/hello", params={"name": "cli"}, timeout=WITHIN_S).text


@contextmanager
def serving(name: str, *words: str, **environment: str) -> Iterator[Served]:
    process = subprocess.Popen(
        [*COMMAND, "run", "cli_app:main", "--port", "0", "--name", name, *words],
        cwd=HERE, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        try:
            yield Served(process, name)
        finally:
            process.kill()


@pytest.fixture
def own_folders() -> Iterator[dict[str, str]]:
    """Folders in which no Ray is found, so that one is started."""
    folder = tempfile.mkdtemp(prefix="rk-", dir="/tmp")
    yield {"RAY_TMPDIR": folder, "RAYSERVE_DIR": f"{folder}/rs"}
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_in_a_cluster_that_was_joined_run_serves_and_only_shutdown_stops_it(ray_here: Connection) -> None:
    with serving("cli", "--address", ray_here.address) as served:
        assert served.get() == "hello cli"
        routes = rayserve("routes", "--name", "cli", "--json")
        assert (json.loads(routes.stdout), routes.returncode) == ({"/hello": ["hello", ["GET"]]}, 0)
        status = rayserve("status", "--name", "cli", "--address", ray_here.address)
        assert 'endpoint\thello\tGET /hello: 1 to "hello"\n' in status.stdout
        assert "backend\thello\t1 of 1 replica ready\n" in status.stdout
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(WITHIN_S) == 0
        assert served.get() == "hello cli"
    stopped = rayserve("shutdown", "--yes", "--name", "cli")
    assert (stopped.stdout, stopped.returncode) == ('instance "cli" is stopped\n', 0)
    assert actors.find(controller_name("cli")) is None
    open_listeners("127.0.0.1", urlsplit(served.url).port or 0, 1).close()
    again = rayserve("status", "--name", "cli", "--json")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.startswith('Error: instance "cli" does not run; ')


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_sigterm_stops_a_ray_that_run_started_and_frees_the_port(own_folders: dict[str, str]) -> None:
    with serving("default", **own_folders) as served:
        assert served.get() == "hello cli"
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(_UP_S) == 0
    open_listeners("127.0.0.1", urlsplit(served.url).port or 0, 1).close()
    status = rayserve("status", **own_folders)
    assert status.returncode == 1
    assert status.stderr.startswith("Error: nothing runs on this machine; ")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_shutdown_from_another_terminal_ends_run(own_folders: dict[str, str]) -> None:
    with serving("default", **own_folders) as served:
        assert rayserve("shutdown", "--yes", **own_folders).returncode == 0
        assert served.process.wait(_UP_S) == 0
