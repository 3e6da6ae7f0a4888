"""`module:function` becomes a function that can be called without arguments, or a message that says why not.

"app:main" ─► import app (current directory first) ─► app.main, checked, not called
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from rayserve.annotations import signature
from rayserve.cli.failure import UsageFailure, UserCodeFailure
from rayserve.names import did_you_mean

__all__ = ["load_target"]


def load_target(target: str) -> Callable[[], object]:
    """Return the function that `target` names.

    Args:
        target: `module:function`.

    Raises:
        UsageFailure: it names no function, or none that can be called without arguments.
        UserCodeFailure: its module raised while it was imported.
    """
    module_name, colon, attribute = target.partition(":")
    if not colon or not module_name or not attribute:
        raise UsageFailure(f'"{target}" is not module:function{_as_module(module_name, attribute)}')
    if "/" in module_name or module_name.endswith(".py"):
        raise UsageFailure(f'"{module_name}" is a file, not a module{_as_module(module_name, attribute)}')
    if not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise UsageFailure(f'"{target}" is not module:function; e.g. app:main for `def main()` in app.py')
    module = _imported(module_name)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UsageFailure(f'module "{module_name}" has no "{attribute}"; {_nearest(attribute, module)}')
        found = getattr(found, part)
    return _checked(found, target)


def _imported(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise UsageFailure(f'there is no module "{error.name}" in {here} or on the Python path') from None
        raise UserCodeFailure(f'module "{name}" could not be imported') from error
    except Exception as error:
        raise UserCodeFailure(f'module "{name}" could not be imported') from error


def _checked(found: Any, target: str) -> Callable[[], object]:
    if isinstance(found, type):
        raise UsageFailure(f"{target} is a class; {_wanted(found.__name__)}")
    if not callable(found):
        raise UsageFailure(f"{target} is {_a(type(found).__name__)}, not a function")
    name = getattr(found, "__name__", "handler")
    if inspect.iscoroutinefunction(found):
        raise UsageFailure(f"{target} is async; {_wanted(name)}")
    try:
        signature(found).bind()
    except TypeError:
        parameters = ", ".join(signature(found).parameters)
        raise UsageFailure(f"{target} takes arguments ({parameters}); {_wanted(name)}") from None
    function: Callable[[], object] = found
    return function


def _wanted(name: str) -> str:
    return (
        "`rayserve run` calls a plain function without arguments that makes backends and endpoints, such as\n\n"
        "    def main():\n"
        f'        serve.create_backend("{name}", {name})\n'
        f'        serve.create_endpoint("{name}", "/{name}", backend="{name}")\n'
    )


def _as_module(module_name: str, attribute: str) -> str:
    """Return how the likely meaning is written."""
    guess = module_name.removeprefix("./").removesuffix(".py").strip("/").replace("/", ".")
    return f"; write {guess or 'app'}:{attribute or 'main'} for `def {attribute or 'main'}()` in {guess or 'app'}.py"


def _nearest(name: str, module: ModuleType) -> str:
    own = [
        found
        for found, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not found.startswith("_")
    ]
    return did_you_mean(name, own) if own else "it defines no function"


def _a(noun: str) -> str:
    return f"an {noun}" if noun[:1].lower() in "aeiou" else f"a {noun}"
