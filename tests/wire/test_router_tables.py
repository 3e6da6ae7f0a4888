"""Tables, deadlines and ends that are our own: what a call hears when no replica answers it."""

from collections.abc import Iterator

import pytest
from tests.wire.stage import Probe, Puppet, Stage

from rayserve.router.call import Call
from rayserve.router.routes import MAX_PARKED
from rayserve.wire.codec import MAX_FRAME


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as running:
        yield running.backend("a", "a1", limit=2).endpoint("e", a=1.0).publish()


def answer_all(stage: Stage, puppet: Puppet) -> int:
    count = 0
    while (work := puppet.take()) is not None:
        puppet.answer(work)
        stage.settle()
        count += 1
    return count


# -- deadlines ------------------------------------------------------------------------------------------


def test_a_call_ends_at_its_deadline_and_within_20_ms(stage: Stage) -> None:
    call = stage.call(timeout_s=1.0)
    stage.pass_time(0.999)
    assert call.ends == []
    stage.pass_time(0.021)
    assert call.ends == ["deadline"]


def test_after_our_504_the_slot_is_held_until_the_end_frame(stage: Stage) -> None:
    call = stage.call(timeout_s=1.0)
    stage.settle()
    puppet = stage.puppets["a1"]
    work = puppet.take()
    stage.pass_time(2.0)
    assert call.ends == ["deadline"]
    assert work is not None and work.cancelled, "the replica was told"
    assert stage.router.held() == puppet.intake.admitted == 1
    puppet.answer(work)
    stage.settle()

    assert stage.router.held() == puppet.intake.admitted == 0
    assert call.ends == ["deadline"]


def test_a_call_that_times_out_in_the_replicas_queue_frees_its_slot_at_once(stage: Stage) -> None:
    stage.call(timeout_s=1.0)
    stage.pass_time(2.0)

    assert stage.puppets["a1"].take() is None
    assert stage.router.held() == stage.puppets["a1"].intake.admitted == 0


def test_the_deadline_travels_as_time_left(stage: Stage) -> None:
    for _ in range(3):
        stage.call(timeout_s=10.0)
    stage.settle()
    puppet = stage.puppets["a1"]
    works = [puppet.take(), puppet.take()]
    stage.pass_time(4.0)
    assert works[0] is not None and works[0].head.time_left_ms in range(9_990, 10_002)
    puppet.answer(works[0])
    stage.settle()
    third = puppet.take()

    assert third is not None and third.head.time_left_ms in range(5_990, 6_002), "the wait in the line counts"


def test_a_call_whose_time_is_up_is_not_sent(stage: Stage) -> None:
    call = stage.call(timeout_s=-1.0)
    stage.settle()

    assert call.ends == ["deadline"]
    assert stage.puppets["a1"].intake.admitted == 0


# -- no traffic, no replica -----------------------------------------------------------------------------


def test_case_20_calls_wait_for_traffic_and_are_answered_in_order(stage: Stage) -> None:
    stage.endpoint("new").publish()
    calls = [stage.call("new", body=b"%d" % number) for number in range(2)]
    stage.settle()
    assert stage.router.held() == 2
    stage.endpoint("new", a=1.0).publish()
    puppet = stage.puppets["a1"]

    first, second = puppet.take(), puppet.take()
    assert first is not None and second is not None
    assert (first.body, second.body) == (b"0", b"1")
    puppet.answer(first)
    puppet.answer(second)
    stage.settle()
    assert [call.ends for call in calls] == [["answered"]] * 2


def test_case_20_without_traffic_until_the_deadline_is_503_no_traffic(stage: Stage) -> None:
    call = stage.endpoint("new").publish().call("new", timeout_s=1.0)
    stage.pass_time(1.1)

    assert call.ends == ["no_traffic"]
    assert call.retry_after_s == 1
    assert stage.router.held() == 0


def test_case_20_no_more_than_1000_wait_for_traffic(stage: Stage) -> None:
    stage.endpoint("new").publish()
    calls = [stage.call("new") for _ in range(MAX_PARKED + 1)]

    assert calls[-1].ends == ["no_traffic"]
    assert not any(call.ends for call in calls[:-1])


def test_case_20_all_replicas_dead_until_the_deadline_is_503_no_replica(stage: Stage) -> None:
    stage.puppets["a1"].kill()
    stage.settle()
    call = stage.call(timeout_s=1.0)
    stage.pass_time(1.1)

    assert call.ends == ["no_replica"]
    assert call.retry_after_s == 1


def test_a_call_on_a_draining_replica_that_times_out_is_a_504(stage: Stage) -> None:
    call = stage.call(timeout_s=1.0)
    stage.settle()
    stage.puppets["a1"].take()
    stage.puppets["a1"].drain()
    stage.pass_time(1.1)

    assert call.ends == ["deadline"]


def test_a_replica_that_comes_while_calls_wait_answers_them(stage: Stage) -> None:
    stage.puppets["a1"].kill()
    stage.settle()
    call = stage.call()
    stage.backend("a", "a2").publish()
    answer_all(stage, stage.puppets["a2"])

    assert call.ends == ["answered"]


def test_a_link_that_is_lost_is_tried_again_less_and_less_often(stage: Stage) -> None:
    stage.puppets["a1"].kill()
    stage.settle()
    tries = 0
    connect = stage.router.connector.connect

    def counted(channel: object) -> None:
        nonlocal tries
        tries += 1
        connect(channel)  # type: ignore[arg-type]

    stage.router.connector.connect = counted  # type: ignore[method-assign]
    stage.pass_time(30.0)

    assert 25 <= tries <= 40


# -- tables ---------------------------------------------------------------------------------------------


def test_calls_in_the_line_of_a_deleted_backend_go_where_traffic_says(stage: Stage) -> None:
    calls = [stage.call() for _ in range(4)]
    stage.settle()
    stage.backend("b", "b1", limit=4).endpoint("e", b=1.0)
    del stage.backends["a"]
    stage.publish()
    assert stage.puppets["b1"].intake.admitted == 2
    for name in ("a1", "b1"):
        answer_all(stage, stage.puppets[name])

    assert [call.ends for call in calls] == [["answered"]] * 4
    assert stage.router.held() == 0


def test_case_21_calls_in_a_line_stay_with_their_backend_when_traffic_moves(stage: Stage) -> None:
    calls = [stage.call() for _ in range(4)]
    stage.settle()
    stage.backend("b", "b1").endpoint("e", b=1.0).publish()
    after = stage.call()
    stage.settle()

    assert stage.puppets["b1"].intake.admitted == 1
    assert answer_all(stage, stage.puppets["a1"]) == 4
    assert [call.ends for call in calls] == [["answered"]] * 4
    assert after.channel is not None


def test_a_removed_replica_finishes_what_flies_and_its_link_closes(stage: Stage) -> None:
    stage.backend("a", "a1", "a2").publish()
    call = stage.call()
    stage.settle()
    old = stage.puppets["a1" if stage.puppets["a1"].intake.admitted else "a2"]
    stage.backend("a", "a2" if old is stage.puppets["a1"] else "a1").publish()
    assert len(old.server.sessions) == 1
    answer_all(stage, old)

    assert call.ends == ["answered"]
    assert old.server.sessions == []


def test_an_unknown_endpoint_is_404_and_one_that_is_deleted_lets_go_of_those_that_wait(stage: Stage) -> None:
    waiting = stage.endpoint("new").publish().call("new")
    del stage.endpoints["new"]
    stage.publish()

    assert waiting.ends == stage.call("nope").ends == ["not_found"]
    assert "list_endpoints" in waiting.heard[0].detail


def test_a_closing_instance_takes_no_new_calls_but_those_that_others_wait_for(stage: Stage) -> None:
    stage.publish(closing=True)

    class Nested(Probe):
        __slots__ = ()
        nested = True

    inner = Nested(now=stage.loop.now)
    stage.router.submit(inner)
    assert stage.call().ends == ["draining"]
    stage.settle()
    answer_all(stage, stage.puppets["a1"])
    assert inner.ends == ["answered"]


def test_an_older_table_changes_nothing(stage: Stage) -> None:
    old = stage.router.table
    assert old is not None
    stage.endpoint("f", a=1.0).publish()
    stage.router.apply(old)

    assert stage.router.endpoint("f") is not None


def test_before_the_first_table_calls_wait(stage: Stage) -> None:
    router = stage.new_router()
    call, unknown = stage.call(router=router), stage.call("nope", router=router)
    stage.settle()
    assert router.held() == 2
    stage.publish()

    assert call.channel is not None
    assert unknown.ends == ["not_found"]


# -- ends -----------------------------------------------------------------------------------------------


def test_closing_the_router_ends_every_call_once(stage: Stage) -> None:
    parked = stage.endpoint("new").publish().call("new")
    calls = [parked, *(stage.call() for _ in range(5))]
    stage.settle()
    abandoned = calls.pop()
    stage.router.abandon(abandoned)
    stage.router.close()
    stage.settle()

    assert [call.ends for call in calls] == [["draining"]] * 5
    assert abandoned.ends == []
    assert stage.call().ends == ["draining"]
    assert stage.router.held() == 0


def test_a_call_given_up_hears_nothing_more(stage: Stage) -> None:
    call = stage.call()
    stage.settle()
    stage.router.abandon(call)
    answer_all(stage, stage.puppets["a1"])
    stage.pass_time(100.0)

    assert call.ends == []
    assert stage.router.held() == 0


def test_a_call_too_large_for_a_frame_fails_and_keeps_no_slot(stage: Stage) -> None:
    calls = [stage.call(body=bytes(MAX_FRAME)), stage.call()]
    stage.settle()

    assert [call.ends for call in calls] == [["too_large"], []]
    assert stage.router.held() == 1


def test_facts_tell_what_happened(stage: Stage) -> None:
    for _ in range(3):
        stage.call(timeout_s=1.0)
    stage.settle()
    (row,) = [row for row in stage.router.rows() if row.backend == "a" and not row.endpoint]
    assert (row.in_flight, row.waiting) == (2, 1)
    work = stage.puppets["a1"].take()
    assert work is not None
    stage.puppets["a1"].answer(work)
    stage.pass_time(2.0)
    stage.call("nope")

    (row,) = [row for row in stage.router.rows() if row.endpoint]
    assert (row.endpoint, row.backend, row.answered, row.failed) == ("e", "a", 1, {"deadline": 2})


def test_a_large_backlog_drains_when_the_socket_takes_it_again(stage: Stage) -> None:
    """Above its high-water mark a link takes no call; it must take them again when it is below."""
    stage.backend("a", "a1", limit=64).publish()
    calls: list[Call] = [stage.call(body=bytes(200_000)) for _ in range(30)]
    (channel,) = stage.channels()
    assert not channel.open and len(channel.streams) < 30
    stage.settle()

    assert answer_all(stage, stage.puppets["a1"]) == 30
    assert all(call.state == calls[0].state for call in calls)
    assert stage.router.held() == 0
