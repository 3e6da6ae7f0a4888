"""How a link opens: who is there, and is it the replica the table meant. Frames in, frames out; no I/O here.

    unix   client ── HELLO ─────────────► server     the socket room has compared the user ids before;
           client ◄─────────── WELCOME ── server     frames may follow HELLO at once
    TCP    client ── HELLO(nonce) ──────► server     the server proves first that it knows the secret,
           client ◄── CHALLENGE(nonce, mac) server   then the client; nothing follows a frame here
           client ── PROOF(mac) ────────► server     before the peer's next one
           client ◄─────────── WELCOME ── server

Each mac is HMAC-SHA256 over its sender's side and all that both said, so none can be replayed, reflected or carried
to another replica. It says who opened the connection; it does not encrypt. A step that fails is `Refused`: the
driver closes the link, and the peer learns no more than that. The driver also ends what lasts over `HANDSHAKE_S`.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Final, TypeVar

import msgspec

from rayserve.wire.codec import CHALLENGE, HELLO, PROOF, WELCOME, Frame, Violation, frame

__all__ = ["HANDSHAKE_BYTES", "HANDSHAKE_S", "ROLES", "VERSION", "ClientHandshake", "Refused", "ServerHandshake"]

VERSION: Final = 1
ROLES: Final = ("ingress", "handle")  # only a handle may send Python calls
HANDSHAKE_S: Final = 1.0  # from connect or accept until done
HANDSHAKE_BYTES: Final = 4096  # read from a peer, at most, until done
_NONCE_BYTES: Final = 32
_SECRET_BYTES: Final = 16  # a shorter one is an unset one
_NAMES: Final = {HELLO: "HELLO", CHALLENGE: "CHALLENGE", PROOF: "PROOF", WELCOME: "WELCOME"}


class Refused(Violation):
    """The peer is not who this side meant to talk to, or speaks another version; close the link.

    `reason` is one of "garbled", "unexpected", "version", "role", "instance", "replica", "key".
    """

    def __init__(self, reason: str, why: str) -> None:
        """Keep the word for counters and the sentence for the log."""
        super().__init__(why)
        self.reason = reason


class _Hello(msgspec.Struct, array_like=True, frozen=True):
    version: int  # stays first for ever; later versions add fields at the end
    role: str
    instance: str
    replica: str
    nonce: bytes = b""
    board: str = ""


class _Challenge(msgspec.Struct, array_like=True, frozen=True):
    nonce: bytes
    mac: bytes


class _Proof(msgspec.Struct, array_like=True, frozen=True):
    mac: bytes


class _Welcome(msgspec.Struct, array_like=True, frozen=True):
    version: int
    replica: str


_Head = TypeVar("_Head", _Hello, _Challenge, _Proof, _Welcome)
_encode = msgspec.msgpack.Encoder().encode


class ClientHandshake:
    """The connecting side: a router.

    Attributes:
        done: the peer is the replica meant, and all frames may flow.
        eager: frames may be sent right behind `start()` (unix sockets).
    """

    __slots__ = ("_awaited", "_hello", "_secret", "done", "eager")

    def __init__(self, role: str, instance: str, replica: str, secret: bytes | None = None, board: str = "") -> None:
        """Prepare to call on one replica.

        Args:
            role: "ingress" or "handle".
            instance: the instance's name.
            replica: the id that the table gives to the address connected to.
            secret: the instance's key, over TCP; None on unix sockets.
            board: name of the shared memory for what was started; "" asks for STARTED frames.

        Raises:
            ValueError: the role is unknown, or the secret is too short to be one.
        """
        if role not in ROLES:
            raise ValueError(f"role of a link is one of {ROLES}, got {role!r}")
        self._secret = _checked(secret)
        self._hello = _Hello(VERSION, role, instance, replica, _nonce(self._secret), board)
        self._awaited = CHALLENGE if self._secret else WELCOME
        self.eager = not self._secret
        self.done = False

    def start(self) -> bytes:
        """Return the HELLO, the first bytes on the link."""
        return frame(HELLO, 0, 0, _encode(self._hello))

    def feed(self, received: Frame) -> bytes | None:
        """Take the server's next frame; return the frame that answers it, if one does.

        Raises:
            Refused: the server is not the one meant, or cannot prove that it is.
        """
        head = _expect(received, self._awaited, self.done)
        if self._awaited == CHALLENGE:
            challenge = _decode(head, _Challenge)
            _verify(self._secret, "server", self._hello, challenge.nonce, challenge.mac)
            self._awaited = WELCOME
            return frame(PROOF, 0, 0, _encode(_Proof(_mac(self._secret, "client", self._hello, challenge.nonce))))
        welcome = _decode(head, _Welcome)
        _same("version", VERSION, welcome.version)
        _same("replica", self._hello.replica, welcome.replica)
        self.done = True
        return None


class ServerHandshake:
    """The listening side: a replica.

    Attributes:
        role: of the peer, "ingress" or "handle"; "" until done.
        board: name of the shared memory the peer offers; "" for none.
        done: the peer may use the link.
    """

    __slots__ = ("_awaited", "_hello", "_instance", "_nonce", "_replica", "_secret", "board", "done", "role")

    def __init__(self, instance: str, replica: str, secret: bytes | None = None) -> None:
        """Prepare for one connection.

        Args:
            instance: the instance's name.
            replica: this replica's id.
            secret: the instance's key, over TCP; None on a unix socket whose peer's user id was checked.

        Raises:
            ValueError: the secret is too short to be one.
        """
        self._secret = _checked(secret)
        self._instance = instance
        self._replica = replica
        self._nonce = _nonce(self._secret)
        self._hello: _Hello  # there once HELLO was taken
        self._awaited = HELLO
        self.role = ""
        self.board = ""
        self.done = False

    def start(self) -> bytes:
        """Return b"": the client speaks first."""
        return b""

    def feed(self, received: Frame) -> bytes | None:
        """Take the client's next frame; return the frame that answers it.

        Raises:
            Refused: the client means another replica, speaks another version, or cannot prove who it is.
        """
        head = _expect(received, self._awaited, self.done)
        if self._awaited == HELLO:
            self._hello = self._greeted(head)
            if not self._secret:
                return self._welcome()
            self._awaited = PROOF
            mac = _mac(self._secret, "server", self._hello, self._nonce)
            return frame(CHALLENGE, 0, 0, _encode(_Challenge(self._nonce, mac)))
        _verify(self._secret, "client", self._hello, self._nonce, _decode(head, _Proof).mac)
        return self._welcome()

    def _greeted(self, head: bytes) -> _Hello:
        hello = _decode(head, _Hello)
        _same("version", VERSION, hello.version)
        if hello.role not in ROLES:
            raise Refused("role", f"HELLO with role {hello.role!r}; known are {ROLES}")
        _same("instance", self._instance, hello.instance)
        _same("replica", self._replica, hello.replica)
        if len(hello.nonce) != len(self._nonce):
            raise Refused("garbled", f"HELLO with a nonce of {len(hello.nonce)} bytes, not {len(self._nonce)}")
        if hello.board and self._secret:
            raise Refused("garbled", "HELLO over TCP with a board; shared memory ends at the node")
        return hello

    def _welcome(self) -> bytes:
        self.role = self._hello.role
        self.board = self._hello.board
        self.done = True
        return frame(WELCOME, 0, 0, _encode(_Welcome(VERSION, self._replica)))


def _checked(secret: bytes | None) -> bytes:
    # Only None means "none needed": an unset key must not open a TCP link to whoever connects.
    if secret is not None and len(secret) < _SECRET_BYTES:
        raise ValueError(f"secret of {len(secret)} bytes; a link over TCP needs at least {_SECRET_BYTES}")
    return secret or b""


def _nonce(secret: bytes) -> bytes:
    return secrets.token_bytes(_NONCE_BYTES) if secret else b""


def _expect(received: Frame, awaited: int, done: bool) -> bytes:
    kind = received[0]
    if done or kind != awaited:
        want = "no frame of the handshake, it is done" if done else _NAMES[awaited]
        raise Refused("unexpected", f"handshake: expected {want}, got {_NAMES.get(kind, f'kind {kind}')}")
    return received[4]


def _decode(head: bytes, of: type[_Head]) -> _Head:
    try:
        return msgspec.msgpack.decode(head, type=of)
    except (ValueError, RecursionError) as error:  # not valid UTF-8, and too deep, are no msgspec errors
        raise Refused("garbled", f"{of.__name__[1:].upper()} that cannot be read: {error}") from None


def _same(what: str, mine: object, theirs: object) -> None:
    if mine != theirs:
        raise Refused(what, f"{what} does not match: here {mine!r}, the peer says {theirs!r}")


def _mac(secret: bytes, side: str, hello: _Hello, nonce: bytes) -> bytes:
    said = _encode((f"rayserve link, {side}", hello, nonce))  # msgpack: no two transcripts share their bytes
    return hmac.digest(secret, said, "sha256")


def _verify(secret: bytes, side: str, hello: _Hello, nonce: bytes, mac: bytes) -> None:
    if not hmac.compare_digest(_mac(secret, side, hello, nonce), mac):
        raise Refused("key", f"the {side} of the link does not hold the secret of instance {hello.instance!r}")
