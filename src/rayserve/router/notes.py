"""What a link's replica has started, as far as this process can know when the link is lost.

    take() ─► slot in the OPEN ─► the replica notes the stream there ─► link lost ─► read(streams) ─► call.started

On one node it is a `Board`, shared memory that outlives the replica; across nodes there is none, and STARTED
frames tell instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from rayserve.router.call import Call
from rayserve.wire.board import Board

__all__ = ["Notes"]


def _none() -> int:
    return 0


class Notes:
    """The router's side of one link's board, or of none.

    Attributes:
        take: returns a slot for a call; 0 if there is none.
    """

    __slots__ = ("_board", "_folder", "take")

    def __init__(self, board: Board | None = None, folder: str = "") -> None:
        """Use `board`, which was made in `folder`; None on a link between nodes."""
        self._board = board
        self._folder = folder
        self.take: Callable[[], int] = board.take if board is not None else _none

    def give_back(self, slot: int) -> None:
        """Free the slot of a call that has ended; 0 is none."""
        if slot and self._board is not None:
            self._board.give_back(slot)

    def read(self, streams: dict[int, Call]) -> None:
        """Set `started` of every call on the link that has a slot."""
        if self._board is not None:
            for stream, call in streams.items():
                if call.slot:
                    call.started = self._board.started(call.slot, stream)

    def close(self, found: bool) -> None:
        """Let the memory go.

        Args:
            found: the replica has opened the board, and so taken its name away.
        """
        board, self._board = self._board, None
        if board is not None:
            board.close()
            if not found:
                with suppress(OSError):
                    os.unlink(os.path.join(self._folder, board.name))
