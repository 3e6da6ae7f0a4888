"""Values in Ray's object store, for handles that take or give `ObjectRef`s.

No request passes through the store; a user may bring a reference along, or want one back.
"""

from __future__ import annotations

import sys
from io import BytesIO
from typing import Any

from rayserve.cluster.errors import translate
from rayserve.cluster.presence import live_ray

__all__ = ["holds_object_ref", "is_object_ref", "put_object", "resolve"]


def is_object_ref(value: Any) -> bool:
    """Return whether `value` is Ray's `ObjectRef`; never imports ray: where nobody did, there are none."""
    ray = sys.modules.get("ray")
    return ray is not None and isinstance(value, ray.ObjectRef)


def holds_object_ref(value: Any) -> bool:
    """Return whether pickling `value` takes an `ObjectRef` along; walks all of it."""
    from ray import cloudpickle

    class Found(Exception):
        pass

    class Search(cloudpickle.Pickler):
        def persistent_id(self, part: Any) -> None:
            if is_object_ref(part):
                raise Found

    pickler: Any = Search
    try:
        pickler(BytesIO(), protocol=5, buffer_callback=lambda _: None).dump(value)
    except Found:
        return True
    except Exception:  # what cannot be pickled takes nothing along
        return False
    return False


async def resolve(ref: Any) -> Any:
    """Await the value behind an `ObjectRef` on any event loop.

    Raises:
        ClusterError: the value is lost.
        Exception: what the task that makes the value raised, as its own class.
    """
    live_ray()
    try:
        return await ref
    except Exception as error:
        raise translate(error, "the ObjectRef") from None


def put_object(value: Any) -> Any:
    """Put `value` into the store and return its `ObjectRef`, owned by this process: it is lost with it."""
    return live_ray().put(value)
