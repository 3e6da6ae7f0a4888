"""What commands print, as a pipe and as a terminal gets it."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from rayserve.cli.views import json_text, print_rows, route_rows, status_rows

ENDPOINTS: dict[str, dict[str, Any]] = {
    "b": {"route": "/b/*", "methods": ["GET", "POST"], "traffic": {"v1": 0.7, "v2": 0.3}, "shadows": {"v3": 0.25}},
    "inner": {"route": None, "methods": ["GET"], "traffic": {"v1": 1.0}, "shadows": {}},
    "a": {"route": "/a", "methods": ["GET"], "traffic": {}, "shadows": {}},
}


def test_endpoints_are_sorted_by_route_and_those_without_one_come_last() -> None:
    assert route_rows(ENDPOINTS) == [
        ("/a", "GET", "a", "none yet"),
        ("/b/*", "GET,POST", "b", "0.7 v1, 0.3 v2, 0.25 v3 (copy)"),
        ("(by handle)", "GET", "inner", "1 v1"),
    ]


def test_status_is_one_row_per_thing() -> None:
    status = {
        "instance": "default",
        "admin": "open at http://127.0.0.1:1",
        "endpoints": {"a": 'GET /a: 1 to "v1"'},
        "backends": {"v1": "1 of 2 replicas ready"},
        "nodes": {},
    }
    assert status_rows(status) == [
        ("instance", "default", "running"),
        ("admin", "", "open at http://127.0.0.1:1"),
        ("endpoint", "a", 'GET /a: 1 to "v1"'),
        ("backend", "v1", "1 of 2 replicas ready"),
    ]


def test_a_pipe_gets_tab_separated_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(("what", "name"), [("a", "b"), ("[red]c", "d")])
    assert capsys.readouterr().out == "a\tb\n[red]c\td\n"


def test_a_terminal_gets_a_table_and_brackets_stay_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    print_rows(("what", "name"), [("[red]c[/red]", "d")])
    out = capsys.readouterr().out
    assert "what" in out
    assert "[red]c[/red]" in out
    assert "\t" not in out


def test_json_is_json() -> None:
    assert json.loads(json_text(ENDPOINTS)) == ENDPOINTS
