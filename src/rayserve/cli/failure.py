"""How a command fails: in words on stderr, with an exit code; with a traceback only where that is the user's own.

UsageFailure → 2      RayServeException, UserCodeFailure → 1      Ctrl-C → 130
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final

import typer

from rayserve.errors import RayServeException

__all__ = ["UsageFailure", "UserCodeFailure", "in_words"]

_INTERRUPTED: Final = 130  # what shells say for 128 + SIGINT
_OURS: Final = str(Path(__file__).parent)
_PACKAGE: Final = str(Path(__file__).parent.parent)


class UsageFailure(Exception):
    """The command line cannot be what the user meant."""


class UserCodeFailure(Exception):
    """The user's code raised; its error is the cause."""


@contextmanager
def in_words() -> Iterator[None]:
    """Turn what goes wrong in the body into a message and an exit code."""
    try:
        yield
    except UsageFailure as failure:
        _say(str(failure))
        raise typer.Exit(2) from None
    except UserCodeFailure as failure:
        assert failure.__cause__ is not None
        _show_user_traceback(failure.__cause__)
        _say(str(failure))
        raise typer.Exit(1) from None
    except RayServeException as error:
        _say(str(error))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None


def _say(text: str) -> None:
    typer.echo(f"Error: {text}", err=True)


def _show_user_traceback(error: BaseException) -> None:
    """Print the traceback from the first frame of the user's own code; of a refusal of ours, to the last."""
    told = traceback.TracebackException(type(error), error, _users(error.__traceback__))
    if isinstance(error, RayServeException):  # its text says all; how we came to raise it helps nobody
        while len(told.stack) > 1 and told.stack[-1].filename.startswith(_PACKAGE):
            told.stack.pop()
    print("".join(told.format()), end="", file=sys.stderr)


def _users(trace: TracebackType | None) -> TracebackType | None:
    found = trace
    while found is not None and _is_ours(found.tb_frame.f_code.co_filename):
        found = found.tb_next
    return found


def _is_ours(filename: str) -> bool:
    return filename.startswith((_OURS, "<frozen importlib")) or filename.endswith("importlib/__init__.py")
