"""What users pass to the verbs: slips that can be recognised are named, with what to write instead."""

import threading
from typing import Any

import fastapi
import flask
import pytest
from starlette.applications import Starlette

from rayserve.apps import asgi, wsgi
from rayserve.arguments import create_backend
from rayserve.cluster import connect
from rayserve.errors import InvalidTypeError, InvalidValueError


class Model:
    def __init__(self, path: str = "", num_replicas: int = 0) -> None:
        self.path = path

    def __call__(self, request: Any) -> str:
        return self.path


class Open:
    def __init__(self, **options: Any) -> None:
        self.options = options


class Takes:
    def __call__(self, environ: Any) -> None: ...


def echo(request: Any) -> Any:
    return request


async def raw(scope: Any, receive: Any, send: Any) -> None: ...


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (fastapi.FastAPI(), 'FastAPI, which is a whole ASGI app; wrap it: create_backend("b", serve.asgi(app))'),
        (Starlette(), "an instance of Starlette, which is a whole ASGI app"),
        (flask.Flask("f"), 'Flask, which is a whole WSGI app; wrap it: create_backend("b", serve.wsgi(app))'),
        (raw, 'the function "raw", which is a whole ASGI app'),
        (Takes(), "pass the class itself"),
    ],
)  # fmt: skip
def test_a_web_app_without_its_wrapper_is_told_of_it(code: Any, text: str) -> None:
    with pytest.raises(InvalidTypeError) as caught:
        create_backend("b", code, (), {}, None, None)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("wrap", "app", "text"),
    [
        (asgi, flask.Flask("f"), "serve.asgi got Flask, which speaks WSGI; use serve.wsgi"),
        (wsgi, fastapi.FastAPI(), "serve.wsgi got FastAPI, which speaks ASGI; use serve.asgi"),
    ],
)
def test_an_app_of_the_other_protocol_is_told_of_its_wrapper(wrap: Any, app: Any, text: str) -> None:
    with pytest.raises(InvalidTypeError) as caught:
        wrap(app)
    assert str(caught.value) == text
    with pytest.raises(InvalidTypeError, match="which speaks"):
        wrap(lambda: app).load()  # a factory's app is seen on the replica


def test_an_app_that_cannot_travel_is_told_to_be_made_on_the_replica() -> None:
    app = Starlette()
    app.state.lock = threading.Lock()
    with pytest.raises(InvalidTypeError) as caught:
        create_backend("b", asgi(app), (), {}, None, None)
    text = str(caught.value)
    assert text.startswith('the code of backend "b" cannot be pickled') and "is a lock" in text
    assert text.endswith(
        'let the replica make it: serve.asgi("module:app"), or serve.asgi(make_app) with a function without arguments '
        "that returns it"
    )


@pytest.mark.parametrize("code", [echo, Model, Takes])
def test_an_option_among_the_init_arguments_is_told_of_its_place(code: Any) -> None:
    with pytest.raises(InvalidValueError, match=r'max_batch_size is an option, .* config=\{"max_batch_size": 2\}'):
        create_backend("b", code, (), {"max_batch_size": 2}, None, None)


def test_a_constructor_may_have_parameters_named_like_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "current_runtime_env", dict)
    for code in (Model, Open):
        assert create_backend("b", code, (), {"num_replicas": 2}, None, None).code.init
