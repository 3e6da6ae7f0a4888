"""What a user can ask for, as values that travel from the caller to the controller.

    api ── CreateEndpoint(id, …) ── encode_command ──► controller ── decode_command ──► verbs

The caller checked each argument alone (`rayserve.arguments`); `changes` lets it meet what exists. The id is the
caller's own: a command that arrives twice is carried out once.
"""

from __future__ import annotations

from typing import Any

import msgspec

from rayserve.model.spec import CodeSpec

__all__ = [
    "Command", "CreateBackend", "CreateEndpoint", "DeleteBackend", "DeleteEndpoint", "SetTraffic", "ShadowTraffic",
    "UpdateBackendConfig", "UpdateEndpointConfig", "decode_command", "encode_command", "subject_of",
]  # fmt: skip


class CreateEndpoint(msgspec.Struct, frozen=True, tag=True):
    """Add an endpoint; `backend` gets all of its traffic if given."""

    id: str
    name: str
    route: str | None
    methods: tuple[str, ...] | None
    backend: str | None
    config: dict[str, Any]


class UpdateEndpointConfig(msgspec.Struct, frozen=True, tag=True):
    """Change the named options of an endpoint."""

    id: str
    name: str
    changes: dict[str, Any]


class DeleteEndpoint(msgspec.Struct, frozen=True, tag=True):
    """Remove an endpoint if it exists."""

    id: str
    name: str


class SetTraffic(msgspec.Struct, frozen=True, tag=True):
    """Replace an endpoint's weights; they were checked alone."""

    id: str
    name: str
    weights: dict[str, float]


class ShadowTraffic(msgspec.Struct, frozen=True, tag=True):
    """Copy a share of an endpoint's requests to a backend; 0 stops it."""

    id: str
    name: str
    backend: str
    proportion: float


class CreateBackend(msgspec.Struct, frozen=True, tag=True):
    """Add a backend and start its replicas.

    Attributes:
        id: of the command.
        tag: the backend's name.
        code: where its code comes from.
        actor_options: checked `ray_actor_options`.
        config: plain, without `user_config`.
        user_config: hash of the blob, "" for none.
        blobs: hash → content of all that this names.
    """

    id: str
    tag: str
    code: CodeSpec
    actor_options: dict[str, Any]
    config: dict[str, Any]
    user_config: str
    blobs: dict[str, bytes]


class UpdateBackendConfig(msgspec.Struct, frozen=True, tag=True):
    """Change the named options of a backend; `user_config` is None if it was not named, "" for none."""

    id: str
    tag: str
    changes: dict[str, Any]
    user_config: str | None
    blobs: dict[str, bytes]


class DeleteBackend(msgspec.Struct, frozen=True, tag=True):
    """Remove a backend if it exists and no endpoint uses it."""

    id: str
    tag: str


Command = (
    CreateEndpoint | UpdateEndpointConfig | DeleteEndpoint | SetTraffic | ShadowTraffic
    | CreateBackend | UpdateBackendConfig | DeleteBackend
)  # fmt: skip

_decoder = msgspec.msgpack.Decoder(Command)


def encode_command(command: Command) -> bytes:
    """Return a command as it travels."""
    return msgspec.msgpack.encode(command)


def decode_command(data: bytes) -> Command:
    """Return the command in `data`."""
    command: Command = _decoder.decode(data)
    return command


def subject_of(command: Command) -> str:
    """Return what a command is about; commands on one subject run one after the other."""
    return f"backend {command.tag}" if hasattr(command, "tag") else f"endpoint {command.name}"
