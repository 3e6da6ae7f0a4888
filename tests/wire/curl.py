"""curl as a client: one process for each request, its answer read from what it writes."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

WITHIN_S = 20.0
Fields = Sequence[tuple[str, str]]


class TookTooLong(Exception):
    """The client lost its patience."""


@dataclass(frozen=True)
class Got:
    """An answer as its client understood it."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes

    def __getitem__(self, name: str) -> str:
        (value,) = self.all(name)
        return value

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]


class Curl:
    def __init__(self, url: str) -> None:
        if shutil.which("curl") is None:
            pytest.skip("there is no curl on this machine")
        self._url = url
        self._folder = tempfile.mkdtemp(prefix="rs-curl-", dir="/tmp")

    def run(self, *arguments: str, data: bytes | None = None, within_s: float = WITHIN_S) -> bytes:
        """Run curl; return what it wrote, heads of answers included."""
        command = ["curl", "--disable", "--silent", "--show-error", "--include", "--noproxy", "*", "--max-time",
                   str(within_s), *arguments]  # fmt: skip
        done = subprocess.run(command, input=data, capture_output=True, timeout=3 * WITHIN_S)
        if done.returncode == 28:
            raise TookTooLong(done.stderr.decode())
        assert done.returncode == 0, (done.returncode, done.stderr)
        return done.stdout

    def ask(
        self, method: str, path: str, body: bytes | None = None, fields: Fields = (), within_s: float = WITHIN_S
    ) -> Got:
        arguments = [each for name, value in fields for each in ("--header", f"{name}: {value}")]
        arguments += ["--head"] if method == "HEAD" else ["--request", method]
        if body is not None:
            arguments += ["--data-binary", "@-"]
            if not any(name == "content-type" for name, _ in fields):  # it would say that the body is a form
                arguments += ["--header", "content-type: text/plain"]
        if any(name.lower() == "accept-encoding" for name, _ in fields):
            arguments.append("--compressed")
        (got,) = _answers(self.run(*arguments, self._url + path, data=body, within_s=within_s))
        return got

    def follow(self, method: str, path: str, body: bytes | None = None) -> Got:
        data = [] if body is None else ["--header", "content-type: text/plain", "--data-binary", "@-"]
        return _answers(self.run("--location", "--cookie", "", *data, self._url + path, data=body))[-1]

    def several(self, paths: Sequence[str]) -> list[Got]:
        return _answers(self.run(*(self._url + path for path in paths)))

    @contextmanager
    def stream(self, path: str) -> Iterator[Iterator[bytes]]:
        command = ["curl", "--disable", "--silent", "--no-buffer", "--noproxy", "*", self._url + path]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        output = process.stdout.fileno()
        try:
            yield iter(lambda: os.read(output, 2**16), b"")
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    def upload(self, path: str, pieces: Iterable[bytes]) -> Got:
        (got,) = _answers(self.run("--request", "POST", "--upload-file", "-", self._url + path, data=b"".join(pieces)))
        return got

    def expects(self, path: str, body: bytes) -> tuple[list[int], int]:
        """POST `body`, large enough for curl to ask first; return all statuses, and how many bytes it sent."""
        file = Path(self._folder) / "body"
        file.write_bytes(body)
        said = self.run(
            "--header",
            "content-type: text/plain",
            "--data-binary",
            f"@{file}",
            "--write-out",
            "\n%{size_upload}",
            self._url + path,
        )
        heads, _, sent = said.rpartition(b"\n")
        statuses = [int(line.split()[1]) for line in heads.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
        return statuses, int(sent)

    def close(self) -> None:
        shutil.rmtree(self._folder)


def _answers(said: bytes) -> list[Got]:
    """Take apart the answers that curl wrote one behind the other; interim ones are passed over."""
    answers = []
    while said:
        head, _, said = said.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        status = int(line.split()[1])
        pairs = [each.partition(": ") for each in lines]
        fields = [(name, value) for name, _, value in pairs]
        body, next_one, rest = said.partition(b"HTTP/1.1 ")
        said = next_one + rest
        if status >= 200:
            answers.append(Got(status, fields, body))
    return answers
