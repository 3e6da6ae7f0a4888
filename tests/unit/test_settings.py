"""The environment is read when asked, and folders are this user's alone."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayserve import settings
from rayserve.errors import ClusterError, InvalidValueError


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def test_base_dir_is_short_and_names_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYSERVE_DIR", raising=False)
    assert settings.base_dir() == Path(f"/tmp/rayserve-{os.getuid()}")


def test_base_dir_follows_the_environment_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSERVE_DIR", "/srv/rs")
    assert settings.base_dir() == Path("/srv/rs")
    monkeypatch.setenv("RAYSERVE_DIR", "/srv/other")
    assert settings.base_dir() == Path("/srv/other")


def test_a_relative_base_dir_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSERVE_DIR", "here")
    with pytest.raises(InvalidValueError, match='RAYSERVE_DIR is "here"; set it to an absolute path'):
        settings.base_dir()


def test_private_dir_is_closed_to_others(folder: Path) -> None:
    made = settings.private_dir(folder / "a" / "b")
    assert made.stat().st_mode & 0o777 == 0o700


def test_private_dir_closes_an_open_folder(folder: Path) -> None:
    (folder / "open").mkdir(mode=0o755)
    assert settings.private_dir(folder / "open").stat().st_mode & 0o777 == 0o700


def test_private_dir_refuses_a_link_that_somebody_left(folder: Path) -> None:
    (folder / "target").mkdir()
    (folder / "link").symlink_to(folder / "target")
    with pytest.raises(ClusterError, match="is not a folder of this user"):
        settings.private_dir(folder / "link")


def test_private_dir_refuses_a_file(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(ClusterError, match="set RAYSERVE_DIR to one you can write"):
        settings.private_dir(folder / "file")


def test_empty_variables_count_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "")
    monkeypatch.setenv("RAY_AUTH_MODE", "")
    assert settings.ray_address() is None
    assert settings.ray_auth_mode() is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("RAY_AUTH_MODE", "Token")
    assert settings.ray_address() == "10.0.0.1:6379"
    assert settings.ray_auth_mode() == "token"


def test_rays_token_is_found_where_ray_looks(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("HOME", str(folder))
    assert settings.own_ray_token_file() == folder / ".ray" / "auth_token"
    assert not settings.has_ray_token()
    (folder / ".ray").mkdir()
    (folder / ".ray" / "auth_token").write_text("secret")
    assert settings.has_ray_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(folder / "elsewhere"))
    assert settings.own_ray_token_file() is None
    assert not settings.has_ray_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert settings.has_ray_token()


def test_a_default_never_overrides_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSERVE_TEST_A", "theirs")
    settings.set_default("RAYSERVE_TEST_A", "ours")
    assert settings.environment()["RAYSERVE_TEST_A"] == "theirs"
    assert settings.environment(RAYSERVE_TEST_A="child")["RAYSERVE_TEST_A"] == "child"
    assert os.environ["RAYSERVE_TEST_A"] == "theirs"


def test_python_path_keeps_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert settings.python_path(Path("/a")) == "/a"
    monkeypatch.setenv("PYTHONPATH", "/b:/c")
    assert settings.python_path(Path("/a")) == "/a:/b:/c"
