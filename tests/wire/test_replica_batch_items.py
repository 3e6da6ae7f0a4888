"""What may share a batch, and what fails alone in it or with it (case 27)."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conditions import eventually
from tests.wire.batcher import KINDS, ONE_AT_A_TIME, Batcher, serve
from tests.wire.mini import Mini

from rayserve.errors import BadResultError, HTTPError


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running


@pytest.mark.parametrize("kind", ONE_AT_A_TIME)
def test_case_27_http_and_python_calls_and_keys_never_share_a_batch(mini: Mini, kind: str) -> None:
    def key(item: Any) -> str:
        return str(item if isinstance(item, str) else item.args["x"])[0]

    batcher = Batcher(kind, lambda items: [str(len(items))] * len(items), key)
    replica = serve(mini, kind, batcher, max_batch_size=50)
    batcher.gate.clear()
    handle = mini.handle("e")
    results = [handle.remote("first")]
    batcher.wait()
    for number in range(12):
        results.append(handle.remote("ab"[number % 2] + str(number)))
    threads = [
        threading.Thread(target=lambda number=number: mini.get(f"/e?x={'ab'[number % 2]}")) for number in range(4)
    ]
    for thread in threads:
        thread.start()
    eventually(lambda: len(replica._intake.queue) == 16, "all wait")
    batcher.gate.set()
    for result in results:
        result.result(10)
    for thread in threads:
        thread.join(10)

    for batch in batcher.batches:
        assert len({(isinstance(item, str), key(item)) for item in batch}) == 1, batch
    assert sorted(batcher.sizes) == [1, 2, 2, 6, 6]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda items: items[:-1], "doesn't preserve batch size"),
        (lambda items: [*items, 1], "doesn't preserve batch size"),
        (lambda items: dict.fromkeys(items), "dict"),
        (lambda items: set(items), "set"),
        (lambda items: None, "NoneType"),
        (lambda items: "abc", "str"),
    ],
    ids=["short", "long", "dict", "set", "none", "text"],
)
def test_case_27_a_wrong_result_fails_every_call_of_its_batch(mini: Mini, kind: str, wrong: Any, says: str) -> None:
    batcher = Batcher(kind, wrong)
    serve(mini, kind, batcher, max_batch_size=3, batch_wait_timeout=5.0)
    results = [mini.handle("e").remote(number) for number in range(3)]

    for result in results:
        with pytest.raises(BadResultError, match=says):
            result.result(10)
    assert batcher.sizes == [3]


@pytest.mark.parametrize("kind", KINDS)
def test_case_27_one_item_can_fail_alone(mini: Mini, kind: str) -> None:
    batcher = Batcher(kind, lambda items: [HTTPError(418, "odd") if item % 2 else item for item in items])
    serve(mini, kind, batcher, max_batch_size=4, batch_wait_timeout=5.0)
    results = [mini.handle("e").remote(number) for number in range(4)]

    assert [results[number].result(10) for number in (0, 2)] == [0, 2]
    for number in (1, 3):
        with pytest.raises(HTTPError, match="418 odd"):
            results[number].result(10)


def bad_key(item: Any) -> Any:
    if item == "raises":
        raise LookupError("no key")
    if item == "exits":
        raise SystemExit(3)
    return [] if item == "unhashable" else Strange() if item == "strange" else "k"


class Strange:
    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        raise ArithmeticError("not comparable")


@pytest.mark.parametrize("kind", KINDS)
def test_case_27_a_key_that_fails_concerns_its_item_alone(mini: Mini, kind: str) -> None:
    batcher = Batcher(kind, lambda items: items, bad_key)
    replica = serve(mini, kind, batcher, max_batch_size=3, batch_wait_timeout=0.1)
    words = ["raises", "a", "unhashable", "strange", "exits", "b", "c"]
    results = {word: mini.handle("e").remote(word) for word in words}

    for word in ("a", "b", "c", "strange"):
        assert results[word].result(10) == word
    for word, error in (("raises", LookupError), ("unhashable", TypeError)):
        with pytest.raises(error):
            results[word].result(10)
    with pytest.raises(Exception, match="SystemExit"):
        results["exits"].result(10)
    eventually(lambda: replica._intake.admitted == 0, "nothing is left")
    assert ["strange"] in batcher.batches, "what equals nothing shares with nobody"


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_with_the_wrong_arguments_fails_alone(mini: Mini, kind: str) -> None:
    batcher = Batcher(kind, lambda items: items)
    serve(mini, kind, batcher, max_batch_size=2, batch_wait_timeout=5.0)
    handle = mini.handle("e")
    good, two, named, late = handle.remote(1), handle.remote(1, 2), handle.remote(x=1), handle.remote(2)

    assert (good.result(10), late.result(10)) == (1, 2)
    for result in (two, named):
        with pytest.raises(ValueError, match="exactly one positional argument"):
            result.result(10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_handler_that_raises_fails_its_batch_and_the_next_one_runs(mini: Mini, kind: str) -> None:
    def sometimes(items: list[Any]) -> list[Any]:
        if "bad" in items:
            raise KeyError("bad batch")
        return items

    batcher = Batcher(kind, sometimes)
    serve(mini, kind, batcher, max_batch_size=2, batch_wait_timeout=5.0)
    handle = mini.handle("e")
    results = [handle.remote(word) for word in ("bad", "good", "fine", "well")]

    for result in results[:2]:
        with pytest.raises(KeyError, match="bad batch"):
            result.result(10)
    assert [result.result(10) for result in results[2:]] == ["fine", "well"]
