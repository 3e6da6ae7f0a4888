"""Where the desired state survives: one value under `<instance>/state`, blobs under `<instance>/blob/<sha256>`.

    Ledger.commit(change) ─► change(state), pure ─► Checkpoint.save ─► in force ─► blobs nobody names deleted

What is not saved is not in force, so whatever was answered survives a crash right after it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

import msgspec

from rayserve.controller.bell import Bell
from rayserve.controller.shell import Shell
from rayserve.controller.state import Desired, blobs_of
from rayserve.errors import ClusterError, InvalidValueError

__all__ = ["MAX_BLOB_BYTES", "Checkpoint", "Ledger", "again", "blob_key", "check_blob", "hash_of"]

MAX_BLOB_BYTES: Final = 64 * 2**20
_AGAIN_S: Final = 1.0

T = TypeVar("T")

_log = logging.getLogger(__name__)
_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Desired)


def hash_of(blob: bytes) -> str:
    """Return the name of a blob: the hash of its content."""
    return hashlib.sha256(blob).hexdigest()


def blob_key(instance: str, name: str) -> str:
    """Return the store's key of a blob."""
    return f"{instance}/blob/{name}"


def check_blob(blob: bytes, what: str) -> bytes:
    """Return `blob` if it is small enough to be kept.

    Args:
        blob: the pickled code, arguments or config.
        what: how the message calls it, e.g. `the init arguments of backend "resnet"`.

    Raises:
        InvalidValueError: it is over `MAX_BLOB_BYTES`.
    """
    if len(blob) > MAX_BLOB_BYTES:
        raise InvalidValueError(
            f"{what} take {len(blob) / 2**20:.0f} MiB pickled, more than {MAX_BLOB_BYTES // 2**20} MiB; "
            "pass a path and load it in the constructor"
        )
    return blob


async def again(attempt: Callable[[], Awaitable[T]]) -> T:
    """Await `attempt()`, anew after each time the store or Ray did not answer."""
    while True:
        try:
            return await attempt()
        except ClusterError as error:
            _log.warning("next try in %g s: %s", _AGAIN_S, error)
            await asyncio.sleep(_AGAIN_S)


class Checkpoint:
    """Reads and writes the desired state of one instance, always whole: 0.2 ms to encode with 1,000 endpoints."""

    def __init__(self, shell: Shell, instance: str) -> None:
        """Keep the state of `instance` in the store of `shell`."""
        self._shell = shell
        self._instance = instance
        self._key = f"{instance}/state"
        self.blobs: set[str] = set()  # known to be in the store

    async def load(self) -> Desired | None:
        """Return the saved state, None if there is none."""
        data = await self._shell.get(self._key)
        return None if data is None else _decoder.decode(data)

    async def save(self, state: Desired) -> None:
        """Make `state` the one that a restart finds."""
        await self._shell.put(self._key, _encode(state))

    async def put_blobs(self, blobs: Mapping[str, bytes]) -> None:
        """Write blobs; one that is there already is not written again."""
        for name, blob in blobs.items():
            if name not in self.blobs:
                await self._shell.put(blob_key(self._instance, name), blob, overwrite=False)
                self.blobs.add(name)

    async def drop_blobs(self, names: set[str]) -> None:
        """Delete blobs; one that cannot be deleted now is collected at the next start."""
        for name in names:
            self.blobs.discard(name)
            try:
                await self._shell.delete(blob_key(self._instance, name))
            except ClusterError as error:
                _log.warning("blob %s stays in the store until the next start: %s", name, error)

    async def collect(self, named: set[str]) -> None:
        """Delete every blob that is not `named`: left by a crash between two writes."""
        prefix = blob_key(self._instance, "")
        self.blobs = {key.removeprefix(prefix) for key in await self._shell.keys(prefix)}
        await self.drop_blobs(self.blobs - named)

    async def erase(self) -> None:
        """Delete the blobs, then the state; in this order a crash between them is a start that goes on closing."""
        await self.collect(set())
        await self._shell.delete(self._key)


class Ledger:
    """The desired state in force, and the only way to change it."""

    def __init__(self, checkpoint: Checkpoint, state: Desired, bell: Bell) -> None:
        """Begin with `state`, which is saved already."""
        self.state = state
        self._checkpoint = checkpoint
        self._bell = bell
        self._lock = asyncio.Lock()

    async def commit(self, change: Callable[[Desired], Desired], blobs: Mapping[str, bytes] | None = None) -> Desired:
        """Put `change(state)` in force once it is saved, and return it.

        Args:
            change: pure; may raise, then nothing changes. Returning its argument writes nothing.
            blobs: written before, as the new state names them.

        Raises:
            ClusterError: the store did not answer; the old state stays in force.
        """
        async with self._lock:
            old = self.state
            new = change(old)
            if new is old:
                return old
            writing = asyncio.ensure_future(self._write(old, new, blobs or {}))
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:
                # A cancelled command must leave no state saved that is not in force, nor let the next one overtake.
                await asyncio.wait([writing])
                raise
            return new

    async def insist(self, change: Callable[[Desired], Desired]) -> Desired:
        """Commit what must be: a store that does not answer is asked again, for ever."""
        return await again(lambda: self.commit(change))

    async def _write(self, old: Desired, new: Desired, blobs: Mapping[str, bytes]) -> None:
        await self._checkpoint.put_blobs(blobs)
        await self._checkpoint.save(new)
        self.state = new
        self._bell.ring()
        if new.backends is not old.backends:
            await self._checkpoint.drop_blobs(blobs_of(old) - blobs_of(new))
