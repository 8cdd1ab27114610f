"""Links between pages lead somewhere: to a file that is there, and to a heading that the page has."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

import pytest
from doc_blocks import FENCE, PAGES
from helpers import ROOT

if TYPE_CHECKING:
    from pathlib import Path

LINK = re.compile(r"\]\(([^)\s]+)\)")
LINKING = [
    *PAGES,
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "bench").rglob("*.md")),
    *sorted(ROOT.glob("examples/**/*.md")),
]


def anchor(heading: str) -> str:
    """Return the anchor of a heading, as GitHub makes it.

    >>> anchor("`runner check [FILE]...`"), anchor("`Inbox` and `Outbox`"), anchor("What a task leaves")
    ('runner-check-file', 'inbox-and-outbox', 'what-a-task-leaves')
    """
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@cache
def anchors(page: Path) -> set[str]:
    """Return the anchors of a page; headings in fenced blocks are none."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        name = anchor(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading))
        number = 1
        while name in found:
            name, number = f"{anchor(heading)}-{number}", number + 1
        found.add(name)
    return found


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file_and_a_heading(page):
    dead = []
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        target, _, name = link.partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (name and path.suffix == ".md" and name not in anchors(path)):
            dead.append(link)
    assert not dead


def test_every_page_is_reached_from_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [
        name
        for page in PAGES
        if (name := page.relative_to(ROOT).as_posix()).startswith("docs/") and f"({name})" not in readme
    ]
    assert not missing


def test_every_example_is_listed():
    listed = (ROOT / "examples/README.md").read_text(encoding="utf-8")
    files = [path.relative_to(ROOT / "examples").as_posix() for path in sorted(ROOT.glob("examples/*/tasks*.toml"))]
    assert [file for file in files if f"({file})" not in listed] == []
