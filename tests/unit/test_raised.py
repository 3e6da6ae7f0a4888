"""Exceptions on their way to a Python caller: their own class if it can be, always something that loads."""

import pickle
import threading
from typing import Any

import pytest

from rayserve.errors import HTTPError, QueueFullError, UserCodeError
from rayserve.replica.raised import pickled
from rayserve.replica.replies import user_traceback


class Fussy(ValueError):
    def __init__(self, code: int, *, why: str) -> None:
        super().__init__(f"{code}: {why}")
        self.code = code
        self.why = why


class Doubles(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text + text)


class Carries(Exception):
    def __init__(self) -> None:
        super().__init__("text", threading.Lock())


class Hostile(Exception):
    def __reduce__(self) -> Any:
        raise SystemExit(1)

    def __str__(self) -> str:
        raise KeyboardInterrupt


class Impostor(Exception):
    def __reduce__(self) -> Any:
        return str, ("not an exception",)


def back(error: BaseException) -> Any:
    return pickle.loads(pickled(error, pickle.dumps))


@pytest.mark.parametrize(
    "error",
    [KeyError("k"), OSError(2, "no file", "name"), HTTPError(418, {"a": 1}), QueueFullError("full"), MemoryError()],
)
def test_what_pickles_well_comes_back_as_it_was(error: Exception) -> None:
    again = back(error)

    assert type(again) is type(error)
    assert (again.args, str(again)) == (error.args, str(error))


def test_a_constructor_with_other_arguments_is_not_called_again() -> None:
    again = back(Fussy(7, why="so"))

    assert (type(again), str(again), again.code, again.why) == (Fussy, "7: so", 7, "so")


def test_a_constructor_that_changes_its_text_does_not_do_so_twice() -> None:
    assert str(back(Doubles("ab"))) == "abab"


def test_what_cannot_be_pickled_in_it_is_left_behind() -> None:
    again = back(Carries())

    assert type(again) is Carries
    assert "text" in str(again)


def test_whatever_a_class_does_to_pickle_something_loads() -> None:
    assert isinstance(back(Hostile()), Hostile)
    assert isinstance(back(Impostor("x")), Impostor)


def test_what_is_no_exception_is_told_and_not_raised() -> None:
    assert str(back(SystemExit(3))) == "the handler raised SystemExit: 3"
    assert isinstance(back(KeyboardInterrupt()), UserCodeError)


def test_a_local_class_is_told_by_its_text() -> None:
    class Local(Exception):
        pass

    assert str(back(Local("what"))) == "the handler raised Local: what"


@pytest.mark.parametrize(("notes", "shown"), [(5, ["5"]), (["a", "b"], ["a", "b"]), (None, [])])
def test_a_traceback_has_whatever_notes_user_code_made(notes: Any, shown: list[str]) -> None:
    error = ValueError("boom")
    error.__notes__ = notes

    assert user_traceback(error).splitlines() == ["ValueError: boom", *shown]


def test_of_many_notes_the_ends_are_told() -> None:
    error = ValueError("boom")
    for number in range(9):
        error.add_note(f"note {number}")

    assert user_traceback(error).splitlines()[1:] == [
        "note 0", "note 1", "… 5 more, of the calls between; the logs of their replicas have them", "note 7", "note 8"
    ]  # fmt: skip
