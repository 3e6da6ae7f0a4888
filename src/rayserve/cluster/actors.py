"""Processes placed by Ray: ask for one, find one, call it, end it.

    spawn(Controller, …) ──► Actor ──► call / await_call(actor, "method", …)

An actor is one OS process. Its names live in one namespace, "rayserve", whatever the driver's own is.
No request of a client passes here: calls take about a millisecond.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayserve.cluster.errors import ActorGone, CallTimeout, translate
from rayserve.cluster.pickling import check_picklable
from rayserve.cluster.presence import NAMESPACE, ask, live_ray
from rayserve.errors import ClusterError, InvalidTypeError, InvalidValueError

__all__ = ["Actor", "await_call", "call", "find", "kill", "names", "spawn"]


@dataclass(frozen=True)
class Actor:
    """A reference to one actor; travels inside arguments of other actors' calls.

    Attributes:
        name: its name in the namespace `rayserve`, "" if it has none.
        id: Ray's id (hex); stays the same across its restarts.
        handle: Ray's own handle, for this room only.
    """

    name: str
    id: str
    handle: Any

    def __str__(self) -> str:
        """Return how messages call it."""
        return f'actor "{self.name}"' if self.name else f"actor {self.id[:8]}"


def spawn(
    cls: type,
    *args: Any,
    name: str = "",
    node: str | None = None,
    num_cpus: float = 0,
    title: str | None = None,
    detached: bool = True,
    options: Mapping[str, Any] | None = None,
    max_restarts: int = 0,
    max_concurrency: int | None = None,
    get_if_exists: bool = False,
    timeout_s: float = 30.0,
) -> Actor:
    """Ask Ray for a new process that runs `cls(*args)`; returns before the process exists.

    An exception in the constructor, or a lack of resources, shows on the first call (the latter as waiting).

    Args:
        cls: a plain class; one `async def` in it makes all its methods run on an event loop.
        args: for the constructor; pickled here, so an error names them.
        name: unique in the namespace `rayserve`; required if `detached`.
        node: id of the node that must run it; a dead or unknown one shows as `ActorGone` on the first call.
        num_cpus: reserved CPUs; overridden by `options`.
        title: what `ps` shows after `ray::`.
        detached: outlives the process that asked for it.
        options: further Ray actor options (`num_gpus`, `resources`, `memory`, `runtime_env`, …).
        max_restarts: how often Ray restarts it; -1 for ever.
        max_concurrency: calls at once; async actors default to 1,000.
        get_if_exists: return the living actor of that name instead, if there is one.
        timeout_s: for Ray to take the order; after that the actor may still come to be.

    Raises:
        InvalidValueError: the name is taken, the node id is none, or Ray refuses an option.
        InvalidTypeError: an argument cannot be pickled.
        ClusterError: Ray cannot be reached, or did not answer within `timeout_s`.
    """
    live_ray()
    what = f'actor "{name}"' if name else f"actor of class {cls.__name__}"
    wishes: dict[str, Any] = {
        "namespace": NAMESPACE,
        "num_cpus": num_cpus,
        "max_restarts": max_restarts,
        **(options or {}),
    }
    if name:
        wishes |= {"name": name, "get_if_exists": get_if_exists}
    if detached:
        wishes["lifetime"] = "detached"
    if max_concurrency is not None:
        wishes["max_concurrency"] = max_concurrency
    try:
        if node is not None:
            wishes["scheduling_strategy"] = _only_on(node)
        order = _remote_class(cls, title or cls.__name__).options(**wishes)
        handle = ask(lambda: order.remote(*args), f"start {what}", timeout_s)
    except InvalidValueError:
        raise  # the name is taken
    except (ValueError, TypeError) as error:
        check_picklable(args, f"an argument of {what}")
        kind = InvalidTypeError if isinstance(error, TypeError) else InvalidValueError
        raise kind(f"Ray refuses {what}: {error}") from error
    return _reference(name, handle)


def find(name: str, timeout_s: float = 10.0) -> Actor | None:
    """Return the actor of that name, or None; it may just be restarting.

    Raises:
        ClusterError: Ray did not answer within `timeout_s`.
    """
    ray = live_ray()

    def look() -> Any:
        try:
            return ray.get_actor(name, namespace=NAMESPACE)
        except ValueError:
            return None

    handle = ask(look, f'is there an actor "{name}"', timeout_s)
    return None if handle is None else _reference(name, handle)


def names(prefix: str = "", timeout_s: float = 10.0) -> list[str]:
    """Return the names of all actors of the namespace `rayserve` that begin with `prefix`, sorted.

    Raises:
        ClusterError: Ray did not answer within `timeout_s`.
    """
    live_ray()
    from ray.util import list_named_actors

    rows = ask(lambda: list_named_actors(all_namespaces=True), "which actors are there", timeout_s)
    return sorted(row["name"] for row in rows if row["namespace"] == NAMESPACE and row["name"].startswith(prefix))


def kill(actor: Actor) -> None:
    """End the actor's process at once, for good; harmless if it is gone. None of its own code runs any more."""
    ray = live_ray()
    try:
        ray.kill(actor.handle, no_restart=True)
    except ValueError:
        return  # of an earlier Ray of this process, which took it along
    except Exception as error:
        translated = translate(error, str(actor))
        if not isinstance(translated, ActorGone):
            raise translated from None


def call(actor: Actor, method: str, *args: Any, timeout_s: float | None) -> Any:
    """Call a method and wait for its result (blocking; `await_call` is for event loops).

    Args:
        actor: whom.
        method: its method's name.
        args: positional arguments.
        timeout_s: wait at most so long; None: as long as the actor lives.

    Raises:
        ActorGone: it is dead.
        ActorAway: it is restarting or cut off; whether the call ran is unknown.
        CallTimeout: no result within `timeout_s`; the call goes on.
        InvalidTypeError: an argument cannot be pickled.
        Exception: whatever the method raised, as its own class.
    """
    ray = live_ray()
    ref = _submit(actor, method, args)
    try:
        return ray.get(ref, timeout=timeout_s)
    except Exception as error:
        translated = translate(error, str(actor))
        if isinstance(translated, CallTimeout):
            translated = CallTimeout(f"{actor} did not answer {method} within {timeout_s:g} s")
        raise translated from None


async def await_call(actor: Actor, method: str, *args: Any) -> Any:
    """Call a method and await its result on any event loop; raises what `call` raises.

    Cancelling the awaiting task abandons the result; the method goes on. Bound it with `asyncio.timeout`.
    """
    live_ray()
    try:
        return await _submit(actor, method, args)
    except Exception as error:
        raise translate(error, str(actor)) from None


def _submit(actor: Actor, method: str, args: tuple[Any, ...]) -> Any:
    try:
        return getattr(actor.handle, method).remote(*args)
    except TypeError as error:
        check_picklable(args, f"an argument of {method} of {actor}")
        raise ClusterError(f"cannot call {method} of {actor}: {error}") from error
    except Exception as error:
        raise translate(error, str(actor)) from None


def _reference(name: str, handle: Any) -> Actor:
    return Actor(name, handle._actor_id.hex(), handle)


def _only_on(node: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


@functools.lru_cache(maxsize=256)
def _remote_class(cls: type, title: str) -> Any:
    """Return Ray's version of `cls`, renamed because `ps` shows the class name; kept, as Ray stores each."""
    if title != cls.__name__:
        cls = type(title, (cls,), {"__module__": cls.__module__, "__doc__": cls.__doc__})
    return live_ray().remote(cls)
