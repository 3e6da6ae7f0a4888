"""The admin server's secret and address, in two files of the run directory that only this user can read.

    admin.token   what a client must show          admin.url   where the server listens

Both outlive a crash of the controller, so a Prometheus that scrapes goes on as before.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path
from typing import Final

__all__ = ["TOKEN_FILE", "URL_FILE", "last_port", "remember_url", "token_of"]

TOKEN_FILE: Final = "admin.token"
URL_FILE: Final = "admin.url"

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_URL: Final = re.compile(r"http://127\.0\.0\.1:([0-9]{1,5})")
_LONGEST: Final = 200


def token_of(run_dir: Path) -> str:
    """Return the token in the run directory's file; a new one if there is none, or others could have read it."""
    found = _read(run_dir / TOKEN_FILE)
    if found is not None and _TOKEN.fullmatch(found):
        return found
    token = secrets.token_urlsafe(32)
    _write(run_dir / TOKEN_FILE, token)
    return token


def remember_url(run_dir: Path, url: str) -> None:
    """Write where the server listens."""
    _write(run_dir / URL_FILE, url)


def last_port(run_dir: Path) -> int:
    """Return the port of the last `remember_url`, 0 if there was none."""
    found = _URL.fullmatch(_read(run_dir / URL_FILE) or "")
    return int(found[1]) if found is not None and int(found[1]) <= 65535 else 0


def _read(path: Path) -> str | None:
    """Return the file's line if it is ours alone: no link, no other user's, nobody else may read it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
            return None
        return file.read(_LONGEST).decode("ascii", errors="replace").strip()


def _write(path: Path, line: str) -> None:
    """Put a file of mode 0600 in place; a reader sees all of it or none."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    # EXCL and mode at once: at no moment can anybody else open it.
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(f"{line}\n")
    draft.replace(path)
