"""The router: from an endpoint's name to an answer. It lives on one loop and is called on its thread.

    submit(call) ─► endpoint ─► traffic split ─► pool ─► pick a channel ─► OPEN … answer ─► the call
                     parked          │            line (bounded, deadline)        └─ lost, rejected ─► again
                                     └── apply(table) swaps all of this between two events

It decides little itself: split, pick, retry and shed are pure functions of `policy`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from rayserve.model.facts import Row
from rayserve.model.table import Endpoint, RoutingTable
from rayserve.policy.pick import pick
from rayserve.router import again
from rayserve.router.call import ANSWERING, DONE, FLYING, LINED, PARKED, Call
from rayserve.router.channel import Channel
from rayserve.router.connector import Connector
from rayserve.router.counts import Tally, rows
from rayserve.router.deadlines import Deadlines
from rayserve.router.pins import route_pinned
from rayserve.router.pool import Pool
from rayserve.router.routes import MAX_PARKED, Routes
from rayserve.router.shadow import Shadow
from rayserve.wire.codec import END
from rayserve.wire.heads import Failure

__all__ = ["Router"]

_READ = 256 * 1024


class Router:
    """All calls of one process."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        node: str,
        instance: str = "",
        role: str = "handle",
        secret: bytes = b"",
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Make a router without a table; calls wait until one comes.

        Args:
            loop: runs sockets and timers; every method is called on its thread.
            node: Ray's id of this node; replicas here are reached by unix socket.
            instance: name of the instance, said in the handshake.
            role: "ingress" or "handle"; only a handle may send Python calls.
            secret: key of the handshake between nodes.
            clock: seconds, monotonic, on the loop's scale.
            draw: uniform random numbers in [0, 1).
        """
        self.loop = loop
        self.clock = clock
        self.scratch = bytearray(_READ)
        self.table: RoutingTable | None = None
        self.connector = Connector(self, node, instance, role, secret)
        self.draw = draw
        self._routes = Routes()
        self._pools: dict[str, Pool] = {}
        self._linked: set[Channel] = set()  # all that have a link; the retired too, until their last call has ended
        self._tallies: dict[str, Tally] = {}  # of calls that never got a backend
        self._deadlines = Deadlines(loop, self.expired, clock)
        self._dirty: list[Channel] = []
        self._submitted = 0
        self._closed = False

    # -- the table ----------------------------------------------------------------------------------

    def apply(self, table: RoutingTable) -> None:
        """Make `table` the law; one that is not newer than the present is ignored."""
        if self._closed or (self.table is not None and table.stamp <= self.table.stamp):
            return
        self.table = table
        self._routes.apply(table.endpoints)
        gone = self._pools.keys() - {row.tag for row in table.backends}
        orphans = [call for tag in gone for call in self._pools.pop(tag).drop()]
        for row in table.backends:
            pool = self._pools.get(row.tag)
            if pool is None:
                pool = self._pools[row.tag] = Pool(self, row)
            pool.apply(row)
        for call in orphans + self._routes.unpark():
            self.route(call)

    # -- a call's way out ---------------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """Take a new call; it hears through `answered`, `data` and `failed`."""
        call.began = self.clock()
        call.order = self._submitted
        self._submitted += 1
        if self._closed:
            self.fail(call, "draining", "this process stopped serving")
            return
        if self.table is not None and self.table.closing and not call.nested:
            self.fail(call, "draining", f"instance {self.table.instance!r} is shutting down")
            return
        self._deadlines.add(call)
        target = self._routes.targets.get(call.endpoint)
        if target is not None and target.shadows:
            self._copy(call, target.shadows)
        self.route(call)

    def _copy(self, call: Call, shadows: tuple[tuple[str, float], ...]) -> None:
        """Send copies of a call to the shadows of its endpoint, each by a draw of its own."""
        if call.upload is not None and not call.upload.ended:
            return  # its body is still arriving, and goes to one backend only
        for tag, share in shadows:
            if tag in self._pools and self.draw() < share:
                shadow = Shadow(self, call, max(1, int((call.deadline - self.clock()) * 1000)))
                shadow.began = call.began
                self._deadlines.add(shadow)
                self.give(shadow, tag)

    def route(self, call: Call) -> None:
        """Give a call to the backend that the traffic of its endpoint says, or let it wait for traffic."""
        target = self._routes.targets.get(call.endpoint)
        if target is None:
            if self.table is None or call.missing_ok:
                self._park(call)
            else:
                self.fail(call, "not_found", f"no endpoint {call.endpoint!r}; serve.list_endpoints() shows them all")
            return
        if call.pin is not None:
            route_pinned(self, call, target)
            return
        tag = target.only or target.choose(call.shard_key, self.draw)
        if not tag:
            self._park(call)
            return
        self.give(call, tag)

    def count(self, call: Call, pool: Pool) -> None:
        """Count a call as one of that backend from here on."""
        call.pool = pool
        call.tally = pool.tally(call.endpoint)
        pool.budget.called(call.began)

    def give(self, call: Call, tag: str) -> None:
        """Send a call to a replica of a backend, or let it wait for one."""
        pool = self._pools[tag]
        self.count(call, pool)
        if not pool.line:
            channel = pick(pool.candidates, self.draw())
            if channel is not None:
                self.send(call, channel)
                return
        refusal = pool.join(call)
        if refusal is not None:
            self.fail(call, "queue_full", f"backend {tag!r}: {refusal.why}", refusal.retry_after_s)

    def _park(self, call: Call) -> None:
        if not self._routes.park(call):
            self.fail(call, "no_traffic", f"endpoint {call.endpoint!r} has no traffic and {MAX_PARKED} calls wait", 1)

    def send(self, call: Call, channel: Channel) -> bool:
        """Send `call` to a channel that is open; False if the call ended instead."""
        left_s = call.deadline - self.clock()
        if left_s <= 0:
            self.expired(call)
            return False
        call.state = FLYING
        call.started = False
        try:
            channel.start(call, int(left_s * 1000) + 1)
        except ValueError as error:
            self.fail(call, "too_large", f"the call to endpoint {call.endpoint!r} cannot be sent: {error}")
            return False
        assert call.tally is not None
        call.tally.assigned += 1
        return True

    def flush_later(self, channel: Channel) -> None:
        """Send what waits on `channel` once this turn of the loop is over."""
        dirty = self._dirty
        if not dirty:
            self.loop.call_soon(self._flush)
            dirty.append(channel)
        elif channel not in dirty:
            dirty.append(channel)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for channel in dirty:
            channel.flush()

    # -- and back -----------------------------------------------------------------------------------

    def answered(self, call: Call, flags: int, head: bytes, body: bytes | memoryview) -> None:
        """Hand the head of an answer to its call."""
        self._deadlines.remove(call)
        assert call.tally is not None
        call.tally.answer(self.clock() - call.began)
        if flags & END:
            call.state = DONE
            call.channel = None
        else:
            call.state = ANSWERING
        call.answered(flags, head, body)

    def data(self, call: Call, piece: bytes | memoryview, end: bool) -> None:
        """Hand a piece of an answer's body to its call."""
        if end:
            call.state = DONE
            call.channel = None
        call.data(piece, end)

    def failed_there(self, call: Call, failure: Failure, body: bytes | memoryview) -> None:
        """Hand on a failure that the replica reported."""
        self._deadlines.remove(call)
        call.state = DONE
        call.channel = None
        assert call.tally is not None
        call.tally.fail(failure.reason)
        call.failed(failure, body)

    def broken(self, call: Call, why: str) -> None:
        """End a call whose frames made no sense, or whose owner could not take them; its slot waits for the last."""
        if call.state != DONE:
            self._leave(call)
        self.fail(call, "internal", f"the call to endpoint {call.endpoint!r} failed: {why}")

    def rejected(self, call: Call, why: bytes) -> None:
        """Hear that a replica refused a call before it started."""
        again.rejected(self, call, why)

    def channel_lost(self, channel: Channel, calls: list[Call], clean: bool) -> None:
        """Hear that a link was lost with calls on it; see `again.lost`."""
        again.lost(self, channel, calls, clean)
        self.connector.lost(channel)
        channel.pool.room()

    def abandon(self, call: Call) -> None:
        """Give up a call whose caller is gone, and count it as given up; it hears nothing more."""
        tally = call.tally or self._unplaced(call.endpoint)
        if tally is not None:
            if call.state < ANSWERING:
                tally.fail("cancelled")
            elif call.state == ANSWERING:
                tally.left += 1
        self.drop(call)

    def drop(self, call: Call) -> None:
        """Let go of a call of which nobody needs more; it hears nothing more."""
        self._deadlines.remove(call)
        self._leave(call)
        call.state = DONE

    def hand_over(self, call: Call, heir: Call) -> None:
        """Let `heir` hear the rest of an answer that has begun, in the place of `call`."""
        channel = call.channel
        assert channel is not None and call.state == ANSWERING
        heir.pool, heir.channel, heir.stream, heir.slot = call.pool, channel, call.stream, call.slot
        heir.began, heir.order, heir.tally, heir.started = call.began, call.order, call.tally, call.started
        heir.state, call.state, call.channel = ANSWERING, DONE, None
        channel.streams[call.stream] = heir

    def grant(self, call: Call, size: int) -> None:
        """Say that the caller consumed `size` bytes of the answer's body."""
        if call.channel is not None:
            call.channel.grant(call, size)

    def pump(self, call: Call) -> None:
        """Send on what the caller pushed into `call.upload`."""
        if call.state in (FLYING, ANSWERING) and call.channel is not None:
            call.channel.pump(call)

    def _leave(self, call: Call) -> None:
        if call.state == PARKED:
            self._routes.leave(call)
        elif call.state == LINED and call.pool is not None:
            call.pool.line.pop(call, None)
        elif call.channel is not None:
            call.channel.cancel(call)

    def expired(self, call: Call) -> None:
        """End a call whose time is up."""
        state, pool = call.state, call.pool
        self._leave(call)
        waited = f"{self.clock() - call.began:.3f} s"
        if state == PARKED:
            self.fail(call, "no_traffic", f"endpoint {call.endpoint!r} got no traffic within {waited}", 1)
        elif state == LINED and pool is not None and not pool.alive:
            self.fail(call, "no_replica", f"backend {pool.row.tag!r} had no living replica for {waited}", 1)
        else:
            self.fail(call, "deadline", f"no answer from endpoint {call.endpoint!r} within {waited}")

    def fail(self, call: Call, reason: str, detail: str, retry_after_s: int = 0) -> None:
        """End a call with an error of ours."""
        self._deadlines.remove(call)
        call.state = DONE
        tally = call.tally or self._unplaced(call.endpoint)
        if tally is not None:
            tally.fail(reason)
        call.failed(Failure(reason, detail), b"", retry_after_s)

    def refused(self, endpoint: str, reason: str) -> None:
        """Count a request that was refused before it became a call; `endpoint` is "" where none is known."""
        tally = self._unplaced(endpoint)
        if tally is not None:
            tally.fail(reason)

    def _unplaced(self, endpoint: str) -> Tally | None:
        """Return the counters of calls that never got a backend; None for a name that no table has."""
        tally = self._tallies.get(endpoint)
        if tally is None and (not endpoint or endpoint in self._routes.targets):  # unknown names never become labels
            tally = self._tallies[endpoint] = Tally(endpoint, "")
        return tally

    def knows(self, pool: Pool) -> bool:
        """Return whether the table in force still has the pool's backend."""
        return self._pools.get(pool.row.tag) is pool

    def channel(self, tag: str, replica: str) -> Channel | None:
        """Return the channel to a replica of a backend, None if the table in force has no such one."""
        pool = self._pools.get(tag)
        return None if pool is None else pool.channels.get(replica)

    def endpoint(self, name: str) -> Endpoint | None:
        """Return the endpoint of that name, None if no table names it."""
        target = self._routes.targets.get(name)
        return None if target is None else target.endpoint

    # -- for others ---------------------------------------------------------------------------------

    def linked(self, channel: Channel) -> None:
        """Hear that a channel has a link."""
        self._linked.add(channel)

    def unlinked(self, channel: Channel) -> None:
        """Hear that a channel has none any more."""
        self._linked.discard(channel)

    def rows(self) -> list[Row]:
        """Return all counts, and per backend what is in flight and waiting now."""
        return rows(self._tallies.values(), self._routes.parked, self._pools.values(), self._linked)

    def held(self) -> int:
        """Return how many slots and places in lines are taken now; 0 when nothing is under way."""
        flying = sum(len(channel.streams) for channel in self._linked)
        lined = sum(len(pool.line) for pool in self._pools.values())
        return flying + lined + sum(len(parked) for parked in self._routes.parked.values())

    def close(self) -> None:
        """Close every link; calls under way fail with `draining`, and so do later ones."""
        self._closed = True
        calls = [call for parked in self._routes.parked.values() for call in parked]
        calls += [call for pool in self._pools.values() for call in pool.line]
        for channel in list(self._linked):
            calls += [call for call in channel.streams.values() if call.channel is channel]
            channel.close()
        self._routes = Routes()
        self._pools.clear()
        self.connector.close()
        self._deadlines.close()
        for call in calls:
            call.channel = None
            self.fail(call, "draining", "this process stopped serving")
