"""The load of these examples: the same requests against batches of one, of up to 8 and of up to 32.

    bodies ─► 64 keep-alive connections on one thread ─► POST url ─► answers ─► share that is right, requests/s

Each connection sends its next request when it has the answer to the last. While a batch of 32 is in the model, the
other 32 wait: enough for the next to be full. The client is written on asyncio's streams because it shares the cores
with the server; a full HTTP client would spend more time per request than a small model does.
"""

import asyncio
import json
import re
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import rayserve as serve

CONNECTIONS = 64
BATCH_SIZES = (1, 8, 32)
ROUNDS = 5
TURN_S = 1.5


class Turn(NamedTuple):
    """What one turn of the load found."""

    requests_per_s: float
    per_batch: float


class Load:
    """Sends its bodies to one URL, and takes JSON back."""

    def __init__(self, url: str, bodies: Sequence[bytes], content_type: str = "application/json") -> None:
        where = urlsplit(url)
        self._host, self._port = where.hostname, where.port
        self._head = f"POST {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: {content_type}\r\n"
        self._bodies = bodies

    def share_right(self, field: str, right: Sequence[Any]) -> float:
        """Send every body once; return in how many of the answers `field` is what it should be, from 0 to 1."""
        answers = dict(asyncio.run(self._send(enumerate(self._bodies))))
        hits = [number for number, wanted in enumerate(right) if answers[number][field] == wanted]
        return len(hits) / len(self._bodies)

    def compare(self, tag: str) -> None:
        """Print how many requests per second the backend answers with each of `BATCH_SIZES`.

        They take turns, since a machine's speed drifts; the replica and its model stay the same all the time.
        """
        turns: dict[int, list[Turn]] = {size: [] for size in BATCH_SIZES}
        for _ in range(ROUNDS):
            for size in BATCH_SIZES:
                serve.update_backend_config(tag, {"max_batch_size": size})
                turns[size].append(self._turn())
        for size, seen in turns.items():
            rate = statistics.median(turn.requests_per_s for turn in seen)
            per_batch = statistics.median(turn.per_batch for turn in seen)
            line = f"max_batch_size={size}: {rate:,.0f} requests/s in batches of {per_batch:.1f}"
            if size > 1:
                gains = [many.requests_per_s / one.requests_per_s for many, one in zip(seen, turns[1], strict=True)]
                middle, low, high = statistics.median(gains), min(gains), max(gains)
                line += f", {middle:.2f} × as many as in batches of 1 ({low:.2f} to {high:.2f} in {ROUNDS} rounds)"
            print(line)

    def _turn(self) -> Turn:
        began = time.perf_counter()
        answers = asyncio.run(self._send(_until(began + TURN_S, enumerate(cycle(self._bodies)))))
        took = time.perf_counter() - began
        # Each answer tells how many shared its call of the model: 8 answers that say 8 are one call.
        calls = sum(1 / answer["batch_size"] for _, answer in answers)
        return Turn(len(answers) / took, len(answers) / calls)

    async def _send(self, bodies: Iterable[tuple[int, bytes]]) -> list[tuple[int, Any]]:
        """Send the bodies over all connections; return each one's number and the JSON of its answer, as they come."""
        answers: list[tuple[int, Any]] = []
        line = iter(bodies)  # all connections take from it

        async def connection() -> None:
            reader, writer = await asyncio.open_connection(self._host, self._port)
            for number, body in line:
                writer.write(f"{self._head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                answers.append((number, await _answer(reader)))
            writer.close()
            await writer.wait_closed()

        await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))
        return answers


def _until(end: float, bodies: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    for numbered in bodies:
        if time.perf_counter() > end:
            return
        yield numbered


async def _answer(reader: asyncio.StreamReader) -> Any:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = re.search(r"^content-length: (\d+)", head, re.IGNORECASE | re.MULTILINE)
    content = await reader.readexactly(int(length[1])) if length else b""
    if not head.startswith("HTTP/1.1 200 "):
        raise RuntimeError(f"not answered 200: {head}{content.decode()}")
    return json.loads(content)
