"""A link: frames over one non-blocking stream socket, usable from any thread.

    send(frame) ─► outbox ─► flush() ─► socket ─► receive() ─► Decoder ─► frames

The link owns no loop. Whoever drives it calls `receive` when the socket is readable and `flush` when
frames wait (and again when it is writable, while `unsent` is true). Sending is locked, so the thread
that runs user code and the thread that reads may both answer; receiving and closing belong to one thread at a time.
Given a handshake, the link runs it inside `receive`, which returns no frame before `opened` is true.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from functools import partial

from rayserve.wire.codec import Decoder, Frame, Violation
from rayserve.wire.handshake import HANDSHAKE_BYTES, ClientHandshake, ServerHandshake

__all__ = ["HIGH_WATER", "Link", "LinkLost"]

HIGH_WATER = 1024 * 1024  # bytes unsent above which a link takes no new call
_READ = 256 * 1024
_GATHER = 64  # buffers per sendmsg; more would meet IOV_MAX on some systems
_JOIN = 16 * 1024  # outboxes up to this are joined and sent by one plain send


class LinkLost(Exception):  # a fact, not a bug
    """The peer is gone.

    `clean` says that all it ever sent was read, so a call without STARTED never met user code; `False` that more may
    have been under way: the path died, or the peer's kernel reset a TCP connection and dropped what it had not sent.
    """

    def __init__(self, why: str, clean: bool) -> None:
        """Keep why, and whether the peer's bytes were read to their end."""
        super().__init__(why)
        self.clean = clean


class Link:
    """One socket between a router and a replica."""

    __slots__ = (
        "_decoder", "_feed", "_lock", "_outbox", "_room", "_scratch", "_unclean", "_view", "broken", "closed",
        "handshake", "on_unsent", "opened", "sock", "unsent",
    )  # fmt: skip

    def __init__(
        self,
        sock: socket.socket,
        scratch: bytearray | None = None,
        handshake: ClientHandshake | ServerHandshake | None = None,
    ) -> None:
        """Take over `sock`.

        Args:
            sock: a connected (or connecting) stream socket; made non-blocking.
            scratch: a read buffer shared by links that one thread reads in turn.
            handshake: what both ends must pass first; its opening frame is queued here, `flush` sends it.
        """
        sock.setblocking(False)
        self.sock = sock
        self._decoder = Decoder()
        self._scratch = scratch if scratch is not None else bytearray(_READ)
        self._view = memoryview(self._scratch)
        self._outbox: list[bytes | memoryview] = []
        self._lock = threading.Lock()
        self.unsent = 0  # bytes that wait in the outbox
        self.closed = False
        self.broken = False  # a write failed: what the peer sent before is still to be read
        self._unclean = ""  # why the end of the peer's bytes, when it comes, is not all that the peer sent
        self.on_unsent: Callable[[], None] | None = None  # asks the driver to watch for writability
        self.handshake = handshake
        self.opened = handshake is None
        self._room = 0  # bytes to read at most; 0: as many as the scratch buffer takes
        self._feed: Callable[[bytes], list[Frame]] = self._decoder.feed
        if handshake is not None:
            self._room = HANDSHAKE_BYTES
            self._feed = partial(self._shake, handshake)
            self.send(handshake.start())

    def receive(self) -> list[Frame]:
        """Read once and return the frames that are complete; empty when there was nothing to read.

        Raises:
            LinkLost: the peer closed, or the socket failed.
            Violation: the peer sent what cannot be frames, or did not pass the handshake (`Refused`).
        """
        try:
            size = self.sock.recv_into(self._scratch, self._room)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError as error:
            raise LinkLost(f"link failed: {error}", self._is_clean(error)) from None
        if not size:
            if self._unclean:
                raise LinkLost(f"link failed: {self._unclean}", clean=False)
            raise LinkLost("peer closed the link", clean=True)
        return self._feed(self._view[:size].tobytes())

    def _shake(self, handshake: ClientHandshake | ServerHandshake, data: bytes) -> list[Frame]:
        """Run the handshake; once it is done, return the frames that came behind it."""
        self._room -= len(data)
        frame = self._decoder.feed_handshake(data)
        while frame is not None:
            reply = handshake.feed(frame)
            if reply is not None:
                self.send_now(reply)
            if handshake.done:
                self.opened = True
                self._room = 0
                self._feed = self._decoder.feed
                return self._decoder.feed(b"")
            frame = self._decoder.feed_handshake(b"")
        if not self._room:
            raise Violation(f"peer sent {HANDSHAKE_BYTES} bytes and has not passed the handshake")
        return []

    def _is_clean(self, error: OSError) -> bool:
        """Whether the peer can have sent nothing that this side has not read when the socket fails with `error`.

        A unix peer's bytes are all here before its end is. So they are if a TCP peer's FIN was (EPIPE). A reset is
        not the end of its bytes: a kernel that resets drops what it had not sent, and what the path lost stays lost.
        """
        return not self.opened or self.sock.family == socket.AF_UNIX or isinstance(error, BrokenPipeError)

    def send(self, data: bytes) -> None:
        """Queue an encoded frame; `flush` sends it."""
        with self._lock:
            self._outbox.append(data)
            self.unsent += len(data)

    def send_all(self, parts: list[bytes | memoryview]) -> None:
        """Queue several buffers as one; frames from other threads never come between them.

        Args:
            parts: bytes, or views of single bytes (format "B"): `len` must count bytes.
        """
        with self._lock:
            self._outbox.extend(parts)
            self.unsent += sum(map(len, parts))

    def flush(self) -> bool:
        """Send what the socket takes; return whether the outbox is empty.

        A write error is kept quiet: the peer's last bytes may still be unread, and `receive` tells of its end.
        """
        with self._lock:
            empty = self._flush()
        if not empty and self.on_unsent is not None:
            self.on_unsent()
        return empty

    def send_now(self, data: bytes) -> bool:
        """Queue an encoded frame and send all that waits, in one write when it fits."""
        with self._lock:
            self._outbox.append(data)
            self.unsent += len(data)
            empty = self._flush()
        if not empty and self.on_unsent is not None:
            self.on_unsent()
        return empty

    def _flush(self) -> bool:
        outbox = self._outbox
        while outbox:
            if self.closed or self.broken:
                outbox.clear()
                self.unsent = 0
                break
            try:
                if len(outbox) == 1:
                    sent = self.sock.send(outbox[0])
                elif self.unsent <= _JOIN:
                    joined = b"".join(outbox)
                    self._outbox = outbox = [joined]
                    sent = self.sock.send(joined)
                else:
                    sent = self.sock.sendmsg(outbox[:_GATHER])
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                self._break(error)
                continue
            self.unsent -= sent
            if not self.unsent:
                outbox.clear()
                break
            if self._drop(sent) < _GATHER:
                return False
        return True

    def _drop(self, sent: int) -> int:
        """Forget the first `sent` bytes of the outbox; return how many buffers were sent whole."""
        outbox = self._outbox
        index = 0
        for part in outbox:
            size = len(part)
            if size > sent:
                if sent:
                    outbox[index] = memoryview(part)[sent:]
                break
            sent -= size
            index += 1
        del outbox[:index]
        return index

    def _break(self, error: OSError) -> None:
        """Give up writing. The half-closed socket makes a peer that still lives end the link too."""
        self.broken = True
        if not self._is_clean(error):
            # The kernel tells a failure once: having told the writer, it shows the reader a plain EOF.
            self._unclean = str(error)
        with contextlib.suppress(OSError):  # gone for good already
            self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket; what was not sent is dropped. Call it where `receive` is called."""
        with self._lock:
            self.closed = True
            self._outbox.clear()
            self.unsent = 0
            self._feed = self._decoder.feed  # a handshake cut short must not keep the link in a cycle
            self.sock.close()
