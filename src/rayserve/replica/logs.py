"""Logs of a replica: `<run dir>/logs/replica-<id>.log`, and user prints tagged with backend and replica.

print(…) ─► "[resnet#a1b2c3] …" ─► the replica's log file, and on to where Ray sends the worker's output
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
from pathlib import Path
from typing import TextIO

__all__ = ["Tagged", "open_logs"]

_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


class Tagged(io.TextIOBase):
    """A text stream that puts a tag in front of each line and writes it to a file and to what it replaces."""

    def __init__(self, tag: str, file: TextIO, beneath: TextIO) -> None:
        """Write lines of `tag` to `file`, and as they are to `beneath`."""
        self._tag = tag
        self._file = file
        self._beneath = beneath
        self._partial = ""
        self._lock = threading.Lock()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream beneath."""
        return self._beneath.encoding

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor of the stream beneath: faulthandler and subprocesses want one."""
        return self._beneath.fileno()

    def isatty(self) -> bool:
        """Return False."""
        return False

    def write(self, text: str) -> int:
        """Write `text`; whole lines go out with their tag, the rest waits for its end.

        What cannot be written, as the disk is full or a pipe broken, is lost: a print must not fail a call.
        """
        with self._lock:
            *lines, self._partial = (self._partial + text).split("\n")
            out = "".join(f"[{self._tag}] {line}\n" for line in lines)
            for stream in (self._file, self._beneath) if out else ():
                with contextlib.suppress(OSError, ValueError):
                    stream.write(out)
        return len(text)

    def flush(self) -> None:
        """Flush both streams."""
        for stream in (self._file, self._beneath):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()


def open_logs(run_dir: str, backend: str, replica: str) -> None:
    """Send this process's log, and its prints, to the replica's file.

    Args:
        run_dir: the instance's run directory.
        backend: the backend's tag; part of the replica's id, which is the tag of each line.
        replica: the replica's id.
    """
    folder = Path(run_dir) / "logs"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in replica)
    file = (folder / f"replica-{name}.log").open("a", buffering=1, encoding="utf-8", errors="backslashreplace")
    handler = logging.StreamHandler(file)
    handler.setFormatter(logging.Formatter(_FORMAT))
    root = logging.getLogger("rayserve")
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    root.propagate = False
    sys.stdout = Tagged(replica, file, sys.stdout)
    sys.stderr = Tagged(replica, file, sys.stderr)
