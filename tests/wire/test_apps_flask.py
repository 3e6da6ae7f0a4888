"""Flask as its documentation teaches it, under a mount: blueprints, url_for, sessions, uploads, streams."""

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flask
import httpx
import pytest
from tests.conditions import eventually
from tests.wire.mini import Mini

from rayserve.apps import wsgi


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running
        eventually(running.is_idle, "every slot is free")


@pytest.fixture
def client(mini: Mini) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{mini.url}/site", timeout=20) as opened:
        yield opened


def serve(mini: Mini, app: Any, threads: int = 2) -> None:
    methods = ("GET", "POST", "PUT", "DELETE", "OPTIONS")
    mini.backend("b", wsgi(app, threads=threads)).endpoint("e", "/site/*", {"b": 1.0}, methods).publish()


def blog() -> flask.Flask:
    app = flask.Flask("blog")
    app.secret_key = "not a secret"
    pages = flask.Blueprint("pages", "pages", url_prefix="/pages")

    @app.before_request
    def begin() -> None:
        flask.g.user = flask.session.get("user", "nobody")

    @app.after_request
    def end(response: flask.Response) -> flask.Response:
        response.headers["x-user"] = flask.g.user
        return response

    @app.errorhandler(404)
    def not_found(error: Exception) -> tuple[str, int]:
        return "no such page", 404

    @app.errorhandler(ValueError)
    def bad_value(error: ValueError) -> tuple[dict[str, str], int]:
        return {"error": str(error)}, 422

    @app.route("/login", methods=["GET", "POST"])
    def login() -> Any:
        if flask.request.method == "POST":
            flask.session["user"] = flask.request.form["user"]
            return flask.redirect(flask.url_for("pages.show", page="home"))
        return '<form method="post"><input name="user"></form>'

    @app.route("/bad")
    def bad() -> str:
        raise ValueError("no number")

    @app.route("/taken")
    def taken() -> str:
        flask.abort(409, "taken")

    @pages.route("/<page>")
    def show(page: str) -> dict[str, str]:
        return {
            "page": page,
            "user": flask.g.user,
            "here": flask.url_for(".show", page="other page", q="1"),
            "full": flask.url_for("pages.show", page=page, _external=True),
            "url": flask.request.url,
            "root": flask.request.url_root,
        }

    app.register_blueprint(pages)
    return app


def test_blueprints_and_url_for_know_the_mount(mini: Mini, client: httpx.Client) -> None:
    serve(mini, blog())

    assert client.get("/pages/h%C3%BC?a=1").json() == {
        "page": "hü",
        "user": "nobody",
        "here": "/site/pages/other%20page?q=1",
        "full": f"{mini.url}/site/pages/h%C3%BC",
        "url": f"{mini.url}/site/pages/hü?a=1",
        "root": f"{mini.url}/site/",
    }


def test_a_login_redirects_with_a_session_that_is_kept(mini: Mini, client: httpx.Client) -> None:
    serve(mini, blog())

    assert "<form" in client.get("/login").text
    answer = client.post("/login", data={"user": "ada"})
    assert (answer.status_code, answer.headers["location"]) == (302, "/site/pages/home")
    page = client.get("/pages/home")
    assert (page.json()["user"], page.headers["x-user"]) == ("ada", "ada")


def test_errors_of_the_app_are_its_own(mini: Mini, client: httpx.Client) -> None:
    serve(mini, blog())

    assert (client.get("/nowhere").status_code, client.get("/nowhere").text) == (404, "no such page")
    assert (client.get("/bad").status_code, client.get("/bad").json()) == (422, {"error": "no number"})
    assert client.get("/taken").status_code == 409
    wrong = client.delete("/login")
    assert (wrong.status_code, set(wrong.headers["allow"].split(", "))) == (405, {"GET", "HEAD", "OPTIONS", "POST"})
    assert client.options("/login").status_code == 200
    assert "x-serve-reason" not in wrong.headers


def test_head_announces_what_get_sends(mini: Mini, client: httpx.Client) -> None:
    serve(mini, blog())

    whole, bare = client.get("/login"), client.head("/login")
    assert bare.headers["content-length"] == whole.headers["content-length"] == str(len(whole.content))
    assert bare.content == b""


def test_files_come_and_go(mini: Mini, client: httpx.Client, tmp_path: Path) -> None:
    app = flask.Flask("files")
    (tmp_path / "large.bin").write_bytes(bytes(range(256)) * 8192)

    @app.route("/up", methods=["POST"])
    def up() -> dict[str, Any]:
        file = flask.request.files["file"]
        return {"name": flask.request.form["name"], "file": file.filename, "size": len(file.read())}

    @app.route("/down")
    def down() -> flask.Response:
        return flask.send_file(tmp_path / "large.bin", as_attachment=True)

    @app.route("/made")
    def made() -> flask.Response:
        return flask.send_file(io.BytesIO(b"made"), mimetype="text/plain")

    serve(mini, app)
    assert client.post("/up", data={"name": "ü"}, files={"file": ("a.bin", bytes(3_000_000))}).json() == {
        "name": "ü", "file": "a.bin", "size": 3_000_000,
    }  # fmt: skip
    file = client.get("/down")
    assert (file.headers["content-length"], file.content) == (str(2**21), bytes(range(256)) * 8192)
    assert "large.bin" in file.headers["content-disposition"]
    part = client.get("/down", headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
    assert client.get("/down", headers={"if-none-match": file.headers["etag"]}).status_code == 304
    assert client.head("/down").headers["content-length"] == str(2**21)
    assert client.get("/made").text == "made"


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_body_of_unknown_length_reaches_the_app(mini: Mini, client: httpx.Client, size: int) -> None:
    app = flask.Flask("uploads")

    @app.route("/data", methods=["POST"])
    def data() -> str:
        return str(len(flask.request.data))

    @app.route("/stream", methods=["POST"])
    def stream() -> str:
        return str(sum(map(len, iter(lambda: flask.request.stream.read(1000), b""))))

    @app.route("/json", methods=["POST"])
    def from_json() -> str:
        return str(len(flask.request.get_json()))

    serve(mini, app)
    assert client.post("/data", content=iter([bytes(size), bytes(size)])).text == str(2 * size)
    assert client.post("/stream", content=iter([bytes(size), bytes(size)])).text == str(2 * size)
    body = json.dumps("x" * size).encode()
    assert client.post("/json", content=iter([body]), headers={"content-type": "application/json"}).text == str(size)


def test_a_stream_knows_its_request_and_arrives_piece_by_piece(mini: Mini, client: httpx.Client) -> None:
    app = flask.Flask("streams")
    gates = [threading.Event() for _ in range(3)]

    @app.route("/")
    def stream() -> flask.Response:
        def pieces() -> Iterator[str]:
            for number, gate in enumerate(gates):
                yield f"{flask.request.args['name']} {number}"
                assert gate.wait(20)

        return flask.Response(flask.stream_with_context(pieces()), mimetype="text/plain")

    serve(mini, app)
    with client.stream("GET", "/?name=ada") as answer:
        pieces = answer.iter_text()
        for number, gate in enumerate(gates):
            assert next(pieces) == f"ada {number}"
            gate.set()


def test_a_stream_is_closed_when_its_client_leaves(mini: Mini, client: httpx.Client) -> None:
    app = flask.Flask("streams")
    stopped, torn_down = threading.Event(), threading.Event()

    @app.route("/")
    def stream() -> flask.Response:
        def pieces() -> Iterator[bytes]:
            try:
                while True:
                    yield bytes(1000)
            finally:
                stopped.set()

        response = flask.Response(pieces())
        response.call_on_close(torn_down.set)
        return response

    serve(mini, app, threads=1)
    with client.stream("GET", "/") as answer:
        assert next(answer.iter_raw())
    assert stopped.wait(10)
    assert torn_down.wait(10)
    assert client.get("/none").status_code == 404, "its thread is free"


def test_teardown_runs_behind_each_request(mini: Mini, client: httpx.Client) -> None:
    app = flask.Flask("more")
    ended: list[str] = []

    @app.teardown_request
    def end(error: BaseException | None) -> None:
        ended.append(f"{flask.request.path} {type(error).__name__}")

    @app.route("/fine")
    def fine() -> str:
        return str(flask.request.remote_addr)

    @app.route("/fails")
    def fails() -> str:
        raise KeyError("x")

    serve(mini, app)
    assert client.get("/fine").text == "127.0.0.1"
    assert client.get("/fails").status_code == 500
    assert ended == ["/fine NoneType", "/fails KeyError"]
