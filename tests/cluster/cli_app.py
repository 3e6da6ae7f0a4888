"""What the command-line tests serve; found in the current directory, as a user's module would be."""

from __future__ import annotations

from typing import Any

import rayserve as serve


def hello(request: Any) -> str:
    return "hello " + str(request.args.get("name", "serve!"))


def main() -> None:
    serve.create_backend("hello", hello)
    serve.create_endpoint("hello", "/hello", backend="hello")
