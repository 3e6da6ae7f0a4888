"""The user's function or class: what can be called in it, and how.

    loaded code ── describe ──► Traits ──► controller (checks the backend's config against them)
                ── Handler(code, args, kwargs) ──► resolve("predict") ──► Target ──► the replica's runner

`describe` looks without running anything; `Handler` constructs. Which methods outsiders may call is
decided here alone: public ones defined in the class's own body, and inherited ones that the endpoint's
`call_methods` lists.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial, partialmethod
from typing import Any, Final, Literal

import msgspec

from rayserve.apps import App
from rayserve.batching import BatchMark, batch_of
from rayserve.errors import InvalidTypeError, InvalidValueError, NotFoundError
from rayserve.model.spec import MethodTraits, Traits
from rayserve.signatures import wants_argument
from rayserve.typed import Typed, plan_of

__all__ = ["CALL", "Handler", "Target", "describe"]

CALL: Final = "__call__"
# The replica calls these itself; a client never may.
HOOKS: Final = frozenset(("reconfigure", "check_health", "warmup"))

CallMethods = Collection[str] | Literal[False] | None


class Target(msgspec.Struct, frozen=True):
    """One callable of the backend, ready to be called.

    Attributes:
        func: the function or bound method.
        traits: how it wants to be called.
        batch: its `accept_batch` mark, if it has one.
        typed: where its arguments come from, if its annotations say so.
    """

    func: Callable[..., Any]
    traits: MethodTraits
    batch: BatchMark | None
    typed: Typed | None = None


def describe(code: object) -> Traits:
    """Look at a loaded function or class.

    Raises:
        InvalidTypeError: neither a function nor a class.
        InvalidValueError: a class with nothing to call.
    """
    if isinstance(code, App):
        return Traits(kind=code.kind, threads=code.threads if code.kind == "wsgi" else 0)
    if inspect.isclass(code):
        return _describe_class(code)
    if not inspect.isroutine(code) and not isinstance(code, partial):
        kind = type(code).__qualname__
        advice = f"give the class {kind} and its arguments" if callable(code) else "give a function or a class"
        raise InvalidTypeError(f"a backend is a function or a class, not an instance of {kind}; {advice} instead")
    return Traits(kind="function", methods=(_describe(CALL, code, bound=True),))


class Handler:
    """The user's callable, constructed; runs in the replica, on the thread that runs user code.

    Attributes:
        traits: what `describe` saw.
        callable: the function, the instance of the class, or the web app.
        app: what the web app came as; None for other code.
    """

    def __init__(self, code: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        """Construct `code`, if it is a class, with the backend's init arguments.

        Raises:
            InvalidTypeError, InvalidValueError: see `describe`; also init arguments for a function.
            Exception: whatever the user's constructor raises.
        """
        self.traits = describe(code)
        if self.traits.kind != "class" and (args or kwargs):
            raise InvalidValueError("a function takes no init arguments; give a class, or functools.partial")
        self.app = code if isinstance(code, App) else None
        self.callable: Any = code(*args, **(kwargs or {})) if self.traits.kind == "class" else code
        if self.app is not None:
            self.callable = self.app.load()
        self._class = code if self.traits.kind == "class" else None
        self._own = {traits.name: self._target(traits) for traits in self.traits.methods}
        self._inherited: dict[str, Target] = {}

    def resolve(self, name: str = CALL, call_methods: CallMethods = None) -> Target:
        """Find what to call.

        Args:
            name: the call method asked for; `""` and `"__call__"` mean the callable itself.
            call_methods: the endpoint's option: None for the class's own public methods, a list for
                exactly these (which may name inherited ones), False for none. The callable itself is
                always allowed.

        Raises:
            NotFoundError: no such method, or not allowed; the message names the choices.
        """
        if not name or name == CALL or call_methods is None:
            target = self._own.get(name or CALL)
        elif not call_methods or name not in call_methods:
            target = None
        else:
            target = self._own.get(name) or self._resolve_inherited(name)
        if target is None:
            raise NotFoundError(self._not_found(name or CALL, call_methods))
        return target

    def hook(self, name: str) -> Callable[..., Any] | None:
        """Return the bound `reconfigure`, `check_health` or `warmup` of the user's object, None without."""
        if name not in HOOKS or self._class is None:
            return None
        method = getattr(self.callable, name, None)
        return method if callable(method) else None

    def choices(self, call_methods: CallMethods = None) -> list[str]:
        """Return the names a caller may use, in order of definition; see `resolve`."""
        own = list(self._own)
        if call_methods is None:
            return own
        allowed = call_methods or ()
        inherited = [name for name in self.traits.inherited if name in allowed]
        return [name for name in own if name == CALL or name in allowed] + inherited

    def _target(self, traits: MethodTraits) -> Target:
        # Looked up on the instance, as a call in Python would: its descriptors bind.
        func = self.callable if traits.name == CALL else getattr(self.callable, traits.name)
        mark = batch_of(func if self._class is None or traits.name != CALL else self._class.__call__)
        return Target(func, traits, mark, self._plan(traits) if traits.schema else None)

    def _plan(self, traits: MethodTraits) -> Typed | None:
        if self._class is None:
            return plan_of(self.callable, bound=True)
        raw = _own_call(self._class) if traits.name == CALL else inspect.getattr_static(self._class, traits.name)
        return plan_of(*_unbound(raw))

    def _resolve_inherited(self, name: str) -> Target | None:
        if self._class is None or name not in self.traits.inherited:
            return None
        if name not in self._inherited:
            self._inherited[name] = self._target(_describe_method(name, inspect.getattr_static(self._class, name)))
        return self._inherited[name]

    def _not_found(self, name: str, call_methods: CallMethods) -> str:
        choices = ", ".join(f'"{choice}"' for choice in self.choices(call_methods)) or "none"
        if name == CALL:
            return (
                "the backend has no __call__; name a method in the header X-SERVE-CALL-METHOD, "
                f"or with handle.options(method_name=…); choices: {choices}"
            )
        message = f'the backend has no method "{name}" to call; choices: {choices}'
        if call_methods is None and name in self.traits.inherited:
            message += f'; "{name}" is inherited: list it in the endpoint\'s call_methods to allow it'
        return message


def _describe_class(code: type) -> Traits:
    own = [_describe_method(name, raw) for name, raw in vars(code).items() if _is_public(name) and _is_method(raw)]
    call = _own_call(code)
    if call is not None:
        own.insert(0, _describe_method(CALL, call))
    inherited = tuple(_inherited_names(code))
    if not own and not inherited:
        raise InvalidValueError(f"class {code.__qualname__} has nothing to call; give it __call__ or a public method")
    reconfigures = _is_method(inspect.getattr_static(code, "reconfigure", None))
    return Traits(kind="class", methods=tuple(own), inherited=inherited, reconfigures=reconfigures)


def _own_call(code: type) -> Any:
    """Return `__call__` as instances have it; `code.__call__` alone may be the metaclass's."""
    return next((vars(base)[CALL] for base in code.__mro__ if CALL in vars(base)), None)


def _inherited_names(code: type) -> Iterator[str]:
    seen = set(vars(code))
    for base in code.__mro__[1:-1]:
        for name, raw in vars(base).items():
            if name not in seen and _is_public(name) and _is_method(raw):
                yield name
            seen.add(name)


def _is_public(name: str) -> bool:
    return not name.startswith("_") and name not in HOOKS


def _is_method(raw: Any) -> bool:
    """Tell methods from nested classes and other values in a class body: they are callable and bind."""
    if isinstance(raw, (staticmethod, classmethod, partialmethod)):
        return True
    return callable(raw) and hasattr(type(raw), "__get__")


def _describe_method(name: str, raw: Any) -> MethodTraits:
    return _describe(name, *_unbound(raw))


def _unbound(raw: Any) -> tuple[Any, bool]:
    """Return the function of a method, and whether its first parameter is not `self` or `cls`."""
    if isinstance(raw, staticmethod):
        return raw.__func__, True
    return raw.__func__ if isinstance(raw, classmethod) else raw, False


def _describe(name: str, func: Any, bound: bool) -> MethodTraits:
    """Describe a callable; `bound` says that its first parameter is not `self` or `cls`."""
    inner = func.func if isinstance(func, partialmethod) else func
    while isinstance(inner, partial):
        inner = inner.func
    streams_async = inspect.isasyncgenfunction(inner)
    batches = batch_of(func) is not None
    typed = None if batches else plan_of(func, bound)
    return MethodTraits(
        name=name,
        is_async=streams_async or inspect.iscoroutinefunction(inner),
        streams=streams_async or inspect.isgeneratorfunction(inner),
        wants_request=wants_argument(func, bound),
        batches=batches,
        schema=b"" if typed is None else typed.schema(),
    )
