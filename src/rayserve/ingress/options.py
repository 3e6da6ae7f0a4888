"""`HTTPOptions` as the ingress process receives them: plain values, no pydantic in that process."""

from __future__ import annotations

import msgspec

__all__ = ["IngressOptions", "IngressSettings"]


class IngressOptions(msgspec.Struct, frozen=True):
    """See `rayserve.HTTPOptions` for meaning and units."""

    num_ingress: int = 1
    max_connections: int = 10_000
    max_buffered_bytes: int = 2**30
    max_request_line: int = 8 * 1024
    max_header_bytes: int = 64 * 1024
    max_headers: int = 100
    head_timeout_s: float = 15.0
    min_body_rate: float = 1024.0
    keep_alive_s: float = 75.0
    admin_port: int = 0
    access_log: bool = False
    trusted_proxies: tuple[str, ...] = ()


class IngressSettings(msgspec.Struct, frozen=True):
    """The first line on an ingress's stdin.

    Attributes:
        fd: the listening socket, inherited.
        index: number of this ingress on its node.
        instance: name of the instance.
        run_dir: its run directory on this node.
        node: Ray's id of the node.
        process: name under which it subscribes.
        options: see above.
    """

    fd: int
    index: int
    instance: str
    run_dir: str
    node: str
    process: str
    options: IngressOptions = IngressOptions()
