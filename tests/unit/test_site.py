from typing import Any

import pytest
from tests.unit.fake_client import FakeClient

from rayserve.ingress.head import Limits, parse_head
from rayserve.ingress.site import Found, Site
from rayserve.ingress.turned import Turned
from rayserve.model.table import Backend, Endpoint, EndpointOptions, RoutingTable, Traffic

GET = ("GET",)


def site(*endpoints: Endpoint, backends: tuple[Backend, ...] = (), **options: Any) -> Site:
    made = FakeClient(**options).site
    made.apply(RoutingTable("i", 1, 2, endpoints, backends))
    return made


def find(where: Site, target: str, method: str = "GET") -> Found | Turned:
    return where.find(parse_head(f"{method} {target} HTTP/1.1\r\nHost: t\r\n\r\n".encode(), Limits()))


def objection(where: Site, *fields: str) -> Turned | None:
    lines = ["POST /x HTTP/1.1", "Host: t", *fields, "", ""]
    head = parse_head("\r\n".join(lines).encode(), Limits())
    found = where.find(head)
    assert isinstance(found, Found)
    return where.objection(found, head)


def test_an_exact_route_is_found_without_making_anything() -> None:
    where = site(Endpoint("e", "/x", GET))

    assert find(where, "/x") is find(where, "/x")


def test_a_template_gives_parameters_and_a_mount_its_root() -> None:
    where = site(Endpoint("one", "/x/{id}", GET), Endpoint("all", "/m/*", GET))
    one, rest = find(where, "/x/a%20b"), find(where, "/m/a/b")

    assert isinstance(one, Found)
    assert isinstance(rest, Found)
    assert (one.endpoint.name, one.params, one.root) == ("one", {"id": "a b"}, "")
    assert (rest.endpoint.name, rest.params, rest.root) == ("all", {"path": "a/b"}, "/m")


def test_a_table_that_is_not_newer_is_ignored_whole() -> None:
    where = site(Endpoint("e", "/x", GET))
    present = where.router.table
    where.apply(RoutingTable("i", 1, 2, (Endpoint("e", "/other", GET),)))
    where.apply(RoutingTable("i", 0, 9, (Endpoint("e", "/other", GET),)))

    assert where.router.table is present
    assert isinstance(find(where, "/x"), Found)


@pytest.mark.parametrize("target", ["/-/nothing", "/-", "/%2D/nothing", "/-/%6eothing", "/%2d"])
def test_case_15_system_paths_are_system_paths_in_every_spelling(target: str) -> None:
    found = find(site(Endpoint("all", "/*", GET), Endpoint("two", "/{a}/{b}", GET)), target)

    assert isinstance(found, Turned)
    assert (found.status, found.reason) == (404, "not_found")
    assert "is no system path" in found.detail


def test_case_15_head_goes_where_get_goes_and_nowhere_else() -> None:
    where = site(Endpoint("get", "/get", GET), Endpoint("post", "/post", ("POST",)))
    refused = find(where, "/post", "HEAD")

    assert isinstance(find(where, "/get", "HEAD"), Found)
    assert isinstance(refused, Turned)
    assert (refused.status, refused.headers) == (405, b"allow: POST, OPTIONS\r\n")


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/items/", "; endpoint 'items' has /items, and a slash at the end makes a difference; see"),
        ("/tree", "; endpoint 'tree' has /tree/, and a slash at the end makes a difference; see"),
        ("/by/5/", "; endpoint 'by' has /by/5, and a slash at the end makes a difference; see"),
        ("/app/a/b", "; endpoint 'app' has an app on /app alone, and below it only with /app/*; see"),
        ("/items/a", "path /items/a; see /-/routes"),
        ("/", "path /; see /-/routes"),
    ],
)
def test_case_15_a_path_that_just_misses_an_endpoint_names_it(path: str, hint: str) -> None:
    where = site(
        Endpoint("items", "/items", GET), Endpoint("tree", "/tree/", GET), Endpoint("by", "/by/{id}", GET),
        Endpoint("app", "/app", GET, Traffic({"web": 1.0})), backends=(Backend("web", 1, app="asgi"),),
    )  # fmt: skip
    found = find(where, path)

    assert isinstance(found, Turned)
    assert (found.status, found.reason) == (404, "not_found")
    assert hint in found.detail


def test_case_15_options_go_to_an_app_that_gets_traffic() -> None:
    to_app = Endpoint("a", "/app/*", GET, Traffic({"app": 0.5, "b": 0.5}))
    plain = Endpoint("p", "/plain", GET, Traffic({"b": 1.0}))
    where = site(to_app, plain, backends=(Backend("app", 1, app="asgi"), Backend("b", 1)))

    assert isinstance(find(where, "/app/x", "OPTIONS"), Found)
    assert find(where, "/plain", "OPTIONS") == Turned(204, headers=b"allow: GET, HEAD, OPTIONS\r\n")


def test_the_body_limits_are_judged_by_the_announced_length() -> None:
    where = site(Endpoint("e", "/x", ("POST",), options=EndpointOptions(max_body_bytes=100)), max_buffered_bytes=1000)
    where.held = 950

    assert objection(where, "Content-Length: 50") is None
    too_much = objection(where, "Content-Length: 51")
    too_large = objection(where, "Content-Length: 101")
    assert too_much is not None
    assert too_large is not None
    assert (too_much.status, too_much.reason, too_much.headers) == (503, "queue_full", b"retry-after: 1\r\n")
    assert (too_large.status, too_large.reason) == (413, "too_large")


@pytest.mark.parametrize(
    ("allowed", "method", "refused"),
    [
        (None, "predict", False), (("predict",), "predict", False), (("predict",), "explain", True),
        (False, "predict", True), (False, "", False), (False, "__call__", False), ((), "predict", True),
    ],
)  # fmt: skip
def test_case_19_call_methods_are_refused_before_a_replica_is_asked(allowed: Any, method: str, refused: bool) -> None:
    where = site(Endpoint("e", "/x", ("POST",), options=EndpointOptions(call_methods=allowed)))
    turned = objection(where, f"X-SERVE-CALL-METHOD: {method}")

    assert (turned is not None) is refused
    if turned is not None:
        assert turned.status == 404
        assert f"call method '{method}'; allowed: " in turned.detail


def test_request_ids_are_the_clients_if_valid() -> None:
    where = site()

    assert where.request_id("mine") == "mine"
    first, second, third = where.request_id(), where.request_id("not valid"), where.request_id("x" * 129)
    assert len({first, second, third}) == 3
    assert first.partition("-")[0] == second.partition("-")[0]


def test_case_14_why_it_is_not_ready() -> None:
    where = site()
    assert where.unready() == ""
    where.drain()
    assert where.unready().startswith("draining: ")
    assert where.closes


def test_bodies_are_streamed_only_where_all_of_the_traffic_wants_them_so() -> None:
    where = site(
        Endpoint("all", "/all", GET, Traffic({"a": 0.5, "b": 0.5})),
        Endpoint("some", "/some", GET, Traffic({"a": 0.5, "whole": 0.5})),
        Endpoint("shadowed", "/shadowed", GET, Traffic({"a": 1.0}, {"b": 0.1})),
        Endpoint("none", "/none", GET),
        backends=(Backend("a", 1, stream_request=True), Backend("b", 1, stream_request=True), Backend("whole", 1)),
    )

    assert where.streaming_endpoints == {"all"}
