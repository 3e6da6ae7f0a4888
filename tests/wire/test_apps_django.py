"""Django under a mount, by WSGI and by ASGI: URLs, forms, sessions, uploads, streams, files."""

import gc
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.conditions import eventually
from tests.wire import django_site
from tests.wire.mini import Mini

from rayserve.apps import asgi, wsgi


@pytest.fixture(params=["wsgi", "asgi"])
def kind(request: pytest.FixtureRequest) -> str:
    django_site.stopped.clear()
    for gate in django_site.gates:
        gate.clear()
    return str(request.param)


@pytest.fixture
def client(kind: str) -> Iterator[httpx.Client]:
    app = wsgi(django_site.wsgi, threads=2) if kind == "wsgi" else asgi(django_site.asgi)
    methods = ("GET", "POST", "PUT", "OPTIONS")
    with Mini() as mini:
        mini.backend("b", app).endpoint("e", "/site/*", {"b": 1.0}, methods).publish()
        with httpx.Client(base_url=f"{mini.url}/site", timeout=20) as opened:
            yield opened
        eventually(mini.is_idle, "every slot is free")


def test_urls_know_the_mount(client: httpx.Client) -> None:
    answer = client.get("/articles/2003/?q=1&q=%C3%BC")
    shown = answer.json()

    assert (shown["year"], shown["path"], shown["script"]) == (2003, "/site/articles/2003/", "/site")
    assert shown["here"] == "/site/articles/2003/"
    assert shown["full"] == str(client.base_url).removesuffix("/site/") + "/top"
    assert (shown["query"], shown["address"]) == (["1", "ü"], "127.0.0.1")
    assert answer.headers["x-stamp"] == "/articles/2003/"
    assert answer.headers["content-length"] == str(len(answer.content))


def test_a_missing_slash_is_redirected_within_the_mount(client: httpx.Client) -> None:
    answer = client.get("/me")
    assert (answer.status_code, answer.headers["location"]) == (301, "/site/me/")


def test_errors_are_djangos(client: httpx.Client) -> None:
    assert client.get("/articles/x/").status_code == 404
    failed = client.get("/fail/")
    assert (failed.status_code, failed.headers.get("x-serve-reason")) == (500, None)
    assert client.get("/me/", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/me/").status_code == 200


def test_a_form_with_its_csrf_token_and_a_session(client: httpx.Client) -> None:
    token = client.get("/form/").text
    assert client.post("/form/", data={"user": "ada"}).status_code == 403
    answer = client.post("/form/", data={"user": "ada", "csrfmiddlewaretoken": token})
    assert (answer.status_code, answer.headers["location"]) == (302, "/site/me/")
    assert client.get("/me/").text == "user ada"


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_uploads(client: httpx.Client, size: int) -> None:
    answer = client.post("/upload/", data={"name": "ü"}, files={"file": ("a.bin", bytes(size))})
    assert answer.json() == {"name": "ü", "file": "a.bin", "size": size}
    assert client.post("/body/", content=bytes(size)).text == str(size)
    assert client.post("/body/", content=iter([bytes(size), b"x"])).text == str(size + 1), "of unknown length"


def test_a_stream_arrives_piece_by_piece(client: httpx.Client, kind: str) -> None:
    with client.stream("GET", "/stream/" if kind == "wsgi" else "/stream-async/") as answer:
        pieces = answer.iter_text()
        for number, gate in enumerate(django_site.gates):
            assert next(pieces) == f"piece {number}"
            gate.set()


def test_a_stream_stops_when_its_client_leaves(client: httpx.Client, kind: str) -> None:
    with client.stream("GET", "/endless/" if kind == "wsgi" else "/endless-async/") as answer:
        assert next(answer.iter_raw())
    # Under ASGI Django leaves the generator to the garbage collector, and a thread of asgiref keeps the last request.
    eventually(lambda: client.get("/me/").is_success and gc.collect() and django_site.stopped.is_set(), "it stops")


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume synchronous iterators")
def test_files(client: httpx.Client, tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(bytes(range(256)) * 8192)
    answer = client.get("/file/", params={"path": str(path)})

    assert (answer.headers["content-length"], answer.content) == (str(2**21), path.read_bytes())
    bare = client.head("/file/", params={"path": str(path)})
    assert (bare.headers["content-length"], bare.content) == (str(2**21), b"")
