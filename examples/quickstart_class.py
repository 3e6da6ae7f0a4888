"""Serve a class: it is constructed once per replica and keeps its state between requests.

python examples/quickstart_class.py
"""

import flask
import requests

import rayserve as serve

instance = serve.init(http_port=0)


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, request: flask.Request) -> dict[str, int]:
        self.count += 1
        return {"current_counter": self.count}


serve.create_backend("counter", Counter)
serve.create_endpoint("counter", "/counter", backend="counter")

for _ in range(3):
    print("GET /counter →", requests.get(f"{instance.url}/counter", timeout=10).json())
