"""Arguments on their way out: what may be one, what may be in one (case 29)."""

from typing import Any

import pytest
import ray

from rayserve.call_arguments import are_ready, packed
from rayserve.errors import InvalidTypeError
from rayserve.wire import values

REF: Any = ray.ObjectRef(b"r" * 28)


class Odd:
    def __init__(self, part: Any) -> None:
        self.part = part


@pytest.mark.parametrize("argument", [[REF], {"k": REF}, (1, (REF,)), Odd(REF), [REF, lambda: 1]])
def test_case_29_a_reference_inside_an_argument_is_a_type_error(argument: Any) -> None:
    for args, kwargs in (((argument,), {}), ((), {"x": argument})):
        with pytest.raises(InvalidTypeError, match="pass it as a top-level argument, or ray"):
            packed("e", args, kwargs)


def test_case_29_a_reference_that_is_an_argument_has_to_be_waited_for() -> None:
    assert are_ready((1, [2]), {"x": "ObjectRef"})
    assert not are_ready((1, REF), {})
    assert not are_ready((), {"x": REF})


def test_words_about_references_are_no_references() -> None:
    sizes, parts = packed("e", ("an ObjectRef", b"_object_ref_", ray.ObjectRef), {})

    assert values.unpack(sizes, b"".join(parts)) == (("an ObjectRef", b"_object_ref_", ray.ObjectRef), {})
