"""The gallery: each README's commands, to the letter, in a fresh copy; then the plain version, which must agree."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from console_blocks import assert_said
from doc_blocks import blocks
from helpers import ROOT, Project, needs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EXAMPLES = ROOT / "examples"


@pytest.fixture
def readme(tmp_path: Path) -> Callable[[str], Path]:
    """Copy an example, run what its README shows, and return the folder of the copy."""

    def follow(name: str) -> Path:
        made = Project(tmp_path / name)
        shutil.copytree(EXAMPLES / name, made.path, ignore=shutil.ignore_patterns("__pycache__", ".runner"))
        shown = [block for block in blocks(made.path / "README.md") if block.language == "console"]
        assert shown, "it shows no command"
        for block in shown:
            assert_said(made, block.text)
        return made.path

    return follow


def plain(folder: Path, *args: str) -> str:
    """Run the example's plain version, and return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "plain.py", *args]
    done = subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True, timeout=100, env=environment
    )
    return done.stdout


def rows(database: Path, query: str) -> list[Any]:
    connection = sqlite3.connect(database)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


@pytest.mark.slow
@needs("pyarrow")
def test_logs(readme):
    from pyarrow import parquet

    folder = readme("logs")
    plain(folder, "logs", "plain.db", "plain.parquet", "plain.jsonl")
    query = "SELECT * FROM requests ORDER BY file, line"
    expected = rows(folder / "plain.db", query)
    assert len(expected) == 19_980
    assert rows(folder / "requests.db", query) == expected
    table = parquet.read_table(folder / "requests.parquet")
    assert sorted(zip(*table.to_pydict().values(), strict=True)) == expected
    broken, same = (
        sorted(json.loads(line)["item"] for line in (folder / name).read_text().splitlines())
        for name in ("broken.jsonl", "plain.jsonl")
    )
    assert broken == same
    assert len(broken) == 20
