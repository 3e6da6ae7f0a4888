import functools
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pydantic
import pytest

from rayserve.batching import BatchMark, accept_batch, batch_of, split_results
from rayserve.errors import BadResultError


def plain(requests: list[Any]) -> list[Any]:
    return requests


def first_letter(request: str) -> str:
    return request[0]


@accept_batch
def marked(requests: list[Any]) -> list[Any]:
    return requests


class Model:
    @accept_batch
    def __call__(self, requests: list[Any]) -> list[Any]:
        return requests

    @accept_batch(key=first_letter)
    def keyed(self, requests: list[Any]) -> list[Any]:
        return requests

    @accept_batch
    @staticmethod
    def static(requests: list[Any]) -> list[Any]:
        return requests

    @classmethod
    @accept_batch
    def of_class(cls, requests: list[Any]) -> list[Any]:
        return requests

    def single(self, request: Any) -> Any:
        return request


def test_case_25_marks_and_returns_the_same_object() -> None:
    def handler(requests: list[int]) -> list[int]:
        return requests

    assert accept_batch(handler) is handler
    assert batch_of(handler) == BatchMark(None)
    assert handler([1]) == [1]


def test_case_25_key_is_kept() -> None:
    def handler(requests: list[str]) -> list[str]:
        return requests

    assert accept_batch(key=first_letter)(handler) is handler
    assert batch_of(handler) == BatchMark(first_letter)
    assert accept_batch()(handler) is handler
    assert batch_of(handler) == BatchMark(None)


@pytest.mark.parametrize("look", [lambda: Model, lambda: Model()])
def test_case_25_marks_are_found_on_methods(look: Callable[[], Any]) -> None:
    model = look()
    assert batch_of(model.__call__) == BatchMark(None)
    assert batch_of(model.keyed) == BatchMark(first_letter)
    assert batch_of(model.static) == BatchMark(None)
    assert batch_of(model.of_class) == BatchMark(None)
    assert batch_of(model.single) is None


def test_unmarked() -> None:
    assert batch_of(plain) is None
    assert batch_of(None) is None


def test_mark_survives_another_decorator() -> None:
    @functools.wraps(marked)
    def outer(*args: Any) -> Any:
        return marked(*args)

    assert batch_of(outer) == BatchMark(None)


def test_partial_can_be_marked() -> None:
    assert batch_of(accept_batch(functools.partial(plain))) == BatchMark(None)


def test_mark_survives_pickling() -> None:
    mark = BatchMark(first_letter)
    assert pickle.loads(pickle.dumps(mark)) == mark


WHERE = "put @serve.accept_batch on a function, or on __call__ or another method of the class"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Model, f"accept_batch cannot mark the class Model; {WHERE}"),
        (Model(), f"accept_batch cannot mark an instance of test_batching.Model; {WHERE}"),
        (3, f"accept_batch cannot mark a value of type int; {WHERE}"),
        ("name", f"accept_batch cannot mark a value of type str; {WHERE}"),
        (len, f"accept_batch cannot mark <built-in function len>; {WHERE}"),
    ],
)
def test_misuse_says_where_to_put_it(wrong: Any, message: str) -> None:
    for decorator in (accept_batch, accept_batch()):
        with pytest.raises(TypeError) as caught:
            decorator(wrong)
        assert str(caught.value).replace("tests.unit.", "") == message


def test_bound_method_cannot_be_marked() -> None:
    with pytest.raises(TypeError, match="accept_batch cannot mark <bound method"):
        accept_batch(Model().single)


def test_key_must_be_callable() -> None:
    with pytest.raises(TypeError, match=r"accept_batch\(key=…\) takes a function of one request, got str"):
        accept_batch(key="user")  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "result",
    [
        [1, 2],
        (1, 2),
        (x for x in [1, 2]),
        iter([1, 2]),
        np.array([1, 2]),
        range(1, 3),
        {1: 1, 2: 2}.values(),
        map(int, "12"),
    ],
)
def test_case_27_any_ordered_iterable_is_split(result: Any) -> None:
    assert split_results(result, 2) == [1, 2]


def test_items_of_an_array_are_its_rows() -> None:
    rows = split_results(np.eye(2), 2)
    assert [row.tolist() for row in rows] == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("result", "count"),
    [
        ([1], "1"),
        ([1, 2, 3], "3"),
        ((), "0"),
        (iter([1]), "1"),
        (iter(range(9)), "more than 2"),
        (np.zeros(4), "more than 2"),
    ],
)
def test_case_27_wrong_length_says_so(result: Any, count: str) -> None:
    with pytest.raises(BadResultError) as caught:
        split_results(result, 2)
    assert str(caught.value) == (
        f"the handler's result doesn't preserve batch size: {count} results for 2 requests; "
        "return exactly one result per request, in order"
    )


def test_endless_generator_is_not_run_to_its_end() -> None:
    taken = []

    def endless() -> Any:
        while True:
            taken.append(1)
            yield 1

    with pytest.raises(BadResultError, match="more than 2 results for 2 requests"):
        split_results(endless(), 2)
    assert len(taken) == 3


class Pair(pydantic.BaseModel):
    a: int = 1
    b: int = 2


@pytest.mark.parametrize(
    ("result", "name"),
    [
        ({1: 1, 2: 2}, "dict"),
        ({1, 2}, "set"),
        (frozenset({1, 2}), "frozenset"),
        ({1: 1, 2: 2}.keys(), "dict_keys"),
        ("ab", "str"),
        (b"ab", "bytes"),
        (bytearray(b"ab"), "bytearray"),
        (None, "NoneType"),
        (3, "int"),
        (np.float64(1), "numpy.float64"),
        (np.array(1), "numpy.ndarray"),
        (Pair(), "Pair"),
    ],
)
def test_case_27_what_is_not_a_list_of_results_is_refused(result: Any, name: str) -> None:
    with pytest.raises(
        BadResultError, match=rf"iterable of results.*for its 2 requests; it returned .*{name}; return a list"
    ):
        split_results(result, 2)


def test_exception_of_a_generator_is_the_users_own() -> None:
    def broken() -> Any:
        yield 1
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        split_results(broken(), 2)
