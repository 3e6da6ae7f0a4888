"""The replica's sockets: a listener per family, a session per link, one poller, read by one thread at a time.

    poller ─► listener: accept ─► handshake, within a second ─► Session
           ├► link: receive ─► Session.take ─► intake
           └► wake pipe: another thread has something for the thread that leads

Whoever leads holds `lock` while it polls. `fileno()` is the poller's own descriptor, so an event
loop can watch all of this as one file and lead whenever nobody else does. Whatever a peer sends, or
however it leaves, concerns its own link alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

from rayserve.replica.intake import Intake
from rayserve.replica.poller import READ, WRITE, new_poller
from rayserve.replica.session import Session
from rayserve.wire import codec
from rayserve.wire.board import Board
from rayserve.wire.handshake import HANDSHAKE_S, ServerHandshake
from rayserve.wire.link import Link, LinkLost
from rayserve.wire.sockets import accept

__all__ = ["Server"]

_log = logging.getLogger(__name__)
_PAUSE_S: Final = 0.05


class _Peer:
    """One accepted socket: first its handshake, then its session."""

    __slots__ = ("handshake", "link", "session")

    def __init__(self, link: Link, handshake: ServerHandshake) -> None:
        self.link = link
        self.handshake = handshake
        self.session: Session | None = None


class Server:
    """Accepts links and feeds their frames to sessions."""

    def __init__(
        self,
        intake: Intake,
        handshake: Callable[[bool], ServerHandshake],
        dirty: Callable[[Link], None],
        run_dir: str,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Make a server without listeners.

        Args:
            intake: where calls go.
            handshake: makes the server's side of a handshake; its argument says whether the link is a unix socket.
            dirty: called with a link on which an answer waits to be flushed.
            run_dir: where routers of this node make their boards.
            loop: of the process's I/O thread, for time-outs.
        """
        self.lock = threading.Lock()
        self._intake = intake
        self._handshake = handshake
        self._dirty = dirty
        self._run_dir = run_dir
        self._loop = loop
        self._poller = new_poller()
        self._changing = threading.Lock()  # around changes to what is watched of a link
        self.fileno = self._poller.fileno  # readable when `poll` would find something to do
        self._scratch = bytearray(256 * 1024)
        self._listeners: list[socket.socket] = []
        self._peers: dict[socket.socket, _Peer] = {}
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._told = 0.0  # when the log last heard of a failed accept
        self._wake_out, self._wake_in = socket.socketpair()
        for end in (self._wake_out, self._wake_in):
            end.setblocking(False)
        self._poller.watch(self._wake_out.fileno(), self._woken)

    def listen(self, listener: socket.socket) -> None:
        """Accept links on `listener`, a bound and listening socket."""
        listener.setblocking(False)
        self._poller.watch(listener.fileno(), lambda _events: self._accept(listener))
        self._listeners.append(listener)

    def wake(self) -> None:
        """Make the thread that leads return from `poll`; from any thread."""
        with contextlib.suppress(OSError):  # full: it will wake anyway; closed: nobody leads any more
            self._wake_in.send(b"\0")

    def poll(self, timeout_s: float | None) -> None:
        """Wait for the sockets and act on what came; call with `lock` held.

        Args:
            timeout_s: how long to wait; None: until something comes.
        """
        self._poller.wait(timeout_s)

    def poll_until(self, done: Callable[[], bool]) -> None:
        """Lead until `done`; what makes it so comes on one of the sockets, whoever reads it."""
        while not done():
            with self.lock:
                if not done():  # another thread may have read it just before
                    self.poll(None)

    @property
    def sessions(self) -> list[Session]:
        """The links whose handshake succeeded; from any thread."""
        return [peer.session for peer in list(self._peers.values()) if peer.session is not None]

    @property
    def unsent(self) -> bool:
        """Whether bytes of some answer wait for their socket; from any thread."""
        return any(peer.link.unsent for peer in list(self._peers.values()))

    def _woken(self, _mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_out.recv(4096)

    # -- links --------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock = accept(listener)
        except OSError as error:
            self._turn_away(listener, error)
            return
        if sock is None:
            return
        try:
            handshake = self._handshake(sock.family == socket.AF_UNIX)
            peer = self._peers[sock] = _Peer(Link(sock, self._scratch, handshake), handshake)
            peer.link.on_unsent = lambda: self._watch_writes(peer)
            self._poller.watch(sock.fileno(), lambda events: self._ready(peer, events))
            self._loop.call_soon_threadsafe(self._loop.call_later, HANDSHAKE_S, self._overdue, peer)
        except Exception:  # no secret, no memory, no loop any more: this link cannot be, the others go on
            _log.exception("cannot serve a link")
            self._peers.pop(sock, None)
            self._poller.forget(sock.fileno())
            sock.close()

    def _turn_away(self, listener: socket.socket, error: OSError) -> None:
        """Take a connection with the spare descriptor and drop it: left in the backlog it would wake us for ever."""
        now = time.monotonic()
        if now - self._told > 1.0:
            self._told = now
            _log.error("cannot accept a link: %s", error)
        if error.errno in (errno.EMFILE, errno.ENFILE) and self._spare >= 0:
            os.close(self._spare)
            with contextlib.suppress(OSError):
                listener.accept()[0].close()
        elif self._spare >= 0:
            return
        else:
            time.sleep(_PAUSE_S)  # not even the spare one was left; what else could be done would spin
        try:
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # somebody else took it
            self._spare = -1

    def _overdue(self, peer: _Peer) -> None:
        """End a handshake that lasts too long; runs on the I/O thread, the end is seen by the one that leads."""
        if not peer.link.opened:
            with contextlib.suppress(OSError):
                peer.link.sock.shutdown(socket.SHUT_RDWR)

    def _watch_writes(self, peer: _Peer) -> None:
        """Watch whether a link's socket takes more, as long as something waits for it; from any thread.

        One thread at a time: else the one that saw nothing wait could have the last word, and what waits would wait for
        ever.
        """
        with self._changing, contextlib.suppress(OSError):  # closed meanwhile
            self._poller.change(peer.link.sock.fileno(), READ | WRITE if peer.link.unsent else READ)

    def _ready(self, peer: _Peer, events: int) -> None:
        link = peer.link
        if events & WRITE and link.flush():
            self._watch_writes(peer)
        if not events & READ:
            return
        try:
            frames = link.receive()
            session = peer.session
            if session is None:
                if not link.opened:
                    return
                session = self._greet(peer)
            session.take(frames)
        except LinkLost as lost:
            _log.info("a link ended: %s", lost)
            self._lost(peer)
        except (codec.Violation, OSError, ValueError) as error:
            _log.error("closed a link: %s", error)
            self._lost(peer)
        except Exception:
            _log.exception("closed a link, as a frame of it could not be handled")
            self._lost(peer)

    def _greet(self, peer: _Peer) -> Session:
        name = peer.handshake.board
        board = Board.open(self._run_dir, name) if name else None
        session = peer.session = Session(peer.link, peer.handshake.role, board, self._intake, self._dirty)
        if self._intake.draining:
            session.go_away()
        return session

    def _lost(self, peer: _Peer) -> None:
        with self._changing:
            self._poller.forget(peer.link.sock.fileno())
        self._peers.pop(peer.link.sock, None)
        peer.link.close()
        if peer.session is not None:
            peer.session.lost()

    def close(self) -> None:
        """Close every socket; nobody may lead any more."""
        for sock in (*self._listeners, *self._peers, self._wake_out, self._wake_in):
            sock.close()
        self._poller.close()
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
