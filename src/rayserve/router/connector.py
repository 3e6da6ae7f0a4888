"""Connects channels to their replicas, and again when a link was lost while the table still lists it.

unix socket on this node: connect, HELLO, calls behind it at once (the directory and the peer's uid are the guard)
TCP to another node:      connect, HELLO, CHALLENGE, PROOF, WELCOME, ready; PING every 250 ms from then on

A link on this node is asked too, for as long as its replica is thought to hold calls of others and we have none there:
nothing else would say that they have ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Final

from rayserve.router.channel import Channel
from rayserve.router.notes import Notes
from rayserve.wire import codec
from rayserve.wire.board import Board
from rayserve.wire.handshake import HANDSHAKE_S, ClientHandshake
from rayserve.wire.link import Link
from rayserve.wire.sockets import connect_unix, open_tcp, spare_full_peer

if TYPE_CHECKING:
    from rayserve.router.router import Router

__all__ = ["Connector"]

_log = logging.getLogger(__name__)
_FIRST_RETRY_S: Final = 0.02
_LAST_RETRY_S: Final = 1.0
_PING_S: Final = 0.25
_SUSPECT_S: Final = 1.5


class Connector:
    """Opens links, watches those that cross the network, and asks after news that no call brings."""

    def __init__(self, router: Router, node: str, instance: str, role: str, secret: bytes) -> None:
        """Make a connector for one router; see `Router` for the arguments."""
        self._router = router
        self._node = node
        self._instance = instance
        self._role = role
        self.secret = secret
        self._delays: dict[Channel, float] = {}  # of those that failed since they last worked
        self._heard: dict[Channel, float] = {}  # remote channels → when they last spoke
        self._doubted: set[Channel] = set()  # to be asked how many calls their replicas hold
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: dict[Channel, asyncio.TimerHandle] = {}  # the next try, or the end of a handshake
        self._pinger: asyncio.TimerHandle | None = None

    def connect(self, channel: Channel) -> None:
        """Connect `channel`; on failure try again, for as long as the table lists it."""
        self._timers.pop(channel, None)
        if channel.retired or channel.link is not None:
            return
        if channel.replica.node == self._node:
            self._connect_unix(channel)
            return
        task = self._router.loop.create_task(self._connect_tcp(channel))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _connect_unix(self, channel: Channel) -> None:
        path = channel.replica.unix
        try:
            sock = connect_unix(path)
        except OSError as error:
            self._retry(channel, error)
            return
        folder = os.path.dirname(path)
        try:
            board = Board.make(folder)
        except OSError as error:
            sock.close()
            self._retry(channel, error)
            return
        channel.attach(sock, self._handshake(channel, None, board.name), Notes(board, folder))

    def _handshake(self, channel: Channel, secret: bytes | None, board: str = "") -> ClientHandshake:
        return ClientHandshake(self._role, self._instance, channel.replica.id, secret, board)

    async def _connect_tcp(self, channel: Channel) -> None:
        replica, loop = channel.replica, self._router.loop
        try:
            handshake = self._handshake(channel, self.secret)
            async with asyncio.timeout(HANDSHAKE_S):
                sock = await open_tcp(loop, replica.host, replica.port)
        except (OSError, ValueError) as error:  # ValueError: the secret has not come yet
            self._retry(channel, error)
            return
        if channel.retired or channel.link is not None:
            sock.close()
            return
        channel.attach(sock, handshake, Notes())
        self._timers[channel] = loop.call_later(HANDSHAKE_S, self._overdue, channel, channel.link)

    def _overdue(self, channel: Channel, link: Link | None) -> None:
        if channel.link is link and not channel.welcomed:
            channel.lost(f"the handshake lasted over {HANDSHAKE_S:g} s", clean=True)

    def welcomed(self, channel: Channel) -> None:
        """Hear that the handshake of a channel is through."""
        self._delays.pop(channel, None)
        timer = self._timers.pop(channel, None)
        if timer is not None:
            timer.cancel()
        if channel.replica.node != self._node:
            self._heard[channel] = self._router.clock()
            self._watch()

    def _retry(self, channel: Channel, error: Exception) -> None:
        if channel.retired:
            return
        delay = self._delays.get(channel, _FIRST_RETRY_S)
        self._delays[channel] = min(delay * 2, _LAST_RETRY_S)
        _log.info("replica %s cannot be reached (%s); next try in %.2f s", channel.replica.id, error, delay)
        self._timers[channel] = self._router.loop.call_later(delay, self.connect, channel)

    def lost(self, channel: Channel) -> None:
        """Hear that a link ended; it is tried again while the table lists the replica."""
        self._heard.pop(channel, None)
        timer = self._timers.pop(channel, None)
        if timer is not None:
            timer.cancel()
        if channel.retired or channel.draining:
            self._delays.pop(channel, None)
            return
        self._retry(channel, ConnectionError("link lost"))

    def forget(self, channel: Channel) -> None:
        """Stop to care for a channel that the table lists no more."""
        self._delays.pop(channel, None)
        timer = self._timers.pop(channel, None)
        if timer is not None:
            timer.cancel()

    def heard(self, channel: Channel) -> None:
        """Note a PONG."""
        if channel in self._heard:
            self._heard[channel] = self._router.clock()
            channel.suspect = False

    def doubt(self, channel: Channel) -> None:
        """Hear that a replica holds calls of others and none of ours; ask again soon, it may have ended them."""
        if channel not in self._heard:
            self._doubted.add(channel)
            self._watch()

    def _watch(self) -> None:
        if self._pinger is None and (self._heard or self._doubted):
            self._pinger = self._router.loop.call_later(_PING_S, self._ping)

    def _ping(self) -> None:
        self._pinger = None
        doubted, self._doubted = self._doubted, set()
        for channel in doubted:
            if channel.link is not None and not channel.streams:
                channel.link.send_now(codec.frame(codec.PING, 0))
        now = self._router.clock()
        for channel, heard in list(self._heard.items()):
            link = channel.link
            if link is None:
                del self._heard[channel]
                continue
            channel.suspect = now - heard > _SUSPECT_S
            try:
                spare_full_peer(link.sock)
            except OSError as error:  # `receive` will tell of its end
                _log.debug("replica %s: %s", channel.replica.id, error)
            link.send_now(codec.frame(codec.PING, 0))
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
