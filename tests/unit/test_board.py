"""Shared memory that says what a replica started, after its death."""

import os
import signal
from pathlib import Path

import pytest

from rayserve.router.call import Call
from rayserve.router.notes import Notes
from rayserve.wire.board import SLOTS, Board


def test_what_the_replica_notes_the_router_reads(tmp_path: Path) -> None:
    near = Board.make(str(tmp_path))
    far = Board.open(str(tmp_path), near.name)
    slot = near.take()

    assert not near.started(slot, 5)
    far.note(slot, 5)
    assert near.started(slot, 5)
    assert not near.started(slot, 6), "an earlier call had the slot"


def test_opening_takes_the_name_away(tmp_path: Path) -> None:
    near = Board.make(str(tmp_path))
    Board.open(str(tmp_path), near.name)

    assert os.listdir(tmp_path) == []


def test_a_note_outlives_the_process_that_made_it(tmp_path: Path) -> None:
    near = Board.make(str(tmp_path))
    slot = near.take()
    child = os.fork()
    if not child:
        Board.open(str(tmp_path), near.name).note(slot, 9)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)

    assert near.started(slot, 9)


def test_slots_are_given_out_once_and_again_when_they_came_back(tmp_path: Path) -> None:
    board = Board.make(str(tmp_path))
    slots = [board.take() for _ in range(SLOTS)]

    assert sorted(slots) == list(range(1, SLOTS + 1))
    assert board.take() == 0, "none is left: the call asks for a STARTED frame instead"
    board.give_back(17)
    assert board.take() == 17


@pytest.mark.parametrize("name", ["", "x", "../b-1", "b-/../../etc/passwd", "/b-1"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no board is called"):
        Board.open(str(tmp_path), name)


def test_a_link_and_a_file_of_another_size_are_refused(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(bytes(10))
    (tmp_path / "b-link").symlink_to(target)
    (tmp_path / "b-short").write_bytes(bytes(10))

    with pytest.raises(OSError):
        Board.open(str(tmp_path), "b-link")
    with pytest.raises(ValueError, match="not a board"):
        Board.open(str(tmp_path), "b-short")


def test_notes_tell_of_every_call_that_had_a_slot(tmp_path: Path) -> None:
    board = Board.make(str(tmp_path))
    far = Board.open(str(tmp_path), board.name)
    notes = Notes(board, str(tmp_path))
    calls = {}
    for stream in (1, 2, 3):
        calls[stream] = Call("e", 0.0, False)
        calls[stream].slot = notes.take()
    far.note(calls[2].slot, 2)
    notes.read(calls)

    assert [call.started for call in calls.values()] == [False, True, False]


def test_a_board_that_no_replica_found_leaves_no_file(tmp_path: Path) -> None:
    Notes(Board.make(str(tmp_path)), str(tmp_path)).close(found=False)

    assert os.listdir(tmp_path) == []


def test_between_nodes_there_is_no_board() -> None:
    notes = Notes()
    call = Call("e", 0.0, False)
    call.started = True
    notes.read({1: call})
    notes.give_back(0)
    notes.close(found=True)

    assert notes.take() == 0
    assert call.started, "a STARTED frame said so"
