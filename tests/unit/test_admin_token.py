"""The token is readable by its owner only, stays while that holds, and is replaced when it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayserve.admin.token import last_port, remember_url, token_of


def test_a_token_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    token = token_of(tmp_path)
    assert len(token) == 43
    assert (tmp_path / "admin.token").stat().st_mode & 0o777 == 0o600
    assert token_of(tmp_path) == token
    assert [path.name for path in tmp_path.iterdir()] == ["admin.token"]


def test_two_run_directories_have_two_tokens(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    assert token_of(one) != token_of(two)


def test_a_token_that_others_could_read_is_replaced(tmp_path: Path) -> None:
    old = token_of(tmp_path)
    (tmp_path / "admin.token").chmod(0o640)
    assert token_of(tmp_path) != old
    assert (tmp_path / "admin.token").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "short", "x" * 5000, "é" * 43])
def test_a_file_that_holds_no_token_is_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "admin.token"
    path.write_text(text)
    path.chmod(0o600)
    assert token_of(tmp_path) == path.read_text().strip()


def test_a_link_is_neither_followed_nor_written_through(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_text("t" * 43)
    target.chmod(0o600)
    (tmp_path / "admin.token").symlink_to(target)
    assert token_of(tmp_path) != "t" * 43
    assert target.read_text() == "t" * 43
    assert not (tmp_path / "admin.token").is_symlink()


def test_the_last_port_is_remembered(tmp_path: Path) -> None:
    assert last_port(tmp_path) == 0
    remember_url(tmp_path, "http://127.0.0.1:54321")
    assert last_port(tmp_path) == 54321


@pytest.mark.parametrize("text", ["http://127.0.0.1:99999", "http://evil.example:80", "nonsense"])
def test_a_port_that_cannot_be_is_none(tmp_path: Path, text: str) -> None:
    remember_url(tmp_path, text)
    assert last_port(tmp_path) == 0
