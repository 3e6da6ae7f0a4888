"""A WebSocket client that is nothing but sockets, in a process of its own: what it costs must not be what is measured.

    run ─► python -m benchmarks.echo URL CONNECTIONS SECONDS < message ─► one line of numbers ─► Load

Each connection has one message under way. The frame is made once: its mask is zero, so masking changes nothing.
"""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from statistics import quantiles
from urllib.parse import urlsplit

from benchmarks.load import Load, Request

__all__ = ["run"]

_TIMEOUT_S = 10.0
_MOST_BUSY = 0.95
_UPGRADE = (
    "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def run(url: str, request: Request, connections: int, seconds: float) -> Load:
    """Send the request's body as text messages, each connection the next when the last came back.

    Raises:
        RuntimeError: a connection failed, something else than the message came back, or the client was too slow.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.echo", f"{url}{request.path}", str(connections), str(seconds)],
        input=request.body, capture_output=True, timeout=seconds + 30, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the WebSocket client failed against {url}{request.path}:\n{done.stderr.decode()}")
    messages, took_s, p50_ms, p99_ms, busy = (float(number) for number in done.stdout.split())
    if busy > _MOST_BUSY:
        raise RuntimeError(f"the WebSocket client was busy for {busy:.0%} of the time, so it was it that was measured")
    return Load(int(messages), took_s, p50_ms, p99_ms)


def _opened(url: str) -> socket.socket:
    at = urlsplit(url)
    client = socket.create_connection((str(at.hostname), at.port or 80), _TIMEOUT_S)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.sendall(_UPGRADE.format(path=at.path, host=at.netloc).encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += client.recv(1)  # not a byte of what follows
    if not answer.startswith(b"HTTP/1.1 101 "):
        raise ConnectionError(f"no WebSocket at {url}: {answer!r}")
    return client


def _exchange(clients: Mapping[int, socket.socket], message: bytes, seconds: float) -> list[int]:
    """Return how long each message took there and back, in ns."""
    question = bytes((0x81, 0x80 | len(message), 0, 0, 0, 0)) + message
    expected = bytes((0x81, len(message))) + message
    clock, took_ns = time.perf_counter_ns, []
    sent_ns = {}
    poll = select.epoll()
    for number, client in clients.items():
        poll.register(number, select.EPOLLIN)
        sent_ns[number] = clock()
        client.send(question)
    until = clock() + int(seconds * 1e9)
    while clock() < until:
        for number, _ in poll.poll(_TIMEOUT_S):
            client = clients[number]
            # The peers write small frames whole, so that one read brings one frame.
            if (answer := client.recv(4096)) != expected:
                raise ConnectionError(f"expected {expected!r}, got {answer!r}")
            now = clock()
            took_ns.append(now - sent_ns[number])
            sent_ns[number] = now
            client.send(question)
    return took_ns


def main(url: str, connections: str, seconds: str) -> None:
    """Connect, exchange, print messages, seconds, p50 and p99 in ms, and the share of the time that this took CPU."""
    message = sys.stdin.buffer.read()
    clients = {client.fileno(): client for client in (_opened(url) for _ in range(int(connections)))}
    began, cpu_began = time.perf_counter(), time.process_time()
    took_ns = _exchange(clients, message, float(seconds))
    took_s, used_s = time.perf_counter() - began, time.process_time() - cpu_began
    cuts = quantiles(took_ns, n=100)
    print(len(took_ns), took_s, cuts[49] / 1e6, cuts[98] / 1e6, used_s / took_s)


if __name__ == "__main__":
    main(*sys.argv[1:])
