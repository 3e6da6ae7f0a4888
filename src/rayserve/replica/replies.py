"""Turns what user code returned or raised into the frames that end its call.

    value | generator | exception ─► HTTP answer or Python value ─► Session.answer | value | begin … | fail

Whatever comes out of user code, `sys.exit` included, ends in exactly one last frame.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Callable
from types import AsyncGeneratorType, GeneratorType
from typing import Any, Final

from werkzeug.exceptions import HTTPException

from rayserve import response
from rayserve.errors import REASONS, BadResultError, CallError, HTTPError
from rayserve.replica.inflow import Broken
from rayserve.replica.outflow import Outflow
from rayserve.replica.pulled import Pulled
from rayserve.replica.raised import pickled
from rayserve.replica.streaming import Begin, Encode, Waits, send_async, send_sync
from rayserve.replica.work import Work
from rayserve.wire import values
from rayserve.wire.heads import Failure, Open

__all__ = ["Pickler", "Replies", "user_traceback"]

_log = logging.getLogger("rayserve.user")

Pickler = Callable[..., bytes]

_NOTES_AT_ENDS: Final = 2

# Modules whose frames stand above the user's: ours, Ray's wrapper of actor methods, the loop, Python's own of imports.
_ON_THE_WAY = (
    "rayserve.replica", "rayserve.apps", "rayserve.imports", "ray.util.tracing", "uvloop.loop", "importlib",
    "_frozen_importlib",
)  # fmt: skip


class Replies:
    """Answers calls."""

    def __init__(self, waits: Waits, replica: str, by_value: Pickler) -> None:
        """Make ready to answer.

        Args:
            waits: holds the thread of user code while a client is slow.
            replica: the replica's id, for error messages.
            by_value: pickler for results that plain pickle cannot carry.
        """
        self._waits = waits
        self._replica = replica
        self._by_value = by_value

    def reply(self, work: Work, result: Any) -> None:
        """Send a result.

        Raises:
            BadResultError: it cannot be an answer.
        """
        if isinstance(work.head, Open):
            self.answer(work, response.encode(result))
            return
        if isinstance(result, GeneratorType):
            self._stream(work, result, lambda: work.session.begin_values(work), self._item)
            return
        try:
            sizes, parts = values.pack(result, self._by_value)
        except Exception as error:
            raise BadResultError(f"the result of type {type(result).__name__} cannot be pickled: {error}") from error
        work.session.value(work, sizes, parts)

    def answer(self, work: Work, encoded: response.Encoded) -> None:
        """Send an HTTP answer.

        Raises:
            BadResultError: its body is an async stream, and this thread runs the loop.
        """
        body = encoded.body
        if isinstance(body, bytes):
            work.session.answer(work, encoded.status, encoded.headers, body, encoded.size)
        elif isinstance(body, AsyncIterator):
            if not isinstance(body, response.AsyncChunks) or asyncio._get_running_loop() is not None:
                raise BadResultError(
                    "an item of a batch cannot be an async stream; yield lists from the handler instead"
                )
            self._stream(work, Pulled(body), _beginning(work, encoded), _as_it_is)
        else:
            self._stream(work, body, _beginning(work, encoded), _as_it_is)

    def _stream(self, work: Work, chunks: Any, begin: Begin, encode: Encode) -> None:
        try:
            send_sync(work, chunks, begin, encode, self._waits)
        finally:
            chunks.close()

    def _item(self, value: Any) -> list[bytes | memoryview]:
        try:
            return values.pack_item(value, self._by_value)
        except Exception as error:
            raise BadResultError(
                f"a streamed value of type {type(value).__name__} cannot be pickled: {error}"
            ) from error

    def begin(self, work: Work) -> Outflow:
        """Begin an answer that is made of `parts`."""
        if isinstance(work.head, Open):
            return work.session.begin(work, 200, response.STREAM)
        return work.session.begin_values(work)

    def parts(self, work: Work, item: Any) -> list[bytes | memoryview]:
        """Return one piece of a streamed answer as bytes.

        Raises:
            BadResultError: it cannot be sent.
        """
        return [response.chunk(item)] if isinstance(work.head, Open) else self._item(item)

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
            await self._stream_async(work, encoded.body, _beginning(work, encoded), _as_it_is)
        elif isinstance(encoded.body, bytes):
            self.answer(work, encoded)
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
            if (
                isinstance(error, (HTTPError, HTTPException))
                and isinstance(head, Open)
                and not work.session.begun(work)
            ):
                self.answer(work, response.encode_error(error, head.request_id))
            elif work.session.role == "handle":
                work.session.fail(work, self._failure(work, error), pickled(error, self._by_value))
            else:
                work.session.fail(work, self._failure(work, error))
        except BadResultError as second:
            work.session.fail(work, Failure("bad_result", str(second)))
        except BaseException as second:
            _log.exception("the error of request %s could not be sent", head.request_id)
            work.session.fail(work, Failure("internal", f"the error could not be encoded: {type(second).__name__}"))

    def _failure(self, work: Work, error: BaseException) -> Failure:
        request_id = work.head.request_id
        if isinstance(error, HTTPError):  # meant as an answer, not a mishap
            return Failure("user_exception", str(error))
        if isinstance(error, CallError) and not _is_its_own(work, error):
            if isinstance(error, BadResultError):
                _log.error("request %s: %s", request_id, error)
            error.ran = True
            return Failure(error.reason, str(error), ran=True)
        text = user_traceback(error)
        _log.error("request %s failed in user code:\n%s", request_id, text)
        if work.session.role == "handle":  # the exception goes along, with the notes of the calls below this one
            text = user_traceback(error, notes=False)
        detail = f"the handler raised {type(error).__name__}; the log of replica {self._replica} has the traceback"
        return Failure("user_exception", detail, traceback=text)


def _beginning(work: Work, encoded: response.Encoded) -> Begin:
    return lambda: work.session.begin(work, encoded.status, encoded.headers, encoded.size)


def _as_it_is(chunk: bytes) -> list[bytes | memoryview]:
    return [chunk]


def _is_its_own(work: Work, error: CallError) -> bool:
    """Whether a refusal blames the handler, for a call that it made itself, and not whoever called the handler."""
    return work.state is not None and (error.reason not in REASONS or error.status < 500)


def user_traceback(error: BaseException, notes: bool = True) -> str:
    """Return the traceback from the first frame that is the user's, with those added to the exception as notes.

    Each call that the exception has come through added one: of many the ends are told.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith(_ON_THE_WAY):
        trace = trace.tb_next
    told = traceback.TracebackException(type(error), error, trace)
    told.__notes__ = _few(told.__notes__) if notes else None
    return "".join(told.format())


def _few(notes: Any) -> Any:
    between = len(notes) - 2 * _NOTES_AT_ENDS if isinstance(notes, list) else 0  # user code may set anything
    if between <= 0:
        return notes
    told = f"… {between} more, of the calls between; the logs of their replicas have them"
    return [*notes[:_NOTES_AT_ENDS], told, *notes[-_NOTES_AT_ENDS:]]
