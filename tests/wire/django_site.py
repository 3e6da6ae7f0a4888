"""A Django project in one file, for WSGI and ASGI."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse, HttpResponse, HttpResponseRedirect, JsonResponse, StreamingHttpResponse
from django.urls import include, path, reverse

gates = [threading.Event() for _ in range(3)]
stopped = threading.Event()


def configure() -> None:
    """Set Django up; it can be done once in a process."""
    if not settings.configured:
        settings.configure(
            ALLOWED_HOSTS=["127.0.0.1"],
            ROOT_URLCONF=__name__,
            SECRET_KEY="not a secret",
            SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
            MESSAGE_STORAGE="django.contrib.messages.storage.cookie.CookieStorage",
            MIDDLEWARE=[
                "django.middleware.security.SecurityMiddleware",
                "django.contrib.sessions.middleware.SessionMiddleware",
                "django.middleware.common.CommonMiddleware",
                "django.middleware.csrf.CsrfViewMiddleware",
                f"{__name__}.stamp",
            ],
            DATA_UPLOAD_MAX_MEMORY_SIZE=64 * 2**20,
            LOGGING_CONFIG=None,
        )
        django.setup()


def wsgi() -> Any:
    configure()
    return get_wsgi_application()


def asgi() -> Any:
    configure()
    return get_asgi_application()


def stamp(get_response: Any) -> Any:
    def middleware(request: Any) -> Any:
        response = get_response(request)
        response["x-stamp"] = request.path_info
        return response

    return middleware


def show(request: Any, year: int) -> JsonResponse:
    return JsonResponse({
        "year": year,
        "path": request.path,
        "script": request.META.get("SCRIPT_NAME", ""),
        "here": reverse("articles:year", args=[year]),
        "full": request.build_absolute_uri("/top"),
        "query": request.GET.getlist("q"),
        "address": request.META["REMOTE_ADDR"],
    })  # fmt: skip


def form(request: Any) -> HttpResponse:
    if request.method == "GET":
        from django.middleware.csrf import get_token

        return HttpResponse(get_token(request))
    request.session["user"] = request.POST["user"]
    return HttpResponseRedirect(reverse("me"))


def me(request: Any) -> HttpResponse:
    return HttpResponse(f"user {request.session.get('user')}")


def upload(request: Any) -> JsonResponse:
    file = request.FILES["file"]
    return JsonResponse({"name": request.POST["name"], "file": file.name, "size": sum(map(len, file.chunks()))})


def body(request: Any) -> HttpResponse:
    return HttpResponse(str(len(request.body)))


def _numbers() -> Iterator[str]:
    for number, gate in enumerate(gates):
        yield f"piece {number}"
        assert gate.wait(20)


def stream(request: Any) -> StreamingHttpResponse:
    return StreamingHttpResponse(_numbers(), content_type="text/plain")


async def _slowly() -> AsyncIterator[str]:
    import asyncio

    for number, gate in enumerate(gates):
        yield f"piece {number}"
        while not gate.is_set():
            await asyncio.sleep(0.001)


async def stream_async(request: Any) -> StreamingHttpResponse:
    return StreamingHttpResponse(_slowly(), content_type="text/plain")


async def _endless_async() -> AsyncIterator[bytes]:
    try:
        while True:
            yield bytes(1000)
    finally:
        stopped.set()


async def endless_async(request: Any) -> StreamingHttpResponse:
    return StreamingHttpResponse(_endless_async())


def _endless() -> Iterator[bytes]:
    try:
        while True:
            yield bytes(1000)
    finally:
        stopped.set()


def endless(request: Any) -> StreamingHttpResponse:
    return StreamingHttpResponse(_endless())


def file(request: Any) -> FileResponse:
    return FileResponse(open(request.GET["path"], "rb"))  # Django closes it


def fail(request: Any) -> HttpResponse:
    raise ValueError("bad")


def exempt(view: Any) -> Any:
    view.csrf_exempt = True
    return view


urlpatterns = [
    path("articles/", include(([path("<int:year>/", show, name="year")], "articles"))),
    path("form/", form),
    path("me/", me, name="me"),
    path("upload/", exempt(upload)),
    path("body/", exempt(body)),
    path("stream/", stream),
    path("stream-async/", stream_async),
    path("endless/", endless),
    path("endless-async/", endless_async),
    path("file/", file),
    path("fail/", fail),
]
