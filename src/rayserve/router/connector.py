"""Connects channels to their replicas, and again when a link was lost while the table still lists it.

unix socket on this node: connect, HELLO, ready at once (the directory and the peer's uid are the guard)
TCP to another node:      connect, HELLO, CHALLENGE, PROOF, WELCOME, ready; PING every 250 ms from then on
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import TYPE_CHECKING, Final

from rayserve.router.channel import Channel
from rayserve.wire import codec
from rayserve.wire.board import Board
from rayserve.wire.handshake import ClientHandshake, Refused
from rayserve.wire.sockets import connect_unix, open_tcp

if TYPE_CHECKING:
    from rayserve.router.router import Router

__all__ = ["Connector"]

_log = logging.getLogger(__name__)
_FIRST_RETRY_S: Final = 0.02
_LAST_RETRY_S: Final = 1.0
_TCP_TIMEOUT_S: Final = 1.0
_PING_S: Final = 0.25
_SUSPECT_S: Final = 1.5


class Connector:
    """Opens links, and watches those that cross the network."""

    def __init__(self, router: Router, node: str, instance: str, role: str, secret: bytes) -> None:
        """Make a connector for one router; see `Router` for the arguments."""
        self._router = router
        self._node = node
        self._instance = instance
        self._role = role
        self.secret = secret
        self._delays: dict[Channel, float] = {}
        self._heard: dict[Channel, float] = {}  # remote channels → when they last spoke
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: dict[Channel, asyncio.TimerHandle] = {}
        self._pinger: asyncio.TimerHandle | None = None

    def connect(self, channel: Channel) -> None:
        """Connect `channel`; on failure try again, for as long as the table lists it."""
        self._timers.pop(channel, None)
        if channel.retired or channel.link is not None:
            return
        replica = channel.replica
        if replica.node != self._node:
            task = self._router.loop.create_task(self._connect_tcp(channel))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        try:
            sock = connect_unix(replica.unix)
        except OSError as error:
            self._retry(channel, error)
            return
        try:
            board = Board.make(os.path.dirname(replica.unix))
        except OSError as error:
            sock.close()
            self._retry(channel, error)
            return
        self._delays.pop(channel, None)
        channel.attach(sock, board)
        assert channel.link is not None
        channel.link.send(self._handshake(channel, None, board.name).start())
        self._router.flush_later(channel)

    def _handshake(self, channel: Channel, secret: bytes | None, board: str = "") -> ClientHandshake:
        return ClientHandshake(self._role, self._instance, channel.replica.id, secret, board)

    async def _connect_tcp(self, channel: Channel) -> None:
        replica, loop = channel.replica, self._router.loop
        sock: socket.socket | None = None
        try:
            async with asyncio.timeout(_TCP_TIMEOUT_S):
                sock = await open_tcp(loop, replica.host, replica.port)
                rest = await self._prove(sock, self._handshake(channel, self.secret))
        except (OSError, TimeoutError, Refused, codec.Violation) as error:
            if sock is not None:
                sock.close()
            self._retry(channel, error)
            return
        except asyncio.CancelledError:
            if sock is not None:
                sock.close()
            raise
        if channel.retired:
            sock.close()
            return
        self._delays.pop(channel, None)
        self._heard[channel] = self._router.clock()
        channel.attach(sock, None, rest)
        self._watch()
        self._router.room(channel.pool)

    async def _prove(self, sock: socket.socket, handshake: ClientHandshake) -> list[codec.Frame]:
        """Run the handshake; return the frames that came behind it."""
        loop, decoder = self._router.loop, codec.Decoder()
        await loop.sock_sendall(sock, handshake.start())
        while True:
            data = await loop.sock_recv(sock, 4096)
            if not data:
                raise OSError("the replica closed the link during the handshake")
            frames = decoder.feed(data)
            while frames:
                reply = handshake.feed(frames.pop(0))
                if reply:
                    await loop.sock_sendall(sock, reply)
                if handshake.done:
                    return frames

    def _retry(self, channel: Channel, error: Exception) -> None:
        delay = self._delays.get(channel, _FIRST_RETRY_S)
        self._delays[channel] = min(delay * 2, _LAST_RETRY_S)
        _log.info("replica %s cannot be reached (%s); next try in %.2f s", channel.replica.id, error, delay)
        if not channel.retired:
            self._timers[channel] = self._router.loop.call_later(delay, self.connect, channel)

    def lost(self, channel: Channel) -> None:
        """Hear that a link ended; it is tried again while the table lists the replica."""
        self._heard.pop(channel, None)
        if channel.retired or channel.draining:
            self._delays.pop(channel, None)
            return
        self._retry(channel, ConnectionError("link lost"))

    def heard(self, channel: Channel) -> None:
        """Note a PONG."""
        if channel in self._heard:
            self._heard[channel] = self._router.clock()
            channel.suspect = False

    def _watch(self) -> None:
        if self._pinger is None and self._heard:
            self._pinger = self._router.loop.call_later(_PING_S, self._ping)

    def _ping(self) -> None:
        self._pinger = None
        now = self._router.clock()
        for channel, heard in list(self._heard.items()):
            if channel.link is None:
                del self._heard[channel]
                continue
            channel.suspect = now - heard > _SUSPECT_S
            channel.link.send_now(codec.frame(codec.PING, 0))
        self._watch()

    def close(self) -> None:
        """Stop all tries and timers."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for task in self._tasks:
            task.cancel()
        if self._pinger is not None:
            self._pinger.cancel()
            self._pinger = None
