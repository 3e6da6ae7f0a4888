"""Turns: routers that share the slots of one replica when there are too few, and are offered them one by one.

    refused, or ended a call while others take turns ─► join ─► rotation ─► choose: FREE ─► took (its OPEN came)
                                                                                        └► leave (it declined)

Every free slot is on offer to somebody while the rotation is not empty. An offer reserves nothing: a router that never
waited may be quicker, once; with the end of that call it is in the rotation too.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rayserve.replica.session import Session

__all__ = ["Turns"]


class Turns:
    """The rotation and what is on offer; the intake's lock is held around every call.

    Attributes:
        rotation: links that take turns, the next one first.
        offers: link → slots it was told of and has neither taken nor declined.
    """

    __slots__ = ("offers", "rotation")

    def __init__(self) -> None:
        """Start without anybody."""
        self.rotation: OrderedDict[Session, None] = OrderedDict()
        self.offers: dict[Session, int] = {}

    def join(self, session: Session) -> bool:
        """Let a link take turns, as the last; False if it does already."""
        if session in self.rotation:
            return False
        self.rotation[session] = None
        return True

    def refused(self, session: Session) -> None:
        """Let a link that was refused take turns; if a slot was on offer to it, it is the next."""
        self.join(session)
        if self.took(session):
            self.rotation.move_to_end(session, last=False)

    def took(self, session: Session) -> bool:
        """Note that a link sent a call; return whether a slot was on offer to it."""
        offered = self.offers.get(session, 0)
        if offered > 1:
            self.offers[session] = offered - 1
        elif offered:
            del self.offers[session]
        return offered > 0

    def leave(self, session: Session) -> None:
        """Let a link that has nothing to send take no more turns."""
        self.rotation.pop(session, None)
        self.offers.pop(session, None)

    def choose(self, free: int, limit: int) -> list[Session]:
        """Offer what is free and not on offer; return the links to tell, one entry per slot.

        A link that does not react, because its process is stopped, keeps its share of the slots to itself, no more.

        Args:
            free: slots that nobody has.
            limit: slots in all.
        """
        rotation, offers = self.rotation, self.offers
        left = free - sum(offers.values())
        chosen: list[Session] = []
        passed = 0
        while left > 0 and passed < len(rotation):
            session = next(iter(rotation))
            rotation.move_to_end(session)
            offered = offers.get(session, 0)
            if offered * len(rotation) < limit:
                offers[session] = offered + 1
                chosen.append(session)
                left -= 1
                passed = 0
            else:
                passed += 1
        return chosen
