"""Python values on the wire: pickle protocol 5 with large buffers beside it, uncopied.

    pack(value) ─► (sizes, parts) ─► frames ─► body ─► unpack(sizes, body)

Only links of role "handle" carry these, and only inside one instance: unpickling runs code.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, Final

import msgspec

__all__ = ["Items", "pack", "pack_item", "unpack"]

Part = bytes | memoryview

_MOST_SIZES: Final = 1024 * 1024
_encode = msgspec.msgpack.Encoder().encode
_sizes = msgspec.msgpack.Decoder(list[int]).decode


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
    if buffers:
        parts.extend(buffer.raw() for buffer in buffers)
    return list(map(len, parts)), parts


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


def pack_item(value: object, by_value: Callable[..., bytes]) -> list[Part]:
    """Return one value of a stream of values: 4 bytes length of its sizes, the sizes, the parts."""
    sizes, parts = pack(value, by_value)
    head = _encode(sizes)
    return [len(head).to_bytes(4, "little") + head, *parts]


class Items:
    """Cuts the bytes of a stream of values into packed values."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, piece: bytes | memoryview) -> list[tuple[list[int], bytes]]:
        """Return `(sizes, body)` of the values that `piece` completes, for `unpack`.

        Raises:
            ValueError: these bytes are no stream of values.
        """
        buffer = self._buffer
        buffer += piece
        found = []
        at = 0
        while len(buffer) - at >= 4:
            start = at + 4 + int.from_bytes(buffer[at : at + 4], "little")
            if start - at > _MOST_SIZES:
                raise ValueError("a value in a stream of values announces impossible sizes")
            if len(buffer) < start:
                break
            sizes = _sizes(bytes(buffer[at + 4 : start]))
            end = start + sum(sizes)
            if len(buffer) < end:
                break
            found.append((sizes, bytes(buffer[start:end])))
            at = end
        del buffer[:at]
        return found
