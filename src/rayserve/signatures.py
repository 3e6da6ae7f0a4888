"""What the parameters of a callable are called and annotated with, whatever it is wrapped in.

    function, method, partial, decorated ── read ──► Signature: parameters, resolved annotations, docstring
    with carried(code): cloudpickle.dumps(code) ──► annotations that are text arrive as what they mean

Text (`from __future__ import annotations`) is resolved by `typing.get_type_hints`, one annotation at a time if some
name is known to type checkers only. What a script defines is pickled by value and takes along only the globals that
its code uses; names in text are not among these, hence `carried`.
"""

from __future__ import annotations

import copyreg
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, partialmethod
from types import FunctionType, SimpleNamespace
from typing import Any, Final, ForwardRef, NamedTuple, get_type_hints

from rayserve.annotations import declared, inside, replace, signature

__all__ = ["Signature", "carried", "read", "wants_argument"]

_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Signature(NamedTuple):
    """A callable as its caller sees it.

    Attributes:
        parameters: in order, without `self`.
        hints: name → annotation, of those that could be resolved; `return` among them.
        fixed: names that a `partial` has filled: the author's choice, never the client's.
        doc: the docstring, dedented; "" without one.
    """

    parameters: list[inspect.Parameter]
    hints: dict[str, Any]
    fixed: frozenset[str]
    doc: str


def _parameters_of(func: Any, bound: bool) -> tuple[Any, list[inspect.Parameter]] | None:
    """Return a callable that says what it takes, and that; None if none does.

    A decorator's `wrapper(*args, **kwargs)` says nothing by itself: then it is what it wraps.
    """
    if isinstance(func, partialmethod):
        func = partial(func.func, *((None,) * (not bound)), *func.args, **func.keywords)
        bound = True
    while True:
        try:
            parameters = list(signature(func, follow_wrapped=False).parameters.values())
        except (TypeError, ValueError):  # a builtin that does not tell
            return None
        if not bound and parameters and parameters[0].kind in _POSITIONAL:
            del parameters[0]
        takes_any = any(one.kind is one.VAR_POSITIONAL for one in parameters)
        if any(map(_is_required, parameters)) or not takes_any or not hasattr(func, "__wrapped__"):
            return func, parameters
        func = func.__wrapped__


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.kind in _POSITIONAL and parameter.default is parameter.empty


def wants_argument(func: Any, bound: bool) -> bool:
    """Return whether a callable has a required positional parameter; True if it does not tell.

    Args:
        func: a function, method, `functools.partial` or `partialmethod`.
        bound: its first parameter is not `self` or `cls`.
    """
    found = _parameters_of(func, bound)
    return found is None or any(map(_is_required, found[1]))


def read(func: Any, bound: bool) -> Signature | None:
    """Return the signature of a callable; None if it does not tell. Arguments as for `wants_argument`."""
    found = _parameters_of(func, bound)
    if found is None:
        return None
    func, parameters = found
    fixed: set[str] = set()
    while isinstance(func, partial):
        fixed.update(func.keywords)
        func = func.func
    if not inspect.isroutine(func):  # an instance: its annotations are those of its class
        return None
    return Signature(parameters, _hints(func), frozenset(fixed), inspect.cleandoc(func.__doc__ or ""))


@contextmanager
def carried(code: Any) -> Iterator[None]:
    """Replace annotations that are text by what they mean while the body pickles `code` by value.

    Functions, the methods of classes, and the models that their annotations name are covered. Text that cannot be
    resolved stays as it is; afterwards everything is as before.
    """
    # cloudpickle would copy it, and a copy in a field of a dataclass counts as a default value.
    copyreg.pickle(type(dataclasses.MISSING), lambda _: "MISSING")
    undo: list[Callable[[], object]] = []
    try:
        seen: set[int] = set()
        for func in _functions(code):
            _resolve(func, undo, seen)
        yield
    finally:
        for step in reversed(undo):
            step()


def _hints(func: Any) -> dict[str, Any]:
    try:
        return get_type_hints(func, include_extras=True)
    except Exception:  # annotations are expressions of the user's: they may raise anything
        pass
    known = getattr(inspect.unwrap(func), "__globals__", {})
    return {name: hint for name, one in declared(func).items() for hint in _one_hint(one, known)}


def _one_hint(annotation: Any, known: dict[str, Any]) -> list[Any]:
    """Return the meaning of one annotation, or nothing."""
    holder: Any = SimpleNamespace(__annotations__={"it": annotation})
    try:
        return [get_type_hints(holder, globalns=known, include_extras=True)["it"]]
    except Exception:  # as above; what has no meaning is no type that we know
        return []


def _functions(code: Any) -> Iterator[FunctionType]:
    while isinstance(code, (partial, partialmethod)):
        code = code.func
    if isinstance(code, type):
        for base in code.__mro__[:-1]:
            for raw in vars(base).values():
                yield from _functions(raw) if not isinstance(raw, type) else ()
        return
    code = getattr(code, "__func__", code)  # a bound, static or class method
    while isinstance(code, FunctionType):
        yield code
        code = getattr(code, "__wrapped__", None)


def _resolve(thing: Any, undo: list[Callable[[], object]], seen: set[int]) -> None:
    """Resolve the annotations of a function or dataclass, of its bases, and of the dataclasses they name."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    for base in getattr(thing, "__bases__", ()):
        if dataclasses.is_dataclass(base):
            _resolve(base, undo, seen)
    before, hints = declared(thing), _hints(thing)
    meant = {name: hints.get(name, annotation) for name, annotation in before.items()}
    if any(isinstance(one, str) for one in before.values()):
        undo.append(replace(thing, meant))
    if isinstance(thing, type):
        for field in dataclasses.fields(thing):
            # From Python 3.14 on a reference to a later class holds its whole module, which cannot be pickled.
            if field.name in meant and any(isinstance(one, (str, ForwardRef)) for one in inside(field.type)):
                undo.append(partial(setattr, field, "type", field.type))
                field.type = meant[field.name]
    for hint in meant.values():
        for inner in inside(hint):
            if isinstance(inner, type) and dataclasses.is_dataclass(inner):
                _resolve(inner, undo, seen)
            elif getattr(inner, "__pydantic_complete__", True) is False:  # it names a model that came after it
                inner.model_rebuild(raise_errors=False)
