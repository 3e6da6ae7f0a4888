"""A Ray of two nodes on this machine, in a process of its own: prints what it saw as JSON.

ingress of node 1 ─┬─ unix socket ─► replica on node 1
                   └─ TCP ─────────► replica on node 2          and the same from node 2's ingress
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import httpx
import ray
from ray.cluster_utils import Cluster

import rayserve as serve

T = TypeVar("T")


def where() -> str:
    return ray.get_runtime_context().get_node_id()[:8]


def size(request: Any) -> str:
    return f"{len(request.data)} {where()}"


def until(found: Callable[[], T | None], what: str, within_s: float = 40.0) -> T:
    """Return the first true value of `found`."""
    ends = time.monotonic() + within_s
    while not (value := found()):
        assert time.monotonic() < ends, f"not within {within_s} s: {what}; {serve.status()}"
        time.sleep(0.05)
    return value


def urls() -> dict[str, str]:
    """Return the URL of each node that is open."""
    words = serve.status()["nodes"].items()
    return {node: "http://" + text.split()[2].rstrip(",") for node, text in words if text.startswith("open at ")}


def two_of(ask: Callable[[], str]) -> list[str]:
    """Ask until two different answers came, and return them.

    Not a fixed number of times: a router hears four times a second how busy a replica of another node is, and until
    then it may take it for busier than the one of its own.
    """
    found: set[str] = set()

    def both() -> bool:
        found.add(ask())
        return len(found) == 2

    until(both, f"two different answers, not only {found}")
    return sorted(found)


def answer(url: str, body: bytes = b"") -> str:
    """Return who answered one request."""
    told = httpx.post(url, content=body, timeout=20.0)
    assert told.status_code == 200, told.text
    return told.text


def main() -> None:
    arguments: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**arguments, "temp_dir": os.environ["RAY_TMPDIR"] + "/ray"})
    second = cluster.add_node(**arguments)
    seen: dict[str, Any] = {}
    try:
        serve.init("two", http_port=0, ray_address=cluster.address, ray_init_kwargs={"log_to_driver": False})
        serve.create_backend("where", where, config={"num_replicas": 2})
        serve.create_endpoint("where", "/where", methods=["POST"], backend="where")
        serve.create_backend("size", size, config={"num_replicas": 2})
        serve.create_endpoint("size", "/size", methods=["POST"], backend="size")
        both = until(lambda: urls() if len(urls()) == 2 else None, "two nodes are open")
        seen["nodes"] = sorted(both)
        handle, large = serve.get_handle("where"), b"x" * 3_000_000
        seen["by http"] = {node: two_of(partial(answer, f"{url}/where")) for node, url in both.items()}
        seen["by handle"] = two_of(lambda: str(handle.remote().result(20)))
        seen["large bodies"] = {node: two_of(partial(answer, f"{url}/size", large)) for node, url in both.items()}

        cluster.remove_node(second, allow_graceful=False)
        kept = until(lambda: urls() if len(urls()) == 1 else None, "the lost node is noticed")
        (node, url), *_ = kept.items()
        until(lambda: all("2 of 2" in text for text in serve.status()["backends"].values()), "replicas are replaced")
        seen["kept"] = node
        seen["after the loss"] = sorted({answer(f"{url}/where") for _ in range(24)})

        cluster.add_node(**arguments)
        grown = until(lambda: urls() if len(urls()) == 2 else None, "a new node is opened")
        (new,) = grown.keys() - kept.keys()
        seen["from the new node"] = sorted({answer(f"{grown[new]}/where") for _ in range(24)})
        serve.shutdown()
    finally:
        # A driver that is connected may not take its node away.
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]
    print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
