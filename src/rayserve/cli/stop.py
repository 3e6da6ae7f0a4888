"""`rayserve shutdown`: join, ask the user, stop the instance."""

from __future__ import annotations

import sys
from collections.abc import Sized

import typer

import rayserve as serve
from rayserve.cli.failure import UsageFailure
from rayserve.cli.join import join

__all__ = ["stop_instance"]


def stop_instance(name: str, address: str | None, yes: bool) -> None:
    """Stop the instance of that name; on a terminal only after a yes.

    Raises:
        UsageFailure: there is no terminal to ask on, and `yes` was not given.
    """
    if not yes and not _can_ask():
        raise UsageFailure("there is no terminal to ask on; say --yes to stop the instance without a question")
    found = join(name, address)
    if not yes:
        where = f" at {found.url}" if found.url else ""
        what = f"{_count(serve.list_endpoints(), 'endpoint')} and {_count(serve.list_backends(), 'backend')}"
        typer.confirm(f'stop instance "{found.name}"{where} with {what}?', abort=True)
    serve.shutdown()
    print(f'instance "{found.name}" is stopped')


def _can_ask() -> bool:
    return sys.stdin.isatty()


def _count(things: Sized, noun: str) -> str:
    return f"{len(things)} {noun}{'s' * (len(things) != 1)}"
