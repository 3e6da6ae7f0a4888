"""Case 16: the request that a handler sees is the one that the client sent."""

import socket
from collections.abc import Iterator
from typing import Any

import flask
import pytest
from tests.wire.http_client import Client, chunked, request
from tests.wire.mini import Mini


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running


def serve(mini: Mini, handler: Any, route: str = "/x") -> Mini:
    return mini.backend("b", handler).endpoint("e", route, {"b": 1.0}, methods=("GET", "POST", "PUT")).publish()


def test_case_16_it_is_a_flask_request_with_all_its_parts(mini: Mini) -> None:
    def handler(request: flask.Request) -> dict[str, Any]:
        assert isinstance(request, flask.Request)
        return {
            "method": request.method, "args": request.args.to_dict(flat=False), "json": request.json,
            "get_json": request.get_json(), "data": request.data.decode(), "cookies": dict(request.cookies),
            "path": request.path, "url": request.url, "remote_addr": request.remote_addr,
            "agent": request.headers["User-Agent"], "view_args": request.view_args, "length": request.content_length,
        }  # fmt: skip

    serve(mini, handler, "/x/{id}")
    fields = {
        "Content-Type": "application/json", "Cookie": "a=1; b=two", "User-Agent": "Tester", "Host": "shop.example:81"
    }  # fmt: skip
    answer = mini.ask("PUT", "/x/7?q=1&q=2&r=%C3%A9", b'{"n": 1}', fields)

    assert answer.json() == {
        "method": "PUT", "args": {"q": ["1", "2"], "r": ["é"]}, "json": {"n": 1}, "get_json": {"n": 1},
        "data": '{"n": 1}', "cookies": {"a": "1", "b": "two"}, "path": "/x/7",
        "url": "http://shop.example:81/x/7?q=1&q=2&r=é", "remote_addr": "127.0.0.1", "agent": "Tester",
        "view_args": {"id": "7"}, "length": 8,
    }  # fmt: skip


def test_case_16_forms_and_files_are_parsed(mini: Mini) -> None:
    def handler(request: flask.Request) -> dict[str, Any]:
        files = {}
        for name, file in request.files.items():
            with file.stream:
                files[name] = file.read().decode()
        return {"form": request.form.to_dict(), "files": files}

    serve(mini, handler)
    plain = mini.post("/x", b"a=1&b=%C3%A9", {"Content-Type": "application/x-www-form-urlencoded"})
    parts = (
        b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
        b'--B\r\nContent-Disposition: form-data; name="f"; filename="f.txt"\r\n\r\ncontent\r\n--B--\r\n'
    )
    multipart = mini.post("/x", parts, {"Content-Type": "multipart/form-data; boundary=B"})

    assert plain.json() == {"form": {"a": "1", "b": "é"}, "files": {}}
    assert multipart.json() == {"form": {"a": "1"}, "files": {"f": "content"}}


def test_case_16_repeated_headers_survive(mini: Mini) -> None:
    serve(mini, lambda request: [request.headers.getlist("X-A"), request.headers["x-a"]])
    with Client(mini.port) as client:
        answer = client.get("/x", "X-A: one", "X-B: other", "x-a: two, three").answer()

    assert answer.json() == [["one", "two, three"], "one, two, three"]


def test_case_16_get_with_a_body(mini: Mini) -> None:
    serve(mini, lambda request: request.method + request.data.decode())

    assert mini.ask("GET", "/x", b"body").body == b"GETbody"


@pytest.mark.parametrize("sizes", [(1,), (5, 0, 7), (1,) * 300, (70_000, 3, 200_000), (300_000,)])
def test_case_16_chunked_bodies(mini: Mini, sizes: tuple[int, ...]) -> None:
    serve(mini, lambda request: request.data)
    chunks = [bytes([65 + number % 26]) * size for number, size in enumerate(sizes) if size]
    with Client(mini.port) as client:
        answer = client.send(chunked("POST", "/x", *chunks)).answer()
        again = client.post("/x", b"next").answer()

    assert answer.body == b"".join(chunks)
    assert again.body == b"next"


def test_case_16_an_empty_chunked_body_is_empty(mini: Mini) -> None:
    serve(mini, lambda request: [len(request.data), request.method])
    with Client(mini.port) as client:
        assert client.send(chunked("POST", "/x")).answer().json() == [0, "POST"]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/x/a%20b", "/x/a b"), ("/x/%C3%A4%E6%97%A5", "/x/ä日"), ("/x/a%2Fb", "/x/a/b"), ("/x/%2e%2e/y", "/x/../y"),
        ("/x/%FF", "/x/�"), ("/x/a%25b", "/x/a%b"), ("/x//y/", "/x//y/"), ("/x/a;b=1,c", "/x/a;b=1,c"),
    ],
)  # fmt: skip
def test_case_16_paths_are_decoded_as_flask_does(mini: Mini, target: str, path: str) -> None:
    serve(mini, lambda request: request.path, "/x/*")

    assert mini.get(target).body.decode() == path


def test_case_16_a_plain_handler_sees_the_full_path_and_the_rest_of_its_mount(mini: Mini) -> None:
    serve(mini, lambda request: [request.path, request.root_path, request.view_args], "/files/*")

    assert mini.get("/files/a/b%20c").json() == ["/files/a/b c", "", {"path": "a/b c"}]


def test_case_16_the_request_is_passed_only_to_who_takes_one(mini: Mini) -> None:
    def optional(request: Any = None) -> str:
        return f"{request}"

    mini.backend("none", lambda: "no argument").backend("optional", optional)
    mini.endpoint("n", "/n", {"none": 1.0}).endpoint("o", "/o", {"optional": 1.0}).publish()

    assert mini.get("/n").body == b"no argument"
    assert mini.get("/o").body == b"None"


def test_case_16_fields_for_this_connection_only_do_not_reach_the_handler(mini: Mini) -> None:
    serve(mini, lambda request: sorted(name.lower() for name, _ in request.headers))
    with Client(mini.port) as client:
        answer = client.get(
            "/x", "Connection: x-hop, keep-alive", "X-Hop: 1", "Keep-Alive: 5", "TE: trailers", "X_Forged: 1",
            "X-Serve-Reason: forged", "X-Serve-Replica: forged", "X-Kept: 1",
        ).answer()  # fmt: skip

    assert answer.json() == ["host", "x-kept"]


def test_case_16_trailers_are_dropped(mini: Mini) -> None:
    serve(mini, lambda request: [request.data.decode(), "X-T" in request.headers])
    data = request("POST", "/x", "Transfer-Encoding: chunked", "Trailer: X-T") + b"2\r\nab\r\n0\r\nX-T: 1\r\n\r\n"
    with Client(mini.port) as client:
        assert client.send(data).answer().json() == ["ab", False]
        assert client.get("/x").answer().status == 200


def test_case_16_http_1_0_needs_no_host(mini: Mini) -> None:
    serve(mini, lambda request: request.environ["SERVER_PROTOCOL"])
    with Client(mini.port) as client:
        assert client.send(b"GET /x HTTP/1.0\r\n\r\n").answer(version="1.0").body == b"HTTP/1.0"


def test_case_16_ipv6_clients_have_an_address_too() -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with Mini() as mini:
        serve(mini, lambda request: request.remote_addr)
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
        mini.listen(listener)
        with socket.create_connection(listener.getsockname()[:2], timeout=10) as sock:
            sock.sendall(request("GET", "/x", "Connection: close"))
            assert sock.makefile("rb").read().endswith(b"\r\n\r\n::1")
