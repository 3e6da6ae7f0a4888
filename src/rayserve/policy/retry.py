"""What becomes of a call whose attempt was lost: the retry table, one pure function, and the budget it asks.

    how far the attempt got + may it run twice + attempts so far + budget ──► Retry | Fail

    not written, or rejected                      again, within the deadline
    written, peer's bytes read to EOF, unseen     again: user code never saw it
    given up by us, or started                    again only if idempotent, within attempts and budget
    body streamed and credit granted              never
    answer begun                                  never; the client's connection is cut
    failed in user code                           never

The deadline is the caller's: a `Retry` is carried out only while time is left.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec

from rayserve.policy.window import SlidingCount

__all__ = ["IDEMPOTENT_METHODS", "MAX_ATTEMPTS", "Budget", "Fail", "Progress", "Retry", "after_loss", "is_idempotent"]

MAX_ATTEMPTS = 2

# RFC 9110 9.2.1 calls these safe. PUT and DELETE are idempotent too (9.2.2), but inference handlers seldom keep to
# that promise; an endpoint that does says retry="always", a client sends Idempotency-Key.
IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Progress(enum.Enum):
    """How far an attempt is known to have got when it was lost."""

    NOT_WRITTEN = "not written"
    """No byte of it left this process."""

    REJECTED = "rejected"
    """The replica refused it before starting: busy, draining, expired, unknown."""

    UNSEEN = "written, never started"
    """Written; the peer closed, and all it had sent was read to EOF without a STARTED for it."""

    GIVEN_UP = "written, link given up"
    """Written; we gave the link up (time-out, partition), so a STARTED may have been lost with it."""

    STARTED = "started"
    """The replica announced it, or part of it ran; no answer came."""

    STREAMED = "body streamed"
    """Part of its body was sent under granted credit and is no longer held here."""

    ANSWERING = "answer begun"
    """The client has seen the head of the answer."""

    FAILED = "failed in user code"
    """User code raised."""


class Retry(msgspec.Struct, frozen=True):
    """Send the call again to another pick.

    Attributes:
        charged: user code may have run already: this attempt counts, call `Budget.spend`.
    """

    charged: bool


class Fail(msgspec.Struct, frozen=True):
    """End the call.

    Attributes:
        reason: a word of `errors.REASONS`.
        cut: the answer has begun: close the client's connection, a status cannot be sent any more.
        detail: why it is not tried again, for the message.
    """

    reason: str
    cut: bool
    detail: str


_AGAIN: Final = Retry(charged=False)
_AGAIN_CHARGED: Final = Retry(charged=True)
_LOST: Final = "the replica was lost after it may have started this call"
_NOT_IDEMPOTENT: Final = Fail("replica_lost", False, f'{_LOST}, and the call may not run twice (see retry="always")')
_TRIED: Final = Fail("replica_lost", False, f"{_LOST}, and so was the one tried before it")
_NO_BUDGET: Final = Fail("replica_lost", False, f"{_LOST}, and too many calls are being retried already")
_BODY_GONE: Final = Fail("replica_lost", False, f"{_LOST}, and its body was streamed and cannot be sent again")
_CUT: Final = Fail("replica_lost", True, "the replica was lost while it was answering")
_FAILED: Final = Fail("user_exception", False, "the handler raised")


def after_loss(progress: Progress, idempotent: bool, attempts: int, budget_left: bool) -> Retry | Fail:
    """Return what to do with a call whose attempt ended without an answer.

    Args:
        progress: how far the attempt got.
        idempotent: `is_idempotent` of the call. An idempotent call is not announced by STARTED, so its absence proves
            nothing: `UNSEEN` is taken as `STARTED`. Otherwise a GET that kills its process would be sent round
            until no replica is left.
        attempts: attempts so far in which user code may have run, this one included; 1 after the first loss.
        budget_left: `Budget.left` of the backend.
    """
    match progress:
        case Progress.NOT_WRITTEN | Progress.REJECTED:
            return _AGAIN
        case Progress.UNSEEN if not idempotent:
            return _AGAIN
        case Progress.UNSEEN | Progress.GIVEN_UP | Progress.STARTED:
            if not idempotent:
                return _NOT_IDEMPOTENT
            if attempts >= MAX_ATTEMPTS:
                return _TRIED
            return _AGAIN_CHARGED if budget_left else _NO_BUDGET
        case Progress.STREAMED:
            return _BODY_GONE
        case Progress.ANSWERING:
            return _CUT
        case Progress.FAILED:
            return _FAILED


def is_idempotent(method: str, retry: str = "idempotent", has_idempotency_key: bool = False) -> bool:
    """Return whether a call may reach user code twice.

    Args:
        method: the HTTP method, upper-case; "" for a Python call.
        retry: `EndpointConfig.retry`: "idempotent", "always" or "never".
        has_idempotency_key: the client sent `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header).
    """
    if retry == "idempotent":
        return has_idempotency_key or method in IDEMPOTENT_METHODS
    return retry == "always"


class Budget:
    """How many charged retries a backend may cost now: a share of its recent calls.

    Without it a dying backend would get twice its load just when it can bear least (SRE book, "Addressing Cascading
    Failures"). The minimum lets a quiet backend retry at all.
    """

    __slots__ = ("_calls", "_minimum", "_share", "_spent")

    def __init__(self, share: float = 0.2, window_s: float = 10.0, minimum: int = 3) -> None:
        """Make a budget of `share` of the calls of the last `window_s` seconds, never below `minimum`."""
        self._share = share
        self._minimum = minimum
        self._calls = SlidingCount(window_s)
        self._spent = SlidingCount(window_s)

    def called(self, now: float, calls: int = 1) -> None:
        """Count `calls` new calls (not attempts) at time `now` in seconds."""
        self._calls.add(now, calls)

    def spend(self, now: float) -> None:
        """Count one charged retry at time `now`."""
        self._spent.add(now)

    def left(self, now: float) -> bool:
        """Return whether one more charged retry is within the budget."""
        return self._spent.total(now) + 1 <= max(self._minimum, self._share * self._calls.total(now))
