"""Calls that come back unanswered: refused by a replica, or lost with their link. Sent again, or ended.

REJECT ─► rejected ─┬─► head of the line ─► another pick
link lost ─► lost ──┤      (policy's retry table decides, its budget is charged here)
                    └─► failed: deadline, replica_lost, internal
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rayserve.policy.retry import Budget, Fail, Progress, Retry, after_loss
from rayserve.router.call import ANSWERING, DONE, FLYING, Call
from rayserve.router.pins import names_replica
from rayserve.wire import heads

if TYPE_CHECKING:
    from rayserve.router.channel import Channel
    from rayserve.router.router import Router

__all__ = ["lost", "rejected"]

_UNTOUCHED: Final = Retry(charged=False)


def rejected(router: Router, call: Call, why: bytes) -> None:
    """Decide on a call that a replica refused before it started."""
    call.channel = None
    if why == heads.EXPIRED:
        router.expired(call)
    elif why not in (heads.BUSY, heads.DRAINING):
        tag = call.pool.row.tag if call.pool is not None else ""
        router.fail(call, "internal", f"a replica of backend {tag!r} refused the call: {why.decode('latin-1')}")
    elif _streamed(call):
        router.fail(call, "replica_lost", "a replica refused the call after it had taken part of its body")
    else:
        _again(router, call)


def lost(router: Router, channel: Channel, calls: list[Call], clean: bool) -> None:
    """Decide on the calls that flew on a link that is lost.

    Args:
        router: theirs.
        channel: the link was its.
        calls: those whose callers still wait; `started` is as well known as it can be.
        clean: all that the replica ever sent was read.
    """
    now, pool = router.clock(), channel.pool
    for call in calls:
        if call.state == DONE:  # ending the ones before it may have ended this
            continue
        call.channel = None
        verdict = _judged(call, clean, pool.budget, now)
        if isinstance(verdict, Retry):
            _again(router, call)
        else:
            router.fail(call, verdict.reason, f"backend {pool.row.tag!r}: {verdict.detail}")


def _judged(call: Call, clean: bool, budget: Budget, now: float) -> Retry | Fail:
    if clean and call.slot and call.state == FLYING and not call.started and not _streamed(call):
        return _UNTOUCHED  # the board says that user code never saw it, whatever its method
    if call.started or call.idempotent:  # over TCP an idempotent call is not announced, so it may have run
        call.attempts += 1
    if call.state == ANSWERING:
        progress = Progress.ANSWERING
    elif _streamed(call):
        progress = Progress.STREAMED
    elif call.started:
        progress = Progress.STARTED
    else:
        progress = Progress.UNSEEN if clean else Progress.GIVEN_UP
    verdict = after_loss(progress, call.idempotent, call.attempts, budget.left(now))
    if isinstance(verdict, Retry) and verdict.charged:
        budget.spend(now)
    return verdict


def _again(router: Router, call: Call) -> None:
    """Put a call back to the head of its line: it was here first."""
    pool = call.pool
    assert pool is not None and call.tally is not None
    if call.upload is not None:
        call.upload.rewind()
    call.tally.retried += 1
    if names_replica(call) or not router.knows(pool):
        router.route(call)
        return
    pool.put_back(call)
    router.loop.call_soon(pool.room)  # not now: the caller is in the middle of a batch of frames


def _streamed(call: Call) -> bool:
    """Whether part of the body is gone, so that the call cannot be sent again."""
    return call.upload is not None and call.upload.granted
