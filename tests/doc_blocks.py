"""The pages, and the fenced blocks in them. CONTRIBUTING.md says what becomes of each."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from helpers import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<fence>```+)(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=fence)\s*$", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"# (?P<key>file|args|exit): (?P<value>.+)")


def filled_page(page: Path, begin: str, end: str, text: str) -> str:
    """Return a page with `text` between two of its marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    return f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}"


def assert_page_is(page: Path, expected: str) -> None:
    """Compare a page with what the code makes of it; with UPDATE_REFERENCE set, write it first."""
    if os.environ.get("UPDATE_REFERENCE"):
        page.write_text(expected, encoding="utf-8")
    assert page.read_text(encoding="utf-8") == expected


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, the line it starts on, and what its first lines say of it."""

    language: str
    text: str
    line: int
    options: dict[str, str]


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        content = match["text"]
        options = {}
        while (option := OPTION.match(content)) and (option["key"] == "file" or "file" in options):
            options[option["key"]] = option["value"].strip()
            content = content[option.end() :].removeprefix("\n")
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(match["language"], content, line, options))
    return found
