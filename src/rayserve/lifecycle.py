"""From `serve.init` to the end of the driver: what was started here is stopped here.

begin ─► Ray found, joined or started ─► controller found or spawned ─► its `begin` ─► Instance
end ◄── shutdown(), a signal in wait(), or the interpreter's exit if this process started Ray
"""

from __future__ import annotations

import atexit
import logging
import signal
import sys
import threading
from collections.abc import Mapping
from types import FrameType
from typing import Any, Final

from rayserve import instance
from rayserve.actor_names import controller_name, is_controller
from rayserve.cluster import actors, connect, nodes
from rayserve.cluster.errors import ActorGone, CallTimeout
from rayserve.config import HTTPOptions, parse_http_options
from rayserve.errors import ClusterError, InvalidTypeError, InvalidValueError, NotRunningError, RayServeException
from rayserve.instance import Client, Instance
from rayserve.names import check_name
from rayserve.progress import shown

__all__ = ["begin", "end", "serve_until_signal"]

_log = logging.getLogger("rayserve")

_BEGIN_WITHIN_S: Final = 120.0
_AT_EXIT_WITHIN_S: Final = 15.0
_LOOK_EVERY_S: Final = 2.0
_LOOK_AT_RAY_EVERY_S: Final = 5.0
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_DEFAULTS: Final = {"http_host": "127.0.0.1", "http_port": 8000, "options": HTTPOptions().to_plain()}
_TRIES: Final = 3
_MAX_CONCURRENCY: Final = 3_000  # each command under way holds one call; Ray's default is 1,000


class _Here:
    """What this process is responsible for."""

    started_ray = False


_here = _Here()


def begin(
    name: str | None,
    http_host: str | None,
    http_port: int,
    http_options: dict[str, Any] | HTTPOptions | None,
    ray_address: str | None,
    ray_init_kwargs: Mapping[str, Any] | None,
) -> Instance:
    """Do what `serve.init` promises."""
    present = instance.current_or_none()
    chosen = "default" if name is None else check_name("instance", name)
    if name is None and present is not None and present.is_replica:
        chosen = present.name  # user code in a replica belongs to its instance
    wanted = _http(http_host, http_port, http_options)
    ours = not connect.is_connected()
    client = Client(chosen)
    try:
        with shown("starting Ray" if ours else "joining Ray"):
            connection = connect.connect(ray_address, ray_init_kwargs)
        if ours and connection.started_ray:
            _here.started_ray = True
            atexit.unregister(_at_exit)
            atexit.register(_at_exit)  # after Ray's own, so that it runs before
        with shown(f'starting instance "{chosen}"'):
            info = _join(client, {**wanted, "cluster": not connection.started_ray}, connection.node_id)
    except BaseException:
        if ours:
            _disconnect()
        raise
    _compare(chosen, wanted, info["http"])
    if present is None or present.name != chosen:
        instance.connected(client)
    return Instance(chosen, info["url"], info.get("admin_url"))


def _http(host: object, port: object, options: Any) -> dict[str, Any]:
    """Return the HTTP settings, checked, plain."""
    if host is not None and not isinstance(host, str):
        raise InvalidTypeError(f"http_host must be a str or None, got {host!r} ({type(host).__name__})")
    if host == "":
        raise InvalidValueError('http_host must not be empty; "0.0.0.0" listens everywhere, None nowhere')
    if isinstance(port, bool) or not isinstance(port, int):
        raise InvalidTypeError(f"http_port must be an int, got {port!r} ({type(port).__name__})")
    if not 0 <= port <= 65535:
        raise InvalidValueError(f"http_port must be from 0 to 65535, got {port}")
    return {"http_host": host, "http_port": port, "options": parse_http_options(options).to_plain()}


def _join(client: Client, http: dict[str, Any], node: str) -> dict[str, Any]:
    """Return the `info` of the instance, started if it does not run; if that fails, nothing of it stays."""
    for _ in range(_TRIES):
        spawned = _spawned(client.name, http)
        try:
            info: dict[str, Any] = client.call("begin", http, node, timeout_s=_BEGIN_WITHIN_S)
            return info
        except NotRunningError:
            continue  # we met an instance that was shutting down; now its controller is gone
        except BaseException:
            if spawned:
                _discard(client)
            raise
    raise ClusterError(f'instance "{client.name}" is shut down as often as it is started; who else does that?')


def _spawned(name: str, http: dict[str, Any]) -> bool:
    """Ask for the instance's controller if there is none; return whether there was none."""
    if actors.find(controller_name(name)) is not None:
        return False
    _warn_if_open(http)
    # Imported here: of all processes only this one, and only now, needs the control plane.
    from rayserve.controller.actor import ControllerActor

    actors.spawn(
        ControllerActor,
        name,
        name=controller_name(name),
        title="rayserve::controller",
        max_restarts=-1,
        max_concurrency=_MAX_CONCURRENCY,
        get_if_exists=True,
    )
    return True


def _discard(client: Client) -> None:
    """End an instance that could not begin."""
    actor = actors.find(controller_name(client.name))
    if actor is None:
        return
    try:
        actors.call(actor, "shutdown", timeout_s=_AT_EXIT_WITHIN_S)
    except RayServeException as error:
        _log.warning('instance "%s" did not end by itself: %s', client.name, error)
    actors.kill(actor)


def _warn_if_open(http: dict[str, Any]) -> None:
    if http["cluster"] and http["http_host"] not in (None, *_LOOPBACK) and not connect.is_authenticated():
        _log.warning(
            "this Ray cluster obeys anybody who reaches it, and http_host=%s listens beyond this machine: "
            "start Ray with RAY_AUTH_MODE=token, or keep strangers out by a firewall",
            http["http_host"],
        )


def _compare(name: str, wanted: dict[str, Any], running: dict[str, Any]) -> None:
    """Warn of settings that were asked for, differ from the running instance's, and so have no effect."""
    ignored = [
        key
        for key in ("http_host", "http_port", "options")
        if wanted[key] != running[key] and wanted[key] != _DEFAULTS[key] and (key, wanted[key]) != ("http_port", 0)
    ]
    if ignored:
        theirs = dict(running)
        asked = wanted["options"]
        theirs["options"] = {key: value for key, value in running["options"].items() if value != asked.get(key)}
        _log.warning(
            'instance "%s" runs already with %s; the settings given to serve.init are ignored; '
            "call serve.shutdown() first to change them",
            name,
            ", ".join(f"{'http_options' if key == 'options' else key}={theirs[key]!r}" for key in ignored),
        )


def end(client: Client) -> None:
    """Shut the instance down; stop Ray too if this process started it and no other instance runs."""
    try:
        actor = actors.find(controller_name(client.name))
        with shown(f'stopping instance "{client.name}"'):
            _shut_down(client)
        if actor is not None:
            actors.kill(actor)
    except (NotRunningError, ActorGone):
        _log.info('instance "%s" was gone already', client.name)
    except ClusterError as error:
        if not _here.started_ray:
            raise
        _log.warning('instance "%s" could not end by itself, stopping Ray under it: %s', client.name, error)
        _disconnect()
        return
    finally:
        instance.forget(client)
    if _here.started_ray and not any(is_controller(name) for name in actors.names("rayserve:")):
        _disconnect()


def _shut_down(client: Client) -> None:
    """Have the controller shut the instance down, however long that takes.

    Raises:
        ClusterError: Ray's control store died meanwhile (a SIGTERM to the whole process group ends it too), so the
            controller cannot get on.
    """
    while True:
        try:
            client.call("shutdown", timeout_s=_LOOK_AT_RAY_EVERY_S)
        except CallTimeout:
            nodes.nodes(timeout_s=_LOOK_AT_RAY_EVERY_S)
        else:
            return


def _disconnect() -> None:
    """Stop Ray if this process started it."""
    _here.started_ray = False
    connect.disconnect()


def serve_until_signal() -> None:
    """Do what `serve.wait` promises."""
    client = instance.current()
    if threading.current_thread() is not threading.main_thread():
        raise ClusterError("serve.wait() must be called on the main thread, which is the one that gets signals")
    asked = threading.Event()

    def ask(signum: int, frame: FrameType | None) -> None:
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not asked.wait(_LOOK_EVERY_S) and client.is_alive():
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # a second Ctrl-C cuts the drain short
    if _here.started_ray:
        end(client)
    raise SystemExit(0)


def _at_exit() -> None:
    """Stop the current instance when the driver that started Ray ends without `shutdown`."""
    client = instance.current_or_none()
    if client is None or not connect.is_connected():
        return
    try:
        actor = actors.find(controller_name(client.name))
        if actor is not None:
            actors.call(actor, "shutdown", timeout_s=_AT_EXIT_WITHIN_S)
    except RayServeException as error:
        sys.stderr.write(f'rayserve: instance "{client.name}" is cut off: {error}\n')
