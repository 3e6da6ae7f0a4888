"""Start a Ray on this machine: quiet, small, closed to strangers, patient when its control store stumbles.

Called by connect.py on a kept thread, since Ray's processes die with the thread that started them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from rayserve import settings
from rayserve.cluster import token
from rayserve.cluster.presence import NAMESPACE
from rayserve.errors import ClusterError, InvalidValueError

__all__ = ["OBJECT_STORE_BYTES", "prepare_start", "ray_init"]

# Requests never pass through Ray's object store: it may be near its minimum (78.6 MB). Ray would take 30 % of memory.
OBJECT_STORE_BYTES = 100_000_000

# Workers would run at nice 15 and be the kernel's first victims when memory is short: wrong for servers.
_SYSTEM_CONFIG = {"worker_niceness": 0, "worker_oom_score_adjustment": 0}

# Ray appends `/session_<stamp>_<pid>/sockets/plasma_store`; the kernel takes 107 bytes of path, macOS 103.
_SOCKET_TAIL_BYTES = 64
_SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107


def prepare_start(given: Mapping[str, Any]) -> dict[str, Any]:
    """Set the environment for a Ray that is to start; return what to call `ray_init("local", …)` with.

    Args:
        given: the user's own arguments for `ray.init`, which win over ours.

    Raises:
        InvalidValueError: Ray's socket paths would be too long.
        ClusterError: Ray's token cannot be kept.
    """
    token.make_file()
    token.use()
    # Without it every process that Ray runs exits 60 s after its control store (GCS) was lost.
    settings.set_default("RAY_gcs_rpc_server_reconnect_timeout_s", "600")
    _check_temp_dir(given.get("_temp_dir"))
    return {
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        **given,
        "_system_config": {**_SYSTEM_CONFIG, **(given.get("_system_config") or {})},
    }


def ray_init(address: str, options: Mapping[str, Any]) -> None:
    """Call `ray.init`, quietly and in our namespace unless `options` say otherwise.

    Raises:
        InvalidValueError: Ray refuses an argument.
        ClusterError: it could not connect or start.
    """
    import ray

    try:
        ray.init(address=address, **{"namespace": NAMESPACE, "logging_level": "ERROR", **options})
    except (ValueError, TypeError) as error:
        raise InvalidValueError(f"ray.init refused ray_init_kwargs={dict(options)!r}: {error}") from error
    except Exception as error:  # Ray raises many kinds here, also bare Exception
        if "Unknown keyword argument" in str(error):
            raise InvalidValueError(f"ray_init_kwargs: {error}") from error
        what = "start Ray on this machine" if address == "local" else f"join Ray at {address}"
        raise ClusterError(f"cannot {what}: {error}") from error


def _check_temp_dir(chosen: str | None) -> None:
    """Refuse a temporary folder whose sockets could not be bound, before Ray fails half-way."""
    from ray._common.utils import get_default_ray_temp_dir

    folder = chosen or str(get_default_ray_temp_dir())  # type: ignore[no-untyped-call]
    room = _SOCKET_PATH_BYTES - _SOCKET_TAIL_BYTES
    if len(os.fsencode(folder)) > room:
        knob = 'ray_init_kwargs={"_temp_dir": …}' if chosen else "RAY_TMPDIR"
        raise InvalidValueError(
            f'Ray\'s temporary folder "{folder}" is too long for its sockets; set {knob} to at most {room - 4} bytes'
        )
