"""Who sent a request, when a proxy that we trust stands in front of us.

    X-Forwarded-For: a, b, c      from peer p:  p trusted ─► c trusted ─► b is not ─► b is the client
    X-Forwarded-Proto: https                    ─► the scheme in which that client spoke

From any other peer these headers are cargo: handlers may read them, nobody believes them. Each proxy appends the
address it was called from, so only what stands right of the first untrusted hop was written by somebody trusted.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

__all__ = ["Proxies"]

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# An address as proxies write it: bare, or IPv4 with a port, or IPv6 in brackets with or without one.
_HOP: Final = re.compile(r"([0-9.]+)(?::([0-9]{1,5}))?|\[([0-9A-Fa-f:.]+)\](?::([0-9]{1,5}))?|([0-9A-Fa-f:.]+)")
_MAX_HOP: Final = 64  # 47 characters are an IPv6 address and a port; what is longer is not worth a place in the cache
_SCHEMES: Final = frozenset(("http", "https"))


class Proxies:
    """The peers whose X-Forwarded-For and X-Forwarded-Proto are believed."""

    def __init__(self, trusted: Iterable[str]) -> None:
        """Trust these addresses and networks, as `HTTPOptions.trusted_proxies` has checked them."""
        self._networks = [ipaddress.ip_network(each) for each in trusted]

    def trust(self, host: str) -> bool:
        """Return whether the peer at the address `host` is one of them."""
        address = _address(host)
        return address is not None and self._trusts(address)

    def _trusts(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)

    def origin(self, headers: list[tuple[str, str]], peer: str) -> tuple[str, str]:
        """Return client ("host:port", port 0 if nobody said it) and scheme of a request from a trusted peer.

        Args:
            headers: all of the request's.
            peer: the trusted proxy itself, "host:port"; it is the client when nothing credible was forwarded.
        """
        client, depth = peer, 0
        for hop in reversed(_members(headers, "x-forwarded-for")):
            parsed = _hop(hop) if len(hop) <= _MAX_HOP else None
            if parsed is None:
                break  # "unknown", or an obfuscated name (RFC 7239 section 6): who called the last proxy is not told
            address, port = parsed
            client = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
            depth += 1
            if not self._trusts(address):
                break
        schemes = _members(headers, "x-forwarded-proto")
        # Written once by the outermost proxy, or by each in turn like the addresses.
        scheme = schemes[-min(max(depth, 1), len(schemes))].lower() if schemes else "http"
        return client, scheme if scheme in _SCHEMES else "http"


def _members(headers: list[tuple[str, str]], wanted: str) -> list[str]:
    """Return the members of a list header, of all fields of that name in turn (RFC 9110 section 5.6.1)."""
    values = [value for name, value in headers if name == wanted]
    return [member.strip() for value in values for member in value.split(",") if member.strip()]


@lru_cache(maxsize=1024)
def _hop(text: str) -> tuple[_Address, int] | None:
    match = _HOP.fullmatch(text)
    if match is None:
        return None
    address = _address(match[1] or match[3] or match[5])
    port = int(match[2] or match[4] or 0)
    return None if address is None or port > 65535 else (address, port)


def _address(text: str) -> _Address | None:
    """Return an address; an IPv4 one that a dual-stack socket shows as IPv6 becomes IPv4 again."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if mapped is not None else address
