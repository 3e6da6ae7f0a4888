"""How RayServe's processes are called in Ray's namespace `rayserve`; all of one instance share a prefix."""

from __future__ import annotations

__all__ = ["controller_name", "doorkeeper_name", "is_controller", "replica_name"]


def controller_name(instance: str) -> str:
    """Return the name of an instance's controller."""
    return f"rayserve:{instance}:controller"


def is_controller(name: str) -> bool:
    """Return whether `name` is that of some instance's controller."""
    return name.startswith("rayserve:") and name.endswith(":controller")


def doorkeeper_name(instance: str, node: str) -> str:
    """Return the name of an instance's doorkeeper on a node, given by Ray's id."""
    return f"rayserve:{instance}:doorkeeper:{node}"


def replica_name(instance: str, replica: str) -> str:
    """Return the name of a replica's process."""
    return f"rayserve:{instance}:replica:{replica}"
