"""Every example runs and shows what it claims; the first one and the demo also run as a user would start them."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from tests.docs.staging import ROOT, Stage, own_world

pytestmark = pytest.mark.timeout(120)

EXAMPLES = ROOT / "examples"

# What each must print, in this order.
SHOWS = {
    "quickstart_function": (r"GET /hello → hello serve!", r"GET /hello\?name=ray → hello ray"),
    "quickstart_class": tuple(rf"GET /counter → \{{'current_counter': {count}\}}" for count in (1, 2, 3)),
    "scikit_learn": (r"→ setosa \[.*\], in truth setosa", r"→ versicolor \[", r"→ virginica \["),
    "ab_split": (
        r"70/30: recommend:v1 answered \d+ of 500, recommend:v2 answered \d+ of 500",
        r"ada is always answered by recommend:v[12]\n",
        r"after the switch: \{'recommend:v2': 100\}",
    ),
    "batching": (r"48 requests took \d+ calls", r"batches of \d+: \d+"),
    "scaling_out": (
        r"num_replicas=2: 2 processes answer",
        r"num_replicas=3: 3 processes answer",
        r"num_replicas=1: 1 process answers",
    ),
}


def test_every_example_is_run_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*SHOWS, "demo"}


@pytest.mark.parametrize("name", SHOWS)
def test_the_example_shows_what_it_claims(name: str, stage: Stage) -> None:
    printed = stage.script(EXAMPLES / f"{name}.py")
    assert re.search(".*".join(SHOWS[name]), printed, re.DOTALL), printed


def run_as_a_user(name: str) -> str:
    """Run the example in a process of its own; return what it printed. It must leave nothing behind."""
    with own_world() as environment:
        done = subprocess.run(
            [sys.executable, f"examples/{name}.py"],
            env=environment, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_quickstart_as_a_user_runs_it_prints_its_own_lines_only() -> None:
    assert run_as_a_user("quickstart_function") == "GET /hello → hello serve!\nGET /hello?name=ray → hello ray\n"


def test_the_demo_measures_both_versions_and_stops() -> None:
    printed = run_as_a_user("demo")
    accuracies = dict(re.findall(r"^backend=(\S+).*  accuracy=([\d.]+)%  p50=[\d.]+ ms", printed, re.MULTILINE))
    assert accuracies.keys() == {"v1-logistic", "v2-svc", "both"}, printed
    assert min(map(float, accuracies.values())) > 90
    shares = dict(re.findall(r"^backend=(\S+).*  answered=([\d.]+)%", printed, re.MULTILINE))
    assert abs(float(shares["v2-svc"]) - 20) < 6, printed  # 899 draws: 4.5 standard deviations
    assert "\x1b" not in printed  # no colours in a pipe
