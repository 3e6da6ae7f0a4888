"""What becomes of calls when a replica or its link is lost: the retry table, from the router's side to the end."""

import os

import pytest
from tests.wire.stage import Puppet, Stage

from rayserve.replica.work import Work
from rayserve.wire import codec, heads
from rayserve.wire.heads import Answer, Failure


@pytest.fixture
def stage() -> Stage:
    return Stage().backend("a", "a1", "a2", limit=32).endpoint("e", a=1.0).publish()


def first_holder(stage: Stage) -> tuple[Puppet, Puppet]:
    """Return the puppet that has calls, and the other one."""
    one, two = stage.puppets["a1"], stage.puppets["a2"]
    return (one, two) if one.intake.admitted else (two, one)


def started(puppet: Puppet) -> Work:
    work = puppet.take()
    assert work is not None
    return work


def kill(stage: Stage, puppet: Puppet) -> None:
    puppet.kill()
    stage.settle()


@pytest.mark.parametrize("idempotent", [False, True])
def test_case_33_what_was_not_started_is_answered_elsewhere_whatever_its_method(stage: Stage, idempotent: bool) -> None:
    with stage:
        call = stage.call(idempotent=idempotent)
        stage.settle()
        dead, other = first_holder(stage)
        kill(stage, dead)
        other.answer(started(other))
        stage.settle()

        assert call.ends == ["answered"]


def test_case_33_many_gets_that_were_not_started_cost_no_retry_budget(stage: Stage) -> None:
    with stage:
        calls = [stage.call(idempotent=True) for _ in range(40)]
        stage.settle()
        dead, other = first_holder(stage)
        assert dead.intake.admitted == 20
        kill(stage, dead)
        while (work := other.take()) is not None:
            other.answer(work)
            stage.settle()

        assert all(call.ends == ["answered"] for call in calls)


def test_a_started_call_that_may_not_run_twice_fails(stage: Stage) -> None:
    with stage:
        call = stage.call(idempotent=False)
        stage.settle()
        dead, other = first_holder(stage)
        started(dead)
        kill(stage, dead)

        assert call.ends == ["replica_lost"]
        assert 'retry="always"' in call.heard[0].detail
        assert other.intake.admitted == 0


def test_a_started_call_that_may_run_twice_is_tried_once_more_and_no_more(stage: Stage) -> None:
    with stage:
        stage.backend("a", "a1", "a2", "a3").publish()
        call = stage.call(idempotent=True)
        for _ in range(2):
            stage.settle()
            assert call.channel is not None
            dead = stage.puppets[call.channel.replica.id]
            started(dead)
            kill(stage, dead)

        assert call.ends == ["replica_lost"]
        assert all(puppet.intake.admitted == 0 for puppet in stage.puppets.values() if puppet.alive)


def test_second_attempts_are_bounded_by_a_budget(stage: Stage) -> None:
    with stage:
        calls = [stage.call(idempotent=True) for _ in range(20)]
        stage.settle()
        dead, other = first_holder(stage)
        for _ in range(10):
            started(dead)
        kill(stage, dead)
        while (work := other.take()) is not None:
            other.answer(work)
            stage.settle()

        ends = [end for call in calls for end in call.ends]
        assert sorted(set(ends)) == ["answered", "replica_lost"]
        assert ends.count("replica_lost") == 6, "20 % of 20 calls may be sent again"


def test_an_answer_that_has_begun_is_never_made_again(stage: Stage) -> None:
    with stage:
        call = stage.call(idempotent=True, grants=False)
        stage.settle()
        dead, other = first_holder(stage)
        dead.answer(started(dead), bytes(2**20))
        stage.settle()
        assert call.parts and not call.ends
        kill(stage, dead)

        assert call.ends == ["replica_lost"]
        assert other.intake.admitted == 0


def test_a_body_of_which_no_part_was_consumed_is_sent_again_whole(stage: Stage) -> None:
    body = os.urandom(200_000)
    with stage:
        call = stage.call(body=body, upload=True)
        stage.loop.turn()  # sent, and not read by the replica
        assert call.channel is not None
        dead = stage.puppets[call.channel.replica.id]
        dead.kill()
        stage.settle()
        other = stage.puppets["a2" if dead is stage.puppets["a1"] else "a1"]
        work = started(other)

        assert work.body == body


def test_a_body_of_which_credit_was_granted_is_gone(stage: Stage) -> None:
    with stage:
        call = stage.call(body=bytes(600_000), upload=True, idempotent=True)
        stage.settle()
        assert call.upload is not None and call.upload.granted
        kill(stage, first_holder(stage)[0])

        assert call.ends == ["replica_lost"]
        assert "streamed" in call.heard[0].detail


def test_a_refusal_after_credit_does_not_send_half_a_body_again(stage: Stage) -> None:
    with stage:
        call = stage.call(body=bytes(600_000), upload=True, idempotent=True)
        stage.settle()
        (session,) = [each for each in first_holder(stage)[0].server.sessions if each._works]
        session.link.send_now(codec.frame(codec.REJECT, call.stream, codec.END, heads.BUSY))
        stage.settle()

        assert call.ends == ["replica_lost"]


def test_a_draining_replica_refuses_and_another_answers(stage: Stage) -> None:
    with stage:
        stage.puppets["a1"].intake.drain()  # no GOAWAY: the router cannot know
        calls = [stage.call() for _ in range(10)]
        stage.settle()
        other = stage.puppets["a2"]
        while (work := other.take()) is not None:
            other.answer(work)
            stage.settle()

        assert all(call.ends == ["answered"] for call in calls)


def test_after_goaway_nothing_is_sent_and_what_flies_finishes(stage: Stage) -> None:
    with stage:
        call = stage.call()
        stage.settle()
        leaving, other = first_holder(stage)
        work = started(leaving)
        leaving.drain()
        stage.settle()
        later = [stage.call() for _ in range(5)]
        stage.settle()
        assert leaving.intake.admitted == 1 and not leaving.left
        leaving.answer(work)
        stage.settle()

        assert call.ends == ["answered"]
        assert leaving.left
        assert other.intake.admitted == len(later)


def test_a_link_that_we_gave_up_proves_nothing(stage: Stage) -> None:
    """The replica may have started the call, or start it still."""
    with stage:
        call = stage.call(idempotent=False)
        stage.settle()
        dead, other = first_holder(stage)
        (session,) = [each for each in dead.server.sessions if each._works]
        session.link.send_now(b"\xff" * 64)
        stage.settle()

        assert call.ends == ["replica_lost"]
        assert other.intake.admitted == 0


@pytest.mark.parametrize(
    "frame",
    [
        codec.frame(codec.HEAD, 99, codec.END),
        codec.frame(codec.DATA, 1, codec.END),
        codec.frame(codec.OPEN, 1),
        codec.frame(codec.FAIL, 1, 0, heads.encode(Failure("internal"))),
        codec.frame(codec.WINDOW, 1, 0, b"\xff\xff\xff\xff"),
        codec.frame(codec.WINDOW, 1, codec.END, b"\1"),
        codec.frame(codec.CANCEL, 0),
        codec.frame(codec.STARTED, 0),
    ],
    ids=lambda frame: f"kind {frame[8]}",
)
def test_what_no_replica_may_send_costs_it_the_link_and_each_call_one_end(stage: Stage, frame: bytes) -> None:
    with stage:
        calls = [stage.call(idempotent=False) for _ in range(4)]
        stage.settle()
        dead = first_holder(stage)[0]
        session = next(each for each in dead.server.sessions if each._works)
        mine = [call for call in calls if call.channel is not None and call.channel.replica.id == dead.row.id]
        session.link.send_now(frame)
        stage.settle()

        assert len(mine) == 2
        assert all(len(call.ends) == 1 for call in mine), [call.ends for call in mine]


def test_a_head_that_cannot_be_read_costs_its_call_alone(stage: Stage) -> None:
    with stage:
        stage.backend("a", "a1").publish()
        calls = [stage.call() for _ in range(3)]
        stage.settle()
        (session,) = [each for each in stage.puppets["a1"].server.sessions if each._works]
        good = heads.encode(Answer(200, b"", 0))
        said = [good, b"\xc1", good]

        replies = [
            codec.frame(codec.HEAD, call.stream, codec.END, head) for call, head in zip(calls, said, strict=True)
        ]
        session.link.send_now(b"".join(replies))
        stage.settle()

        assert [call.ends for call in calls] == [["answered"], ["internal"], ["answered"]]
        assert stage.router.held() == 0
