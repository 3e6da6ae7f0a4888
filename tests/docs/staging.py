"""A world of its own for a driver, and the stage: one driver with one Ray, on which examples and snippets run."""

from __future__ import annotations

import json
import os
import secrets
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.conditions import eventually

ROOT = Path(__file__).parents[2]
ANSWER_WITHIN_S = 50.0
ENDS_WITHIN_S = 30.0


@contextmanager
def own_world() -> Iterator[dict[str, str]]:
    """An environment in which a driver meets no other Ray or RayServe, and folders that are gone afterwards.

    Asserts in the end that no process which got this environment still runs.
    """
    folder = tempfile.mkdtemp(prefix="rd-", dir="/tmp")  # short: sockets lie in it
    environment = {
        **os.environ,
        "RAYSERVE_DIR": f"{folder}/s",
        "RAY_TMPDIR": folder,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PYTHONUNBUFFERED": "1",
    }
    environment.pop("RAY_ADDRESS", None)
    try:
        yield environment
        if sys.platform == "linux":
            eventually(lambda: not _runs_with(folder), "every process of the driver ended", ENDS_WITHIN_S)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _runs_with(folder: str) -> list[str]:
    """The command lines of processes whose environment names `folder`."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdecimal() and f"={folder}/s\0".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # gone, or another user's
    return found


class Stage:
    """The process of stage.py."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.url = ""
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("stage.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )

    def __enter__(self) -> Stage:
        try:
            self.url = self._answer()["url"]
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # then it shuts down
        try:
            code = self._process.wait(ENDS_WITHIN_S)
        finally:
            self._end()
        assert code == 0

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], ANSWER_WITHIN_S)[0]:
            self._process.kill()
            pytest.fail(f"no answer within {ANSWER_WITHIN_S:g} s")
        line = self._process.stdout.readline()
        if not line:
            pytest.fail(f"the stage ended with {self._process.wait(ENDS_WITHIN_S)}; see its stderr")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _order(self, **order: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        if self._process.poll() is not None:
            pytest.fail("the stage ended in an earlier test")
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def script(self, path: Path) -> str:
        """Run a script; return what it printed."""
        answer = self._order(path=str(path))
        assert not answer["error"], answer["error"]
        return str(answer["out"])

    def block(self, page: str, code: str) -> str:
        """Run a block; return what it printed."""
        answer = self._order(page=page, code=code)
        assert not answer["error"], f"{page}:\n{code}\n{answer['error']}"
        return str(answer["out"])

    def block_raises(self, page: str, code: str) -> tuple[list[str], str]:
        """Run a block that must raise; return the names of the error's classes, and its traceback."""
        answer = self._order(page=page, code=code)
        assert answer["error"], f"{page}: did not raise:\n{code}"
        return answer["kinds"], answer["error"]

    def clear(self) -> None:
        """Remove every endpoint and backend."""
        answer = self._order(clear=True)
        assert not answer["error"], answer["error"]
