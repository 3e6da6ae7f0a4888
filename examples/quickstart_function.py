"""Serve a stateless function.

    python examples/quickstart_function.py

A backend is the code, an endpoint is the path that clients call.
"""

import flask
import requests

import rayserve as serve

instance = serve.init(http_port=0)  # 0 takes any free port; without it, 8000


def echo(request: flask.Request) -> str:
    return "hello " + request.args.get("name", "serve!")


serve.create_backend("echo", echo)
serve.create_endpoint("hello", "/hello", backend="echo")

for query in ("", "?name=ray"):
    answer = requests.get(f"{instance.url}/hello{query}", timeout=10)
    print(f"GET /hello{query} → {answer.text}")
