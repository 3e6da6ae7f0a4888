"""Runs user code for one call or one batch and turns what comes out into the frame that ends it.

    Work ─► target, arguments, context ─► user code ─► value | exception ─► Session.answer | value | fail

Used by the threads that run sync code and by the loop that runs `async def`; only the call itself differs.
Whatever user code does, `sys.exit` included, ends in exactly one frame.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from types import AsyncGeneratorType, GeneratorType
from typing import Any, Protocol

import flask
from werkzeug.exceptions import HTTPException

from rayserve import response
from rayserve.batching import split_results
from rayserve.context import batch_state, enter, leave
from rayserve.errors import BadRequestError, BadResultError, CallError, HTTPError
from rayserve.replica.gather import Batches
from rayserve.replica.handler import Handler, Target
from rayserve.replica.inflow import Broken, Inflow, Stream
from rayserve.replica.intake import Intake
from rayserve.replica.outflow import Outflow
from rayserve.replica.raised import pickled
from rayserve.replica.streaming import Begin, Encode, send_async, send_sync
from rayserve.replica.work import Running, Work
from rayserve.replica.wsgi import call_wsgi
from rayserve.request import Request
from rayserve.wire import values
from rayserve.wire.heads import Failure, Invoke, Open

__all__ = ["Executor", "Invoker", "user_traceback"]

_log = logging.getLogger("rayserve.user")

Pickler = Callable[..., bytes]


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
        self.batches = Batches(intake, executor.wait, self.failed)
        self._executor = executor
        self._backend = backend
        self._replica = replica
        self._by_value = by_value
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
            self.reply(work, result)
        except BaseException as error:
            self.failed(work, error)
        finally:
            leave(token)

    def _run_wsgi(self, work: Work) -> None:
        head = work.head
        if not isinstance(head, Open):
            self.failed(
                work,
                BadRequestError(f"backend {self._backend!r} is a web app; call it by HTTP, or with handle.request(…)"),
            )
            return
        token = enter(self.state(work))
        try:
            self._executor.enter([work])
            self._answer(work, call_wsgi(self._handler.callable, head, bytes(work.body), work.inflow))
        except BaseException as error:
            self.failed(work, error)
        finally:
            leave(token)

    def run_batch(self, batch: list[Work], target: Target) -> None:
        """Run user code for a batch that was gathered, on this thread."""
        if not batch:
            return
        token = enter(batch_state([self.state(work) for work in batch]))
        try:
            self._executor.enter(batch)
            result = target.func(*self.batch_arguments(batch, target))
            self.reply_batch(batch, result)
        except BaseException as error:
            for work in batch:
                self.failed(work, error)
        finally:
            leave(token)

    # -- shared with async code -----------------------------------------------------------------------

    def target(self, work: Work) -> Target | None:
        """Return what `work` calls; None if there is no such method, and the caller has been told."""
        head = work.head
        try:
            return self._handler.resolve(head.call_method, (head.call_method,) if head.listed else None)
        except BaseException as error:  # not only of ours: looking a method up may run user code
            self.failed(work, error)
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
                    self.failed(work, item)
                else:
                    self.reply(work, item)
            except BaseException as error:
                self.failed(work, error)

    def reply(self, work: Work, result: Any) -> None:
        """Send a result.

        Raises:
            BadResultError: it cannot be an answer.
        """
        if isinstance(work.head, Open):
            self._answer(work, response.encode(result))
            return
        if isinstance(result, GeneratorType):
            self._stream(work, result, lambda: work.session.begin_values(work), self._item)
            return
        try:
            sizes, parts = values.pack(result, self._by_value)
        except Exception as error:
            raise BadResultError(f"the result of type {type(result).__name__} cannot be pickled: {error}") from error
        work.session.value(work, sizes, parts)

    def _answer(self, work: Work, encoded: response.Encoded) -> None:
        status, headers, body = encoded.status, encoded.headers, encoded.body
        if isinstance(body, bytes):
            work.session.answer(work, status, headers, body, encoded.size)
        elif isinstance(body, AsyncIterator):
            raise BadResultError(
                "an async generator is an answer of async handlers only; make the handler an async def"
            )
        else:
            self._stream(work, body, lambda: work.session.begin(work, status, headers, encoded.size), _as_it_is)

    def _stream(self, work: Work, chunks: Any, begin: Begin, encode: Encode) -> None:
        try:
            send_sync(work, chunks, begin, encode, self._executor)
        finally:
            chunks.close()

    def _item(self, value: Any) -> list[bytes | memoryview]:
        try:
            return values.pack_item(value, self._by_value)
        except Exception as error:
            raise BadResultError(
                f"a streamed value of type {type(value).__name__} cannot be pickled: {error}"
            ) from error

    async def reply_async(self, work: Work, result: Any) -> Any:
        """Send a result from the loop; return a stream that only a thread can send, or None.

        Raises:
            BadResultError: it cannot be an answer.
        """
        if not isinstance(work.head, Open):
            if isinstance(result, AsyncGeneratorType):
                await self._stream_async(work, result, lambda: work.session.begin_values(work), self._item)
            elif isinstance(result, GeneratorType):
                return result
            else:
                self.reply(work, result)
            return None
        encoded = response.encode(result)
        if isinstance(encoded.body, AsyncIterator):
            status, headers = encoded.status, encoded.headers
            await self._stream_async(work, encoded.body, lambda: work.session.begin(work, status, headers), _as_it_is)
        elif isinstance(encoded.body, bytes):
            self._answer(work, encoded)
        else:
            return result
        return None

    async def _stream_async(self, work: Work, chunks: Any, begin: Begin, encode: Encode) -> None:
        try:
            await send_async(work, chunks, begin, encode)
        finally:
            await chunks.aclose()

    def failed(self, work: Work, error: BaseException) -> None:
        """Send what an exception means; never raises."""
        head = work.head
        if isinstance(error, Broken) and work.cancelled:
            work.session.drop(work)
            return
        try:
            if isinstance(head, Open) and isinstance(error, (HTTPError, HTTPException)):
                self._answer(work, response.encode_error(error, head.request_id))
            elif work.session.role == "handle":
                work.session.fail(work, self._failure(error, head.request_id), pickled(error, self._by_value))
            else:
                work.session.fail(work, self._failure(error, head.request_id))
        except BadResultError as second:
            work.session.fail(work, Failure("bad_result", str(second)))
        except BaseException as second:
            _log.exception("the error of request %s could not be sent", head.request_id)
            work.session.fail(work, Failure("internal", f"the error could not be encoded: {type(second).__name__}"))

    def _failure(self, error: BaseException, request_id: str) -> Failure:
        if isinstance(error, HTTPError):  # meant as an answer, not a mishap
            return Failure("user_exception", str(error))
        if isinstance(error, CallError):
            if isinstance(error, BadResultError):
                _log.error("request %s: %s", request_id, error)
            return Failure(error.reason, str(error))
        text = user_traceback(error)
        _log.error("request %s failed in user code:\n%s", request_id, text)
        detail = f"the handler raised {type(error).__name__}; the log of replica {self._replica} has the traceback"
        return Failure("user_exception", detail, traceback=text)


def _as_it_is(chunk: bytes) -> list[bytes | memoryview]:
    return [chunk]


def user_traceback(error: BaseException) -> str:
    """Return the traceback without the frames of this package at its top."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("rayserve.replica"):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))
