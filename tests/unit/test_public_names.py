"""The package as users meet it: its names, how little its import costs, and where it refuses to run."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

import rayserve as serve
from rayserve import habits
from rayserve.context import Context

ROOT = Path(__file__).parents[2]


def python(script: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=50
    ).stdout.strip()


def test_all_is_sorted_complete_and_resolves() -> None:
    assert serve.__all__ == sorted(serve.__all__)
    assert {name for name in dir(serve) if not name.startswith("_")} == set(serve.__all__)
    for name in serve.__all__:
        assert getattr(serve, name) is getattr(serve, name)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = serve.nonsense  # type: ignore[attr-defined]


def test_names_of_other_libraries_are_told_ours() -> None:
    for name, ours in (("deployment", "create_backend"), ("run", "create_endpoint"), ("batch", "accept_batch")):
        with pytest.raises(AttributeError, match=f"no attribute '{name}'; .*serve.{ours}"):
            getattr(serve, name)
    for told in habits._HERE.values():
        verbs = re.findall(r"serve\.(\w+)", told)
        assert verbs
        assert set(verbs) <= set(serve.__all__), told
    assert not habits._HERE.keys() & set(serve.__all__)


def test_verbs_show_the_public_path_and_are_documented() -> None:
    for name in serve.__all__:
        value = getattr(serve, name)
        assert value.__doc__, name
        if type(value).__name__ == "function" and name != "accept_batch":
            assert value.__module__ == "rayserve", name


def test_context_is_the_object_whoever_imports_its_module() -> None:
    for script in (
        "import rayserve as s; print(type(s.context).__name__)",
        "import rayserve.context, rayserve as s; print(type(s.context).__name__)",
        "import rayserve as s, rayserve.api, rayserve.context; print(type(s.context).__name__)",
    ):
        assert python(script) == Context.__name__


def test_the_import_loads_neither_ray_nor_pydantic_nor_flask() -> None:
    heavy = "[name for name in ('ray', 'pydantic', 'flask', 'uvloop', 'rich', 'typer') if name in sys.modules]"
    assert python(f"import sys, rayserve; print({heavy})") == "[]"
    assert "ray" not in python(f"import sys, rayserve; rayserve.init; print({heavy})")


def test_windows_gets_a_clear_refusal() -> None:
    script = "import sys; sys.platform = 'win32'\ntry: import rayserve\nexcept ImportError as error: print(error)"
    assert python(script) == "rayserve runs on Linux and macOS; on Windows use it inside WSL 2"


def test_the_version_is_that_of_the_package() -> None:
    assert serve.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_every_module_has_a_room_in_the_architecture() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    table = text.partition("## Rooms")[2].partition("\n## ")[0]
    rooms = [
        room for line in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for room in re.findall(r"`([\w*]+)`", line)
    ]
    package = ROOT / "src" / "rayserve"
    modules = {
        path.stem for path in (*package.glob("*.py"), *(inner.parent for inner in package.glob("*/__init__.py")))
    }

    assert [name for name in sorted(modules) if not any(fnmatch(name, room) for room in rooms)] == []
    assert [room for room in rooms if not any(fnmatch(name, room) for name in modules)] == []
