"""The msgpack heads of frames: what an OPEN asks, what an answer says, why a call failed.

Arrays, not maps: field order is the wire format, new fields go to the end. The body of an HTTP
message, and the pickle of a Python value with its out-of-band buffers, travel beside the head.
"""

from __future__ import annotations

import msgspec

__all__ = ["Answer", "Failure", "Invoke", "Open", "Value", "decode_failure", "decode_open", "encode"]

# Why a replica refuses a call it has not started; the head of a REJECT.
BUSY = b"busy"
DRAINING = b"draining"
EXPIRED = b"expired"


class Open(msgspec.Struct, array_like=True, gc=False):
    """An HTTP request for a replica.

    Attributes:
        endpoint: its name.
        request_id: of the whole request.
        time_left_ms: until the deadline; clocks need not agree.
        call_method: method of the backend to call; "" for the callable itself.
        listed: the endpoint's `call_methods` names that method, so an inherited one may be called.
        depth: how many calls deep in a chain of nested calls.
        traceparent: W3C trace context, "" for none.
        method: HTTP method.
        target: raw path, still percent-encoded, without the query.
        query: raw query.
        headers: (lower-case name, latin-1 value), in order, repeats kept.
        client: "host:port" of the client.
        scheme: "http" or "https".
        http_version: "1.1" or "1.0".
        params: path parameters, decoded.
        root: mount prefix.
        body_size: bytes of body in all; -1: not known yet (chunked).
    """

    endpoint: str
    request_id: str
    time_left_ms: int
    call_method: str = ""
    listed: bool = False
    depth: int = 0
    traceparent: str = ""
    method: str = "GET"
    target: str = "/"
    query: bytes = b""
    headers: list[tuple[str, str]] = []
    client: str = ""
    scheme: str = "http"
    http_version: str = "1.1"
    params: dict[str, str] = {}
    root: str = ""
    body_size: int = 0


class Invoke(msgspec.Struct, array_like=True, gc=False):
    """A Python call for a replica; the body is the pickled `(args, kwargs)` and its buffers.

    Attributes:
        endpoint: its name.
        request_id: of the whole request.
        time_left_ms: until the deadline.
        call_method: method of the backend to call; "" for the callable itself.
        listed: the endpoint's `call_methods` names that method, so an inherited one may be called.
        depth: how many calls deep in a chain of nested calls.
        traceparent: W3C trace context, "" for none.
        sizes: bytes of the pickle, then of each buffer, as they stand in the body.
    """

    endpoint: str
    request_id: str
    time_left_ms: int
    call_method: str = ""
    listed: bool = False
    depth: int = 0
    traceparent: str = ""
    sizes: list[int] = []


class Answer(msgspec.Struct, array_like=True, gc=False):
    """The head of an HTTP answer.

    Attributes:
        status: HTTP status.
        headers: the rendered header block, each line ending in CRLF.
        body_size: bytes of body in all; -1: a stream of unknown length.
    """

    status: int
    headers: bytes = b""
    body_size: int = -1


class Value(msgspec.Struct, array_like=True, gc=False):
    """The head of a Python answer.

    Attributes:
        sizes: bytes of the pickle, then of each buffer, as they stand in the body.
        stream: whether this is one item of a stream of values.
    """

    sizes: list[int] = []
    stream: bool = False


class Failure(msgspec.Struct, array_like=True, gc=False):
    """Why a call ended without an answer.

    Attributes:
        reason: a word of `rayserve.errors.REASONS`.
        detail: what the caller reads.
        status: HTTP status; 0 takes the reason's own.
        headers: rendered header block to add to the HTTP answer.
        traceback: user code's traceback, shown only if the endpoint's `debug` is on.
        body: a ready JSON body; b"" makes one of reason and detail.
        ran: it befell a call made by user code, which has begun for this one.
    """

    reason: str
    detail: str = ""
    status: int = 0
    headers: bytes = b""
    traceback: str = ""
    body: bytes = b""
    ran: bool = False


encode = msgspec.msgpack.Encoder().encode
decode_open = msgspec.msgpack.Decoder(Open).decode
decode_invoke = msgspec.msgpack.Decoder(Invoke).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode
decode_value = msgspec.msgpack.Decoder(Value).decode
decode_failure = msgspec.msgpack.Decoder(Failure).decode
