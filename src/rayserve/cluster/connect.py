"""Find Ray, join it or start it; and stop it again if it was ours.

    serve.init ──► connect() ──► 1. this process is connected already     → use it
                                 2. ray_address=… or RAY_ADDRESS           → join
                                 3. a local Ray that an earlier init began → join   (records.py)
                                 4. Ray's own address file (`ray start`)   → join
                                 5. none of these                          → start one (start.py)

A driver that ends, even by kill -9, takes the Ray that it started with it. All of it runs on one kept thread.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayserve import settings
from rayserve.cluster import records, token
from rayserve.cluster.guard import start_guard
from rayserve.cluster.presence import is_connected, live_ray
from rayserve.cluster.search import Refused, prove, search
from rayserve.cluster.start import prepare_start, ray_init
from rayserve.cluster.thread import KeptThread
from rayserve.errors import ClusterError, InvalidValueError

__all__ = ["Connection", "connect", "current_runtime_env", "disconnect", "is_authenticated", "is_connected"]

# What `ray.init` takes when joining; everything else describes a Ray that is yet to start.
_JOINABLE = {
    "configure_logging", "ignore_reinit_error", "job_config", "log_to_driver", "logging_config", "logging_format",
    "logging_level", "namespace", "runtime_env", "_skip_env_hook",
}  # fmt: skip

_HOME = KeptThread("rayserve-ray")


@dataclass(frozen=True)
class Connection:
    """Where this process is connected.

    Attributes:
        started_ray: this process started Ray, which ends with this process.
        address: `host:port` of Ray's control store (GCS), which other drivers can join.
        node_id: Ray's id of this machine's node (hex).
    """

    started_ray: bool
    address: str
    node_id: str


@dataclass
class _Ours:
    """What this process did about Ray so far; touched on the kept thread only.

    Attributes:
        record: of the Ray that we started, None if we did not.
        guard: ends what Ray leaves behind if we are killed.
        made: we called `ray.init`, to start or to join.
        given: the user's arguments of that time.
    """

    record: records.Record | None = None
    guard: subprocess.Popen[bytes] | None = None
    made: bool = False
    given: Mapping[str, Any] | None = None


_ours = _Ours()


def connect(address: str | None = None, ray_init_kwargs: Mapping[str, Any] | None = None) -> Connection:
    """Return a living connection to Ray: the present one, a joined one, or one to a new local Ray.

    Starting takes about 5 s, joining 0.1 s (and `import ray` about 1 s, once).

    Args:
        address: `host:port`, `"auto"`, or `"local"` for a new Ray in any case; None searches.
        ray_init_kwargs: passed on to `ray.init`, over our own defaults.

    Raises:
        InvalidValueError: an address that cannot be, or arguments that a Ray already running cannot take.
        ClusterError: the Ray named does not answer, wants another token, or a new one did not start.
    """
    if sys.platform == "win32":
        raise ClusterError("RayServe runs on Linux and macOS; on Windows use WSL 2")
    given = dict(ray_init_kwargs or {})
    if "address" in given:
        raise InvalidValueError('ray_init_kwargs must not hold "address"; use serve.init(ray_address=…)')
    if address is not None and "://" in address:
        raise InvalidValueError(
            f'ray_address="{address}": Ray Client is not supported; give host:port of the head node'
        )
    ours_before = _ours.record
    try:
        return _HOME.run(lambda: _connect(address, given))
    except KeyboardInterrupt:
        if ours_before is None:
            _HOME.post(_disconnect)  # a start goes on behind; let nothing of it stay
        raise


def disconnect() -> None:
    """Stop Ray if this process started it, and leave it alone otherwise; harmless to repeat."""
    _HOME.run(_disconnect)


def is_authenticated(timeout_s: float = 10.0) -> bool:
    """Return whether the connected cluster refuses callers without its token (asked anew: takes about 1 s).

    Raises:
        ClusterError: not connected, or no clear answer within `timeout_s`.
    """
    return token.refuses_strangers(_address(), timeout_s)


def current_runtime_env() -> dict[str, Any]:
    """Return this job's runtime_env, `{}` for none: what an actor needs as an option to see the caller's world."""
    return dict(live_ray().get_runtime_context().runtime_env)


def _connect(address: str | None, given: dict[str, Any]) -> Connection:
    with records.one_at_a_time():
        if is_connected() and not _is_lost():
            _check_present(address, given)
        else:
            _ours.record = None  # a Ray of ours that the user shut down himself
            _dismiss_guard()
            _open(address or settings.ray_address(), given)
            _ours.made, _ours.given = True, given
        here = str(live_ray().get_runtime_context().get_node_id())
        return Connection(_ours.record is not None, _address(), here)


def _open(address: str | None, given: dict[str, Any]) -> None:
    """Join the Ray at `address`, or search for one, or start one."""
    if address not in (None, "auto", "local"):
        token.show_if_present()
        prove(address)
        _join(address, given)
        return
    found = None if address == "local" else search()
    if found is not None:
        _join(found, given)
    elif address == "auto":
        raise ClusterError('ray_address="auto": no Ray runs on this machine; begin one with `ray start --head`')
    else:
        _start(given)


def _join(address: str, given: dict[str, Any]) -> None:
    _check_joinable(given, f"joins the Ray that runs at {address}")
    ray_init(address, given)


def _start(given: dict[str, Any]) -> None:
    options = prepare_start(given)
    # After `import ray`, so that it runs before Ray's own; before the start, so that Ctrl-C meanwhile leaves nothing.
    atexit.unregister(_at_exit)
    atexit.register(_at_exit)
    ray_init("local", options)
    demands_token = settings.ray_auth_mode() == "token"
    _ours.record = records.Record(_address(), os.getpid(), demands_token)
    records.remember(_ours.record)
    _ours.guard = start_guard()


def _is_lost() -> bool:
    """Return whether the present connection is ours and leads nowhere; then it is closed.

    Raises:
        ClusterError: it leads nowhere but the user made it.
    """
    address = _address()
    try:
        prove(address)
        return False
    except Refused:
        return False
    except ClusterError as error:
        if not _ours.made:
            raise ClusterError(
                f"this process is connected to a Ray that is gone ({error}); call ray.shutdown()"
            ) from error
    live_ray().shutdown()
    return True


def _check_present(address: str | None, given: dict[str, Any]) -> None:
    """Refuse wishes that the connection this process already has cannot fulfil."""
    present = _address()
    if address == "local" or (address not in (None, "auto") and _canonical(address) != present):
        raise InvalidValueError(
            f'ray_address="{address}": this process is already connected to Ray at {present}; call ray.shutdown() first'
        )
    if given and given != _ours.given:
        _check_joinable(given, f"uses this process's connection to Ray at {present}", allowed={"ignore_reinit_error"})


def _check_joinable(given: dict[str, Any], why: str, allowed: set[str] = _JOINABLE) -> None:
    foreign = sorted(name for name, value in given.items() if value is not None and name not in allowed)
    if foreign:
        raise InvalidValueError(
            f"ray_init_kwargs {', '.join(foreign)} cannot apply: serve.init {why}; "
            'leave them out, or start a new Ray with ray_address="local"'
        )


def _canonical(address: str) -> str | None:
    from ray._private.services import canonicalize_bootstrap_address

    try:
        canonical: str | None = canonicalize_bootstrap_address(address)
    except (ValueError, OSError):
        return None
    return canonical


def _address() -> str:
    return str(live_ray().get_runtime_context().gcs_address)


def _disconnect() -> None:
    record, _ours.record = _ours.record, None
    if record is None:
        return
    records.forget(record)
    _ours.made = False
    if is_connected():
        live_ray().shutdown()
    _dismiss_guard()


def _dismiss_guard() -> None:
    """End the guard; what it watched over is gone."""
    guard, _ours.guard = _ours.guard, None
    if guard is not None:
        with guard:
            guard.kill()


def _at_exit() -> None:
    """Stop our Ray when the driver ends; whatever does not stop in time dies with the process."""
    try:
        _HOME.run(_disconnect, timeout_s=15.0)
    except TimeoutError:
        sys.stderr.write("rayserve: Ray did not stop within 15 s; the kernel ends it with this process\n")
