"""The replica's hard limit, its turns, its queue and its batches, without a socket."""

import time
from typing import Any, cast

from rayserve.model.table import BatchRule
from rayserve.replica.intake import Intake
from rayserve.replica.work import Work
from rayserve.wire.heads import BUSY, DRAINING, Invoke


class Peer:
    """A session that writes down what it is told."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.gone = False
        self.free_slots = 0
        self.now: list[bool] = []
        self.said: list[str] = []

    def free(self, now: bool = True) -> None:
        self.free_slots += 1
        self.now.append(now)

    def drop(self, work: Work) -> None:
        self.said.append("dropped")
        work.ended = True

    def expire(self, work: Work) -> None:
        self.said.append("expired")
        work.ended = True

    def admit(self) -> bytes:
        return self.intake.admit(cast(Any, self))

    def work(self, left_s: float = 60.0, body: bytes = b"") -> Work:
        return Work(cast(Any, self), 1, Invoke("e", "id", 0), time.monotonic() + left_s, None, body)


def intake(limit: int = 2, **rule: Any) -> Intake:
    return Intake(limit, BatchRule(**rule))


def test_no_more_than_the_limit_is_admitted() -> None:
    slots = intake(limit=2)
    peer = Peer(slots)

    assert [peer.admit() for _ in range(3)] == [b"", b"", BUSY]
    slots.release()
    assert slots.admitted == 1


def test_one_offer_per_free_slot_in_turn() -> None:
    slots = intake(limit=2)
    user, first, second = Peer(slots), Peer(slots), Peer(slots)
    user.admit(), user.admit(), first.admit(), second.admit()

    slots.release()
    assert (first.free_slots, second.free_slots) == (1, 0)
    slots.release()
    assert (first.free_slots, second.free_slots) == (1, 1)
    assert first.admit() == second.admit() == b""
    slots.release()
    slots.release()
    assert (first.free_slots, second.free_slots) == (2, 2), "they stay in the rotation until they decline"


def test_an_offer_that_is_declined_goes_to_the_next() -> None:
    slots = intake(limit=1)
    user, first, second = Peer(slots), Peer(slots), Peer(slots)
    user.admit(), first.admit(), second.admit()
    slots.release()
    assert (first.free_slots, second.free_slots) == (1, 0)
    slots.leave(cast(Any, first))

    assert second.free_slots == 1
    slots.leave(cast(Any, second))
    assert not slots.crowded


def test_the_offer_of_a_lost_link_goes_to_the_next() -> None:
    slots = intake(limit=1)
    user, first, second = Peer(slots), Peer(slots), Peer(slots)
    user.admit(), first.admit(), second.admit()
    slots.release()
    first.gone = True
    slots.leave(cast(Any, first))

    assert second.free_slots == 1
    assert not slots.enlist(cast(Any, first)), "it never comes back"


def test_whose_slot_was_taken_is_the_next() -> None:
    slots = intake(limit=1)
    user, first, second = Peer(slots), Peer(slots), Peer(slots)
    user.admit(), first.admit(), second.admit()
    slots.release()
    assert user.admit() == b"", "an offer reserves nothing"
    assert first.admit() == BUSY
    slots.release()

    assert (first.free_slots, second.free_slots) == (2, 0)


def test_a_router_that_ends_a_call_takes_turns_with_those_that_wait() -> None:
    slots = intake(limit=1)
    user, other = Peer(slots), Peer(slots)
    user.admit()
    assert not slots.enlist(cast(Any, user)), "nobody waits"
    other.admit()

    assert slots.enlist(cast(Any, user))
    slots.release(cast(Any, user))
    assert (user.free_slots, other.free_slots) == (0, 1)


def test_an_offer_to_the_router_whose_call_ends_leaves_with_the_answer() -> None:
    slots = intake(limit=1)
    user = Peer(slots)
    user.admit(), user.admit()
    slots.release(cast(Any, user))

    assert user.now == [False]


def test_a_raised_limit_is_offered() -> None:
    slots = intake(limit=1)
    user, other = Peer(slots), Peer(slots)
    user.admit(), other.admit()
    slots.resize(3, BatchRule())

    assert other.free_slots == 2


def test_a_router_that_does_not_react_keeps_its_share_of_the_slots_and_no_more() -> None:
    slots = intake(limit=4)
    user, stuck, other = Peer(slots), Peer(slots), Peer(slots)
    for _ in range(4):
        user.admit()
    stuck.admit(), other.admit()
    for _ in range(3):
        slots.release()

    assert (stuck.free_slots, other.free_slots) == (2, 1)
    other.admit()
    slots.release()
    assert (stuck.free_slots, other.free_slots) == (2, 2)


def test_a_router_that_does_not_react_keeps_the_last_slot_for_a_moment_only() -> None:
    slots = intake(limit=1)
    waits: list[Any] = []
    slots.later = lambda delay_s, function: waits.append(function)
    user, stuck, other = Peer(slots), Peer(slots), Peer(slots)
    user.admit(), stuck.admit(), other.admit()
    slots.release()
    assert (stuck.free_slots, other.free_slots) == (1, 0)
    waits.pop()()
    assert other.free_slots == 0, "slots moved since this look was asked for"
    waits.pop()()
    assert other.free_slots == 1
    slots.leave(cast(Any, stuck))
    slots.leave(cast(Any, other))
    waits.pop()()
    assert waits == [], "nobody waits, nothing is looked at"


def test_draining_refuses_and_ends_with_the_last_call() -> None:
    slots = intake(limit=2)
    over: list[bool] = []
    slots.drained = lambda: over.append(True)
    peer = Peer(slots)
    peer.admit()
    slots.drain()
    assert peer.admit() == DRAINING
    assert over == []
    slots.release()
    assert over == [True]


def test_draining_an_idle_replica_ends_at_once() -> None:
    slots = intake()
    over: list[bool] = []
    slots.drained = lambda: over.append(True)
    slots.drain()
    assert over == [True]


def test_what_is_cancelled_or_late_never_reaches_user_code() -> None:
    slots = intake(limit=8)
    peer = Peer(slots)
    cancelled, late, good = peer.work(), peer.work(left_s=-1.0), peer.work()
    cancelled.cancelled = True
    for work in (cancelled, late, good):
        slots.ready(work)

    assert slots.take() is good
    assert slots.take() is None
    assert peer.said == ["dropped", "expired"]


def test_a_queued_call_can_be_withdrawn_once() -> None:
    slots = intake(limit=8)
    peer = Peer(slots)
    first, second = peer.work(), peer.work()
    slots.ready(first)
    slots.ready(second)

    assert slots.withdraw(first)
    assert not slots.withdraw(first)
    assert slots.take() is second
    assert not slots.withdraw(second), "user code has it"


def test_gathering_keeps_the_order_of_what_does_not_fit() -> None:
    slots = intake(limit=8, max_size=3)
    peer = Peer(slots)
    works = [peer.work(body=body) for body in (b"a", b"b", b"a", b"b", b"a", b"a")]
    for work in works:
        slots.ready(work)
    first = slots.take()
    assert first is works[0]
    batch = [works[0]]
    slots.gather(batch, lambda work: work.body == b"a")

    assert batch == [works[0], works[2], works[4]]
    assert list(slots.queue) == [works[1], works[3], works[5]]


def test_batches_are_counted_by_size_and_reason() -> None:
    slots = intake()
    for size, why in ((3, "full"), (3, "idle"), (1, "idle")):
        slots.count(size, why)

    assert slots.sizes == {3: 2, 1: 1}
    assert slots.released == {"full": 1, "idle": 2}
