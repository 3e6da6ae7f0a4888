"""Python values on the wire: pickle protocol 5 with large buffers beside it, uncopied.

    pack(value) ─► (sizes, parts) ─► frames ─► body ─► unpack(sizes, body)

Only links of role "handle" carry these, and only inside one instance: unpickling runs code.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

__all__ = ["pack", "unpack"]

Part = bytes | memoryview


def pack(value: object, by_value: Callable[..., bytes]) -> tuple[list[int], list[Part]]:
    """Return the sizes and the buffers that make up `value`.

    Args:
        value: anything picklable.
        by_value: a pickler like `cloudpickle.dumps`, taken for what plain pickle cannot carry (lambdas,
            local classes) or would only name (things defined in `__main__`).

    Raises:
        pickle.PicklingError, TypeError, AttributeError: `value` cannot be pickled at all.
    """
    buffers: list[pickle.PickleBuffer] = []
    try:
        data = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        plain = b"__main__" not in data
    except (pickle.PicklingError, TypeError, AttributeError):
        plain = False
    if not plain:
        buffers.clear()
        data = by_value(value, protocol=5, buffer_callback=buffers.append)
    parts: list[Part] = [data]
    parts.extend(buffer.raw() for buffer in buffers)
    return [len(part) for part in parts], parts


def unpack(sizes: list[int], body: bytes | memoryview) -> Any:
    """Return the value packed in `body`.

    Args:
        sizes: as `pack` gave them.
        body: the parts, joined.

    Raises:
        ValueError: the sizes do not add up to the body.
    """
    if sum(sizes) != len(body) or not sizes:
        raise ValueError(f"a Python value of {sum(sizes)} bytes was announced, {len(body)} came")
    if len(sizes) == 1:
        return pickle.loads(body)
    view = memoryview(body)
    parts = []
    position = 0
    for size in sizes:
        parts.append(view[position : position + size])
        position += size
    return pickle.loads(parts[0], buffers=parts[1:])
