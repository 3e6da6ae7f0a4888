import collections
import dataclasses
import datetime
import decimal
import enum
import http
import json
import math
import subprocess
import sys
import types
import uuid
from typing import Any

import msgspec
import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve.encoding import to_json
from rayserve.errors import BadResultError

NAN = math.nan


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = None


class Struct(msgspec.Struct):
    value: Any


class Model(pydantic.BaseModel):
    score: float
    at: datetime.date | None = None


class Colour(enum.Enum):
    RED = "red"
    BROKEN = NAN


class Name(str):
    def __str__(self) -> str:
        return "not this"


class Strange:
    pass


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"y": 2}, '{"y":2}'),
        ([1, 2.5, True, None, "é"], '[1,2.5,true,null,"é"]'),
        ((1, (2, 3)), "[1,[2,3]]"),
        (Point(1, [Point(2)]), '{"x":1,"y":[{"x":2,"y":null}]}'),
        (Struct(Point(1)), '{"value":{"x":1,"y":null}}'),
        (Model(score=0.5, at=datetime.date(2020, 1, 2)), '{"score":0.5,"at":"2020-01-02"}'),
        ([Model(score=1)], '[{"score":1.0,"at":null}]'),
        (np.arange(3), "[0,1,2]"),
        (np.array([[1.5, 2.0], [3.0, 4.0]], dtype="float32"), "[[1.5,2.0],[3.0,4.0]]"),
        (
            {"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True), "d": np.str_("s")},
            '{"a":0.5,"b":3,"c":true,"d":"s"}',
        ),
        (np.longdouble(1), "1.0"),
        (np.array(["2020-01-02", "NaT"], dtype="datetime64[ns]"), '["2020-01-02T00:00:00",null]'),
        (np.array([1, None, "x"], dtype=object), '[1,null,"x"]'),
        ({np.int64(7): 1, np.str_("s"): 2, np.bool_(True): 3}, '{"7":1,"s":2,"true":3}'),
        ({None: 1, True: 2, False: 3, 4: 5, 1.5: 6}, '{"null":1,"true":2,"false":3,"4":5,"1.5":6}'),
        (datetime.datetime(2020, 1, 2, 3, 4, 5), '"2020-01-02T03:04:05"'),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (decimal.Decimal("1.50"), '"1.50"'),
        (Colour.RED, '"red"'),
        ({http.HTTPStatus.OK: http.HTTPStatus.OK}, '{"200":200}'),
        ({1}, "[1]"),
        ([None, b"x", bytearray(b"x")], '[null,"eA==","eA=="]'),
        (range(3), "[0,1,2]"),
        (collections.deque([1]), "[1]"),
        (collections.OrderedDict(a=1), '{"a":1}'),
        (types.MappingProxyType({"a": None}), '{"a":null}'),
        ({"a": 1}.keys(), '["a"]'),
        ({"a": 1}.values(), "[1]"),
        (Name("this"), '"this"'),
    ],
)
def test_case_17_json_kinds(value: Any, text: str) -> None:
    assert to_json(value) == text.encode()


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: {"a": [1, (2, {"b": x})]},
        lambda x: [None, x],
        lambda x: Point(x),
        lambda x: Struct([Point(x)]),
        lambda x: Model(score=x),
        lambda x: [None, {"m": Model(score=x)}],
        lambda x: np.float64(x),
        lambda x: [None, np.float32(x)],
        lambda x: np.array([1.0, x]),
        lambda x: np.array([None, [x]], dtype=object),
        lambda x: np.array([(1, x)], dtype=[("a", "i4"), ("b", "f8")]),
        lambda x: collections.deque([x]),
        lambda x: types.MappingProxyType({"a": x}),
        lambda x: {x, 1.0},
        lambda x: {None: x},
    ],
)
def test_case_17_nan_and_infinity_are_refused_wherever_they_are(wrap: Any, bad: float) -> None:
    with pytest.raises(BadResultError, match="NaN or Infinity, which JSON cannot express"):
        to_json(wrap(bad))


def test_nan_in_an_enum_is_refused() -> None:
    with pytest.raises(BadResultError, match="NaN"):
        to_json(Colour.BROKEN)


def test_the_word_null_is_not_mistaken_for_nan() -> None:
    value = {"null": None, "text": "a null here", "b": b"null", "d": datetime.date(2020, 1, 1), "p": Point(None)}
    assert json.loads(to_json(value))["text"] == "a null here"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Strange(), r"a result of type .*\.Strange cannot be encoded as JSON; return str, bytes"),
        ({"a": [Strange()]}, r"a result of type .*\.Strange cannot"),
        (3 + 1j, "a result of type complex cannot"),
        (np.complex64(1), "a result of type complex cannot"),
        (ValueError("x"), "a result of type ValueError cannot be encoded as JSON; raise it instead"),
        ([iter([])], "a result of type list_iterator cannot"),
        ({(1, 2): 3}, "a dict key of type tuple cannot be encoded as JSON; make it a str"),
        ({frozenset(): 3}, "a dict key of type frozenset cannot"),
        ("\ud800", "surrogates not allowed"),
        ([10**5000], "cannot be encoded as JSON: Exceeds the limit"),
    ],
)
def test_case_17_what_json_cannot_say_is_named(value: Any, message: str) -> None:
    with pytest.raises(BadResultError, match=message):
        to_json(value)


def test_type_with_a_way_out_is_told_it() -> None:
    class Tensor:
        def tolist(self) -> list[int]:
            return []

    class Future:
        def __await__(self) -> Any:
            return iter(())

    with pytest.raises(BadResultError, match=r"return its \.tolist\(\)"):
        to_json(Tensor())
    with pytest.raises(BadResultError, match="await it and return what it gives"):
        to_json(Future())


def test_value_that_contains_itself() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(BadResultError, match="contains itself"):
        to_json(cycle)


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


@given(_VALUES)
def test_judgement_is_that_of_the_stdlib(value: Any) -> None:
    try:
        expected = json.loads(json.dumps(value, allow_nan=False))
    except ValueError:
        with pytest.raises(BadResultError, match="NaN or Infinity"):
            to_json(value)
    else:
        assert json.loads(to_json(value)) == expected


def test_numpy_is_not_imported_for_it() -> None:
    code = (
        "import sys; from rayserve.encoding import to_json; from rayserve.errors import BadResultError\n"
        "to_json({'a': None, 'b': range(2)})\n"
        "try: to_json(object())\nexcept BadResultError: pass\n"
        "assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30, env={"PYTHONPATH": ":".join(sys.path)})
