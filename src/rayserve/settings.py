"""The environment, read here and nowhere else.

    RAYSERVE_DIR         where run directories, logs and records live  (default /tmp/rayserve-<uid>)
    RAY_ADDRESS          the cluster to join when `serve.init` names none
    PYTHONPATH           handed on to ingress processes
    RAY_AUTH_MODE        Ray's own switch, "token" or "disabled"; unset: RayServe decides
    RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH   where Ray looks for its token before ~/.ray/auth_token

Everything is read when asked for, never on import, so a test or a notebook can still change it.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from rayserve.errors import ClusterError, InvalidValueError

__all__ = [
    "base_dir",
    "environment",
    "has_ray_token",
    "own_ray_token_file",
    "private_dir",
    "python_path",
    "ray_address",
    "ray_auth_mode",
    "set_default",
]


def base_dir() -> Path:
    """Return the folder of all run directories of this user, absolute; `private_dir` creates it.

    Raises:
        InvalidValueError: RAYSERVE_DIR is a relative path.
    """
    chosen = os.environ.get("RAYSERVE_DIR", "")
    if not chosen:
        # Not tempfile.gettempdir(): on macOS, and under a long TMPDIR, sockets would not fit (107 bytes).
        root = Path("/tmp") if os.path.isdir("/tmp") else Path(tempfile.gettempdir())
        return root / f"rayserve-{os.getuid()}"
    path = Path(chosen)
    if not path.is_absolute():
        raise InvalidValueError(f'RAYSERVE_DIR is "{chosen}"; set it to an absolute path')
    return path


def private_dir(path: Path) -> Path:
    """Create `path` (and its parents) so that only this user can enter it, and return it.

    Raises:
        ClusterError: something else, or another user's folder, stands there already.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        # lstat: in a world-writable /tmp another user could have left a link to a folder of ours.
        found = path.lstat()
    except OSError as error:
        raise ClusterError(
            f'cannot make the folder "{path}": {error}; set RAYSERVE_DIR to one you can write'
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ClusterError(f'"{path}" is not a folder of this user; remove it or set RAYSERVE_DIR to another one')
    if found.st_mode & 0o077:
        path.chmod(0o700)
    return path


def ray_address() -> str | None:
    """Return RAY_ADDRESS, None if it is unset or empty."""
    return os.environ.get("RAY_ADDRESS") or None


def ray_auth_mode() -> str | None:
    """Return RAY_AUTH_MODE in lower case, None if it is unset or empty."""
    return os.environ.get("RAY_AUTH_MODE", "").lower() or None


def own_ray_token_file() -> Path | None:
    """Return Ray's default token file, None if the environment names the token or another file."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return None
    return Path.home() / ".ray" / "auth_token"


def has_ray_token() -> bool:
    """Return whether Ray would find a token: in the environment or in a file."""
    default = own_ray_token_file()
    if default is not None:
        return default.is_file()
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or Path(os.environ["RAY_AUTH_TOKEN_PATH"]).is_file()


def set_default(name: str, value: str) -> None:
    """Set an environment variable for this process and its children, unless the user did."""
    os.environ.setdefault(name, value)


def environment(**changes: str) -> dict[str, str]:
    """Return a copy of the environment for a child process, with `changes` put over it."""
    return {**os.environ, **changes}


def python_path(first: Path) -> str:
    """Return PYTHONPATH with `first` in front, for a child process."""
    present = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join([str(first), present] if present else [str(first)])
