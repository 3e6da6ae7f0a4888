"""Every Python block of the papers runs as written, from top to bottom, and so does the seed of this project.

The seed is the overview of the original RayServe, word for word in seed-overview.rst; only its import line differs now.
"""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import pytest
from tests.docs.staging import ROOT, Stage

pytestmark = pytest.mark.timeout(120)

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SEED = Path(__file__).with_name("seed-overview.rst").read_text(encoding="utf-8")
SEED_BLOCK = re.compile(r"^\.\. code-block:: python\n\s*\n((?:(?: {2,}.*)?\n)+)", re.MULTILINE)
SWAPPED = 'serve.set_traffic("simple_backend", {"simple_endpoint": 1.0})'
# The seed takes these two for granted.
ASSUMED = """
serve.create_backend("my_endpoint_backend", handle_request)
serve.create_backend("my_endpoint_backend_class", RequestHandler)
"""


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> list[str]:
    return PYTHON.findall(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [path for path in PAGES if blocks(path)], ids=named)
def test_the_python_blocks_of_the_page_run(page: Path, stage: Stage) -> None:
    for code in blocks(page):
        stage.block(named(page), code)


def test_the_pages_that_teach_have_blocks() -> None:
    assert {"README.md", "docs/key-concepts.md"} <= {named(path) for path in PAGES if blocks(path)}


def seed_blocks(url: str) -> list[str]:
    """The seed's blocks with the import line of today, and the port of this run's instance (8000 if it was free)."""
    found = [dedent(block) for block in SEED_BLOCK.findall(SEED)]
    assert len(found) == 10 and sum("from ray import serve" in block for block in found) == 1
    return [
        block.replace("from ray import serve", "import rayserve as serve").replace("http://127.0.0.1:8000", url)
        for block in found
    ]


def test_the_seed_runs_as_written_and_its_slip_is_met_with_help(stage: Stage) -> None:
    slips = 0
    for code in seed_blocks(stage.url):
        if SWAPPED in code:
            kinds, text = stage.block_raises("seed", code)
            assert "ValueError" in kinds and "RayServeException" in kinds
            assert "the arguments of set_traffic are swapped" in text
            assert 'set_traffic("simple_endpoint", {"simple_backend": 1.0})' in text
            slips += 1
            continue
        if "my_endpoint_backend_class" in code:
            stage.block("seed", ASSUMED)
        printed = stage.block("seed", code)
        if "/-/routes" in code:
            assert printed.strip() == "{}"  # its only endpoint was deleted before
    assert slips == 1
    assert "1" in stage.block("seed", f"print(requests.get('{stage.url}/increment', timeout=10).text)")
    check = f"assert requests.get('{stage.url}/split', timeout=10).text in ('hello world', 'hello, world!')"
    stage.block("seed", check)
