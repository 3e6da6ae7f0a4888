"""Whole web apps as backends: `serve.asgi(app)` and `serve.wsgi(app)`.

    app | "module:app" | factory ─► App ─► create_backend ─► replica: App.load() ─► the app itself

A live app that is a variable of an importable module travels by that name; any other by value. What can
do neither is better made on the replica: by a string, or by a function without arguments.
"""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import Any, Literal

from rayserve.annotations import signature
from rayserve.errors import InvalidTypeError, InvalidValueError
from rayserve.imports import imported

__all__ = ["App", "asgi", "spoken_by", "wsgi"]

Lifespan = Literal["auto", "on", "off"]

# Both specifications name the parameters, and frameworks keep to the names.
_CALLED_WITH = {("scope", "receive", "send"): "asgi", ("environ", "start_response"): "wsgi"}


class App:
    """A web app on its way to replicas.

    Attributes:
        kind: "asgi" or "wsgi".
        lifespan: "auto" runs the app's lifespan if it has one, "on" insists, "off" does not (ASGI).
        threads: requests handled at once per replica (WSGI).
    """

    def __init__(self, kind: str, source: Any, lifespan: str = "auto", threads: int = 1) -> None:
        """Wrap `source`; use `asgi` or `wsgi`."""
        self.kind = kind
        self.lifespan = lifespan
        self.threads = threads
        self._source = source

    def __repr__(self) -> str:
        return f"serve.{self.kind}({self._source!r})"

    @property
    def instead(self) -> str:
        """What to write where the live app cannot travel."""
        return (
            f'let the replica make it: serve.{self.kind}("module:app"), or serve.{self.kind}(make_app) with a function '
            "without arguments that returns it"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel by name where there is one, else with the live app."""
        source = self._source
        if not isinstance(source, str):
            source = _name_of(source) or source
        return App, (self.kind, source, self.lifespan, self.threads)

    def load(self) -> Any:
        """Return the app; imports a name, calls a factory.

        Raises:
            InvalidTypeError: what was found is no such app.
            InvalidValueError: the name leads nowhere.
        """
        found = self._source
        if isinstance(found, str):
            found = imported(found)
        if _is_factory(found):
            found = found()
        if not callable(found):
            raise InvalidTypeError(f"{self._source!r} is no {self.kind.upper()} app but a {type(found).__name__}")
        _check_spoken(found, self.kind)
        return found


def asgi(app: Any, *, lifespan: Lifespan = "auto") -> App:
    """Make an ASGI app (FastAPI, Starlette, Django, …) something that `create_backend` accepts.

    Mount it under a route that ends in `/*`; the app sees the prefix as its `root_path`.

    Args:
        app: the app, `"module:app"`, or a function without arguments that makes it on the replica.
        lifespan: "auto" runs the app's lifespan if it has one; "on" fails without; "off" never runs it.

    Raises:
        InvalidTypeError: `app` is none of these.
        InvalidValueError: a string not of the form "module:name", or an unknown `lifespan`.
    """
    if lifespan not in ("auto", "on", "off"):
        raise InvalidValueError(f'lifespan must be "auto", "on" or "off", got {lifespan!r}')
    _check(app, "asgi")
    return App("asgi", app, lifespan=lifespan)


def wsgi(app: Any, *, threads: int = 8) -> App:
    """Make a WSGI app (Flask, Django, …) something that `create_backend` accepts.

    Mount it under a route that ends in `/*`; the app sees the prefix as its `SCRIPT_NAME`.

    Args:
        app: the app, `"module:app"`, or a function without arguments that makes it on the replica.
        threads: requests handled at once in each replica, at least 1.

    Raises:
        InvalidTypeError: `app` is none of these, or `threads` is not an int.
        InvalidValueError: a string not of the form "module:name", or `threads` below 1.
    """
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise InvalidTypeError(f"threads must be an int, got {type(threads).__name__}")
    if threads < 1:
        raise InvalidValueError(f"threads must be at least 1, got {threads}")
    _check(app, "wsgi")
    return App("wsgi", app, threads=threads)


def _check(app: Any, kind: str) -> None:
    if isinstance(app, str):
        module, _, name = app.partition(":")
        if not module or not name:
            raise InvalidValueError(f'serve.{kind}("{app}"): not of the form "module:app", like "shop.web:app"')
    elif isinstance(app, ModuleType) or not callable(app):
        raise InvalidTypeError(f'serve.{kind} takes an app, "module:app" or a factory, got {type(app).__name__}')
    else:
        _check_spoken(app, kind)


def spoken_by(app: Any) -> str:
    """Return "asgi" or "wsgi" if the parameters of `app` bear the names that this protocol gives them, else ""."""
    try:
        return _CALLED_WITH.get(tuple(signature(app).parameters), "")
    except (TypeError, ValueError):  # not callable, or written in C
        return ""


def _check_spoken(app: Any, kind: str) -> None:
    spoken = spoken_by(app)
    if spoken and spoken != kind:
        raise InvalidTypeError(
            f"serve.{kind} got {type(app).__name__}, which speaks {spoken.upper()}; use serve.{spoken}"
        )


def _is_factory(found: Any) -> bool:
    """Whether `found` must be called to get the app: a function or class that asks for no argument."""
    if not (inspect.isfunction(found) or inspect.isclass(found)):
        return False
    try:
        parameters = signature(found).parameters.values()
    except (TypeError, ValueError):
        return False
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(p.default is not p.empty or p.kind in variadic for p in parameters)


def _name_of(app: Any) -> str:
    """Return "module:name" under which an importable module holds `app`; "" if none does."""
    for name, module in list(sys.modules.items()):
        if name in ("__main__", "__mp_main__") or not isinstance(module, ModuleType):
            continue
        if getattr(module, "__spec__", None) is None:
            continue
        for attribute, value in list(vars(module).items()):
            if value is app and not attribute.startswith("__"):
                return f"{name}:{attribute}"
    return ""


for _verb in (asgi, wsgi):
    _verb.__module__ = "rayserve"  # where users find them; shown in tracebacks and help
