"""`"module:name"` → what it names, and helpful words where there is no such thing.

create_backend("shop.models:ResNet"), serve.asgi("shop.web:app") ── on the replica ──► imported ─► the object

What the module itself raises passes through: that is the user's own traceback.
"""

from __future__ import annotations

import importlib
from difflib import get_close_matches
from typing import Any, Final

from rayserve.errors import InvalidValueError

__all__ = ["TO_SHIP", "imported"]

TO_SHIP: Final = 'install it on every node, or ship it with ray_init_kwargs={"runtime_env": {"working_dir": "."}}'


def imported(path: str) -> Any:
    """Return what `"module:name"` names; the name may have dots.

    Raises:
        InvalidValueError: there is no such module here, or it has nothing of that name.
        Exception: what the module raised while it was imported.
    """
    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and lacks one in turn
        raise InvalidValueError(
            f'"{path}" cannot be imported on the replica: there is no module "{error.name}"; {TO_SHIP}'
        ) from None
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            near = get_close_matches(part, dir(found), n=1, cutoff=0.5)
            hint = f'did you mean "{near[0]}"?' if near else "is it spelt as there?"
            where = getattr(found, "__file__", None) or getattr(found, "__name__", module)
            raise InvalidValueError(f'"{path}" cannot be imported: there is no "{part}" in {where}; {hint}') from None
    return found
