"""The replica's sockets: a listener per family, a session per link, one selector, read by one thread at a time.

    selector ─► listener: accept ─► handshake ─► Session
             ├► link: receive ─► Session.take ─► intake
             └► wake pipe: another thread has something for the thread that leads

Whoever leads holds `lock` while it polls. `fileno()` is the selector's own descriptor, so an event
loop can watch all of this as one file and lead whenever nobody else does.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import threading
from collections.abc import Callable

from rayserve.replica.intake import Intake
from rayserve.replica.session import Session
from rayserve.wire import codec
from rayserve.wire.board import Board
from rayserve.wire.handshake import Refused, ServerHandshake
from rayserve.wire.link import Link, LinkLost
from rayserve.wire.sockets import check_peer

__all__ = ["Server"]

_log = logging.getLogger(__name__)
_READ = selectors.EVENT_READ
_WRITE = selectors.EVENT_WRITE


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
    ) -> None:
        """Make a server without listeners.

        Args:
            intake: where calls go.
            handshake: makes the server's side of a handshake; its argument says whether the link is a unix socket.
            dirty: called with a link on which an answer waits to be flushed.
            run_dir: where routers of this node make their boards.
        """
        self.lock = threading.Lock()
        self._intake = intake
        self._handshake = handshake
        self._dirty = dirty
        self._run_dir = run_dir
        self._selector = selectors.DefaultSelector()
        self._scratch = bytearray(256 * 1024)
        self._peers: dict[socket.socket, _Peer] = {}
        self._wake_out, self._wake_in = socket.socketpair()
        for end in (self._wake_out, self._wake_in):
            end.setblocking(False)
        self._selector.register(self._wake_out, _READ, self._woken)

    def fileno(self) -> int:
        """Return the selector's descriptor: readable when `poll` would find something to do."""
        return self._selector.fileno()

    def listen(self, listener: socket.socket) -> None:
        """Accept links on `listener`, a bound and listening socket."""
        listener.setblocking(False)
        self._selector.register(listener, _READ, lambda _mask: self._accept(listener))

    def wake(self) -> None:
        """Make the thread that leads return from `poll`; from any thread."""
        with contextlib.suppress(BlockingIOError):  # full: it will wake anyway
            self._wake_in.send(b"\0")

    def poll(self, timeout_s: float | None) -> None:
        """Wait for the sockets and act on what came; call with `lock` held.

        Args:
            timeout_s: how long to wait; None: until something comes.
        """
        for key, mask in self._selector.select(timeout_s):
            key.data(mask)

    @property
    def sessions(self) -> list[Session]:
        """The links whose handshake succeeded."""
        return [peer.session for peer in self._peers.values() if peer.session is not None]

    def _woken(self, _mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_out.recv(4096)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:  # out of descriptors: the backlog keeps the peer waiting
            _log.error("cannot accept a link: %s", error)
            return
        unix = sock.family == socket.AF_UNIX
        if unix and not check_peer(sock):
            _log.error("refused a link from another user")
            sock.close()
            return
        if not unix:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = Link(sock, self._scratch)
        peer = self._peers[sock] = _Peer(link, self._handshake(unix))
        link.on_unsent = lambda: self._watch_writes(sock)
        self._selector.register(sock, _READ, lambda mask: self._ready(peer, mask))

    def _watch_writes(self, sock: socket.socket) -> None:
        with contextlib.suppress(KeyError, ValueError):  # closed meanwhile
            key = self._selector.get_key(sock)
            if not key.events & _WRITE:
                self._selector.modify(sock, _READ | _WRITE, key.data)

    def _ready(self, peer: _Peer, mask: int) -> None:
        link = peer.link
        if mask & _WRITE and link.flush():
            self._selector.modify(link.sock, _READ, self._selector.get_key(link.sock).data)
        if not mask & _READ:
            return
        try:
            frames = link.receive()
            if peer.session is not None:
                peer.session.take(frames)
            else:
                self._shake(peer, frames)
        except LinkLost as lost:
            self._lost(peer, str(lost))
        except (codec.Violation, Refused, OSError, ValueError) as error:
            _log.error("closed a link: %s", error)
            self._lost(peer, str(error))

    def _shake(self, peer: _Peer, frames: list[codec.Frame]) -> None:
        for index, frame in enumerate(frames):
            reply = peer.handshake.feed(frame)
            if reply:
                peer.link.send_now(reply)
            if peer.handshake.done:
                handshake = peer.handshake
                board = Board.open(self._run_dir, handshake.board) if handshake.board else None
                session = peer.session = Session(peer.link, handshake.role, board, self._intake, self._dirty)
                session.take(frames[index + 1 :])
                return

    def _lost(self, peer: _Peer, why: str) -> None:
        _log.info("a link ended: %s", why)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(peer.link.sock)
        self._peers.pop(peer.link.sock, None)
        peer.link.close()
        if peer.session is not None:
            peer.session.lost()

    def close(self) -> None:
        """Close every socket."""
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._wake_in.close()
        self._selector.close()
