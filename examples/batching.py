"""Batch requests: what arrives while the model is busy goes into its next call together.

    python examples/batching.py

A handler marked with `accept_batch` gets a list of requests and returns a list of results, one each, in order.
"""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import flask
import requests

import rayserve as serve

instance = serve.init(http_port=0)

CALL_S = 0.05


@serve.accept_batch
def square(batch: list[flask.Request]) -> list[dict[str, int | None]]:
    time.sleep(CALL_S)  # a model call that costs the same for one item and for eight
    numbers = [int(request.args["number"]) for request in batch]
    return [{"square": number**2, "batch_size": serve.context.batch_size} for number in numbers]


serve.create_backend("square", square, config={"max_batch_size": 8})
serve.create_endpoint("square", "/square", backend="square")


def ask(number: int) -> dict[str, int]:
    answer: dict[str, int] = requests.get(f"{instance.url}/square", params={"number": number}, timeout=10).json()
    return answer


with ThreadPoolExecutor(16) as threads:
    began = time.perf_counter()
    answers = list(threads.map(ask, range(48)))
    took = time.perf_counter() - began

assert [answer["square"] for answer in answers] == [number**2 for number in range(48)]
# Each answer tells how many shared its call: eight answers that say 8 are one call.
requests_in = Counter(answer["batch_size"] for answer in answers)
calls = sum(count // size for size, count in requests_in.items())
print(f"48 requests took {calls} calls of the model and {took:.2f} s; one by one: 48 calls, {48 * CALL_S:.2f} s")
for size, count in sorted(requests_in.items()):
    print(f"  batches of {size}: {count // size}")
assert calls < 48
