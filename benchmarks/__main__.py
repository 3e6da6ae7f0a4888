"""`python -m benchmarks`: measure everything, print the tables, say whether each figure is reached.

Exit code 0 if it was measured, 2 if that was not possible; with --check, 1 if a figure is not reached.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import rayserve as serve
from benchmarks import (
    batching,
    calls,
    control,
    gigabyte,
    idle,
    large_bodies,
    memory,
    report,
    small_json,
    streams,
    web_apps,
)
from benchmarks.bench import opened, say
from benchmarks.figures import Figure, Row
from benchmarks.load import NoWrk, find_wrk
from benchmarks.machine import facts

# In this order: memory while the replicas are young, idling after they were busy, the many endpoints last.
_BENCHMARKS = {
    "memory": memory.measure,
    "small-json": small_json.measure,
    "large-bodies": large_bodies.measure,
    "calls": calls.measure,
    "batching": batching.measure,
    "streams": streams.measure,
    "web-apps": web_apps.measure,
    "gigabyte": gigabyte.measure,
    "idle": idle.measure,
    "control": control.measure,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under three minutes instead of six, and less exact")
    parser.add_argument("--only", action="append", choices=list(_BENCHMARKS), help="may be given several times")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the tables into FILE (BENCHMARKS.md)")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a figure is not reached")
    options = parser.parse_args(arguments)
    if sys.platform != "linux":
        sys.stderr.write("the benchmarks read /proc, which only Linux has\n")
        return 2
    try:
        find_wrk()
    except NoWrk as error:
        sys.stderr.write(f"{error}\n")
        return 2
    machine = facts()
    figures: list[Figure] = []
    rows: list[Row] = []
    failed: list[str] = []
    say("starting Ray, RayServe, uvicorn and gunicorn")
    with opened(options.quick) as bench:
        for name in options.only or _BENCHMARKS:
            say(f"measuring {name}")
            try:
                bench.clear()
                result = _BENCHMARKS[name](bench)
            except (OSError, RuntimeError, serve.RayServeException):
                failed.append(name)
                traceback.print_exc()
                continue
            figures += result.figures
            rows += result.rows
    report.show(machine, figures, rows)
    if failed:
        sys.stderr.write(f"could not be measured, see above: {', '.join(failed)}\n")
        return 2
    if options.output is not None:
        report.write(options.output, report.markdown(machine, figures, rows))
    return 1 if options.check and not all(figure.met for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
