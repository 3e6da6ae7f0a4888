"""Results as a reader meets them: tables on the terminal, Markdown between the marks of BENCHMARKS.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure, Row

__all__ = ["BEGIN", "END", "markdown", "show", "write"]

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

_FIGURE_HEAD = ("figure", "measured", "must be", "met", "from")
_ROW_HEAD = ("load", "server", "requests/s", "server CPU per request", "p50", "p99")


def show(facts: Mapping[str, str], figures: Sequence[Figure], rows: Sequence[Row]) -> None:
    """Print everything to stdout."""
    console = Console(highlight=False)
    # In a pipe there is no width to fit into.
    console = console if console.is_terminal else Console(highlight=False, width=200)
    for name, value in facts.items():
        console.print(f"{name}: {value}")
    for head, lines in ((_ROW_HEAD, _row_lines(rows)), (_FIGURE_HEAD, _figure_lines(figures))):
        if lines:
            table = Table(*head)
            for line in lines:
                table.add_row(*line)
            console.print(table)


def markdown(facts: Mapping[str, str], figures: Sequence[Figure], rows: Sequence[Row]) -> str:
    """Return the same as Markdown."""
    parts = ["\n".join(f"- {name}: {value}" for name, value in facts.items())]
    for head, lines in ((_FIGURE_HEAD, _figure_lines(figures)), (_ROW_HEAD, _row_lines(rows))):
        rule = ["---"] * len(head)
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines)))
    return "\n\n".join(parts)


def write(path: Path, text: str) -> None:
    """Put `text` between the marks of the file at `path`.

    Raises:
        ValueError: the file has no such marks.
    """
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no lines {BEGIN} and {END} to write between")
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def _figure_lines(figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    return [
        (
            figure.what,
            f"{figure.value:,.2f}{figure.unit}",
            f"{figure.bound} {figure.target:,g}{figure.unit}",
            "yes" if figure.met else "NO",
            figure.detail,
        )
        for figure in figures
    ]


def _row_lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    return [(row.what, row.subject, *row.values) for row in rows]
