"""One command on its way: sent with an id of its own, waited for, taken back on Ctrl-C.

verb ─► send(make) ─► Client.call("command") ─► Outcome ─► None | the error's own class
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from rayserve import instance
from rayserve.controller.commands import Command, CreateBackend, UpdateBackendConfig, encode_command
from rayserve.controller.outcome import decode_outcome
from rayserve.errors import ClusterError
from rayserve.instance import Client
from rayserve.progress import shown

__all__ = ["send"]

_log = logging.getLogger("rayserve")
_CANCEL_WITHIN_S: Final = 30.0


def send(make: Callable[[], Command], progress: str = "") -> None:
    """Carry a command out; with `progress`, a terminal sees how far it is."""
    client = instance.current()
    command = make()
    if not isinstance(command, CreateBackend | UpdateBackendConfig) or not progress:
        decode_outcome(client.call("command", encode_command(command))).check()
        return
    tag = command.tag
    observer = Client(client.name)
    try:
        with shown(progress, lambda: observer.ask("progress", tag)):
            outcome = decode_outcome(client.call("command", encode_command(command)))
    except KeyboardInterrupt:
        _cancel(client, command.id)
        raise
    outcome.check()


def _cancel(client: Client, command: str) -> None:
    try:
        client.call("cancel", command, timeout_s=_CANCEL_WITHIN_S)
    except ClusterError as error:
        _log.warning("the interrupted command may go on: %s", error)
