"""The real ingress process, `python -m rayserve.ingress`, in front of a `Mini`: its feed, its replicas.

Front(mini) ─► .port for clients, .process to send signals to
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from tests.wire.mini import INSTANCE, NODE, Mini

WITHIN_S = 20.0


class Front:
    """One ingress process; a context manager that leaves none behind."""

    def __init__(self, mini: Mini, files: int = 0, **options: Any) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self.listener.getsockname()[1]
        self.log = Path(mini.folder) / "front.log"
        told = {
            "fd": self.listener.fileno(), "index": 0, "instance": INSTANCE, "run_dir": mini.folder, "node": NODE,
            "process": "front", "options": options,
        }  # fmt: skip
        command = [sys.executable, "-m", "rayserve.ingress"]
        if files:
            command = ["/bin/sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", *command]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, pass_fds=(self.listener.fileno(),)
            )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(told).encode() + b"\n")
        self.process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        self.listener.close()

    def ready(self) -> Self:
        """Wait until it accepts."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n", self.log.read_text()
        return self

    def ended(self) -> int:
        """Wait for its end; return the exit code."""
        return self.process.wait(WITHIN_S)
