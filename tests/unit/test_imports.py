"""Code that is given as text: found, or told what is missing (case 7)."""

import os.path
import sys
from pathlib import Path

import pytest

from rayserve.errors import InvalidValueError
from rayserve.imports import imported
from rayserve.replica.replies import user_traceback


def test_names_may_have_dots() -> None:
    assert imported("os:path.join") is os.path.join


@pytest.mark.parametrize("path", ["no_such_module:name", "os.no_such_module:name", "no_such_module.inner:name"])
def test_case_7_a_module_that_is_not_there_is_named_with_the_way_out(path: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        imported(path)
    text = str(caught.value)
    assert text.startswith(f'"{path}" cannot be imported on the replica: there is no module "')
    assert text.endswith(
        'install it on every node, or ship it with ray_init_kwargs={"runtime_env": {"working_dir": "."}}'
    )


def test_case_7_a_name_that_is_not_there_is_told_with_the_nearest() -> None:
    with pytest.raises(InvalidValueError, match=r'there is no "joyn" in .*posixpath\.py; did you mean "join"\?'):
        imported("os:path.joyn")
    with pytest.raises(InvalidValueError, match=r'there is no "zzzzzz" in .*os\.py'):
        imported("os:zzzzzz.inner")


def test_case_7_what_the_module_lacks_in_turn_is_its_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_another.py").write_text("import no_such_module_either\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="no_such_module_either") as caught:
        imported("needs_another:name")
    shown = user_traceback(caught.value.with_traceback(caught.tb.tb_next))  # from our own frame on
    assert "needs_another.py" in shown.splitlines()[1]
    sys.modules.pop("needs_another", None)
