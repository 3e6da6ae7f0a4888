"""User code for replicas in processes of their own; gates between processes are files and named pipes."""

from __future__ import annotations

import os
from typing import Any


class Gated:
    """Says in a file that it began, then waits for a named pipe to be opened."""

    def __call__(self, request: Any) -> str:
        return self.wait(request.args["began"], request.args["gate"])

    def wait(self, began: str, gate: str) -> str:
        with open(began, "a") as file:
            file.write(f"{os.getpid()}\n")
        with open(gate) as pipe:
            pipe.read()
        return "done"

    def pid(self) -> int:
        return os.getpid()


def flood(request: Any) -> bytes:
    return bytes(int(request.args["size"]))


async def nothing(*_: Any) -> None:
    return None


def dies(request: Any) -> str:
    os._exit(3)


class Reads:
    """Says in a file that it began to read a body that arrives."""

    def __call__(self, request: Any) -> str:
        size = len(request.stream.read(int(request.args["at_least"])))
        with open(request.args["began"], "a") as file:
            file.write(f"{os.getpid()}\n")
        return str(size + len(request.stream.read()))
