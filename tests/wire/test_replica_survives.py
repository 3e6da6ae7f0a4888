"""A replica outlives what its handlers raise and what its peers send, and loses nothing over it (case 18)."""

import asyncio
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conditions import eventually
from tests.wire.mini import Mini
from tests.wire.raw_router import RawRouter

from rayserve.errors import BadResultError, UserCodeError
from rayserve.wire import codec, heads
from rayserve.wire.codec import CALL, DATA, END, HEAD, OPEN
from rayserve.wire.heads import Invoke, Open

MIB = 2**20


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running


def only(mini: Mini) -> Any:
    (replica,) = mini.replicas.values()
    return replica


def links(mini: Mini) -> int:
    eventually(lambda: len(only(mini)._server.sessions) >= 2, "the ingress and the replica itself are connected")
    return len(only(mini)._server._peers)


# -- what handlers do -----------------------------------------------------------------------------------


class Nameless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __reduce__(self) -> Any:
        raise SystemExit("not picklable either")


def deep() -> None:
    deep()


def act(what: str) -> Any:
    match what:
        case "exit":
            raise SystemExit(3)
        case "interrupt":
            raise KeyboardInterrupt
        case "base":
            raise BaseException("base")
        case "generator":
            raise GeneratorExit
        case "cancelled":
            raise asyncio.CancelledError
        case "memory":
            raise MemoryError
        case "recursion":
            deep()
        case "nameless":
            raise Nameless
        case "unpicklable":
            return threading.Lock()
        case "stop":
            raise StopIteration(1)
        case "huge":
            raise ValueError("x" * 3 * MIB)
    return what


WORDS = [
    "exit",
    "interrupt",
    "base",
    "generator",
    "cancelled",
    "memory",
    "recursion",
    "nameless",
    "unpicklable",
    "huge",
]


@pytest.mark.parametrize("kind", ["sync", "threads", "async", "beside"])
def test_case_18_whatever_a_handler_raises_the_replica_answers_the_next_call(mini: Mini, kind: str) -> None:
    class Beside:
        async def other(self) -> None: ...

        def __call__(self, request: Any) -> Any:
            return act(request if isinstance(request, str) else request.args["w"])

    async def awaited(request: Any) -> Any:
        return act(request if isinstance(request, str) else request.args["w"])

    code = {"async": awaited, "beside": Beside}.get(kind, Beside.__call__.__get__(Beside()))
    mini.backend("b", code, {"max_concurrency": 2} if kind == "threads" else {})
    mini.endpoint("e", "/e", {"b": 1.0}).publish()
    for word in WORDS:
        answer = mini.get(f"/e?w={word}")
        assert (answer.status, answer["x-serve-reason"]) in [(500, "user_exception"), (500, "bad_result")], word
        with pytest.raises(Exception) as caught:
            mini.handle("e").remote(word).result(10)
        assert isinstance(caught.value, (UserCodeError, MemoryError, RecursionError, Nameless, BadResultError))
        assert mini.get("/e?w=fine").body == b"fine"

    assert mini.held() == only(mini)._intake.admitted == 0


def test_many_failures_leave_nothing(mini: Mini) -> None:
    def fails(number: int) -> int:
        raise ValueError(number)

    mini.backend("b", fails, {"max_concurrent_queries": 64}).endpoint("e", None, {"b": 1.0}).publish()
    results = [mini.handle("e").remote(number) for number in range(500)]
    for number, result in enumerate(results):
        with pytest.raises(ValueError, match=f"^{number}\\n"):
            result.result(10)

    assert only(mini)._intake.admitted == 0


def test_an_answer_of_100_mib_comes_whole(mini: Mini) -> None:
    mini.backend("b", lambda _: bytes(100 * MIB)).endpoint("e", "/e", {"b": 1.0}).publish()

    assert len(mini.get("/e").body) == 100 * MIB
    assert len(mini.handle("e").remote(None).result(10)) == 100 * MIB
    assert only(mini)._intake.admitted == 0


# -- what peers send ------------------------------------------------------------------------------------


def opening(stream: int, flags: int = CALL | END) -> bytes:
    return codec.frame(OPEN, stream, flags, heads.encode(Invoke("e", "id", 60_000, sizes=[0])))


HTTP_OPEN = heads.encode(Open("e", "id", 60_000))
VIOLATIONS = {
    "random bytes": random.Random(3).randbytes(4096),
    "an impossible length": b"\xff\xff\xff\x7f" + bytes(12),
    "a kind only replicas send": codec.frame(HEAD, 1, END),
    "an unknown kind": bytes(9) + b"\x63" + bytes(6),
    "stream 0": opening(0),
    "the same stream twice": opening(1) + opening(1),
    "streams backwards": opening(9) + opening(3),
    "a stream never opened": codec.data_header(7, 0, 0),
    "a cancel of one": codec.frame(codec.CANCEL, 7),
    "a head that is none": codec.frame(OPEN, 1, END, b"\xc1\xc1"),
    "a head of another type": codec.frame(OPEN, 1, END, heads.encode([1, 2, 3])),
    "a deep head": codec.frame(OPEN, 1, END, b"\x91" * 5000),
    "a window of no size": codec.frame(OPEN, 1, 0, HTTP_OPEN) + codec.frame(codec.WINDOW, 0, 0, b""),
    "data after its end": codec.frame(OPEN, 1, 0, HTTP_OPEN) + 2 * codec.data_header(1, END, 0),
    "a handshake inside": codec.frame(codec.HELLO, 0),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_peer_that_breaks_the_protocol_loses_its_link_and_harms_nobody(mini: Mini, name: str) -> None:
    gate = threading.Event()
    mini.backend("b", lambda: gate.wait(10)).publish()
    intake = only(mini)._intake
    with RawRouter(only(mini)) as good, RawRouter(only(mini)) as bad:
        good.call(1)
        eventually(lambda: intake.admitted == 1, "a call of another runs")
        bad.send(VIOLATIONS[name])
        assert bad.is_cut()
        gate.set()
        assert good.value(1) is True
        good.call(2)
        assert good.value(2) is True
    eventually(lambda: intake.admitted == 0, "no slot is lost")


def test_an_ingress_may_not_send_python_calls(mini: Mini) -> None:
    mini.backend("b", lambda: 1).publish()
    with RawRouter(only(mini), role="ingress") as router:
        router.send(opening(1))
        assert router.is_cut()
    assert only(mini)._intake.admitted == 0


def test_truncated_frames_and_routers_that_vanish_in_an_upload_leave_nothing(mini: Mini) -> None:
    mini.backend("b", lambda request: "x").publish()
    intake, before = only(mini)._intake, links(mini)
    whole = codec.frame(OPEN, 1, 0, HTTP_OPEN) + codec.data_header(1, 0, 60_000) + bytes(60_000)
    for cut in (5, 20, len(HTTP_OPEN) + 16, len(HTTP_OPEN) + 40, 30_000, len(whole)):
        with RawRouter(only(mini)) as router:
            router.send(whole[:cut])
            if cut >= len(HTTP_OPEN) + 16:
                eventually(lambda: intake.admitted == 1, "the call was admitted")
        eventually(lambda: intake.admitted == 0 and links(mini) == before, "nothing is left")


def test_a_router_that_vanishes_in_an_answer_or_grants_no_credit_leaves_nothing(mini: Mini) -> None:
    mini.backend("b", lambda: bytes(20 * MIB)).publish()
    intake = only(mini)._intake
    with RawRouter(only(mini)) as router, RawRouter(only(mini)) as other:
        router.call(1)
        router.frame(HEAD)
        came = 0
        while came < codec.CREDIT:
            came += len(router.frame(DATA)[5])
        assert came == codec.CREDIT, "no more than the credit is sent"
        other.call(1)
        other.frame(HEAD)
        router.cancel(1)
        ends = [router.frame(codec.FAIL, DATA)]
        assert ends[0][1] & END, "a call that is given up in its answer ends at once"
        assert intake.admitted == 1
    eventually(lambda: intake.admitted == 0, "and with its link")


def test_many_links_and_many_calls(mini: Mini) -> None:
    mini.backend("b", lambda x: x, {"max_concurrent_queries": 200}).publish()
    before = links(mini)
    routers = [RawRouter(only(mini)) for _ in range(150)]
    for number, router in enumerate(routers):
        router.call(1, number)

    assert [router.value(1) for router in routers] == list(range(150))
    for router in routers:
        router.link.close()
    eventually(lambda: links(mini) == before, "all are forgotten")
