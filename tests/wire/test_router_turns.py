"""Who may send next: the line, its bounds, the replica's strict limit, and turns between routers that share it."""

from collections import Counter

import pytest
from tests.wire.stage import Probe, Puppet, Stage

from rayserve.replica.session import Session
from rayserve.router.router import Router


def one(limit: int = 2, queued: int = 1000, role: str = "ingress") -> tuple[Stage, Puppet]:
    stage = Stage(role).backend("a", "a1", limit=limit, queued=queued).endpoint("e", a=1.0).publish()
    return stage, stage.puppets["a1"]


def two_routers(limit: int) -> tuple[Stage, Puppet, Router]:
    stage, puppet = one(limit)
    other = stage.new_router()
    stage.publish()
    return stage, puppet, other


def serve(stage: Stage, puppet: Puppet) -> list[bytes]:
    """Run and answer, one by one, all that comes; return the bodies in the order they were started."""
    started = []
    while (work := puppet.take()) is not None:
        started.append(bytes(work.body))
        puppet.answer(work)
        stage.settle()
    return started


def test_first_come_first_served() -> None:
    stage, puppet = one(limit=1)
    with stage:
        for number in range(20):
            stage.call(body=b"%d" % number)
        stage.settle()

        assert puppet.intake.admitted == 1
        assert serve(stage, puppet) == [b"%d" % number for number in range(20)]
        assert stage.router.held() == 0


def test_calls_go_to_the_replica_with_the_least_in_flight() -> None:
    with Stage() as stage:
        stage.backend("a", "a1", "a2", "a3", limit=8).endpoint("e", a=1.0).publish()
        for _ in range(9):
            stage.call()
            stage.settle()
        assert [puppet.intake.admitted for puppet in stage.puppets.values()] == [3, 3, 3]
        busy = stage.puppets["a2"]
        for _ in range(3):
            work = busy.take()
            assert work is not None
            busy.answer(work)
        stage.settle()
        for _ in range(3):
            stage.call()
        stage.settle()

        assert [puppet.intake.admitted for puppet in stage.puppets.values()] == [3, 3, 3]


def test_a_full_line_refuses_with_retry_after() -> None:
    stage, _ = one(limit=1, queued=2)
    with stage:
        calls = [stage.call() for _ in range(4)]

        assert [call.ends for call in calls] == [[], [], [], ["queue_full"]]
        assert "max_queued=2" in calls[3].heard[0].detail
        assert calls[3].retry_after_s == 1


def test_a_call_that_cannot_be_served_in_time_is_refused_at_once() -> None:
    stage, puppet = one(limit=1)
    with stage:
        for _ in range(60):
            stage.call(timeout_s=1000.0)
        for _ in range(20):  # one a second, measured while others wait
            stage.settle()
            work = puppet.take()
            assert work is not None
            stage.pass_time(1.0)
            puppet.answer(work)
        stage.settle()

        patient, hasty = stage.call(timeout_s=60.0), stage.call(timeout_s=20.0)

        assert patient.ends == []
        assert hasty.ends == ["queue_full"]
        assert 38 <= hasty.retry_after_s <= 42, "39 calls ahead at one per second"


def test_calls_that_time_out_count_as_completions_too() -> None:
    """Else a backend slower than every deadline would never be measured, and its line never refused."""
    stage, puppet = one(limit=1)
    with stage:
        calls: list[Probe] = []
        for _ in range(20):
            stage.settle()
            work = puppet.take()
            for _ in range(2):
                calls += [stage.call(timeout_s=0.9) for _ in range(5)]
                stage.pass_time(0.5)
            if work is not None:
                puppet.answer(work)

        ends = Counter(end for call in calls for end in call.ends)
        assert ends["queue_full"] > 20, ends


def test_the_limit_holds_whatever_several_routers_believe() -> None:
    stage, puppet, other = two_routers(limit=2)
    with stage:
        most = 0
        calls = [stage.call(router=router, body=b"x") for _ in range(50) for router in (stage.router, other)]
        for _ in range(200):
            stage.settle()
            while puppet.take() is not None:
                most = max(most, puppet.intake.admitted)
            if not puppet.running:
                break
            puppet.answer(puppet.running[0])

        assert most == 2
        assert all(call.ends == ["answered"] for call in calls)
        assert stage.router.held() == other.held() == puppet.held == 0


def test_each_free_slot_goes_to_one_router_in_turn_without_a_refusal() -> None:
    stage, puppet, other = two_routers(limit=1)
    refused: Counter[Session] = Counter()
    admit = puppet.intake.admit

    def counted(session: Session) -> bytes:
        refusal = admit(session)
        refused[session] += bool(refusal)
        return refusal

    puppet.intake.admit = counted  # type: ignore[method-assign]
    with stage:
        for number in range(20):
            stage.call(body=b"1 %d" % number)
            stage.call(router=other, body=b"2 %d" % number)
        stage.settle()
        started = serve(stage, puppet)

        assert [body for body in started if body[:1] == b"1"] == [b"1 %d" % number for number in range(20)]
        assert [body for body in started if body[:1] == b"2"] == [b"2 %d" % number for number in range(20)]
        longest = max(len(run) for run in b"".join(body[:1] for body in started).replace(b"12", b"1 2").split())
        assert longest <= 3, started
        assert sum(refused.values()) <= 3, "routers that wait their turn are not refused again and again"


def test_a_router_with_nothing_left_to_send_lets_the_next_one_have_the_slot() -> None:
    stage, puppet, other = two_routers(limit=2)
    with stage:
        for _ in range(2):
            stage.call()
        stage.settle()
        idle, waiting = stage.call(router=other), stage.call()
        stage.settle()
        third = stage.new_router()
        stage.publish([third])
        last = stage.call(router=third)
        stage.settle()
        other.abandon(idle)  # its line is empty when its turn comes
        stage.router.abandon(waiting)
        work = puppet.take()
        assert work is not None
        puppet.answer(work)
        stage.settle()

        assert last.channel is not None, "the slot is on offer to those that left, and was passed on"


def test_a_router_that_does_not_react_blocks_nobody_for_long() -> None:
    stage, puppet, other = two_routers(limit=1)
    with stage:
        first = stage.call()
        stage.settle()
        stuck, waiting = stage.call(router=other), None
        stage.settle()
        third = stage.new_router()
        stage.publish([third])
        waiting = stage.call(router=third)
        stage.settle()
        for channel in stage.channels(other):  # as if its process were stopped
            assert channel.link is not None
            stage.loop.remove_reader(channel.link.sock.fileno())
        work = puppet.take()
        assert work is not None
        puppet.answer(work)
        stage.pass_time(0.2)

        assert first.ends == ["answered"]
        assert stuck.channel is None
        assert waiting.channel is not None


def test_a_higher_limit_is_offered_to_those_that_wait() -> None:
    stage, puppet, other = two_routers(limit=1)
    with stage:
        stage.call()
        stage.settle()
        waiting = stage.call(router=other)
        stage.settle()
        assert waiting.channel is None
        stage.backend("a", "a1", limit=2).publish()

        assert waiting.channel is not None
        assert puppet.intake.admitted == 2


def test_a_refused_call_goes_back_before_those_that_came_after_it() -> None:
    stage, puppet, other = two_routers(limit=2)
    with stage:
        for _ in range(2):
            stage.call(router=other)
        stage.settle()
        calls: list[Probe] = []
        for number in range(4):  # the first two are sent, and refused together
            calls.append(stage.call(body=b"%d" % number))
        stage.settle()
        for _ in range(2):
            work = puppet.take()
            assert work is not None
            puppet.answer(work)
        stage.settle()

        assert serve(stage, puppet) == [b"0", b"1", b"2", b"3"]
        assert all(call.ends == ["answered"] for call in calls)


@pytest.mark.parametrize("count", [1, 3])
def test_a_refusal_does_not_make_a_router_hammer_the_replica(count: int) -> None:
    stage, puppet, other = two_routers(limit=1)
    with stage:
        stage.call(router=other)
        stage.settle()
        asked = 0
        admit = puppet.intake.admit

        def counted(session: Session) -> bytes:
            nonlocal asked
            asked += 1
            return admit(session)

        puppet.intake.admit = counted  # type: ignore[method-assign]
        for _ in range(count):
            stage.call()
        stage.settle()
        stage.pass_time(10.0)

        assert asked == 1


def test_what_others_hold_on_a_replica_is_asked_after_until_they_have_ended() -> None:
    stage, puppet, other = two_routers(limit=8)
    with stage:
        foreign = [Probe() for _ in range(3)]
        for call in foreign:
            other.submit(call)
        stage.settle()
        held = [puppet.take() for _ in foreign]
        mine = stage.call()
        stage.settle()
        work = puppet.take()
        assert work is not None
        puppet.answer(work)
        stage.settle()
        channel = stage.router.channel("a", "a1")
        assert channel is not None
        assert (mine.ends, channel.in_flight) == (["answered"], 3)

        for each in held[:2]:
            assert each is not None
            puppet.answer(each)
        stage.settle()
        assert channel.in_flight == 3, "nobody has told"
        stage.pass_time(0.3)
        assert channel.in_flight == 1, "asked"
        assert held[2] is not None
        puppet.answer(held[2])
        stage.pass_time(0.3)
        assert channel.in_flight == 0, "and asked again"
        stage.pass_time(2.0)  # the time for handshakes is over too
        assert stage.loop.next_timer is None, "there is nothing left to ask"
