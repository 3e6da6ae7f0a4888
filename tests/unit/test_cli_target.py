"""`module:function` finds the function, or the message says what to write instead."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayserve.cli.failure import UsageFailure, UserCodeFailure
from rayserve.cli.target import load_target

_numbers = itertools.count()

SOURCE = """
import os
CALLED = []
def main(): CALLED.append(1)
def handler(flask_request): return "hello"
def defaults(port=8000, *args, **kwargs): return port
async def later(): pass
class Backend:
    def __call__(self, flask_request): pass
    @staticmethod
    def make(): return "made"
number = 3
"""


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A fresh module in the current directory, which is not on the path yet."""
    name = f"target_{next(_numbers)}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name
    sys.modules.pop(name, None)


def refused(target: str) -> str:
    with pytest.raises(UsageFailure) as caught:
        load_target(target)
    return str(caught.value)


def test_a_function_in_the_current_directory_is_found_and_not_called(name: str) -> None:
    function = load_target(f"{name}:main")
    assert sys.modules[name].CALLED == []
    function()
    assert sys.modules[name].CALLED == [1]


@pytest.mark.parametrize("attribute", ["defaults", "Backend.make"])
def test_whatever_can_be_called_without_arguments_will_do(name: str, attribute: str) -> None:
    assert load_target(f"{name}:{attribute}")() in (8000, "made")


@pytest.mark.parametrize("target", ["app", "app.py", "app:", "app.py:main", "./app.py:main"])
def test_a_file_or_a_bare_module_is_told_how_to_write_it(target: str) -> None:
    assert refused(target).endswith("write app:main for `def main()` in app.py")


@pytest.mark.parametrize("target", ["", ":", ":main", "a b:main", "app:main()", "app:main:x", "..:main", "app:-"])
def test_what_is_no_pair_of_names_is_refused(target: str) -> None:
    assert "is not module:function" in refused(target)


def test_an_unknown_module_says_where_it_was_looked_for(name: str) -> None:
    assert refused("no_such_module_here:main") == (
        f'there is no module "no_such_module_here" in {Path.cwd()} or on the Python path'
    )
    assert f'"{name}.sub"' in refused(f"{name}.sub:main")


def test_an_unknown_function_names_the_nearest(name: str) -> None:
    assert refused(f"{name}:mian") == f'module "{name}" has no "mian"; did you mean "main"?'


@pytest.mark.parametrize(
    ("attribute", "words"),
    [("handler", "takes arguments (flask_request)"), ("Backend", "is a class"), ("later", "is async")],
)
def test_a_handler_is_met_with_the_function_that_would_serve_it(name: str, attribute: str, words: str) -> None:
    message = refused(f"{name}:{attribute}")
    assert message.startswith(f"{name}:{attribute} {words}")
    assert f'serve.create_endpoint("{attribute}", "/{attribute}", backend="{attribute}")' in message


def test_a_value_is_no_function(name: str) -> None:
    assert refused(f"{name}:number") == f"{name}:number is an int, not a function"


@pytest.mark.parametrize("line", ["1 / 0", "import no_such_module_at_all", "from os import no_such_name"])
def test_a_module_that_raises_is_the_users_own_failure(name: str, line: str) -> None:
    Path(f"{name}.py").write_text(line)
    with pytest.raises(UserCodeFailure, match=f'module "{name}" could not be imported') as caught:
        load_target(f"{name}:main")
    assert isinstance(caught.value.__cause__, (ZeroDivisionError, ImportError))
