"""`rayserve run module:function`: from a file to a served URL.

load (a typo costs no start of Ray) ─► serve.init ─► the function ─► URL and routes ─► serve.wait
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, Final

import msgspec

import rayserve as serve
from rayserve.cli.failure import UsageFailure, UserCodeFailure
from rayserve.cli.target import load_target
from rayserve.cli.views import ROUTE_TITLES, print_rows, route_rows
from rayserve.cluster import connect
from rayserve.config import parse_http_options
from rayserve.errors import RayServeException
from rayserve.instance import Instance

__all__ = ["parse_options", "serve_target"]

_TERMINATED: Final = 128 + signal.SIGTERM


def serve_target(target: str, host: str, port: int, name: str, address: str | None, options: Iterable[str]) -> None:
    """Serve what the target's function makes; returns never, `serve.wait` exits.

    Raises:
        UsageFailure: the target or an option cannot be.
        UserCodeFailure: the function, or its module, raised.
        RayServeException: the instance could not be started.
    """
    http_options = parse_options(options)
    function = load_target(target)
    # Until serve.wait has handlers of its own, SIGTERM must unwind as Ctrl-C does, or a Ray started here is cut off.
    signal.signal(signal.SIGTERM, _terminated)
    here = serve.init(name, host, port, http_options or None, ray_address=address)
    signal.signal(signal.SIGTERM, _terminated)  # Ray put one in its place that prints C++ frames
    # Of an instance in a cluster that was joined, this command is only the one that fills it.
    outlives = not connect.connect().started_ray
    stop = f"`rayserve shutdown --name {here.name}` stops it"
    _call(function, target, f'; instance "{here.name}" goes on, {stop}' if outlives else "")
    _announce(here, target, f"Ctrl-C leaves it running, {stop}" if outlives else "Ctrl-C stops it")
    serve.wait()


def parse_options(options: Iterable[str]) -> dict[str, Any]:
    """Return `KEY=VALUE` words as a dict; values are read as JSON, and as they stand if they are none.

    Raises:
        UsageFailure: a word without `=`, or options that cannot be.
    """
    found: dict[str, Any] = {}
    for word in options:
        key, equals, text = word.partition("=")
        if not key or not equals:
            raise UsageFailure(f'--option "{word}" is not KEY=VALUE; e.g. --option access_log=true')
        try:
            found[key.strip().replace("-", "_")] = msgspec.json.decode(text)
        except msgspec.DecodeError:
            found[key.strip().replace("-", "_")] = text
    try:
        parse_http_options(found)
    except RayServeException as error:
        raise UsageFailure(f"--option: {error}") from None
    return found


def _call(function: Callable[[], object], target: str, consequence: str) -> None:
    try:
        function()
    except Exception as error:
        raise UserCodeFailure(
            f"{target} raised {type(error).__name__}; the traceback above says where{consequence}"
        ) from error


def _announce(here: Instance, target: str, how_to_stop: str) -> None:
    """Say where it is, what it answers and, to a human, how it ends."""
    where = f"at {here.url}" if here.url else "without HTTP, by handles only"
    print(f'instance "{here.name}" serves {where}')
    if here.admin_url:
        print(f"metrics and status at {here.admin_url}")
    rows = route_rows(serve.list_endpoints())
    if rows:
        print_rows(ROUTE_TITLES, rows)
    else:
        print(f"{target} made no endpoint, so every path is answered 404", flush=True)
    if sys.stdout.isatty():
        print(how_to_stop)


def _terminated(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(_TERMINATED)
