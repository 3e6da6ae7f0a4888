"""What the cluster is made of: nodes, what they have, what is free."""

from __future__ import annotations

from dataclasses import dataclass

from rayserve.cluster.presence import ask, live_ray

__all__ = ["Node", "available", "nodes", "this_node"]


@dataclass(frozen=True)
class Node:
    """One Ray node.

    Attributes:
        id: Ray's id (hex), the only thing that tells nodes of one machine apart.
        address: its IP address.
        resources: what it has in all: `CPU`, `GPU`, `memory` (bytes) and custom ones; a missing key is 0.
        alive: dead nodes stay listed, without resources.
    """

    id: str
    address: str
    resources: dict[str, float]
    alive: bool


def nodes(timeout_s: float = 5.0) -> list[Node]:
    """Return all nodes, dead ones too, sorted by id.

    Raises:
        ClusterError: Ray did not answer within `timeout_s`.
    """
    ray = live_ray()
    listed = ask(ray.nodes, "which nodes are there", timeout_s)
    found = [
        Node(
            id=str(row["NodeID"]),
            address=str(row["NodeManagerAddress"]),
            resources=dict(row.get("Resources", {})),
            alive=bool(row["Alive"]),
        )
        for row in listed
    ]
    return sorted(found, key=lambda node: node.id)


def available(node: str | None = None, timeout_s: float = 5.0) -> dict[str, float]:
    """Return what is free now on `node` (or on all together), keys as in `Node.resources`; `{}` for a dead node.

    Raises:
        ClusterError: Ray did not answer within `timeout_s`.
    """
    ray = live_ray()
    if node is None:
        return dict(ask(ray.available_resources, "what is free", timeout_s))
    from ray._private.state import available_resources_per_node  # Ray has no public call per node

    per_node = ask(available_resources_per_node, f"what is free on node {node}", timeout_s)
    return dict(per_node.get(node, {}))


def this_node() -> str:
    """Return the id of the node this process runs on."""
    return str(live_ray().get_runtime_context().get_node_id())
