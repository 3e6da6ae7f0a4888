"""Which names can be, and what a misspelt word is told."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve.errors import InvalidTypeError, InvalidValueError
from rayserve.names import check_method, check_name, did_you_mean


@pytest.mark.parametrize("name", ["simple_endpoint", "resnet:v2", "a", "_x", "A.b-c", "user@x+y~z=1", "9", "x" * 128])
def test_good_names_come_back_as_they_are(name: str) -> None:
    assert check_name("endpoint", name) is name
    assert check_name("backend", name) is name


@pytest.mark.parametrize(
    ("kind", "name", "text"),
    [
        ("backend", "", "the name of a backend must not be empty"),
        ("endpoint", "/foo", "endpoint name '/foo' cannot hold '/'; use ASCII letters, digits and _"),
        ("backend", "größe", "backend name 'größe' cannot hold 'ö'"),
        ("backend", "a b", "cannot hold ' '"),
        ("backend", "a\n", r"cannot hold '\n'"),
        ("backend", "tag#1", "cannot hold '#'"),
        ("backend", "-x", "cannot begin with '-'"),
        ("endpoint", "..", "cannot begin with '.'"),
        ("endpoint", "x" * 129, "has 129 characters; 128 are allowed"),
        ("instance", "x" * 41, "has 41 characters; 40 are allowed"),
        ("instance", "a:b", "instance name 'a:b' cannot hold ':'"),
    ],
)
def test_a_bad_name_is_told_what_is_wrong_with_it(kind: str, name: str, text: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        check_name(kind, name)
    assert text in str(caught.value)


@pytest.mark.parametrize("name", [None, 3, b"x", ["x"]])
def test_case_4_a_name_that_is_no_str_is_a_type_error(name: Any) -> None:
    with pytest.raises(InvalidTypeError, match="the name of an endpoint must be a str, got "):
        check_name("endpoint", name)


@given(st.text(max_size=140), st.sampled_from(["endpoint", "backend", "instance"]))
def test_what_passes_is_plain_everywhere(name: str, kind: str) -> None:
    try:
        check_name(kind, name)
    except InvalidValueError:
        return
    assert name.isascii() and name.isprintable() and 1 <= len(name) <= 128
    assert not re.search(r"[\s/\\#%?*\"'`$&;|<>(){}\[\],!^]", name)
    assert name[0] not in ".-~"


def test_did_you_mean_ignores_case_and_falls_back_to_all() -> None:
    assert did_you_mean("NUM_CPU", ["num_cpus", "num_gpus"]) == 'did you mean "num_cpus"?'
    assert did_you_mean("zzz", ["num_cpus", "memory"]) == "known: num_cpus, memory"


@pytest.mark.parametrize("method", ["GET", "post", "Propfind", "M-SEARCH"])
def test_methods_that_can_be_served_come_back_in_capitals(method: str) -> None:
    assert check_method(method) == method.upper()


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("PSOT", '"PSOT" is no HTTP method that can be served; did you mean "POST"?'),
        ("G E T", 'did you mean "GET"?'),
        ("trace", '"trace" is no HTTP method that can be served; use names like "GET" or "POST"'),
        ("CONNECT", 'use names like "GET" or "POST"'),
        ("", '"" is no HTTP method'),
    ],
)
def test_methods_that_no_ingress_serves_are_refused(method: str, text: str) -> None:
    with pytest.raises(InvalidValueError) as raised:
        check_method(method)
    assert text in str(raised.value)


def test_a_method_is_a_str() -> None:
    with pytest.raises(InvalidTypeError, match=re.escape("methods must hold strings, got 5 (int)")):
        check_method(5)
