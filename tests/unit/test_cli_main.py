"""The command line: options reach the verbs, failures become words and exit codes, help costs nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import rayserve as serve
from rayserve.cli import look, stop
from rayserve.cli.main import app
from rayserve.cluster import connect
from rayserve.cluster.connect import Connection
from rayserve.errors import NotRunningError, PortInUseError
from rayserve.instance import Instance

Calls = list[tuple[str, tuple[Any, ...], dict[str, Any]]]

ENDPOINTS = {"hello": {"route": "/hello", "methods": ["GET"], "traffic": {"hello": 1.0}, "shadows": {}}}
STATUS = {"instance": "default", "endpoints": {"hello": "GET /hello"}, "backends": {}, "nodes": {}}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The verbs of the API that were called; none of them does anything."""
    found: Calls = []

    def fake(name: str, answer: Any) -> Callable[..., Any]:
        def verb(*args: Any, **kwargs: Any) -> Any:
            found.append((name, args, kwargs))
            return answer

        return verb

    here = Instance("default", "http://127.0.0.1:8000", "http://127.0.0.1:9")
    for name, answer in {"init": here, "wait": None, "shutdown": None, "status": STATUS,
                         "list_endpoints": ENDPOINTS, "list_backends": {"hello": None}}.items():  # fmt: skip
        monkeypatch.setattr(serve, name, fake(name, answer))
    for module in (look, stop):
        monkeypatch.setattr(module, "join", fake("join", here))
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    monkeypatch.setattr(connect, "connect", lambda: Connection(started_ray=True, address="h:1", node_id="n"))
    return found


@pytest.fixture
def in_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module `cli_app` in the current directory."""
    (tmp_path / "cli_app.py").write_text(
        "def main(): pass\ndef fails():\n    raise ZeroDivisionError('user words')\ndef exits(): raise SystemExit(7)\n"
        "def interrupted(): raise KeyboardInterrupt\n"
        "def refused():\n    import rayserve\n    rayserve.BackendConfig(num_replicas=0)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "cli_app", raising=False)


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_run_hands_its_options_to_init_and_waits(calls: Calls, in_app: None) -> None:
    result = invoke("run", "cli_app:main", "--host", "0.0.0.0", "--port", "0", "--name", "other", "--address",
                    "10.0.0.1:6379", "-o", "access_log=true", "-o", "num-ingress=2")  # fmt: skip
    assert result.exit_code == 0
    assert [name for name, _, _ in calls] == ["init", "list_endpoints", "wait"]
    options = {"access_log": True, "num_ingress": 2}
    assert calls[0][1:] == (("other", "0.0.0.0", 0, options), {"ray_address": "10.0.0.1:6379"})


def test_sigterm_unwinds_from_the_start_and_again_after_ray_took_its_handler_away(
    calls: Calls, in_app: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def handle(number: int, handler: Callable[[int, None], None]) -> None:
        assert number == signal.SIGTERM
        with pytest.raises(SystemExit, match="143"):
            handler(number, None)
        calls.append(("signal", (), {}))

    monkeypatch.setattr(signal, "signal", handle)
    invoke("run", "cli_app:main")
    assert [name for name, _, _ in calls][:3] == ["signal", "init", "signal"]


def test_run_says_where_it_serves_in_plain_lines(calls: Calls, in_app: None) -> None:
    result = invoke("run", "cli_app:main")
    assert calls[0][1:] == (("default", "127.0.0.1", 8000, None), {"ray_address": None})
    assert result.stdout.splitlines() == [
        'instance "default" serves at http://127.0.0.1:8000',
        "metrics and status at http://127.0.0.1:9",
        "/hello\tGET\thello\t1 hello",
    ]


def test_run_tells_a_function_that_made_no_endpoint(
    calls: Calls, in_app: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "list_endpoints", dict)
    assert "cli_app:main made no endpoint" in invoke("run", "cli_app:main").stdout


def test_a_function_that_raises_shows_its_own_traceback_and_exits_1(calls: Calls, in_app: None) -> None:
    result = invoke("run", "cli_app:fails")
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith('cli_app.py", line 3, in fails')
    assert lines[-2:] == [
        "ZeroDivisionError: user words",
        "Error: cli_app:fails raised ZeroDivisionError; the traceback above says where",
    ]
    assert [name for name, _, _ in calls] == ["init"]


def test_a_failure_in_a_cluster_that_was_joined_says_that_the_instance_goes_on(
    calls: Calls, in_app: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "connect", lambda: Connection(started_ray=False, address="h:1", node_id="n"))
    last = invoke("run", "cli_app:fails").stderr.splitlines()[-1]
    assert last.endswith('instance "default" goes on, `rayserve shutdown --name default` stops it')


def test_the_traceback_of_a_refusal_of_ours_ends_in_the_users_code(calls: Calls, in_app: None) -> None:
    lines = invoke("run", "cli_app:refused").stderr.splitlines()
    assert [line for line in lines if line.startswith("  File")] == [lines[1]]
    assert lines[1].endswith('cli_app.py", line 8, in refused')
    assert lines[-2].startswith("rayserve.errors.InvalidValueError: ")


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("num_ingres=2", '--option: unknown option "num_ingres" for HTTPOptions; did you mean "num_ingress"?'),
        ("num_ingress=two", "--option: num_ingress must be an int, got 'two' (str)"),
    ],
)
def test_an_http_option_that_cannot_be_exits_2(calls: Calls, in_app: None, word: str, text: str) -> None:
    result = invoke("run", "cli_app:main", "-o", word)
    assert (result.exit_code, result.stderr) == (2, f"Error: {text}\n")
    assert calls == []


@pytest.mark.parametrize(("function", "code"), [("exits", 7), ("interrupted", 130)])
def test_a_function_may_exit_and_ctrl_c_is_130(calls: Calls, in_app: None, function: str, code: int) -> None:
    result = invoke("run", f"cli_app:{function}")
    assert (result.exit_code, result.stderr) == (code, "")


@pytest.mark.parametrize("target", ["cli_app", "cli_app:nothing", "no_such_app:main"])
def test_a_target_that_cannot_be_starts_nothing_and_exits_2(calls: Calls, in_app: None, target: str) -> None:
    result = invoke("run", target)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert calls == []


@pytest.mark.parametrize(
    "words",
    [("run", "cli_app:main", "--prot", "1"), ("run", "cli_app:main", "--port", "65536"), ("run",), ("walk",),
     ("run", "cli_app:main", "-o", "access_log"), ("status", "--jsno"), ("run", "cli_app:main", "cli_app:main")],
)  # fmt: skip
def test_a_command_line_that_cannot_be_exits_2(calls: Calls, in_app: None, words: tuple[str, ...]) -> None:
    assert invoke(*words).exit_code == 2
    assert calls == []


def test_case_2_a_taken_port_is_told_in_words(calls: Calls, in_app: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(*args: Any, **kwargs: Any) -> None:
        raise PortInUseError("127.0.0.1:8000 is taken by another process")

    monkeypatch.setattr(serve, "init", taken)
    result = invoke("run", "cli_app:main")
    assert (result.exit_code, result.stderr) == (1, "Error: 127.0.0.1:8000 is taken by another process\n")


def test_status_prints_rows_or_json(calls: Calls) -> None:
    assert invoke("status").stdout == "instance\tdefault\trunning\nendpoint\thello\tGET /hello\n"
    assert json.loads(invoke("status", "--json", "--name", "other", "--address", "h:1").stdout) == STATUS
    assert [call for call in calls if call[0] == "join"][1][1] == ("other", "h:1")


def test_routes_prints_rows_or_what_the_routes_path_answers(calls: Calls) -> None:
    assert invoke("routes").stdout == "/hello\tGET\thello\t1 hello\n"
    assert json.loads(invoke("routes", "--json").stdout) == {"/hello": ["hello", ["GET"]]}


@pytest.mark.parametrize("command", [("status",), ("routes",), ("shutdown", "--yes")])
def test_where_nothing_runs_the_exit_code_is_1(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    def nobody(*args: Any) -> None:
        raise NotRunningError("nothing runs on this machine")

    for module in (look, stop):
        monkeypatch.setattr(module, "join", nobody)
    result = invoke(*command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: nothing runs on this machine\n"
    assert calls == []


def test_shutdown_without_a_terminal_wants_yes(calls: Calls) -> None:
    result = invoke("shutdown")
    assert (result.exit_code, calls) == (2, [])
    assert "--yes" in result.stderr
    assert invoke("shutdown", "--yes").stdout == 'instance "default" is stopped\n'
    assert calls[-1][0] == "shutdown"


@pytest.mark.parametrize(("answer", "stopped"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_on_a_terminal_shutdown_asks(calls: Calls, monkeypatch: pytest.MonkeyPatch, answer: str, stopped: bool) -> None:
    monkeypatch.setattr(stop, "_can_ask", lambda: True)
    result = CliRunner().invoke(app, ["shutdown"], input=answer)
    assert 'stop instance "default" at http://127.0.0.1:8000 with 1 endpoint and 1 backend?' in result.output
    assert (calls[-1][0] == "shutdown") is stopped
    assert result.exit_code == (0 if stopped else 1)


def test_version() -> None:
    assert invoke("--version").stdout == f"rayserve {serve.__version__}\n"


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["--version"], ["run", "nothing"]])
def test_help_and_slips_do_not_load_ray(words: list[str]) -> None:
    script = (
        "import sys\nfrom rayserve.cli.main import main\n"
        f"sys.argv = ['rayserve', *{words!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'ray', 'flask', 'uvloop'} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"
