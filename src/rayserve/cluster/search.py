"""Look for a Ray on this machine, and prove that an address leads to one.

    records of ours, Ray's address file ──► search() ──► an address that answered, or None

Ray's own connecting takes 20 to 40 s to find out that nobody is there or that the token is wrong;
`prove` asks one small question with a time-out first.
"""

from __future__ import annotations

import socket

from rayserve.cluster import records, token
from rayserve.cluster.thread import KeptThread
from rayserve.errors import ClusterError, InvalidValueError

__all__ = ["Refused", "prove", "search"]

_REACH_S = 2.0  # for a TCP connection to a Ray that should be there
_PROOF_S = 5.0  # for its first answer


class Refused(ClusterError):
    """A Ray that lives but rejects our token."""


def search() -> str | None:
    """Return the address of a Ray on this machine that answers, None if there is none."""
    for record in records.known():
        if record.token:
            token.use()
        try:
            prove(record.address)
            return record.address
        except Refused:
            continue  # it lives but does not want us; its record is right
        except ClusterError:
            records.forget(record)
    token.show_if_present()
    from ray._private.utils import read_ray_address

    address: str | None = read_ray_address()
    try:
        if address:
            prove(address)
            return address
    except ClusterError:
        pass  # `ray start` left its file behind; Ray itself would fail here, we go on
    return None


def prove(address: str) -> None:
    """Return if a Ray answers at `address`.

    Raises:
        Refused: it wants another token.
        ClusterError: nothing, or no Ray, answers in time.
        InvalidValueError: it is no address.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise InvalidValueError(f'ray_address="{address}" is not host:port, "auto" or "local"')
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"no Ray answers at {address}: {error}") from error
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError

    def first_question() -> None:
        try:
            GcsClient(address=address).internal_kv_get(b"rayserve", b"rayserve", timeout=_PROOF_S)
        except AuthenticationError as error:
            raise Refused(
                f"Ray at {address} refuses this process's token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
                "~/.ray/auth_token to the cluster's token"
            ) from error

    # A thread of its own: a port that is open but no GCS would hold it for 40 s.
    try:
        KeptThread("rayserve-probe").run(first_question, _PROOF_S)
    except TimeoutError as error:
        raise ClusterError(f"what listens at {address} does not answer as Ray") from error
    except ClusterError:
        raise
    except Exception as error:
        raise ClusterError(f"no Ray answers at {address}: {error}") from error
