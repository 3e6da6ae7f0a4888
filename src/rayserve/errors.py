"""Every error a user of RayServe can meet, and the one table from reason to HTTP status.

    RayServeException
    ├── NotRunningError (RuntimeError)        a call before serve.init or after shutdown
    ├── InvalidValueError (ValueError)        a name, a route, an option that cannot be
    ├── InvalidTypeError (TypeError)          an argument of the wrong type
    ├── ClusterError (RuntimeError)           Ray or the controller cannot be reached or started
    ├── PortInUseError (OSError)              the HTTP or admin port is taken
    ├── BackendStartError (RuntimeError)      a replica could not load or construct the user's code
    ├── StartupTimeoutError (TimeoutError)    replicas were not ready within startup_timeout_s
    ├── CannotScaleError (RuntimeError)       the cluster has no room for the replicas asked for
    ├── ReconfigureError (RuntimeError)       the user's reconfigure() raised; the old config is back
    ├── HTTPError                             raised by user code to answer with a status of its choice
    │   └── InvalidArgumentsError (ValueError)  arguments that the annotations of a typed handler refuse
    └── CallError                             a call that got no answer from user code; has a reason
        ├── BadRequestError (ValueError)      ├── NotFoundError (LookupError)
        ├── MethodNotAllowedError             ├── NotImplementedByServerError
        ├── TooLargeError (ValueError)        ├── StalledError (TimeoutError)
        ├── NoTrafficError                    ├── NoReplicaError
        ├── QueueFullError                    ├── DeadlineError (TimeoutError)
        ├── ReplicaLostError (ConnectionError)├── DrainingError
        ├── UserCodeError                     ├── BadResultError (TypeError)
        ├── CallCancelledError                └── InternalError

Each class also is the built-in that a Python user would catch, and each survives pickling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

__all__ = [
    "REASONS",
    "BackendStartError",
    "BadRequestError",
    "BadResultError",
    "CallCancelledError",
    "CallError",
    "CannotScaleError",
    "ClusterError",
    "DeadlineError",
    "DrainingError",
    "HTTPError",
    "InternalError",
    "InvalidArgumentsError",
    "InvalidTypeError",
    "InvalidValueError",
    "MethodNotAllowedError",
    "NoReplicaError",
    "NoTrafficError",
    "NotFoundError",
    "NotImplementedByServerError",
    "NotRunningError",
    "PortInUseError",
    "QueueFullError",
    "RayServeException",
    "Reason",
    "ReconfigureError",
    "ReplicaLostError",
    "StalledError",
    "StartupTimeoutError",
    "TooLargeError",
    "UserCodeError",
    "call_error",
]


class Reason(NamedTuple):
    """What a reason means on the wire: the HTTP status and whether a retry can help.

    `retriable` is `"true"` (nothing was started), `"false"` (a retry meets the same end) or
    `"unknown"` (user code may have run).
    """

    status: int
    retriable: str

    def retriable_if(self, ran: bool) -> str:
        """Return `retriable`; with `ran`, the error befell a call made by user code that has begun for this one."""
        return "unknown" if ran and self.retriable == "true" else self.retriable


# The closed list of X-Serve-Reason. Clients and dashboards key on these words: never rename one.
REASONS: dict[str, Reason] = {
    "bad_request": Reason(400, "false"),
    "not_found": Reason(404, "false"),
    "method_not_allowed": Reason(405, "false"),
    "not_implemented": Reason(501, "false"),
    "too_large": Reason(413, "false"),
    "stalled": Reason(408, "true"),
    "no_traffic": Reason(503, "true"),
    "no_replica": Reason(503, "true"),
    "queue_full": Reason(503, "true"),
    "deadline": Reason(504, "unknown"),
    "replica_lost": Reason(502, "unknown"),
    "draining": Reason(503, "true"),
    "user_exception": Reason(500, "unknown"),
    "bad_result": Reason(500, "unknown"),
    "unauthorized": Reason(401, "false"),
    "rate_limited": Reason(429, "true"),
    "unreachable": Reason(502, "unknown"),
    "internal": Reason(500, "unknown"),
}


class RayServeException(Exception):
    """The root of every error RayServe raises."""


class NotRunningError(RayServeException, RuntimeError):
    """No instance is connected; the message names `serve.init`."""


class InvalidValueError(RayServeException, ValueError):
    """An argument has the right type but a value that cannot be."""


class InvalidTypeError(RayServeException, TypeError):
    """An argument has the wrong type."""


class ClusterError(RayServeException, RuntimeError):
    """Ray, or RayServe's controller on it, could not be started or reached."""


class PortInUseError(RayServeException, OSError):
    """The address to listen on is taken; the message names host and port."""


class BackendStartError(RayServeException, RuntimeError):
    """A replica could not load or construct the user's code; the message holds their traceback."""


class StartupTimeoutError(RayServeException, TimeoutError):
    """Replicas were not ready within `startup_timeout_s`."""


class CannotScaleError(RayServeException, RuntimeError):
    """The cluster lacks the resources; the message says what is missing and how many replicas fit."""


class ReconfigureError(RayServeException, RuntimeError):
    """The backend's `reconfigure` raised; the previous `user_config` is in force again."""


class HTTPError(RayServeException):
    """Raised by a handler (or returned as one item of a batch) to answer with a status of its own.

    Args:
        status: HTTP status, an int from 100 to 599.
        detail: what the client reads; any JSON-encodable value.
        headers: extra response headers.
    """

    def __init__(self, status: int, detail: Any = "", headers: dict[str, str] | None = None) -> None:
        """Keep the three parts; a status outside 100–599 or of another type is refused."""
        if isinstance(status, bool) or not isinstance(status, int):
            raise InvalidTypeError(f"HTTPError status must be an int, got {type(status).__name__}")
        if not 100 <= status <= 599:
            raise InvalidValueError(f"HTTPError status must be 100-599, got {status}")
        super().__init__(status, detail, headers)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})

    def __str__(self) -> str:
        """Return status and detail on one line."""
        return f"{self.status} {self.detail}" if self.detail != "" else str(self.status)


class InvalidArgumentsError(HTTPError, ValueError):
    """The arguments of a call do not fit the annotations of a typed handler; 422 by HTTP.

    Args:
        errors: what is wrong, one dict each: `loc` (the way to it, names and indices), `msg` (for people) and
            `type` (a word for programs). It is the `detail` of the answer.
    """

    def __init__(self, errors: Sequence[Mapping[str, Any]]) -> None:
        """Keep the errors."""
        super().__init__(422, errors)
        self.args = (errors,)  # what pickle calls the class with
        self.errors = errors

    def __str__(self) -> str:
        """Return all errors on one line."""
        return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'the arguments'}: {one['msg']}" for one in self.errors)


class CallError(RayServeException):
    """A call that ended without an answer from user code.

    Attributes:
        reason: one word of `REASONS` (or `"cancelled"`, which never crosses HTTP).
        ran: it befell a call that was made by the called code, which has begun.
    """

    reason: ClassVar[str] = "internal"
    ran: bool = False

    @property
    def status(self) -> int:
        """The HTTP status of this error."""
        return REASONS[self.reason].status if self.reason in REASONS else 499

    @property
    def retriable(self) -> str:
        """`"true"`, `"false"` or `"unknown"`: whether sending the call again can help."""
        return REASONS[self.reason].retriable_if(self.ran) if self.reason in REASONS else "unknown"


class BadRequestError(CallError, ValueError):
    """The request cannot be understood."""

    reason = "bad_request"


class NotFoundError(CallError, LookupError):
    """No endpoint, or no call method, of that name."""

    reason = "not_found"


class MethodNotAllowedError(CallError):
    """The endpoint exists but does not take this HTTP method."""

    reason = "method_not_allowed"


class NotImplementedByServerError(CallError):
    """The request asks for a protocol feature this server does not have."""

    reason = "not_implemented"


class TooLargeError(CallError, ValueError):
    """The body, the head or the arguments exceed a limit."""

    reason = "too_large"


class StalledError(CallError, TimeoutError):
    """The client sent its request too slowly."""

    reason = "stalled"


class NoTrafficError(CallError):
    """The endpoint had no traffic until the call's time was up."""

    reason = "no_traffic"


class NoReplicaError(CallError):
    """The backend had no living replica until the call's time was up."""

    reason = "no_replica"


class QueueFullError(CallError):
    """The backend's waiting line is full, or too long for the time this call has left."""

    reason = "queue_full"


class DeadlineError(CallError, TimeoutError):
    """The call's time was up before an answer began."""

    reason = "deadline"


class ReplicaLostError(CallError, ConnectionError):
    """The replica died after it had started this call, and the call must not be run twice."""

    reason = "replica_lost"


class DrainingError(CallError):
    """This process is shutting down and takes no new calls."""

    reason = "draining"


class UserCodeError(CallError):
    """User code raised an exception that could not travel as its own class; the message is its text."""

    reason = "user_exception"


class BadResultError(CallError, TypeError):
    """User code returned something that cannot be an answer; the message names the type."""

    reason = "bad_result"


class CallCancelledError(CallError):
    """The call was cancelled by its caller."""

    reason = "cancelled"


class InternalError(CallError):
    """RayServe itself failed; the log of the process named in the message has the traceback."""

    reason = "internal"


_BY_REASON: dict[str, type[CallError]] = {
    cls.reason: cls
    for cls in (
        BadRequestError, NotFoundError, MethodNotAllowedError, NotImplementedByServerError, TooLargeError,
        StalledError, NoTrafficError, NoReplicaError, QueueFullError, DeadlineError, ReplicaLostError,
        DrainingError, UserCodeError, BadResultError, CallCancelledError, InternalError,
    )
}  # fmt: skip


def call_error(reason: str, detail: str) -> CallError:
    """Return the error class of a reason, holding `detail`.

    Args:
        reason: a word of `REASONS`; unknown words become `InternalError`.
        detail: the message.
    """
    return _BY_REASON.get(reason, InternalError)(detail)
