"""The desk between a controller and its admin server: opens when it can, comes back where it was."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conditions import eventually_on_loop

from rayserve.admin import desk as module
from rayserve.admin.desk import AdminDesk
from rayserve.admin.server import listening
from rayserve.errors import PortInUseError


class FakeBooks:
    def __init__(self, run_dir: str, admin_port: int = 0) -> None:
        self.is_idle = False
        self.run_dir = run_dir
        self.admin_port = admin_port

    def status(self) -> dict[str, Any]:
        asyncio.get_running_loop()  # it is read on the controller's loop and nowhere else
        return {"instance": "default", "endpoints": {}, "backends": {}, "nodes": {}}

    def metrics_snapshot(self) -> dict[str, Any]:
        asyncio.get_running_loop()
        return {"instance": "default", "rows": [], "batches": [], "connections": 3, "replicas": {"v1": [1, 2]}}

    def endpoints(self) -> dict[str, dict[str, Any]]:
        return {"classify": {}}

    def info(self, node: str) -> dict[str, Any]:
        assert node == "n0de"
        return {"run_dir": self.run_dir, "http": {"options": {"admin_port": self.admin_port}}}


def desk_of(books: FakeBooks) -> AdminDesk:
    return AdminDesk(books, lambda: "n0de")


async def read(desk: AdminDesk, path: str, run_dir: Path) -> bytes:
    """Read as a user of the two files would."""

    def blocking() -> bytes:
        url = (run_dir / "admin.url").read_text().strip()
        token = (run_dir / "admin.token").read_text().strip()
        assert url == desk.url
        request = urllib.request.Request(url + path, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return bytes(answer.read())

    return await asyncio.to_thread(blocking)


def test_it_answers_from_the_loop_of_the_controller(tmp_path: Path) -> None:
    async def main() -> None:
        desk = desk_of(FakeBooks(str(tmp_path)))
        desk.claim(0)
        desk.open()
        try:
            status = json.loads(await read(desk, "/status", tmp_path))
            assert status == desk.status()
            assert list(status) == ["instance", "admin", "endpoints", "backends", "nodes"]
            assert status["admin"] == f"open at {desk.url}, its token is in {tmp_path}/admin.token"
            assert b"rayserve_connections 3.0" in await read(desk, "/metrics", tmp_path)
        finally:
            desk.close()
        assert desk.url is None
        assert desk.status()["admin"] == "closed"

    asyncio.run(main())


def test_case_2_a_taken_admin_port_is_told_before_anything_starts(tmp_path: Path) -> None:
    with listening(0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=str(port)):
            desk_of(FakeBooks(str(tmp_path), port)).claim(port)
    assert list(tmp_path.iterdir()) == []


def test_a_later_life_has_the_same_port_and_token(tmp_path: Path) -> None:
    async def life() -> tuple[str | None, str]:
        desk = desk_of(FakeBooks(str(tmp_path)))
        desk.open()  # no claim: this controller woke up again
        try:
            await read(desk, "/", tmp_path)
            return desk.url, (tmp_path / "admin.token").read_text()
        finally:
            desk.close()

    assert asyncio.run(life()) == asyncio.run(life())


def test_a_later_life_takes_another_port_if_its_own_is_taken_and_the_user_chose_none(tmp_path: Path) -> None:
    async def main() -> None:
        with listening(0) as taken:
            old = f"http://127.0.0.1:{taken.getsockname()[1]}"
            (tmp_path / "admin.url").write_text(old)
            (tmp_path / "admin.url").chmod(0o600)
            desk = desk_of(FakeBooks(str(tmp_path)))
            desk.open()
            assert desk.url not in (None, old)
            desk.close()

    asyncio.run(main())


def opens_later(monkeypatch: pytest.MonkeyPatch, books: FakeBooks, then: Callable[[], Awaitable[None]]) -> None:
    """Fail to open, let `then` remove the cause, and see it open."""
    monkeypatch.setattr(module, "_AGAIN_S", 0.001)

    async def main() -> None:
        desk = desk_of(books)
        desk.open()
        assert desk.url is None
        await then()
        await eventually_on_loop(lambda: desk.url, "it is open")
        desk.close()

    asyncio.run(main())


def test_it_opens_once_the_node_has_its_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    books = FakeBooks("")

    async def then() -> None:
        books.run_dir = str(tmp_path)

    opens_later(monkeypatch, books, then)


def test_it_opens_once_the_chosen_port_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = listening(0)

    async def then() -> None:
        taken.close()

    opens_later(monkeypatch, FakeBooks(str(tmp_path), taken.getsockname()[1]), then)


def test_it_stops_trying_when_the_instance_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AGAIN_S", 0.001)

    async def main() -> None:
        books = FakeBooks("")
        desk = desk_of(books)
        desk.open()
        (trying,) = (task for task in asyncio.all_tasks() if task.get_name() == "admin")
        books.is_idle = True
        await asyncio.wait_for(trying, 10)
        desk.close()

    asyncio.run(main())
