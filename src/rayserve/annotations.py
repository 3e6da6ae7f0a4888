"""The annotations that a function or class was given, in any Python from 3.11 to 3.14.

    function, class ── declared ──► name → annotation      replace: other ones, for a while
    callable ── signature ──► parameters

From Python 3.14 on annotations run when they are first asked for (PEP 649) and may fail only then: mostly for a name
that `if TYPE_CHECKING:` imports. What fails counts as text, as with `from __future__ import annotations`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ForwardRef, get_args

__all__ = ["declared", "inside", "replace", "signature"]


def declared(thing: Any) -> dict[str, Any]:
    """Return a function's annotations, or those of a class without its bases'; text for what cannot be evaluated."""
    try:
        return dict(inspect.get_annotations(thing))
    except Exception:  # annotations are expressions of the user's: they may raise anything
        return _as_text(thing)


def replace(thing: Any, annotations: dict[str, Any]) -> Callable[[], object]:
    """Give a function or class other annotations of the same names; return what puts its own back."""
    try:
        own = thing.__annotations__
    except Exception:  # as above
        undo = partial(setattr, thing, "__annotate__", thing.__annotate__)  # setting __annotations__ forgets it
        thing.__annotations__ = annotations
        return undo
    undo = partial(own.update, dict(own))
    own.update(annotations)
    return undo


def inside(annotation: Any) -> Iterator[Any]:
    """Yield an annotation and everything in its brackets."""
    yield annotation
    for one in get_args(annotation):
        yield from inside(one)


if sys.version_info >= (3, 14):
    from annotationlib import Format, get_annotations

    def signature(func: Any, *, follow_wrapped: bool = True) -> inspect.Signature:
        """Return what `inspect.signature` does, without evaluating annotations: what they mean is not in it."""
        return inspect.signature(func, follow_wrapped=follow_wrapped, annotation_format=Format.STRING)

    def _as_text(thing: Any) -> dict[str, Any]:
        try:
            values = get_annotations(thing, format=Format.FORWARDREF)
            texts = get_annotations(thing, format=Format.STRING)
        except Exception:  # not for a missing name
            return {}
        unknown = {name for name, value in values.items() if any(isinstance(one, ForwardRef) for one in inside(value))}
        return {name: texts[name] if name in unknown else value for name, value in values.items()}

else:

    def signature(func: Any, *, follow_wrapped: bool = True) -> inspect.Signature:
        """Return what `inspect.signature` does; do not rely on the annotations in it."""
        return inspect.signature(func, follow_wrapped=follow_wrapped)

    def _as_text(thing: Any) -> dict[str, Any]:
        return {}
