"""The orders that are killed, mended and resumed: the table is the plain script's."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from helpers import ROOT

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLE = ROOT / "examples/etl"


def table_of(path: Path) -> list[Any]:
    database = sqlite3.connect(path)
    try:
        return database.execute('SELECT * FROM orders ORDER BY "order"').fetchall()
    finally:
        database.close()


def loaded(path: Path) -> int:
    try:
        return len(table_of(path))
    except sqlite3.OperationalError:
        return 0


def script(folder: Path, *args: object) -> None:
    """Run one of the example's own scripts."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, *map(str, args)], cwd=folder, check=True, env={**os.environ, "PYTHONPATH": path})


@pytest.mark.parametrize("count", [3000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_killed_edited_mended_and_resumed(project: Any, count: int) -> None:
    made = project({})
    shutil.copytree(EXAMPLE, made.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", ".runner"))
    script(made.path, "make_orders.py", "orders.csv", count)
    running = made.start("--progress", "none")
    end = time.monotonic() + 60
    while running.process.poll() is None and loaded(made.path / "orders.db") < count // 5:
        assert time.monotonic() < end, "nothing is loaded"
    running.process.kill()
    running.finish()

    script(made.path, "make_orders.py", "orders.csv", count + 200)
    for verb, args, exit_code in (
        ("resume", [], 4),
        ("resume", ["--again"], 4),  # the source may have read all when the run was killed
        ("dead", ["retry", "--error", "amount", "-p", "decimal=,"], 4),
    ):
        outcome = made.run(*args, "--progress", "none", verb=verb)
        assert outcome.exit == exit_code, outcome
    undated = (count + 200) // 997
    assert f"{count + 200:,} read = {count + 200 - undated:,} done + {undated:,} dead" in outcome.err
    script(made.path, "plain.py", "orders.csv", "serial.db")
    assert table_of(made.path / "orders.db") == table_of(made.path / "serial.db")
