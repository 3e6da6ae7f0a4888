"""Case 14: the system paths. Case 15: what is not found, and which methods a route takes."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.wire.http_client import Client, request
from tests.wire.mini import Mini

from rayserve.model.table import Backend, Endpoint, RoutingTable, Traffic


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running


def echo(request: Any) -> str:
    return f"{request.method} {request.path}"


def test_case_14_routes_are_listed_as_json(mini: Mini) -> None:
    mini.endpoint("endpoint", "/api").endpoint("by-handle", None).endpoint("one", "/items/{id}", methods=("PUT",))
    mini.publish()

    answer = mini.get("/-/routes")

    assert answer.status == 200
    assert answer["content-type"] == "application/json"
    assert answer.json() == {"/api": ["endpoint", ["GET", "POST"]], "/items/{id}": ["one", ["PUT"]]}


def test_case_14_an_instance_without_endpoints_lists_none(mini: Mini) -> None:
    assert mini.publish().get("/-/routes").json() == {}


def test_case_14_healthz_says_ready(mini: Mini) -> None:
    answer = mini.publish().get("/-/healthz")

    assert (answer.status, answer.body) == (200, b"ok\n")


def test_case_14_healthz_says_why_not_before_the_first_table(mini: Mini) -> None:
    answer = mini.get("/-/healthz")

    assert answer.status == 503
    assert "no routing table yet" in answer.json()["detail"]
    assert mini.get("/x").status == 503


def test_case_14_healthz_says_why_not_while_draining(mini: Mini) -> None:
    mini.publish(closing=True)
    answer = mini.get("/-/healthz")

    assert answer.status == 503
    assert answer["x-serve-reason"] == "draining"
    assert answer["x-serve-retriable"] == "true"
    assert "shutting down" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/-/", "/-/other", "/-/routes/", "/-/healthz/x", "/-", "/-/Routes"])
def test_case_14_other_system_paths_are_404(mini: Mini, path: str) -> None:
    mini.backend("b", echo).endpoint("all", "/*", {"b": 1.0}).endpoint("two", "/{a}/{b}", {"b": 1.0}).publish()
    answer = mini.get(path)

    assert answer.status == 404
    assert "is no system path; there are /-/routes, /-/healthz" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/-/routes", "/%2D/routes", "/%2d/%72outes", "/-/%72o%75tes", "/-/routes?x=1"])
def test_case_14_no_route_of_a_user_hides_a_system_path(mini: Mini, path: str) -> None:
    mini.backend("b", echo).endpoint("all", "/*", {"b": 1.0}).endpoint("two", "/{a}/{b}", {"b": 1.0}).publish()

    assert mini.get(path).json() == {"/*": ["all", ["GET", "POST"]], "/{a}/{b}": ["two", ["GET", "POST"]]}


@pytest.mark.parametrize("path", ["/-x", "/%2Dx/routes", "//-/routes", "/-%2Froutes", "/%252D/routes"])
def test_case_14_paths_that_only_look_like_system_paths_belong_to_the_user(mini: Mini, path: str) -> None:
    mini.backend("b", echo).endpoint("all", "/*", {"b": 1.0}).publish()

    assert mini.get(path)["x-serve-backend"] == "b"


def test_case_14_system_paths_are_read_only(mini: Mini) -> None:
    mini.publish()
    with Client(mini.port) as client:
        refused = client.post("/-/routes", b"{}").answer()
        options = client.send(request("OPTIONS", "/-/healthz")).answer()
        head = client.send(request("HEAD", "/-/routes")).answer("HEAD")

    assert (refused.status, refused["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert (options.status, options["allow"]) == (204, "GET, HEAD, OPTIONS")
    assert (head.status, head["content-length"]) == (200, "2")


@pytest.mark.parametrize("path", ["/", "/apix", "/api/", "/api/x", "/ap", "/API", "//api", "/api%2F"])
def test_case_15_an_unknown_path_is_named_with_where_to_look(mini: Mini, path: str) -> None:
    mini.backend("b", echo).endpoint("e", "/api", {"b": 1.0}).publish()
    answer = mini.get(path)

    assert answer.status == 404
    assert answer.json()["error"] == "not_found"
    near = "endpoint 'e' has /api, and a slash at the end makes a difference; " if path == "/api/" else ""
    assert answer.json()["detail"] == f"no endpoint has the path {path}; {near}see /-/routes for those there are"


def test_case_15_wrong_method_says_allow(mini: Mini) -> None:
    mini.backend("b", echo).endpoint("e", "/api", {"b": 1.0}, methods=("GET",)).publish()
    answer = mini.post("/api", b"x")

    assert answer.status == 405
    assert answer["allow"] == "GET, HEAD, OPTIONS"
    assert answer["x-serve-reason"] == "method_not_allowed"
    assert answer.json()["detail"] == (
        "endpoint 'e' on /api does not take POST, only GET; create it with methods=['GET', 'POST']"
    )


def test_case_15_head_works_where_get_does(mini: Mini) -> None:
    mini.backend("b", lambda: "four").endpoint("e", "/api", {"b": 1.0}).publish()
    mini.endpoint("post", "/post", {"b": 1.0}, methods=("POST",)).publish()
    with Client(mini.port) as client:
        head = client.send(request("HEAD", "/api")).answer("HEAD")
        refused = client.send(request("HEAD", "/post")).answer("HEAD")
        get = client.get("/api").answer()

    assert (head.status, head["content-length"], head["content-type"]) == (200, "4", "text/plain; charset=utf-8")
    assert (refused.status, refused["allow"]) == (405, "POST, OPTIONS")
    assert get.body == b"four"  # no byte of a body was in the way


def test_case_15_head_of_a_large_answer_ends_with_its_head(mini: Mini) -> None:
    mini.backend("b", lambda: b"x" * 2**20).endpoint("e", "/api", {"b": 1.0}).publish()
    with Client(mini.port) as client:
        assert client.send(request("HEAD", "/api")).answer("HEAD")["content-length"] == str(2**20)
        assert len(client.get("/api").answer().body) == 2**20


def test_case_15_options_answers_allow(mini: Mini) -> None:
    mini.backend("b", echo).endpoint("e", "/api", {"b": 1.0}).publish()
    with Client(mini.port) as client:
        answer = client.send(request("OPTIONS", "/api")).answer()
        whole = client.send(request("OPTIONS", "*")).answer()
        spelled_out = client.send(b"OPTIONS http://test HTTP/1.1\r\nHost: test\r\n\r\n").answer()

    assert (answer.status, answer["allow"]) == (204, "GET, HEAD, POST, OPTIONS")
    assert (whole.status, whole["allow"]) == (204, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
    assert (spelled_out.status, spelled_out["allow"]) == (whole.status, whole["allow"])


def test_case_15_a_handler_may_have_options_of_its_own(mini: Mini) -> None:
    mini.backend("b", echo).endpoint("e", "/api", {"b": 1.0}, methods=("OPTIONS",)).publish()

    assert mini.ask("OPTIONS", "/api").body == b"OPTIONS /api"


def test_case_15_a_mounted_app_gets_its_own_options(mini: Mini) -> None:
    endpoint = Endpoint("e", "/app/*", ("GET",), Traffic({"b": 1.0}))
    table = RoutingTable("mini", 1, 1, (endpoint,), (Backend("b", 1, app="wsgi"),))
    mini.on_front(lambda: mini.site.apply(table))
    with Client(mini.port) as client:
        client.send(request("OPTIONS", "/app/x", "X-Request-Timeout-Ms: 1")).answer()
        answer = client.send(request("DELETE", "/app/x")).answer()

    assert (answer.status, answer["allow"]) == (405, "GET, HEAD, OPTIONS")


def test_case_15_an_absolute_target_is_routed_by_its_path(mini: Mini) -> None:
    mini.backend("b", lambda request: request.url).endpoint("e", "/api", {"b": 1.0}).publish()
    with Client(mini.port) as client:
        answer = client.send(b"GET http://other.example:81/api?x=1 HTTP/1.1\r\nHost: test\r\n\r\n").answer()

    assert answer.body == b"http://other.example:81/api?x=1"


def test_case_15_a_refused_body_does_not_become_the_next_request(mini: Mini) -> None:
    mini.publish()
    with Client(mini.port) as client:
        first = client.post("/nowhere", b"GET /-/healthz HTTP/1.1\r\nHost: x\r\n\r\n").answer()
        second = client.get("/-/healthz").answer()

    assert (first.status, second.status) == (404, 200)


def test_case_3_parameters_come_before_mounts_and_exact_routes_before_both(mini: Mini) -> None:
    mini.backend("b", lambda request: json.dumps([request.view_args, request.path]))
    mini.endpoint("exact", "/x/me", {"b": 1.0}).endpoint("one", "/x/{id}", {"b": 1.0})
    mini.endpoint("rest", "/x/*", {"b": 1.0}).endpoint("all", "/*", {"b": 1.0}).publish()

    assert mini.get("/x/me").json() == [{}, "/x/me"]
    assert mini.get("/x/%C3%A9").json() == [{"id": "é"}, "/x/é"]
    assert mini.get("/x/a/b").json() == [{"path": "a/b"}, "/x/a/b"]
    assert mini.get("/x").json() == [{"path": ""}, "/x"]
    assert mini.get("/y/a%2Fb").json() == [{"path": "y/a/b"}, "/y/a/b"]


def test_an_older_table_changes_nothing(mini: Mini) -> None:
    mini.endpoint("e", "/new").publish()
    stale = RoutingTable("mini", 0, 9, (Endpoint("e", "/old", ("GET",)),))
    mini.on_front(lambda: mini.site.apply(stale))

    assert list(mini.get("/-/routes").json()) == ["/new"]
    assert mini.get("/old").status == 404
