"""The router: from an endpoint's name to an answer. It lives on one loop and is called on its thread.

    submit(call) ─► endpoint ─► traffic split ─► pool ─► pick a channel ─► OPEN … answer ─► the call
                     parked          │            line (bounded, deadline)        └─ lost, rejected ─► again
                                     └── apply(table) swaps all of this between two events

It decides little itself: split, pick, retry and shed are pure functions of `policy`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Callable

from rayserve.model.facts import Row
from rayserve.model.table import Backend, Endpoint, RoutingTable
from rayserve.policy import shed
from rayserve.policy.pick import pick
from rayserve.policy.retry import Progress, Retry, after_loss
from rayserve.policy.split import Splitter
from rayserve.router.call import ANSWERING, DONE, FLYING, LINED, PARKED, Call
from rayserve.router.channel import Channel
from rayserve.router.connector import Connector
from rayserve.router.counts import Tally
from rayserve.router.deadlines import Deadlines
from rayserve.router.pool import Pool
from rayserve.wire import heads
from rayserve.wire.codec import END
from rayserve.wire.heads import Failure

__all__ = ["Router"]

_log = logging.getLogger(__name__)
_MAX_PARKED = 1000  # calls that may wait for an endpoint to get traffic, per endpoint
_READ = 256 * 1024


class _Target:
    """An endpoint, ready for the hot path."""

    __slots__ = ("endpoint", "only", "splitter")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        weights = endpoint.traffic.weights if endpoint.traffic is not None else {}
        self.splitter = Splitter(weights) if weights else None
        self.only = next(iter(weights)) if len(weights) == 1 else ""


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
        self._draw = draw
        self._targets: dict[str, _Target] = {}
        self._pools: dict[str, Pool] = {}
        self._parked: dict[str, OrderedDict[Call, None]] = {}
        self._tallies: dict[str, Tally] = {}  # of calls that never got a backend
        self._deadlines = Deadlines(loop, self._expired, clock)
        self._dirty: list[Channel] = []

    # -- the table ----------------------------------------------------------------------------------

    def apply(self, table: RoutingTable) -> None:
        """Make `table` the law; one that is not newer than the present is ignored."""
        old = self.table
        if old is not None and table.stamp <= old.stamp:
            return
        self.table = table
        known = {} if old is None else {id(target.endpoint): target for target in self._targets.values()}
        before = {name: target.endpoint for name, target in self._targets.items()}
        self._targets = {
            endpoint.name: known[id(before[endpoint.name])]
            if before.get(endpoint.name) == endpoint
            else _Target(endpoint)
            for endpoint in table.endpoints
        }
        rows = {row.tag: row for row in table.backends}
        orphans = [call for tag in self._pools.keys() - rows.keys() for call in self._drop_pool(tag)]
        for row in table.backends:
            self._apply_backend(row)
        for call in orphans:
            self._route(call)
        for name in list(self._parked):
            self._unpark(name)

    def _apply_backend(self, row: Backend) -> None:
        pool = self._pools.get(row.tag)
        if pool is None:
            pool = self._pools[row.tag] = Pool(row)
        pool.row = row
        listed = {replica.id: replica for replica in row.replicas}
        for gone in pool.channels.keys() - listed.keys():
            pool.channels.pop(gone).retire()
        for replica in row.replicas:
            channel = pool.channels.get(replica.id)
            if channel is None:
                channel = pool.channels[replica.id] = Channel(self, pool, replica, row.max_concurrent_queries)
                self.connector.connect(channel)
            else:
                channel.resize(row.max_concurrent_queries)
        pool.candidates = list(pool.channels.values())
        self.room(pool)

    def _drop_pool(self, tag: str) -> list[Call]:
        """Forget a deleted backend; return the calls that waited for it, to be routed anew."""
        pool = self._pools.pop(tag)
        for channel in pool.candidates:
            channel.retire()
        calls = list(pool.line)
        pool.line.clear()
        return calls

    def _unpark(self, name: str) -> None:
        target = self._targets.get(name)
        if target is not None and target.splitter is None:
            return
        for call in list(self._parked.pop(name)):
            self._route(call)

    # -- a call's way out ---------------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """Take a new call; it hears through `answered`, `data` and `failed`."""
        call.began = self.clock()
        if self.table is not None and self.table.closing:
            self._fail(call, "draining", f"instance {self.table.instance!r} is shutting down")
            return
        self._deadlines.add(call)
        self._route(call)

    def _route(self, call: Call) -> None:
        target = self._targets.get(call.endpoint)
        if target is None:
            if self.table is None or call.missing_ok:
                self._park(call)
            else:
                self._fail(call, "not_found", f"no endpoint {call.endpoint!r}; serve.list_endpoints() shows them all")
        elif target.only and call.shard_key is None:
            self._assign(call, target.only)
        elif target.splitter is None:
            self._park(call)
        elif call.shard_key is None:
            self._assign(call, target.splitter.choose(self._draw()))
        else:
            self._assign(call, target.splitter.choose_by_key(call.shard_key))

    def _park(self, call: Call) -> None:
        parked = self._parked.setdefault(call.endpoint, OrderedDict())
        if len(parked) >= _MAX_PARKED:
            self._fail(call, "no_traffic", f"endpoint {call.endpoint!r} has no traffic and {_MAX_PARKED} calls wait", 1)
            return
        call.state = PARKED
        parked[call] = None

    def _assign(self, call: Call, tag: str) -> None:
        pool = call.pool = self._pools[tag]
        call.tally = pool.tally(call.endpoint)
        pool.budget.called(call.began)
        if not pool.line:
            channel = pick(pool.candidates, self._draw())
            if channel is not None:
                self._send(call, channel)
                return
        self._wait(call, pool)

    def _wait(self, call: Call, pool: Pool) -> None:
        ahead, now = len(pool.line), self.clock()
        rate = pool.rate.per_second(now)
        refusal = shed.refuse(ahead, pool.row.max_queued, rate, call.deadline - now)
        if refusal is not None:
            detail = f"backend {pool.row.tag!r}: {refusal.why}"
            self._fail(call, "queue_full", detail, refusal.retry_after_s)
            return
        call.state = LINED
        pool.line[call] = None

    def _send(self, call: Call, channel: Channel) -> None:
        left_s = call.deadline - self.clock()
        if left_s <= 0:
            self._deadlines.remove(call)
            self._expired(call)
            return
        call.state = FLYING
        call.started = False
        assert call.tally is not None
        call.tally.assigned += 1
        channel.start(call, int(left_s * 1000) + 1)

    def room(self, pool: Pool) -> None:
        """Send calls of the line while some replica has room."""
        line = pool.line
        while line:
            channel = pick(pool.candidates, self._draw())
            if channel is None:
                return
            call, _ = line.popitem(last=False)
            self._send(call, channel)

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
        now = self.clock()
        assert call.tally is not None and call.pool is not None
        call.tally.answer(now - call.began)
        call.pool.rate.count(now, bool(call.pool.line))
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
        assert call.tally is not None and call.pool is not None
        call.pool.rate.count(self.clock(), bool(call.pool.line))
        call.tally.fail(failure.reason)
        call.failed(failure, body)

    def rejected(self, call: Call, why: bytes) -> None:
        """Route a call again that a replica refused before it started."""
        call.channel = None
        if why == heads.EXPIRED:
            self._deadlines.remove(call)
            self._expired(call)
            return
        if why not in (heads.BUSY, heads.DRAINING):
            tag = call.pool.row.tag if call.pool is not None else ""
            self._fail(call, "internal", f"a replica of backend {tag!r} refused the call: {why.decode('latin-1')}")
            return
        self._again(call)

    def channel_lost(self, channel: Channel, calls: list[Call], clean: bool) -> None:
        """Decide for each call on a lost link whether it may be sent again."""
        now = self.clock()
        for call in calls:
            call.channel = None
            if call.started or call.idempotent:  # an idempotent call is not announced, so it may have run
                call.attempts += 1
            verdict = after_loss(_progress(call, clean), call.idempotent, call.attempts, channel.pool.budget.left(now))
            if isinstance(verdict, Retry):
                if verdict.charged:
                    channel.pool.budget.spend(now)
                self._again(call)
            else:
                self._fail(call, verdict.reason, f"backend {channel.pool.row.tag!r}: {verdict.detail}")
        self.connector.lost(channel)
        if channel.pool.line:
            self.room(channel.pool)

    def _again(self, call: Call) -> None:
        """Put a call back to the head of its line: it was here first."""
        pool = call.pool
        assert pool is not None and call.tally is not None
        if call.upload is not None:
            call.upload.rewind()
        call.tally.retried += 1
        if self._pools.get(pool.row.tag) is not pool:
            self._route(call)
            return
        call.state = LINED
        pool.line[call] = None
        pool.line.move_to_end(call, last=False)
        self.loop.call_soon(self.room, pool)  # not now: the caller is in the middle of a batch of frames

    def abandon(self, call: Call) -> None:
        """Give up a call whose caller is gone; it hears nothing more."""
        self._deadlines.remove(call)
        self._leave(call)
        call.state = DONE

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
            parked = self._parked.get(call.endpoint)
            if parked is not None:
                parked.pop(call, None)
        elif call.state == LINED and call.pool is not None:
            call.pool.line.pop(call, None)
        elif call.channel is not None:
            call.channel.cancel(call)

    def _expired(self, call: Call) -> None:
        state, pool = call.state, call.pool
        self._leave(call)
        waited = f"{self.clock() - call.began:.3f} s"
        if state == PARKED:
            self._fail(call, "no_traffic", f"endpoint {call.endpoint!r} got no traffic within {waited}", 1)
        elif pool is not None and not pool.alive:
            self._fail(call, "no_replica", f"backend {pool.row.tag!r} had no living replica for {waited}", 1)
        else:
            self._fail(call, "deadline", f"no answer from endpoint {call.endpoint!r} within {waited}")

    def _fail(self, call: Call, reason: str, detail: str, retry_after_s: int = 0) -> None:
        self._deadlines.remove(call)
        call.state = DONE
        tally = call.tally
        if tally is None:
            tally = self._tallies.get(call.endpoint)
            if tally is None and call.endpoint in self._targets:  # unknown names never become labels
                tally = self._tallies[call.endpoint] = Tally(call.endpoint, "")
        if tally is not None:
            tally.fail(reason)
        call.failed(Failure(reason, detail), b"", retry_after_s)

    def endpoint(self, name: str) -> Endpoint | None:
        """Return the endpoint of that name, None if no table names it."""
        target = self._targets.get(name)
        return None if target is None else target.endpoint

    # -- for others ---------------------------------------------------------------------------------

    def rows(self) -> list[Row]:
        """Return all counts, and per backend what is in flight and waiting now."""
        rows = [tally.row() for tally in self._tallies.values()]
        for name, parked in self._parked.items():
            rows.append(Row(endpoint=name, backend="", waiting=len(parked)))
        for tag, pool in self._pools.items():
            rows.extend(tally.row() for tally in pool.tallies.values())
            flying = sum(len(channel.streams) for channel in pool.candidates)
            rows.append(Row(endpoint="", backend=tag, in_flight=flying, waiting=len(pool.line)))
        return rows

    def held(self) -> int:
        """Return how many slots and places in lines are taken now; 0 when nothing is under way."""
        flying = sum(len(channel.streams) for pool in self._pools.values() for channel in pool.candidates)
        lined = sum(len(pool.line) for pool in self._pools.values())
        return flying + lined + sum(len(parked) for parked in self._parked.values())

    def close(self) -> None:
        """Close every link; calls under way fail with `draining`."""
        for pool in self._pools.values():
            lined = list(pool.line)
            pool.line.clear()
            flying = []
            for channel in pool.candidates:
                flying += [call for call in channel.streams.values() if call.channel is channel]
                channel.close()
            for call in lined + flying:
                self._fail(call, "draining", "this process stopped serving")
        for parked in self._parked.values():
            for call in list(parked):
                self._fail(call, "draining", "this process stopped serving")
        self._pools.clear()
        self._parked.clear()
        self.connector.close()
        self._deadlines.close()


def _progress(call: Call, clean: bool) -> Progress:
    """Say how far a call had come when its link was lost."""
    if call.state == ANSWERING:
        return Progress.ANSWERING
    if call.upload is not None and call.upload.granted:
        return Progress.STREAMED
    if call.started:
        return Progress.STARTED
    return Progress.UNSEEN if clean else Progress.GIVEN_UP
