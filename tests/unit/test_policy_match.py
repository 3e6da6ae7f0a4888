"""Routes: what can be one, which of them a path means, and what the handler gets to see of it."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any
from urllib.parse import quote, unquote, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve.errors import InvalidTypeError, InvalidValueError
from rayserve.policy.match import Match, Matcher, check_route
from rayserve.policy.route import canonical, parse_route


def key_of(matcher: Matcher[str], path: str) -> str | None:
    found = matcher.match(path)
    return None if found is None else found.key


@pytest.fixture
def matcher() -> Matcher[str]:
    routes = ["/items", "/items/{id}", "/items/new", "/items/{id}/parts/{part}", "/files/*", "/files/deep/*", "/größe"]
    return Matcher((route, route) for route in routes)


@pytest.mark.parametrize("route", ["/", "/a", "/a/", "/a//b", "/{x}", "/a/{x_1}/b", "/*", "/a/*", "/größe", "/%2F/%25"])
def test_case_3_good_routes_come_back_as_they_are(route: str) -> None:
    assert check_route(route) is route


@pytest.mark.parametrize(
    ("route", "text"),
    [
        ("", 'must start with "/", like "/items"'),
        ("api", 'route "api" must start with "/", like "/api"'),
        ("http://host/api", 'must start with "/"'),
        ("/-/routes", "under /-/, which belongs to rayserve"),
        ("/-", "under /-/"),
        ("/%2d/x", "under /-/"),
        ("/a?b=1", "without query or fragment"),
        ("/a#b", "without query or fragment"),
        ("/a b", "white space or a control character"),
        ("/a\n", "white space or a control character"),
        ("/a\u00a0", "white space or a control character"),
        ("/a\ud800", "white space or a control character"),
        ("/100%", '"%" must be followed by two hex digits'),
        ("/a*", '"*" must be a whole segment'),
        ("/*/a", '"*" must be the last segment'),
        ("/{x}/*", "a mount (\"*\") cannot hold parameters"),
        ("/a{x}", "must be a whole segment"),
        ("/{}", "must be a whole segment"),
        ("/{x", "must be a whole segment"),
        ("/{a-b}", "with a Python name"),
        ("/{id:int}", "parameters are always text"),
        ("/items/<id>", "a parameter stands in braces and is text; write {id}"),
        ("/items/<int:id>", "a parameter stands in braces and is text; write {id}"),
        ("/{x}/{x}", "names two parameters alike"),
        ("/a/../b", 'holds the dot segment ".."'),
        ("/a/%2e", "dot segment"),
        ("/" + "x" * 3000, "has 3001 characters; 2048 are allowed"),
    ],
)  # fmt: skip
def test_case_4_a_bad_route_is_a_value_error_that_says_why(route: str, text: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        check_route(route)
    assert text in str(caught.value)


@pytest.mark.parametrize("route", [None, 3, b"/a", ["/a"]])
def test_case_4_a_route_that_is_no_str_is_a_type_error(route: Any) -> None:
    with pytest.raises(InvalidTypeError, match="a route must be a str"):
        check_route(route)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/items", "/items"),
        ("/items/new", "/items/new"),
        ("/items/7", "/items/{id}"),
        ("/items/7/parts/x", "/items/{id}/parts/{part}"),
        ("/files", "/files/*"),
        ("/files/", "/files/*"),
        ("/files/a/b", "/files/*"),
        ("/files/deep", "/files/deep/*"),
        ("/files/deep/er", "/files/deep/*"),
    ],
)
def test_case_3_exact_goes_before_parameter_before_longest_mount(matcher: Matcher[str], path: str, key: str) -> None:
    assert key_of(matcher, path) == key


@pytest.mark.parametrize("path", ["/item", "/items/", "/items/7/", "/items//parts/x", "/items/7/parts", "/filesystem"])
def test_case_15_slashes_and_prefixes_do_not_match(matcher: Matcher[str], path: str) -> None:
    assert matcher.match(path) is None


def test_case_3_a_literal_segment_goes_before_a_parameter_and_is_left_again_if_it_leads_nowhere() -> None:
    matcher = Matcher((route, route) for route in ["/{x}/b/d", "/a/{y}/c", "/a/b/{z}"])
    assert key_of(matcher, "/a/b/d") == "/a/b/{z}"
    assert key_of(matcher, "/a/q/c") == "/a/{y}/c"
    matcher = Matcher((route, route) for route in ["/{x}/b/d", "/a/{y}/c"])
    assert key_of(matcher, "/a/b/d") == "/{x}/b/d"


def test_case_3_the_root_mount_takes_what_nothing_else_takes() -> None:
    matcher = Matcher([("/*", "root"), ("/a", "a"), ("/x/*", "x")])
    assert [key_of(matcher, path) for path in ("/", "/b", "/a", "/a/", "/x", "/x/y")] == [
        "root", "root", "a", "root", "x", "x",
    ]  # fmt: skip
    assert matcher.match("/b/c") == Match("root", {"path": "b/c"}, "/b/c", "")
    assert key_of(matcher, "*") is None


def test_case_3_paths_match_as_sent_and_are_decoded_afterwards(matcher: Matcher[str]) -> None:
    assert matcher.match("/items/a%2Fb") == Match("/items/{id}", {"id": "a/b"}, "/items/a%2Fb", "")
    assert matcher.match("/items/%C3%BC%20x") == Match("/items/{id}", {"id": "ü x"}, "/items/%C3%BC%20x", "")
    assert matcher.match("/items/100%") == Match("/items/{id}", {"id": "100%"}, "/items/100%", "")


def test_case_16_apps_get_their_mount_and_the_rest_still_encoded(matcher: Matcher[str]) -> None:
    assert matcher.match("/files/a%2Fb/c") == Match("/files/*", {"path": "a/b/c"}, "/a%2Fb/c", "/files")
    assert matcher.match("/%66iles/x") == Match("/files/*", {"path": "x"}, "/x", "/%66iles")
    assert matcher.match("/files") == Match("/files/*", {"path": ""}, "", "/files")
    assert matcher.match("/items") == Match("/items", {}, "/items", "")


def test_case_16_non_latin_routes_match_their_utf8_escapes(matcher: Matcher[str]) -> None:
    for path in ("/gr%C3%B6%C3%9Fe", "/gr%c3%b6%c3%9fe", "/größe"):
        assert matcher.match(path) == Match("/größe", {}, path, "")


def test_bytes_that_are_no_text_match_no_parameter_but_a_mount(matcher: Matcher[str]) -> None:
    assert matcher.match("/items/%FF") is None
    assert matcher.match("/files/%FF") == Match("/files/*", {"path": "\ufffd"}, "/%FF", "/files")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/items/{id}", "/items/{name}"),
        ("/a", "/%61"),
        ("/%c3%bc", "/ü"),
        ("/%c3%bc/{x}", "/%C3%BC/{y}"),
        ("/x/*", "/%78/*"),
        ("/a", "/a"),
    ],
)
def test_case_3_routes_that_differ_only_in_names_conflict(one: str, other: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        Matcher([("/other", 0), (one, 1), (other, 2)])
    assert str(caught.value) == f'routes "{one}" and "{other}" match the same paths; keep one'


def test_case_3_routes_that_merely_overlap_stand_side_by_side() -> None:
    routes = ["/a", "/a/", "/{x}", "/a/*", "/*", "/{x}/{y}", "/{x}/b", "/a%2Cb", "/a,b"]
    matcher = Matcher((route, route) for route in routes)
    for route in ("/a", "/a/", "/a%2Cb", "/a,b"):
        assert (found := matcher.match(route)) is not None and found.key == route


def test_a_key_of_none_is_a_match() -> None:
    assert Matcher([("/m/*", None)]).match("/m/x") == Match(None, {"path": "x"}, "/x", "/m")


def test_a_path_made_of_slashes_is_no_match() -> None:
    matcher = Matcher([("/{a}/{b}", 1), ("/a/b/*", 2)])
    assert matcher.match("/" * 8000) is None


def test_a_template_of_many_segments_matches() -> None:
    names = [f"p{index}" for index in range(250)]
    found = Matcher([("".join(f"/{{{name}}}" for name in names), 1)]).match("/v" * 250)
    assert found is not None and found.params == dict.fromkeys(names, "v")


# -- against a naive reading of the rules ------------------------------------------------------------

_WORDS = st.sampled_from(["a", "b", "ü", "-x", "a,b", "%2C", "%61", "%c3%bc", "{p}", "{q}", ""])
_ROUTES = st.lists(_WORDS, min_size=1, max_size=4).flatmap(
    lambda parts: st.sampled_from(["/" + "/".join(parts), "/" + "/".join([*parts, "*"])])
)
_SENT = st.sampled_from(["a", "b", "%61", "%C3%BC", "%c3%bc", "%FF", "a%2Fb", "a%2Cb", "a,b", ",", "%2c", "%", "", "z"])
_PATHS = st.lists(_SENT, min_size=1, max_size=5).map(lambda parts: "/" + "/".join(parts))


def naive_segment(text: str) -> str:
    """Equivalent spellings become one: decode to bytes, keep reserved characters' escapes apart."""
    pieces = re.findall(r"%[0-9A-Fa-f]{2}|.", text, re.DOTALL)
    spelled = []
    for piece in pieces:
        raw = unquote_to_bytes(piece) if len(piece) == 3 else piece.encode()
        unreserved = re.fullmatch(rb"[A-Za-z0-9._~-]", raw) is not None
        literal = len(piece) == 1 and piece in "!$&'()*+,;=:@"
        spelled.append(raw.decode() if unreserved or literal else quote(raw, safe=""))
    return "".join(spelled)


def naive_match(routes: list[str], path: str) -> tuple[str, dict[str, str]] | None:
    parts = [naive_segment(part) for part in path[1:].split("/")]
    fits: list[tuple[tuple[Any, ...], str, dict[str, str]]] = []
    for route in routes:
        wanted = route[1:].split("/")
        if wanted[-1] == "*":
            prefix = [naive_segment(part) for part in wanted[:-1]]
            if parts[: len(prefix)] == prefix:
                rest = "/".join(path[1:].split("/")[len(prefix) :])
                fits.append(((2, -len(prefix)), route, {"path": unquote(rest, errors="replace")}))
            continue
        if len(wanted) != len(parts):
            continue
        params: dict[str, str] = {}
        ranks = []
        for want, part in zip(wanted, parts, strict=True):
            if want.startswith("{"):
                try:
                    params[want[1:-1]] = unquote_to_bytes(part).decode()
                except UnicodeDecodeError:
                    break
                if not part:
                    break
                ranks.append(1)
            elif naive_segment(want) == part:
                ranks.append(0)
            else:
                break
        else:
            fits.append(((1 if params else 0, ranks), route, params))
    if not fits:
        return None
    _, route, params = min(fits, key=lambda fit: fit[0])
    return route, params


@given(routes=st.lists(_ROUTES, max_size=6), path=_PATHS)
def test_the_matcher_agrees_with_a_naive_one(routes: list[str], path: str) -> None:
    kept: list[str] = []
    for route in routes:
        with suppress(InvalidValueError):  # two parameters alike, a mount with parameters, or the paths of another one
            Matcher((each, each) for each in (*kept, route))
            kept.append(route)
    found = Matcher((route, route) for route in kept).match(path)
    expected = naive_match(kept, path)
    assert (None if found is None else (found.key, dict(found.params))) == expected
    if found is not None:
        assert found.mount + found.rest == path


_TEMPLATES = st.lists(
    st.lists(st.sampled_from(["a", "b", None]), min_size=3, max_size=3), min_size=2, max_size=8, unique_by=tuple
).map(lambda shapes: ["".join(f"/{part or f'{{p{at}}}'}" for at, part in enumerate(shape)) for shape in shapes])


@given(templates=_TEMPLATES, path=st.sampled_from(["/a/a/a", "/a/a/b", "/a/b/a", "/b/a/b", "/b/b/a", "/a/c/b"]))
def test_among_crowded_templates_the_literal_goes_first_segment_by_segment(templates: list[str], path: str) -> None:
    found = Matcher((route, route) for route in templates).match(path)
    assert (None if found is None else (found.key, dict(found.params))) == naive_match(templates, path)


@given(st.text(max_size=30))
def test_the_canonical_spelling_is_ascii_and_final(path: str) -> None:
    once = canonical(path)
    assert once.isascii() and canonical(once) == once
    assert once.count("/") == path.count("/")
    assert unquote_to_bytes(once) == unquote_to_bytes(path.encode("utf-8"))


@given(st.one_of(st.text(max_size=20), st.lists(_WORDS, max_size=4).map(lambda parts: "/" + "/".join(parts))))
def test_a_route_either_can_be_or_says_why_not(route: str) -> None:
    try:
        checked = check_route(route)
    except InvalidValueError as error:
        assert "route" in str(error)
        return
    assert checked == route
    parsed = parse_route(route)
    if parsed.kind == "exact":
        found = Matcher([(route, 1)]).match(canonical(route))
        assert found is not None and found.key == 1
