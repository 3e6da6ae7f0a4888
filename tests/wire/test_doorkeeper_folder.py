"""The run directory and the sockets: claimed, refused, inherited, cleaned."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayserve.controller.listen import open_listeners
from rayserve.controller.rundir import RunDir
from rayserve.errors import ClusterError, InvalidValueError, PortInUseError


@pytest.fixture
def base() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp") as folder:
        yield Path(folder) / "base"


def test_a_claimed_folder_is_private_and_has_logs(base: Path) -> None:
    claimed = RunDir.claim("default", "0123456789ab", base)
    assert claimed.path == base / "default-01234567"
    assert claimed.path.stat().st_mode & 0o777 == 0o700
    assert claimed.logs.is_dir()
    assert not claimed.inherited
    claimed.release()


def test_a_living_doorkeeper_keeps_its_folder(base: Path) -> None:
    claimed = RunDir.claim("default", "0123456789ab", base)
    (claimed.path / "feed.sock").touch()
    with pytest.raises(ClusterError, match='another doorkeeper of instance "default"'):
        RunDir.claim("default", "0123456789ab", base)
    other = RunDir.claim("default", "ffffffffffff", base)
    assert (claimed.path / "feed.sock").exists()
    claimed.release()
    other.release()


def test_release_leaves_the_logs_only(base: Path) -> None:
    claimed = RunDir.claim("default", "0123456789ab", base)
    (claimed.logs / "ingress-0.log").write_text("kept")
    (claimed.path / "r-1.sock").touch()
    (claimed.path / "profiles").mkdir()
    claimed.release()
    assert os.listdir(claimed.path) == ["logs"]
    assert (claimed.logs / "ingress-0.log").read_text() == "kept"


def test_a_dead_doorkeepers_own_folder_is_taken_over_with_the_replicas_sockets(base: Path) -> None:
    folder = base / "default-01234567"
    folder.mkdir(parents=True)
    for name in ("lock", "feed.sock", "r-1.sock"):
        (folder / name).touch()
    claimed = RunDir.claim("default", "0123456789ab", base)
    assert claimed.inherited
    assert (folder / "r-1.sock").exists()
    claimed.release()


def test_dead_namesakes_are_emptied_and_the_oldest_removed(base: Path) -> None:
    base.mkdir()
    for number in range(8):
        folder = base / f"default-0000000{number}"
        (folder / "logs").mkdir(parents=True)
        (folder / "lock").touch()
        (folder / "feed.sock").touch()
        os.utime(folder, (number, number))
    (base / "other-00000000").mkdir()
    (base / "other-00000000" / "feed.sock").touch()
    claimed = RunDir.claim("default", "0123456789ab", base)
    stale = sorted(path for path in base.glob("default-*") if path != claimed.path)
    assert len(stale) == 5
    assert all(os.listdir(path) == ["logs"] for path in stale)
    assert (base / "other-00000000" / "feed.sock").exists()
    claimed.release()


def test_a_path_too_long_for_sockets_is_refused_with_a_way_out(base: Path) -> None:
    with pytest.raises(InvalidValueError, match="choose a shorter instance name or RAYSERVE_DIR"):
        RunDir.claim("x" * 80, "0123456789ab", base)
    assert not base.exists()


def test_port_0_picks_one_for_all_sockets() -> None:
    listeners = open_listeners("127.0.0.1", 0, 3)
    assert {one.getsockname()[1] for one in listeners.sockets} == {listeners.port}
    assert listeners.port > 0
    listeners.close()


def test_a_port_of_our_own_is_taken_too() -> None:
    listeners = open_listeners("127.0.0.1", 0, 1)
    with pytest.raises(PortInUseError):
        open_listeners("127.0.0.1", listeners.port, 1)
    listeners.close()
    open_listeners("127.0.0.1", listeners.port, 1).close()


def test_a_port_of_a_reuseport_socket_of_another_program_is_taken() -> None:
    with socket.socket() as theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        theirs.bind(("127.0.0.1", 0))
        theirs.listen()
        with pytest.raises(PortInUseError):
            open_listeners("127.0.0.1", theirs.getsockname()[1], 1)


def test_a_port_with_connections_just_closed_is_free() -> None:
    listeners = open_listeners("127.0.0.1", 0, 1)
    with socket.create_connection(("127.0.0.1", listeners.port)) as client:
        listeners.sockets[0].setblocking(True)
        accepted, _ = listeners.sockets[0].accept()
        accepted.close()  # the server ends first, so its side stays in TIME_WAIT
        assert client.recv(1) == b""
    listeners.close()
    open_listeners("127.0.0.1", listeners.port, 1).close()


@pytest.mark.parametrize(("host", "url_host"), [("0.0.0.0", "127.0.0.1"), ("localhost", "127.0.0.1"), ("::", "[::1]")])
def test_a_url_never_names_a_wildcard(host: str, url_host: str) -> None:
    listeners = open_listeners(host, 0, 1)
    assert listeners.url_host == url_host
    listeners.close()


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("203.0.113.1", 0, 'http_host="203.0.113.1" is no address of this machine'),
        ("no.such.host.invalid", 0, 'http_host="no.such.host.invalid" is no address of this machine'),
        ("127.0.0.1", 70000, "http_port=70000 is not between 0 and 65535"),
        ("127.0.0.1", -1, "http_port=-1 is not between 0 and 65535"),
    ],
)
def test_an_address_that_cannot_be_is_refused_in_words(host: str, port: int, words: str) -> None:
    with pytest.raises(InvalidValueError, match=words):
        open_listeners(host, port, 1)
