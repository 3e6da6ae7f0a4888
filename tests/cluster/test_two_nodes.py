"""Two Ray nodes: replicas are spread, each ingress reaches those of the other node, and the loss of one is outlived."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Ray runs several nodes on one machine on Linux"),
]

_QUICK_TO_NOTICE = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "500",
    "RAY_health_check_failure_threshold": "3",
}


def test_case_34_two_nodes_serve_as_one_and_the_loss_of_one_is_outlived() -> None:
    folder = tempfile.mkdtemp(prefix="r2-", dir="/tmp")
    environment = {
        **os.environ, **_QUICK_TO_NOTICE, "RAY_TMPDIR": folder, "RAYSERVE_DIR": f"{folder}/rs",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, Path(__file__).with_name("two_nodes.py")],
            env=environment, capture_output=True, text=True, timeout=170, check=False,
        )  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    seen = json.loads(done.stdout.splitlines()[-1])

    nodes = seen["nodes"]
    assert len(nodes) == 2
    assert seen["by http"] == {node: nodes for node in nodes}, "each ingress reaches the replicas of both nodes"
    assert seen["by handle"] == nodes
    sizes = [f"3000000 {node}" for node in nodes]
    assert seen["large bodies"] == {node: sizes for node in nodes}
    assert seen["kept"] in nodes
    assert seen["after the loss"] == seen["from the new node"] == [seen["kept"]]
