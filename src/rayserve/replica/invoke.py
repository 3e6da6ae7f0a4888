"""Runs user code for one call or one batch.

    Work ─► target, arguments, context ─► user code ─► value | exception ─► Replies

Used by the threads that run sync code and by the loop that runs `async def`; only the call itself differs.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from typing import Any, Protocol

import flask

from rayserve.batching import split_results
from rayserve.context import batch_state, enter, leave
from rayserve.errors import BadRequestError, CallError, HTTPError
from rayserve.replica.batch_stream import BatchStream, send_lists
from rayserve.replica.gather import Batches
from rayserve.replica.handler import Handler, Target
from rayserve.replica.inflow import Inflow, Stream
from rayserve.replica.intake import Intake
from rayserve.replica.outflow import Outflow
from rayserve.replica.replies import Pickler, Replies
from rayserve.replica.work import Running, Work
from rayserve.replica.wsgi import call_wsgi
from rayserve.request import Request
from rayserve.wire import values
from rayserve.wire.heads import Invoke, Open

__all__ = ["Executor", "Invoker"]


class Executor(Protocol):
    """Where user code runs: `MainThread`, `ThreadPool` or `Tasks`."""

    def enter(self, works: list[Work]) -> None:
        """Send what must leave before user code is entered."""

    def wait(self, timeout_s: float) -> None:
        """Read on for a while, so that a batch can fill."""

    def until_clear(self, outflow: Outflow) -> None:
        """Hold the thread of user code until a stream may go on."""

    def until_ready(self, inflow: Inflow) -> None:
        """Hold the thread of user code until more of a body is there."""


class Invoker:
    """Turns calls into user code and its results into frames.

    Attributes:
        batches: gathers them.
        replies: sends what came of them.
    """

    def __init__(
        self, handler: Handler, intake: Intake, executor: Executor, backend: str, replica: str, by_value: Pickler
    ) -> None:
        """Make ready to run `handler`.

        Args:
            handler: the loaded user code.
            intake: for batches.
            executor: what runs us.
            backend: the backend's tag, for `serve.context`.
            replica: the replica's id, likewise.
            by_value: pickler for results that plain pickle cannot carry.
        """
        self._handler = handler
        self.replies = Replies(executor, replica, by_value)
        self.batches = Batches(intake, executor.wait, self.replies.failed)
        self._executor = executor
        self._backend = backend
        self._replica = replica
        self._app = flask.Flask("rayserve.backend", static_folder=None)
        self._pushed: list[AbstractContextManager[Any]] = []

    def enter_thread(self) -> None:
        """Give the thread (or the loop) that runs user code the bare app context `flask.jsonify` asks for."""
        context = self._app.app_context()
        context.push()
        self._pushed.append(context)

    # -- sync code ------------------------------------------------------------------------------------

    def run(self, work: Work) -> None:
        """Run one call, or the batch it heads, on this thread."""
        if self._handler.app is not None:
            self._run_wsgi(work)
            return
        target = self.target(work)
        if target is None:
            return
        if target.batch is not None:
            self.run_batch(self.batches.gathered(work, target), target)
            return
        token = enter(self.state(work))
        try:
            self._executor.enter([work])
            args, kwargs = self.arguments(work, target)
            result = target.func(*args, **kwargs)
            if target.traits.is_async:  # an inherited method, in a class whose own are all sync
                result = asyncio.run(result)
            self.replies.reply(work, result)
        except BaseException as error:
            self.replies.failed(work, error)
        finally:
            leave(token)

    def _run_wsgi(self, work: Work) -> None:
        head = work.head
        if not isinstance(head, Open):
            self.replies.failed(
                work,
                BadRequestError(f"backend {self._backend!r} is a web app; call it by HTTP, or with handle.request(…)"),
            )
            return
        token = enter(self.state(work))
        try:
            self._executor.enter([work])
            self.replies.answer(work, call_wsgi(self._handler.callable, head, bytes(work.body), work.inflow))
        except BaseException as error:
            self.replies.failed(work, error)
        finally:
            leave(token)

    def run_batch(self, batch: list[Work], target: Target) -> None:
        """Run user code for a batch that was gathered, on this thread."""
        if not batch:
            return
        state = self.batch_state(batch)
        token = enter(state)
        stream = BatchStream(batch, self.replies)

        def given_up() -> None:
            if stream.over:
                state.cancel_nested()

        for work in batch:
            work.on_cancel = given_up
        try:
            self._executor.enter(batch)
            result = target.func(*self.batch_arguments(batch, target))
            if target.traits.streams:
                send_lists(stream, result, self._executor)
            else:
                self.reply_batch(batch, result)
        except BaseException as error:
            stream.fail(error)
        finally:
            leave(token)

    # -- shared with async code -----------------------------------------------------------------------

    def target(self, work: Work) -> Target | None:
        """Return what `work` calls; None if there is no such method, and the caller has been told."""
        head = work.head
        try:
            return self._handler.resolve(head.call_method, (head.call_method,) if head.listed else None)
        except BaseException as error:  # not only of ours: looking a method up may run user code
            self.replies.failed(work, error)
            return None

    def state(self, work: Work) -> Running:
        """Return what `serve.context` shows during `work`."""
        head = work.head
        state = Running(
            isinstance(head, Open), head.request_id, head.endpoint, self._backend, self._replica, work.deadline,
            head.traceparent or None, head.depth,
        )  # fmt: skip
        work.show(state)
        return state

    def batch_state(self, batch: list[Work]) -> Running:
        """Return what `serve.context` shows during a batch."""
        return batch_state([self.state(work) for work in batch], Running)

    def arguments(self, work: Work, target: Target) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return what to call the target with."""
        head = work.head
        if isinstance(head, Invoke):
            args, kwargs = values.unpack(head.sizes, work.buffer(len(head.sizes)))
            return (args, kwargs) if target.typed is None else target.typed.from_call(args, kwargs)
        if target.typed is not None:
            return target.typed.from_request(head.params, head.query, head.headers, work.read())
        if not target.traits.wants_request:
            return (), {}
        arriving = None if work.inflow is None else Stream(work.inflow)
        return (Request(head, bytes(work.body), arriving),), {}

    def batch_arguments(self, batch: list[Work], target: Target) -> list[Any]:
        """Return the one argument of a batch handler: the list of requests, or of first arguments."""
        if not target.traits.wants_request and isinstance(batch[0].head, Open):
            return []
        return [[work.item for work in batch]]

    def reply_batch(self, batch: list[Work], result: Any) -> None:
        """Send each call of a batch its item of the result."""
        for work, item in zip(batch, split_results(result, len(batch)), strict=True):
            try:
                if isinstance(item, (HTTPError, CallError)):
                    self.replies.failed(work, item)
                else:
                    self.replies.reply(work, item)
            except BaseException as error:
                self.replies.failed(work, error)
