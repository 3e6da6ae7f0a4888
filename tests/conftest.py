"""What every test of a run shares: a run directory of its own and the ways hypothesis searches.

No test may meet, or leave anything for, an instance that a user runs on the same machine: sockets, logs and tokens go
under a fresh short folder (an AF_UNIX path ends at 107 bytes, on macOS at 103) that is gone after the run. The time
limit of each test and "warnings are errors" are set in pyproject.toml.
"""

import os
import shutil
import signal
import tempfile

import pytest
from hypothesis import settings

RUN_DIR = pytest.StashKey[str]()

# The same examples each run, so that a red run is red again; no deadline, since other work may share the cores.
settings.register_profile("steady", deadline=None, derandomize=True)
# To look for new counter-examples: pytest --hypothesis-profile=search
settings.register_profile("search", deadline=None, max_examples=2_000)
settings.load_profile("steady")


def pytest_configure(config: pytest.Config) -> None:
    """Point RAYSERVE_DIR at the run's own folder before any test module is imported."""
    # A shell starts background jobs deaf to Ctrl-C, and processes inherit that; the drivers under test must hear it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[RUN_DIR] = os.environ["RAYSERVE_DIR"] = tempfile.mkdtemp(prefix="rs-", dir="/tmp")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the run's folder; its processes have ended by now."""
    shutil.rmtree(config.stash[RUN_DIR], ignore_errors=True)
