"""Who is at the other end of a unix socket, by the kernel's word."""

from __future__ import annotations

import socket
import struct
import sys
from typing import Protocol

__all__ = ["peer_uid"]

# From macOS <sys/un.h>; Python's socket module does not name them.
_SOL_LOCAL = 0
_LOCAL_PEERCRED = 1


class _HasOptions(Protocol):
    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


def peer_uid(sock: _HasOptions) -> int:
    """Return the user id of the process that connected, or listens, at the other end.

    Raises:
        OSError: the socket is not connected.
    """
    if sys.platform == "darwin":
        # struct xucred: u_int version, uid_t uid, short ngroups, gid_t groups[16]
        credentials = sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, 76)
        return int(struct.unpack_from("=II", credentials)[1])
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])
