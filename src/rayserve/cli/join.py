"""Find a running instance and speak to it; unlike `serve.init` this never starts anything."""

from __future__ import annotations

from rayserve import instance, settings
from rayserve.actor_names import is_controller
from rayserve.cluster import actors, connect
from rayserve.errors import ClusterError, NotRunningError
from rayserve.instance import Client, Instance
from rayserve.names import check_name

__all__ = ["join"]


def join(name: str, address: str | None) -> Instance:
    """Make the running instance of that name the current one, and return it.

    Args:
        name: the instance's.
        address: `host:port` of its Ray cluster; None: RAY_ADDRESS, else the Ray on this machine.

    Raises:
        NotRunningError: it does not run there.
        ClusterError: the Ray named does not answer.
    """
    client = Client(check_name("instance", name))
    chosen = address or settings.ray_address()
    try:
        connect.connect(chosen or "auto")
    except ClusterError as error:
        if chosen is not None:
            raise
        raise NotRunningError(
            "nothing runs on this machine; begin with `rayserve run` or serve.init(), "
            "or name a cluster with --address host:port"
        ) from error
    if not client.is_alive():
        others = [found.split(":")[1] for found in actors.names("rayserve:") if is_controller(found)]
        running = f"running: {', '.join(others)}; choose one with --name" if others else "nothing else runs there"
        raise NotRunningError(f'instance "{name}" does not run; {running}')
    info = client.info()
    instance.connected(client)
    return Instance(name, info["url"], info.get("admin_url"))
