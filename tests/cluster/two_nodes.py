"""A Ray of two nodes on this machine, in a process of its own: prints what it saw as JSON.

ingress of node 1 ─┬─ unix socket ─► replica on node 1
                   └─ TCP ─────────► replica on node 2          and the same from node 2's ingress
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
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


def answers(url: str, path: str = "/where", count: int = 24, body: bytes = b"") -> list[str]:
    """Return who answered, for some requests to one ingress."""
    with httpx.Client(timeout=20.0) as client:
        told = [client.post(url + path, content=body) for _ in range(count)]
    assert {one.status_code for one in told} == {200}, [one.text for one in told if one.status_code != 200]
    return sorted({one.text for one in told})


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
        seen["by http"] = {node: answers(url) for node, url in both.items()}
        seen["by handle"] = sorted({serve.get_handle("where").remote().result(20) for _ in range(24)})
        seen["large bodies"] = {node: answers(url, "/size", body=b"x" * 3_000_000) for node, url in both.items()}

        cluster.remove_node(second, allow_graceful=False)
        kept = until(lambda: urls() if len(urls()) == 1 else None, "the lost node is noticed")
        (node, url), *_ = kept.items()
        until(lambda: all("2 of 2" in text for text in serve.status()["backends"].values()), "replicas are replaced")
        seen["kept"] = node
        seen["after the loss"] = answers(url)

        cluster.add_node(**arguments)
        grown = until(lambda: urls() if len(urls()) == 2 else None, "a new node is opened")
        (new,) = grown.keys() - kept.keys()
        seen["from the new node"] = answers(grown[new])
        serve.shutdown()
    finally:
        # A driver that is connected may not take its node away.
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]
    print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
