"""Routes: from an endpoint's name to the tag of a backend, and the calls that wait for there to be one.

table ─► apply ─► targets[name].only | .choose(key, draw)          no traffic yet ─► park(call) ─► unpark()
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from rayserve.model.table import Endpoint, changed
from rayserve.policy.split import Splitter
from rayserve.router.call import PARKED, Call

__all__ = ["MAX_PARKED", "Routes", "Target"]

MAX_PARKED: Final = 1000  # calls that may wait for an endpoint to get traffic, per endpoint


class Target:
    """An endpoint, ready for the hot path.

    Attributes:
        endpoint: as the table has it.
        only: the one backend of its traffic; "" if there are several or none.
        shadows: backends that get copies, and the share of calls copied.
    """

    __slots__ = ("_splitter", "endpoint", "only", "shadows")

    def __init__(self, endpoint: Endpoint) -> None:
        """Make ready for many draws."""
        self.endpoint = endpoint
        weights = endpoint.traffic.weights if endpoint.traffic is not None else {}
        self._splitter = Splitter(weights) if weights else None
        self.only = next(iter(weights)) if len(weights) == 1 else ""
        self.shadows = tuple(endpoint.traffic.shadows.items()) if endpoint.traffic is not None else ()

    def choose(self, key: str | None, draw: Callable[[], float]) -> str:
        """Return the tag of the backend for one call; "" without traffic.

        Args:
            key: same key, same backend; None: by weight.
            draw: uniform in [0, 1).
        """
        if self._splitter is None:
            return ""
        return self._splitter.choose(draw()) if key is None else self._splitter.choose_by_key(key)


class Routes:
    """All endpoints of the table in force.

    Attributes:
        targets: by the endpoint's name.
        parked: name → calls that wait for traffic (or for a table), first come first served.
    """

    __slots__ = ("_endpoints", "parked", "targets")

    def __init__(self) -> None:
        """Start without a table."""
        self._endpoints: tuple[Endpoint, ...] = ()
        self.targets: dict[str, Target] = {}
        self.parked: dict[str, OrderedDict[Call, None]] = {}

    def apply(self, endpoints: tuple[Endpoint, ...]) -> None:
        """Take the endpoints of a new table; those that did not change stay ready."""
        pairs = changed(self._endpoints, endpoints)
        self._endpoints = endpoints
        if pairs is None:
            self.targets = {endpoint.name: Target(endpoint) for endpoint in endpoints}
        else:
            self.targets.update({new.name: Target(new) for _, new in pairs})

    def park(self, call: Call) -> bool:
        """Let `call` wait for traffic; False if too many do already."""
        parked = self.parked.setdefault(call.endpoint, OrderedDict())
        if len(parked) >= MAX_PARKED:
            return False
        call.state = PARKED
        parked[call] = None
        return True

    def unpark(self) -> list[Call]:
        """Return the calls whose endpoint has traffic now, or is gone."""
        calls: list[Call] = []
        for name in list(self.parked):
            target = self.targets.get(name)
            if target is None or target.choose(None, lambda: 0.0):
                calls += self.parked.pop(name)
        return calls

    def leave(self, call: Call) -> None:
        """Forget a parked call."""
        parked = self.parked.get(call.endpoint)
        if parked is not None:
            parked.pop(call, None)
            if not parked:
                del self.parked[call.endpoint]
