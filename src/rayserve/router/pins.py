"""Calls that say where they go: to a backend of their endpoint's traffic, or to one replica of it.

    call.pin ─► a backend's tag: in its line like any other call ─┬─► router.give
            └─► a replica's id: there at once, or not at all     ─┴─► router.send | fail

For looking at a new version, or at one replica, from outside; only where the endpoint's `allow_pin` is on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rayserve.router.call import Call
from rayserve.router.channel import Channel
from rayserve.router.routes import Target

if TYPE_CHECKING:
    from rayserve.router.router import Router

__all__ = ["names_replica", "route_pinned"]


def route_pinned(router: Router, call: Call, target: Target) -> None:
    """Send a call to where its pin says; a pin that cannot be followed ends it, so that no other answers instead."""
    pin, endpoint = call.pin, target.endpoint
    if not endpoint.options.allow_pin:
        detail = (
            f"endpoint {endpoint.name!r} lets no client choose its backend; set its allow_pin, or leave the pin out"
        )
        router.fail(call, "bad_request", detail)
        return
    traffic = endpoint.traffic
    tags = () if traffic is None else (*traffic.weights, *traffic.shadows)
    if pin in tags:
        router.give(call, pin)
        return
    for tag in tags:
        channel = router.channel(tag, pin or "")
        if channel is not None:
            _to_replica(router, call, channel)
            return
    choices = ", ".join(dict.fromkeys(tags)) or "none"
    detail = f"{pin!r} is no backend of endpoint {endpoint.name!r}, and no replica of one; backends: {choices}"
    router.fail(call, "not_found", detail)


def _to_replica(router: Router, call: Call, channel: Channel) -> None:
    """Send a call to this replica; lines are for backends, so it does not wait there."""
    router.count(call, channel.pool)
    if not channel.ready or channel.draining:
        router.fail(call, "no_replica", f"replica {channel.replica.id!r} cannot be reached now", 1)
    elif not channel.open or channel.in_flight >= channel.limit:
        router.fail(call, "queue_full", f"replica {channel.replica.id!r} is full", 1)
    else:
        router.send(call, channel)


def names_replica(call: Call) -> bool:
    """Return whether a call that was given to a backend may run on one replica of it only."""
    return call.pin is not None and call.pool is not None and call.pin != call.pool.row.tag
