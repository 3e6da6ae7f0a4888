"""Runs user code for one call or one batch and turns what comes out into the frame that ends it.

    Work ─► target, arguments, context ─► user code ─► value | exception ─► Session.answer | value | fail

Used by the thread that runs sync code and by the loop that runs `async def`; only the call itself differs.
Whatever user code does, `sys.exit` included, ends in exactly one frame.
"""

from __future__ import annotations

import logging
import pickle
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import flask
from werkzeug.exceptions import HTTPException

from rayserve import response
from rayserve.batching import split_results
from rayserve.context import CallState, batch_state, enter, leave
from rayserve.errors import BadRequestError, BadResultError, CallError, HTTPError, UserCodeError
from rayserve.replica.handler import Handler, Target
from rayserve.replica.intake import Intake
from rayserve.replica.work import Work
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


class Invoker:
    """Turns calls into user code and its results into frames."""

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
        self._intake = intake
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
        target = self.target(work)
        if target is None:
            return
        if target.batch is not None:
            self._run_batch(work, target)
            return
        token = enter(self.state(work))
        self._executor.enter([work])
        try:
            args, kwargs = self.arguments(work, target)
            result = target.func(*args, **kwargs)
            self.reply(work, result)
        except BaseException as error:
            self.failed(work, error)
        finally:
            leave(token)

    def _run_batch(self, first: Work, target: Target) -> None:
        batch = self._gathered(first, target)
        if not batch:
            return
        token = enter(batch_state([self.state(work) for work in batch]))
        self._executor.enter(batch)
        try:
            result = target.func(*self.batch_arguments(batch, target))
            self.reply_batch(batch, result)
        except BaseException as error:
            for work in batch:
                self.failed(work, error)
        finally:
            leave(token)

    def _gathered(self, first: Work, target: Target) -> list[Work]:
        """Return the batch that `first` heads; waits for more only if `batch_wait_timeout` says so."""
        intake, rule = self._intake, self._intake.rule
        key = self.key(first, target)
        if first.ended:
            return []
        batch = intake.gather([first], lambda work: self.key(work, target) == key)
        until = time.monotonic() + rule.wait_s
        why = "idle"
        while rule.wait_s and len(batch) < rule.max_size:
            deadline = min(work.deadline for work in batch)
            left_s = min(until, deadline) - time.monotonic()
            if left_s <= 0:
                why = "timeout" if until <= deadline else "deadline"
                break
            self._executor.wait(left_s)
            intake.gather(batch, lambda work: self.key(work, target) == key)
            if intake.queue and len(batch) < rule.max_size:
                break  # another kind of call waits: do not hold it up
        intake.count(len(batch), "full" if len(batch) >= rule.max_size else why)
        return [work for work in batch if not work.cancelled or self._dropped(work)]

    def _dropped(self, work: Work) -> bool:
        work.session.drop(work)
        return False

    # -- shared with async code -----------------------------------------------------------------------

    def target(self, work: Work) -> Target | None:
        """Return what `work` calls; None if there is no such method, and the caller has been told."""
        head = work.head
        try:
            return self._handler.resolve(head.call_method, (head.call_method,) if head.listed else None)
        except CallError as error:
            self.failed(work, error)
            return None

    def key(self, work: Work, target: Target) -> object:
        """Return what calls must share to share a batch; a user key that raises fails its call alone."""
        head = work.head
        if target.batch is None or target.batch.key is None:
            return (isinstance(head, Open), head.call_method)
        try:
            value = target.batch.key(self._item(work))
            hash(value)
        except Exception as error:
            self.failed(work, error)
            return work  # equal to nothing else
        return (isinstance(head, Open), head.call_method, value)

    def state(self, work: Work) -> CallState:
        """Return what `serve.context` shows during `work`."""
        head = work.head
        state = work.state = CallState(
            isinstance(head, Open), head.request_id, head.endpoint, self._backend, self._replica, work.deadline,
            head.traceparent or None, head.depth,
        )  # fmt: skip
        return state

    def arguments(self, work: Work, target: Target) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return what to call the target with."""
        head = work.head
        if isinstance(head, Invoke):
            args, kwargs = values.unpack(head.sizes, work.body)
            return args, kwargs
        return ((Request(head, work.body),), {}) if target.traits.wants_request else ((), {})

    def batch_arguments(self, batch: list[Work], target: Target) -> list[Any]:
        """Return the one argument of a batch handler: the list of requests, or of first arguments."""
        if not target.traits.wants_request and isinstance(batch[0].head, Open):
            return []
        return [[self._item(work) for work in batch]]

    def _item(self, work: Work) -> Any:
        """Return what stands for `work` in a batch; made once, as the user's key sees it too."""
        if work.item is None:
            head = work.head
            if isinstance(head, Open):
                work.item = Request(head, work.body)
            else:
                args, kwargs = values.unpack(head.sizes, work.body)
                if kwargs or len(args) != 1:
                    raise BadRequestError("a batch handler takes exactly one positional argument per call")
                work.item = args[0]
        return work.item

    def reply_batch(self, batch: list[Work], result: Any) -> None:
        """Send each call of a batch its item of the result."""
        for work, item in zip(batch, split_results(result, len(batch)), strict=True):
            if isinstance(item, (HTTPError, CallError)):
                self.failed(work, item)
                continue
            try:
                self.reply(work, item)
            except BaseException as error:
                self.failed(work, error)

    def reply(self, work: Work, result: Any) -> None:
        """Send a result.

        Raises:
            BadResultError: it cannot be an answer.
        """
        if isinstance(work.head, Open):
            encoded = response.encode(result)
            body = encoded.body
            if not isinstance(body, bytes):
                body = _joined(body)
            work.session.answer(work, encoded.status, encoded.headers, body)
            return
        try:
            sizes, parts = values.pack(result, self._by_value)
        except Exception as error:
            raise BadResultError(f"the result of type {type(result).__name__} cannot be pickled: {error}") from error
        work.session.value(work, sizes, parts)

    def failed(self, work: Work, error: BaseException) -> None:
        """Send what an exception means."""
        head = work.head
        try:
            if isinstance(head, Invoke):
                work.session.fail(work, self._failure(error, head.request_id), self._pickled(error))
            elif isinstance(error, (HTTPError, HTTPException)):
                encoded = response.encode_error(error, head.request_id)
                body = encoded.body if isinstance(encoded.body, bytes) else _joined(encoded.body)
                work.session.answer(work, encoded.status, encoded.headers, body)
            else:
                work.session.fail(work, self._failure(error, head.request_id))
        except BadResultError as second:
            work.session.fail(work, Failure("bad_result", str(second)))
        except Exception as second:
            _log.exception("the error of request %s could not be sent", head.request_id)
            work.session.fail(work, Failure("internal", f"the error could not be encoded: {type(second).__name__}"))

    def _failure(self, error: BaseException, request_id: str) -> Failure:
        if isinstance(error, CallError):
            if isinstance(error, BadResultError):
                _log.error("request %s: %s", request_id, error)
            return Failure(error.reason, str(error))
        text = user_traceback(error)
        _log.error("request %s failed in user code:\n%s", request_id, text)
        detail = f"the handler raised {type(error).__name__}; the log of replica {self._replica} has the traceback"
        return Failure("user_exception", detail, traceback=text)

    def _pickled(self, error: BaseException) -> bytes:
        if not isinstance(error, Exception):  # SystemExit must not end the caller's process
            error = UserCodeError(f"the handler raised {type(error).__name__}: {error}")
        try:
            data = self._by_value(error, protocol=5)
            pickle.loads(data)
        except Exception:
            data = pickle.dumps(UserCodeError(f"{type(error).__name__}: {error}"), protocol=5)
        return data


def _joined(chunks: Any) -> bytes:
    try:
        return b"".join(chunks)
    finally:
        chunks.close()


def user_traceback(error: BaseException) -> str:
    """Return the traceback without the frames of this package at its top."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("rayserve.replica"):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))
