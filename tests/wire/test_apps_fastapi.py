"""FastAPI as its tutorial teaches it, under a mount: parameters, models, dependencies, files, OpenAPI, lifespan."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Annotated, Any

import fastapi
import httpx
import pydantic
import pytest
from fastapi import BackgroundTasks, Cookie, Depends, FastAPI, File, Form, Header, HTTPException, Query, UploadFile
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, RedirectResponse, StreamingResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from tests.conditions import eventually
from tests.wire.mini import Mini
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from rayserve.apps import asgi


@pytest.fixture
def mini() -> Iterator[Mini]:
    with Mini() as running:
        yield running
        eventually(running.is_idle, "every slot is free")


@pytest.fixture
def client(mini: Mini) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{mini.url}/api", timeout=20) as opened:
        yield opened


@pytest.fixture
def app() -> FastAPI:
    return FastAPI(title="shop")


def serve(mini: Mini, app: FastAPI) -> None:
    methods = ("GET", "POST", "PUT", "DELETE", "OPTIONS")
    mini.backend("b", asgi(app)).endpoint("e", "/api/*", {"b": 1.0}, methods).publish()


class Model(StrEnum):
    small = "small"
    large = "large"


class Item(pydantic.BaseModel):
    name: str
    price: float = pydantic.Field(gt=0)
    tags: set[str] = set()


class PricedItem(Item):
    with_tax: float


def test_path_and_query_parameters(mini: Mini, client: httpx.Client, app: FastAPI) -> None:
    @app.get("/models/{model}")
    async def models(model: Model, skip: int = 0, limit: Annotated[int, Query(le=100)] = 10) -> dict[str, Any]:
        return {"model": model, "skip": skip, "limit": limit}

    @app.get("/files/{path:path}")
    def files(path: str, q: Annotated[list[str] | None, Query()] = None) -> dict[str, Any]:
        return {"path": path, "q": q}

    serve(mini, app)
    assert client.get("/models/large?skip=3").json() == {"model": "large", "skip": 3, "limit": 10}
    assert client.get("/models/huge").status_code == 422
    assert client.get("/models/small?limit=101").json()["detail"][0]["loc"] == ["query", "limit"]
    assert client.get("/files/home/a%20b.txt?q=1&q=ü").json() == {"path": "home/a b.txt", "q": ["1", "ü"]}


def test_bodies_headers_cookies_and_response_models(mini: Mini, client: httpx.Client, app: FastAPI) -> None:
    @app.put("/items/{item_id}", response_model=PricedItem, status_code=201)
    async def update(item_id: int, item: Item, agent: Annotated[str, Header(alias="user-agent")]) -> Any:
        return {**item.model_dump(), "with_tax": item.price * 2, "secret": f"{item_id} {agent}"}

    @app.get("/me")
    def me(user: Annotated[str | None, Cookie()] = None) -> Any:
        return JSONResponse({"user": user}, headers={"x-a": "1"})

    @app.get("/old")
    def old() -> RedirectResponse:
        return RedirectResponse("me")

    serve(mini, app)
    answer = client.put("/items/3", json={"name": "cup", "price": 2.5, "tags": ["a", "a"]})
    assert (answer.status_code, answer.json()) == (201, {"name": "cup", "price": 2.5, "tags": ["a"], "with_tax": 5.0})
    wrong = client.put("/items/3", json={"name": "cup", "price": 0})
    assert (wrong.status_code, wrong.json()["detail"][0]["loc"]) == (422, ["body", "price"])
    assert client.put("/items/3", content=b"{").status_code == 422
    client.cookies.set("user", "ada")
    assert client.get("/old", follow_redirects=True).json() == {"user": "ada"}


def test_dependencies_with_yield_end_behind_the_answer(mini: Mini, client: httpx.Client, app: FastAPI) -> None:
    said: list[str] = []

    async def database() -> AsyncIterator[str]:
        said.append("open")
        try:
            yield "db"
        except ValueError:
            said.append("rolled back")
            raise
        finally:
            said.append("closed")

    def session(db: Annotated[str, Depends(database)]) -> Iterator[str]:  # a sync one: in a thread
        yield f"{db} session"
        said.append("session ended")

    @app.get("/rows")
    def rows(session: Annotated[str, Depends(session)]) -> str:
        said.append("view")
        return session

    @app.get("/bad")
    def bad(db: Annotated[str, Depends(database)]) -> str:
        raise ValueError(db)

    serve(mini, app)
    assert client.get("/rows").json() == "db session"
    eventually(lambda: said == ["open", "view", "session ended", "closed"], "they end, and in order")
    said.clear()
    assert client.get("/bad").status_code == 500
    eventually(lambda: said == ["open", "rolled back", "closed"], "it ends")


def test_forms_and_files(mini: Mini, client: httpx.Client, app: FastAPI) -> None:
    @app.post("/upload")
    async def upload(
        token: Annotated[str, Form()], small: Annotated[bytes, File()], files: list[UploadFile]
    ) -> dict[str, Any]:
        sizes = {each.filename: len(await each.read()) for each in files}
        return {"token": token, "small": len(small), "files": sizes, "kind": files[0].content_type}

    @app.post("/login")
    async def login(user: Annotated[str, Form()], password: Annotated[str, Form()]) -> str:
        return f"{user}:{password}"

    serve(mini, app)
    answer = client.post(
        "/upload",
        data={"token": "t"},
        files=[
            ("small", ("s", b"1234")),
            ("files", ("a.bin", bytes(2_000_000), "image/png")),
            ("files", ("ü.txt", b"text")),
        ],
    )
    assert answer.json() == {"token": "t", "small": 4, "files": {"a.bin": 2_000_000, "ü.txt": 4}, "kind": "image/png"}
    assert client.post("/login", data={"user": "ada", "password": "ü &"}).json() == "ada:ü &"
    assert client.post("/login", data={"user": "ada"}).status_code == 422


def test_errors_middleware_and_security(mini: Mini, client: httpx.Client, app: FastAPI) -> None:
    class Gone(Exception):
        pass

    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["PUT"])

    @app.middleware("http")
    async def stamp(request: fastapi.Request, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["x-path"] = request.url.path
        return response

    @app.exception_handler(Gone)
    async def gone(request: fastapi.Request, error: Gone) -> JSONResponse:
        return JSONResponse({"message": f"{error} is gone"}, 410)

    @app.get("/items/{item}")
    async def item(item: str) -> str:
        if item == "gone":
            raise Gone(item)
        raise HTTPException(404, {"no": item}, headers={"x-error": "1"})

    @app.get("/secret")
    def secret(who: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> str:
        return who.username

    serve(mini, app)
    missing = client.get("/items/cup")
    assert (missing.status_code, missing.json(), missing.headers["x-error"]) == (404, {"detail": {"no": "cup"}}, "1")
    assert missing.headers["x-path"] == "/api/items/cup"
    assert (client.get("/items/gone").status_code, client.get("/items/gone").json()) == (
        410, {"message": "gone is gone"},
    )  # fmt: skip
    asked = client.get("/secret")
    assert (asked.status_code, asked.headers["www-authenticate"]) == (401, "Basic")
    assert client.get("/secret", auth=("ada", "pw")).json() == "ada"
    preflight = {"origin": "https://x.example", "access-control-request-method": "PUT"}
    assert client.options("/secret", headers=preflight).headers["access-control-allow-origin"] == "*"


def test_openapi_and_its_pages_know_the_mount(mini: Mini, client: httpx.Client, app: FastAPI) -> None:
    router = fastapi.APIRouter(prefix="/items", tags=["items"])

    @router.get("/{item}", name="item")
    def item(item: int, request: fastapi.Request) -> dict[str, str]:
        return {"next": str(request.url_for("item", item=str(item + 1))), "root": request.scope["root_path"]}

    sub = FastAPI()

    @sub.get("/hello")
    def hello() -> str:
        return "from below"

    app.include_router(router, prefix="/v1")
    app.mount("/sub", sub)
    serve(mini, app)

    assert client.get("/v1/items/3").json() == {"next": f"{mini.url}/api/v1/items/4", "root": "/api"}
    described = client.get("/openapi.json").json()
    assert described["servers"] == [{"url": "/api"}]
    assert list(described["paths"]) == ["/v1/items/{item}"]
    assert "'/api/openapi.json'" in client.get("/docs").text
    assert '"/api/openapi.json"' in client.get("/redoc").text
    assert client.get("/sub/hello").json() == "from below"
    assert client.get("/sub/openapi.json").json()["servers"] == [{"url": "/api/sub"}]
    assert "'/api/sub/openapi.json'" in client.get("/sub/docs").text


def test_openapi_behind_the_mount_of_everything(mini: Mini, app: FastAPI) -> None:
    mini.backend("b", asgi(app)).endpoint("e", "/*", {"b": 1.0}).publish()

    described = mini.get("/openapi.json").json()
    assert "servers" not in described
    assert b"'/openapi.json'" in mini.get("/docs").body


def test_background_tasks(mini: Mini, client: httpx.Client, app: FastAPI) -> None:
    gate, written = threading.Event(), threading.Event()
    log: list[str] = []

    def write(message: str) -> None:
        assert gate.wait(10)
        log.append(message)
        written.set()

    def query(tasks: BackgroundTasks, q: str | None = None) -> str | None:
        tasks.add_task(log.append, f"query {q}")
        return q

    @app.post("/send/{email}")
    async def send(email: str, tasks: BackgroundTasks, q: Annotated[str | None, Depends(query)]) -> str:
        tasks.add_task(write, f"mail to {email}")
        return "sent"

    serve(mini, app)
    assert client.post("/send/ada?q=1").json() == "sent"
    assert "mail to ada" not in log
    gate.set()
    assert written.wait(10)
    assert log == ["query 1", "mail to ada"]


def test_streams_of_sync_and_async_generators(mini: Mini, client: httpx.Client, app: FastAPI) -> None:
    gates = [threading.Event() for _ in range(3)]

    async def slow() -> AsyncIterator[bytes]:
        for number, gate in enumerate(gates):
            yield b"piece %d" % number
            while not gate.is_set():
                await asyncio.sleep(0.001)

    def quick() -> Iterator[bytes]:
        for number in range(1000):
            yield b"%d\n" % number

    app.get("/slow")(lambda: StreamingResponse(slow(), media_type="text/plain"))
    app.get("/quick")(lambda: StreamingResponse(quick()))
    serve(mini, app)

    with client.stream("GET", "/slow") as answer:
        pieces = answer.iter_bytes()
        for number, gate in enumerate(gates):
            assert next(pieces) == b"piece %d" % number
            gate.set()
    assert client.get("/quick").content == b"".join(quick())


def test_the_lifespan_of_the_tutorial(mini: Mini, client: httpx.Client) -> None:
    models: dict[str, Any] = {}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        models["answer"] = lambda x: x * 42
        yield
        models.clear()

    app = FastAPI(lifespan=lifespan)

    @app.get("/predict")
    async def predict(x: float) -> dict[str, float]:
        return {"result": models["answer"](x)}

    serve(mini, app)
    assert client.get("/predict?x=2").json() == {"result": 84}
    mini.remove_backend("b")
    mini.publish()
    eventually(lambda: not models, "the shutdown ran")


def test_websockets_with_dependencies_and_a_manager(mini: Mini, app: FastAPI) -> None:
    class Manager:
        def __init__(self) -> None:
            self.active: list[fastapi.WebSocket] = []

        async def broadcast(self, message: str) -> None:
            for each in self.active:
                await each.send_text(message)

    manager = Manager()

    async def token(websocket: fastapi.WebSocket, token: Annotated[str | None, Query()] = None) -> str:
        if token is None:
            raise fastapi.WebSocketException(fastapi.status.WS_1008_POLICY_VIOLATION)
        return token

    @app.websocket("/ws/{name}")
    async def chat(websocket: fastapi.WebSocket, name: str, token: Annotated[str, Depends(token)]) -> None:
        await websocket.accept()
        manager.active.append(websocket)
        try:
            while True:
                await manager.broadcast(f"{name} ({token}): {await websocket.receive_text()}")
        except fastapi.WebSocketDisconnect:
            manager.active.remove(websocket)
            await manager.broadcast(f"{name} left")

    @app.websocket("/kicks")
    async def kicks(websocket: fastapi.WebSocket) -> None:
        await websocket.accept()
        raise fastapi.WebSocketException(1008, "not you")

    serve(mini, app)
    url = f"ws://127.0.0.1:{mini.port}/api"
    with connect(f"{url}/ws/ada?token=t") as ada, connect(f"{url}/ws/bob?token=u") as bob:
        ada.send("hi")
        assert ada.recv() == bob.recv() == "ada (t): hi"
        bob.close()
        assert ada.recv() == "bob left"
    with connect(f"{url}/kicks") as client, pytest.raises(ConnectionClosedError) as closed:
        client.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "not you")
