"""What commands print: tables for eyes, plain tab-separated lines for pipes, JSON for programs.

serve.status(), serve.list_endpoints() ─► rows ─► table | lines
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

__all__ = ["json_text", "print_rows", "route_rows", "status_rows"]

Row = tuple[str, ...]

ROUTE_TITLES: Row = ("route", "methods", "endpoint", "traffic")
STATUS_TITLES: Row = ("what", "name", "state")


def status_rows(status: Mapping[str, Any]) -> list[Row]:
    """Return one row per thing that `status` tells of: what it is, its name, how it is."""
    rows: list[Row] = [("instance", str(status["instance"]), "running")]
    for title, words in status.items():
        if title == "instance":
            continue
        if isinstance(words, Mapping):
            rows += [(title.removesuffix("s"), str(name), str(how)) for name, how in words.items()]
        else:
            rows.append((title, "", str(words)))
    return rows


def route_rows(endpoints: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Return one row per endpoint: route, methods, name, traffic; those without a route last."""
    ordered = sorted(endpoints.items(), key=lambda item: (item[1]["route"] is None, item[1]["route"] or "", item[0]))
    return [
        (about["route"] or "(by handle)", ",".join(about["methods"]), name, _shares(about)) for name, about in ordered
    ]


def _shares(about: Mapping[str, Any]) -> str:
    shares = [f"{share:.4g} {tag}" for tag, share in about["traffic"].items()]
    shares += [f"{share:.4g} {tag} (copy)" for tag, share in about["shadows"].items()]
    return ", ".join(shares) or "none yet"


def print_rows(titles: Row, rows: Sequence[Row]) -> None:
    """Print a table on a terminal, tab-separated lines without titles elsewhere."""
    if sys.stdout.isatty():
        _print_table(titles, rows)
    else:
        _print_lines(rows)


def _print_lines(rows: Iterable[Row]) -> None:
    for row in rows:
        print("\t".join(row))
    sys.stdout.flush()  # `rayserve run` goes on for days after this


def _print_table(titles: Row, rows: Iterable[Row]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*titles, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))  # Text: brackets in words are words, not markup
    Console().print(table)


def json_text(value: Any) -> str:
    """Return a value as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
