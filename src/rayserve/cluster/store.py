"""Small values that outlive every process but Ray's control store (GCS): checkpoints and code blobs.

Keys are text, values bytes (up to 512 MB; 1 MB takes about 4 ms). It is Ray's *internal* key-value store, in a
namespace of our own. The calls go to the GCS client itself, because Ray's wrappers have no time-out
and block for ever when the GCS is dead. They block the caller: on an event loop use `asyncio.to_thread`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from rayserve.cluster.errors import translate
from rayserve.cluster.presence import NAMESPACE, live_ray

__all__ = ["delete", "delete_prefix", "get", "keys", "put"]

_SPACE = NAMESPACE.encode()

T = TypeVar("T")


def put(key: str, value: bytes, timeout_s: float = 5.0, *, overwrite: bool = True) -> bool:
    """Write `value`; return whether the key is new (with `overwrite=False` an old value stays).

    Raises:
        ClusterError: no answer within `timeout_s`.
    """
    added = _try(lambda gcs: gcs.internal_kv_put(key.encode(), value, overwrite, _SPACE, timeout=timeout_s), key)
    return bool(added)


def get(key: str, timeout_s: float = 5.0) -> bytes | None:
    """Return the value, None if there is none.

    Raises:
        ClusterError: no answer within `timeout_s`.
    """
    found = _try(lambda gcs: gcs.internal_kv_get(key.encode(), _SPACE, timeout=timeout_s), key)
    return None if found is None else bytes(found)


def delete(key: str, timeout_s: float = 5.0) -> bool:
    """Remove the key and return whether it was there.

    Raises:
        ClusterError: no answer within `timeout_s`.
    """
    return bool(_try(lambda gcs: gcs.internal_kv_del(key.encode(), False, _SPACE, timeout=timeout_s), key))


def delete_prefix(prefix: str, timeout_s: float = 5.0) -> int:
    """Remove all keys that begin with `prefix` and return how many there were.

    Raises:
        ClusterError: no answer within `timeout_s`.
    """
    return int(_try(lambda gcs: gcs.internal_kv_del(prefix.encode(), True, _SPACE, timeout=timeout_s), prefix))


def keys(prefix: str = "", timeout_s: float = 5.0) -> list[str]:
    """Return the keys that begin with `prefix`, sorted.

    Raises:
        ClusterError: no answer within `timeout_s`.
    """
    found = _try(lambda gcs: gcs.internal_kv_keys(prefix.encode(), _SPACE, timeout=timeout_s), prefix)
    return sorted(key.decode() for key in found)


def _try(call: Callable[[Any], T], key: str) -> T:
    live_ray()
    from ray._private.worker import global_worker

    try:
        return call(global_worker.gcs_client)  # type: ignore[attr-defined]
    except Exception as error:
        translated = translate(error, f'Ray\'s key-value store, key "{key}"')
        if translated is error:
            raise
        raise translated from None
