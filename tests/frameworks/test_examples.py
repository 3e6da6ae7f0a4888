"""Every example of examples/frameworks runs as a user would start it, reads well, and batches what it is sent.

`make test-frameworks` runs this; it needs the extra `frameworks`. Speeds are not judged, with one exception: what they
are depends on the machine and on what else it does.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from tests.docs.staging import ROOT, own_world

pytestmark = pytest.mark.timeout(300)

EXAMPLES = ROOT / "examples" / "frameworks"
PAGE = (ROOT / "docs" / "frameworks.md").read_text(encoding="utf-8")
READS_DIGITS = ("scikit_learn_batched", "pytorch", "tensorflow_keras")
LINES = (
    "RayServe", "hello world", "Invoice 4711", "2026-11-22", "batches of 32", "total 12.50 EUR", "weighted traffic",
    "in order of arrival",
)  # fmt: skip


def run(name: str) -> str:
    """Run the example in a process of its own; return what it printed. It must leave no process behind."""
    with own_world() as environment:
        done = subprocess.run(
            [sys.executable, f"examples/frameworks/{name}.py"],
            env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def gain_of_32(printed: str) -> float:
    """Check that batches were as allowed, and shared when allowed; return how much faster those of up to 32 were."""
    found = re.findall(r"^max_batch_size=(\d+): ([\d,]+) requests/s in batches of ([\d.]+)", printed, re.MULTILINE)
    per_batch = {int(size): float(seen) for size, rate, seen in found if int(rate.replace(",", "")) > 0}
    assert list(per_batch) == [1, 8, 32], printed
    assert per_batch[1] == 1
    assert 2 < per_batch[8] <= 8
    assert 4 < per_batch[32] <= 32
    gain = re.search(r"^max_batch_size=32: .*, ([\d.]+) × as many as in batches of 1 \(", printed, re.MULTILINE)
    assert gain is not None, printed
    return float(gain[1])


def test_every_example_is_run_here_and_has_its_figures_on_the_page() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")} - {"load"}
    assert names == {*READS_DIGITS, "onnx_ocr"}
    assert names == set(re.findall(r"^\| \[\w+\]\(\.\./examples/frameworks/(\w+)\.py\) \|.* × \|", PAGE, re.MULTILINE))


@pytest.mark.parametrize("name", READS_DIGITS)
def test_the_example_reads_held_out_digits_in_batches(name: str) -> None:
    printed = run(name)
    right = re.search(r"^899 held-out images over HTTP: ([\d.]+)% read right$", printed, re.MULTILINE)
    assert right is not None, printed
    assert float(right[1]) > 94, printed  # answers that went to the wrong requests would be right in 10 %
    gain = gain_of_32(printed)
    if name == "scikit_learn_batched":  # a call walks a hundred trees, however few the rows
        assert gain > 2, printed


def test_the_example_reads_lines_of_text_in_batches() -> None:
    printed = run("onnx_ocr")
    assert re.findall(r"^drawn: (.*), read: (.*)$", printed, re.MULTILINE) == [(line, line) for line in LINES]
    assert "8 lines over HTTP, all at once: 100.0% read right" in printed
    gain_of_32(printed)
