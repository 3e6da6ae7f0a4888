"""Ray's token: the only thing between its open ports and the network.

Ray listens on all interfaces whatever it is told, so a Ray that we start demands a token, and its
file is readable by this user alone. A cluster that we join may run open: `refuses_strangers` asks it.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

from rayserve import settings
from rayserve.errors import ClusterError

__all__ = ["make_file", "refuses_strangers", "show_if_present", "use"]


def use() -> None:
    """Make this process show Ray's token and its children demand it, unless RAY_AUTH_MODE already says otherwise."""
    settings.set_default("RAY_AUTH_MODE", "token")
    if "ray" in sys.modules:  # it read the variable on import
        from ray._raylet import Config  # type: ignore[attr-defined]

        Config.initialize("")


def show_if_present() -> None:
    """Show the token, if this user has one, when joining a cluster of which we know nothing.

    An open cluster does not mind one; a closed one refuses everything without it.
    """
    if settings.has_ray_token():
        use()


def make_file() -> None:
    """Create Ray's default token file, or close it to other users: Ray itself leaves it readable by all."""
    path = settings.own_ray_token_file()
    if path is None or settings.ray_auth_mode() == "disabled":
        return
    try:
        _close_or_create(path)
    except OSError as error:
        raise ClusterError(
            f'cannot keep Ray\'s token in "{path}": {error}; set RAY_AUTH_TOKEN_PATH to a file of this user'
        ) from error


def _close_or_create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.parent.chmod(0o700)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        path.chmod(0o600)
        return
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))


# Runs without our token; prints whether the cluster minds.
_STRANGER = """
import sys
from ray._raylet import GcsClient
from ray.exceptions import RayError
try:
    GcsClient(address=sys.argv[1]).internal_kv_get(b"rayserve", b"rayserve", timeout=5)
    print("open")
except RayError as error:
    print("closed" if type(error).__name__ == "AuthenticationError" else f"unknown {error}")
"""


def refuses_strangers(address: str, timeout_s: float) -> bool:
    """Return whether the cluster at `address` turns away a caller without token.

    Asked by a short-lived process of its own (about 1 s), as one process has one authentication mode.

    Raises:
        ClusterError: no clear answer within `timeout_s`.
    """
    environment = settings.environment(RAY_AUTH_MODE="disabled")
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _STRANGER, address],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=timeout_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"Ray at {address} did not answer within {timeout_s:g} s") from error
    verdict = asked.stdout.decode().strip()
    if verdict not in ("open", "closed"):
        raise ClusterError(f"cannot tell whether Ray at {address} demands a token: {verdict or 'the probe failed'}")
    return verdict == "closed"
