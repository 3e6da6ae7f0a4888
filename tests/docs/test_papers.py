"""ARCHITECTURE.md names every room, the index every page, and no paper a file that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.docs.staging import ROOT

PACKAGE = ROOT / "src" / "rayserve"
MAP = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")
PAPERS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def test_the_map_has_every_room() -> None:
    listed = set(re.findall(r"`(\w+)`", MAP.partition("\n## Rooms\n")[2].partition("\n## ")[0]))
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert not rooms - listed


def test_the_map_names_no_file_that_is_not_there() -> None:
    named = re.findall(r"`((?:\w+/)*\w+\.py)`", MAP) + re.findall(r"`(\w+/)`", MAP)
    assert len(named) > 15
    missing = [name for name in named if not (PACKAGE / name).exists()]
    assert not missing


@pytest.mark.parametrize("paper", PAPERS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_links_of_the_paper_lead_somewhere(paper: Path) -> None:
    links = [link for link in LINK.findall(paper.read_text(encoding="utf-8")) if not re.match(r"[a-z]+:", link)]
    broken = [link for link in links if not (paper.parent / link).exists()]
    assert not broken


def test_the_index_leads_to_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert not pages - set(LINK.findall(index))
