"""What the doorkeeper's tests share: a doorkeeper on a loop with fake ingresses, and a client."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop
from tests.tables import encode_table

from rayserve.controller.doorkeeper import Doorkeeper
from rayserve.model.table import RoutingTable

FAKE_INGRESS = (sys.executable, "-P", str(Path(__file__).with_name("fake_ingress.py")))
NODE = "0123456789abcdef"

Settings = dict[str, Any]


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run on uvloop, as in a Ray actor."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def table(version: int, epoch: int = 1) -> bytes:
    return encode_table(RoutingTable("default", epoch, version))


@asynccontextmanager
async def base_dir() -> AsyncIterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def settings_for(base: Path, **changes: Any) -> Settings:
    return {
        "instance": "default",
        "node": NODE,
        "node_address": "127.0.0.1",
        "http_host": "127.0.0.1",
        "http_port": 0,
        "options": {},
        "secret": b"s3cret",
        "table": table(0),
        "base_dir": str(base),
        **changes,
    }


@asynccontextmanager
async def doorkeeper(base: Path, **changes: Any) -> AsyncIterator[tuple[Doorkeeper, dict[str, Any]]]:
    keeper = Doorkeeper(FAKE_INGRESS)
    info = await keeper.start(settings_for(base, **changes))
    try:
        yield keeper, info
    finally:
        await keeper.stop(0.0)


async def get(info: dict[str, Any], path: str = "/") -> dict[str, Any]:
    """Return the fake ingress's answer; a connection cut before the answer raises `ConnectionError`."""
    reader, writer = await asyncio.open_connection(info["url_host"].strip("[]"), info["http_port"])
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 10.0)
    finally:
        writer.close()
    if not answer:
        raise ConnectionResetError("no answer")
    told: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return told


def open_descriptors() -> int:
    return len(os.listdir("/dev/fd"))
