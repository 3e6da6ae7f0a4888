"""Two versions of a digit classifier behind one endpoint, measured from outside. `make demo` runs it.

    digits of scikit-learn ─► train v1, v2 ─► two backends ─► endpoint POST /digits, split 80/20
    held-out images ─► threads with keep-alive sessions ─► HTTP ─► accuracy, shares, latency

Prints a table on a terminal and plain lines in a pipe. Exit code 0 if every image was answered and both versions
read digits well.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import flask
import numpy as np
import requests
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

import rayserve as serve

SPLIT = {"v1-logistic": 0.8, "v2-svc": 0.2}
MODELS = {"v1-logistic": LogisticRegression(max_iter=2_000), "v2-svc": SVC()}
CLIENTS = 4
GOOD_ENOUGH = 0.9
PERCENTILES = (50, 95, 99)


class DigitClassifier:
    """What answers: one model, in a process of its own."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, request: flask.Request) -> dict[str, Any]:
        pixels = request.get_json()["pixels"]
        return {"digit": self.model.predict([pixels])[0]}


class Answer(NamedTuple):
    """One image's answer, as the client saw it."""

    backend: str
    right: bool
    latency_s: float


def ask(url: str, images: Sequence[Any], digits: Sequence[int]) -> list[Answer]:
    """Send every image once, from `CLIENTS` threads with one connection each; return the answers."""
    own = threading.local()

    def one(image: Any, digit: int) -> Answer:
        if not hasattr(own, "session"):
            own.session = requests.Session()
        began = time.perf_counter()
        answer = own.session.post(f"{url}/digits", json={"pixels": image.tolist()}, timeout=30)
        took = time.perf_counter() - began
        answer.raise_for_status()
        return Answer(answer.headers["X-Serve-Backend"], answer.json()["digit"] == digit, took)

    with ThreadPoolExecutor(CLIENTS) as threads:
        return list(threads.map(one, images, digits))


def rows(answers: Sequence[Answer]) -> Iterator[tuple[str, ...]]:
    """Return one line of figures per backend and one for all."""
    for tag in (*SPLIT, ""):
        mine = [answer for answer in answers if answer.backend == tag or not tag]
        if not mine:
            continue
        latencies_ms = np.percentile([answer.latency_s * 1_000 for answer in mine], PERCENTILES)
        yield (
            tag or "both",
            f"{SPLIT[tag]:.0%}" if tag else "",
            f"{len(mine) / len(answers):.1%}",
            f"{sum(answer.right for answer in mine) / len(mine):.1%}",
            *(f"{latency:.1f} ms" for latency in latencies_ms),
        )


def show(answers: Sequence[Answer], console: Console) -> None:
    """Print the figures: a table on a terminal, `name=value` lines in a pipe."""
    head = ("backend", "asked", "answered", "accuracy", *(f"p{number}" for number in PERCENTILES))
    if not console.is_terminal:
        for row in rows(answers):
            print("  ".join(f"{name}={value}" for name, value in zip(head, row, strict=True) if value))
        return
    table = Table(title=f"{len(answers)} held-out images over HTTP, {CLIENTS} clients")
    for column, name in enumerate(head):
        table.add_column(name, justify="left" if column == 0 else "right")
    for row in rows(answers):
        table.add_row(*row)
    console.print(table)


def main() -> int:
    """Train, serve, measure, stop; return the exit code."""
    console = Console(highlight=False)
    digits = load_digits()
    seen, held_out, seen_digits, held_out_digits = train_test_split(
        digits.data, digits.target, test_size=0.5, random_state=7
    )
    print(f"training {' and '.join(type(model).__name__ for model in MODELS.values())} on {len(seen)} images")
    for model in MODELS.values():
        model.fit(seen, seen_digits)

    print("starting Ray and RayServe on this machine")
    instance = serve.init(http_port=0)
    try:
        for tag, model in MODELS.items():
            serve.create_backend(tag, DigitClassifier, model)
        serve.create_endpoint("digits", "/digits", methods=["POST"])
        serve.set_traffic("digits", SPLIT)
        print(f"serving at {instance.url}/digits; sending {len(held_out)} held-out images, {CLIENTS} clients")
        began = time.perf_counter()
        answers = ask(str(instance.url), held_out, held_out_digits)
        took = time.perf_counter() - began
        show(answers, console)
        print(f"{len(answers) / took:.0f} images/s, the clients' own work included")
    finally:
        print("stopping")
        serve.shutdown()
    accuracies = [np.mean([one.right for one in answers if one.backend == tag]) for tag in SPLIT]
    return 0 if min(accuracies) >= GOOD_ENOUGH else 1


if __name__ == "__main__":
    sys.exit(main())
