"""The pages, and the fenced blocks in them. CONTRIBUTING.md says what becomes of each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from helpers import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<fence>```+)(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=fence)\s*$", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"# (?P<key>file|args|exit): (?P<value>.+)")


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
