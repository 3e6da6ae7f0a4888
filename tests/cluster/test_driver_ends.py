"""Whatever becomes of the driver that started Ray, nothing of it stays."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conditions import eventually

from rayserve.controller.listen import open_listeners
from rayserve.errors import PortInUseError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are told by /proc/<pid>/environ"),
]

_DRIVER = """
import asyncio, json, os, sys, time
from pathlib import Path
from rayserve.cluster import actors, connect
from rayserve.controller.doorkeeper import Doorkeeper
from tests.wire.doors import FAKE_INGRESS, get, settings_for
if __name__ == "__main__":
    here = connect.connect("local", {"num_cpus": 1, "log_to_driver": False})
    door = actors.spawn(Doorkeeper, FAKE_INGRESS, name="door", node=here.node_id)
    settings = settings_for(Path(os.environ["RAYSERVE_DIR"]), node=here.node_id)
    info = actors.call(door, "start", settings, timeout_s=30.0)
    print(json.dumps({"port": info["http_port"], "ingress": asyncio.run(get(info))["pid"]}), flush=True)
    time.sleep(600)
"""


@pytest.fixture
def mark() -> Iterator[str]:
    """A folder whose name is in the environment of every process that the driver causes."""
    folder = tempfile.mkdtemp(prefix="rk-", dir="/tmp")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def marked_processes(mark: str) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:100])
        except OSError:
            continue  # it ended while we looked
    return found


def is_free(port: int) -> bool:
    try:
        open_listeners("127.0.0.1", port, 1).close()
    except PortInUseError:
        return False
    return True


def start_driver(mark: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    environment = {**os.environ, "RAY_TMPDIR": mark, "RAYSERVE_DIR": f"{mark}/rs"}
    process = subprocess.Popen([sys.executable, "-c", _DRIVER], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told: dict[str, Any] = json.loads(process.stdout.readline())
    return process, told


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda end: end.name)
def test_when_the_driver_that_started_ray_ends_no_process_stays_and_the_port_is_free(
    mark: str, end: signal.Signals
) -> None:
    process, told = start_driver(mark)
    with process:
        assert len(marked_processes(mark)) >= 5
        process.send_signal(end)
    # Ray's agents alone would stay for 61 s; workers notice the raylet's death within 3 s.
    eventually(lambda: not marked_processes(mark), f"no process stays after {end.name}", within_s=15.0)
    eventually(lambda: is_free(told["port"]), "the port is free")
    if end == signal.SIGINT:
        assert not list(Path(mark).glob("rs/ray-*.json"))
