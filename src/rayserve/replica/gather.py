"""Batches of sync and async code alike: what a call is in one, which calls share one, and why one was released.

    prepared(work) ─► item and key ─► gathered: one thread, waits as the rule says ─► released(batch, why) ─► user code

What cannot be prepared (a user key that raises, arguments that cannot be read) fails alone, before any batch has it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from rayserve.errors import BadRequestError
from rayserve.replica.handler import Target
from rayserve.replica.intake import Intake
from rayserve.replica.work import Work
from rayserve.request import Request
from rayserve.wire import values
from rayserve.wire.heads import Open

__all__ = ["Batches", "alike", "halfway"]


class Batches:
    """Gathers the batches of one replica."""

    def __init__(
        self, intake: Intake, wait: Callable[[float], None], failed: Callable[[Work, BaseException], None]
    ) -> None:
        """Gather from `intake`.

        Args:
            intake: the queue, the rule and the counts.
            wait: reads on for at most so many seconds, so that a batch can fill.
            failed: ends a call with an exception.
        """
        self._intake = intake
        self._wait = wait
        self._failed = failed

    def prepared(self, work: Work, target: Target) -> bool:
        """Work out what `work` is in a batch and what it shares with others; False if that failed and ended it."""
        if work.key is not None:
            return True
        head = work.head
        try:
            if isinstance(head, Open):
                work.item = Request(head, work.read())
            else:
                args, kwargs = values.unpack(head.sizes, work.buffer(len(head.sizes)))
                if kwargs or len(args) != 1:
                    raise BadRequestError("a batch handler takes exactly one positional argument per call")
                work.item = args[0]
            mark = target.batch
            value = mark.key(work.item) if mark is not None and mark.key is not None else None
            key = (isinstance(head, Open), target.traits.name, value)
            hash(key)
            work.key = key
        except BaseException as error:
            self._failed(work, error)
            return False
        return True

    def gathered(self, first: Work, target: Target) -> list[Work]:
        """Return the batch that `first` heads; waits for more only if `batch_wait_timeout` says so."""
        if not self.prepared(first, target):
            return []
        intake, rule = self._intake, self._intake.rule
        batch = [first]

        def fits(work: Work) -> bool:
            return self.prepared(work, target) and alike(work.key, first.key)

        others = intake.gather(batch, fits)
        if not others and len(batch) < rule.max_size:
            self._wait(0.0)  # what came while user code ran may be unread: without it half-full batches would alternate
            others = intake.gather(batch, fits)
        why = "idle"
        now = time.monotonic()
        until = now + rule.wait_s
        urgent = math.inf
        known: set[Work] = set()
        while True:
            # Looked at after gathering: a call is read after the CANCEL that came before it.
            batch = [work for work in batch if work.may_run(now)]
            if not batch or not rule.wait_s or len(batch) >= rule.max_size or (known and others):
                break  # another kind of call is not held up for long
            urgent = min([urgent, *(halfway(work, now) for work in batch if work not in known)])
            left_s = min(until, urgent) - now
            if left_s <= 0:
                why = "timeout" if until <= urgent else "deadline"
                break
            known = set(batch)
            self._wait(left_s)
            others = intake.gather(batch, fits)
            now = time.monotonic()
        return self.released(batch, "full" if len(batch) >= rule.max_size else why)

    def released(self, batch: list[Work], why: str) -> list[Work]:
        """Return those of a batch that still may run, and count it."""
        now = time.monotonic()
        batch = [work for work in batch if work.may_run(now)]
        if batch:
            self._intake.count(len(batch), why)
        return batch


def alike(one: object, other: object) -> bool:
    """Return whether two keys are equal; what cannot be compared to another is not."""
    try:
        return bool(one == other)
    except Exception:  # a user's own comparison, between the calls of two users
        return False


def halfway(work: Work, now: float) -> float:
    """Return until when `work` may wait for its batch to fill: half of the time it has left is for user code."""
    return (now + work.deadline) / 2
