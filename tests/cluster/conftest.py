"""One Ray for the whole run: its own folders, its own token, gone afterwards.

The environment is set here, before anything imports ray, since ray reads it once on import. No test may call
`ray stop`, which ends every Ray of the machine.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from rayserve.cluster import connect
from rayserve.cluster.connect import Connection

RAY_TMPDIR = tempfile.mkdtemp(prefix="rt-", dir="/tmp")  # short: Ray appends 64 bytes, a socket's path ends at 107
os.environ["RAY_TMPDIR"] = RAY_TMPDIR
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # so that no file in the user's home is touched
os.environ.pop("RAY_ADDRESS", None)


@pytest.fixture(scope="session")
def ray_here() -> Iterator[Connection]:
    """The run's Ray, started by this process as `serve.init` would."""
    connection = connect.connect("local", {"num_cpus": 2, "log_to_driver": False})
    yield connection
    connect.disconnect()


def pytest_unconfigure() -> None:
    """Remove Ray's folder; its processes have ended by now."""
    shutil.rmtree(RAY_TMPDIR, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in this folder."""
    for item in items:
        if "tests/cluster" in item.path.as_posix():
            item.add_marker(pytest.mark.cluster)
