"""The gallery: each README's commands, to the letter, in a fresh copy; then the plain version, which must agree."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from console_blocks import assert_said
from doc_blocks import blocks
from helpers import ROOT, Project, needs

if TYPE_CHECKING:
    from collections.abc import Callable

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
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=100, env=environment)
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


@pytest.mark.slow
@needs("PIL")
def test_thumbnails(readme):
    folder = readme("thumbnails")
    plain(folder, "pictures", "plain", "plain.csv")
    assert (folder / "index.csv").read_bytes() == (folder / "plain.csv").read_bytes()
    written = {path.relative_to(folder / "plain"): path.read_bytes() for path in (folder / "plain").rglob("*.jpg")}
    assert len(written) == 57
    for path, content in written.items():
        assert (folder / "thumbnails" / path).read_bytes() == content
    assert len(list((folder / "icons").rglob("*.jpg"))) == 57


@pytest.mark.timeout(300)  # scikit-learn takes seconds of each process to import, and more on a busy machine
@pytest.mark.slow
@needs("sklearn")
def test_scoring(readme):
    folder = readme("scoring")
    plain(folder, "model.joblib", "pictures.jsonl", "plain.csv")
    expected = (folder / "plain.csv").read_text().splitlines()
    assert (folder / "scores.csv").read_text().splitlines() == expected
    assert len(expected) == 8986


@pytest.mark.slow
def test_montecarlo(readme):
    folder = readme("montecarlo")
    plain(folder, "plain.json")
    assert json.loads((folder / "estimate.json").read_text()) == json.loads((folder / "plain.json").read_text())


#: Says that the estimate has begun, so that the test knows when to kill the run.
WATCH = """
    from pathlib import Path

    from runner import events, hookimpl


    @hookimpl
    def runner_event(event):
        if isinstance(event, events.Progress) and event.tasks["estimate"].done > 2:
            Path("begun").touch()
"""


@pytest.mark.slow
def test_monte_carlo_killed_and_resumed_gives_the_same_digits(tmp_path):
    made = Project(tmp_path / "montecarlo")
    shutil.copytree(EXAMPLES / "montecarlo", made.path, ignore=shutil.ignore_patterns("__pycache__", ".runner"))
    made.write({"plugins/watch.py": WATCH})
    running = made.start("-p", "count=60", "-p", "years=2000", "--progress", "none")
    end, pause = time.monotonic() + 60, threading.Event()
    while not (made.path / "begun").exists() and running.process.poll() is None:
        assert time.monotonic() < end, "nothing is estimated"
        pause.wait(0.01)
    running.process.kill()
    assert running.finish().exit == -signal.SIGKILL
    assert not (made.path / "estimate.json").exists()

    outcome = made.run("--progress", "none", verb="resume")

    assert outcome.exit == 0, outcome
    assert "60 read = 60 done + 0 dead + 0 dropped + 0 left" in outcome.err
    plain(made.path, "plain.json", "60", "2000")
    assert (made.path / "estimate.json").read_bytes() == (made.path / "plain.json").read_bytes()


@pytest.mark.slow
def test_a_polite_crawl(readme, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = readme("crawl")
    pages = [json.loads(line) for line in (folder / "pages.jsonl").read_text().splitlines()]
    assert len({page["url"] for page in pages}) == len(pages) == 36
    assert {page["status"] for page in pages} == {200}
    forbidden = (folder / "forbidden.txt").read_text().splitlines()
    assert len(forbidden) == 3
    assert all(url.endswith("/private") for url in forbidden)


@pytest.mark.slow
def test_commands_on_many_files(readme):
    folder = readme("shell")
    plain(folder, ".", "*.*", "plain.txt")
    lines = [line for line in (folder / "plain.txt").read_text().splitlines() if ".txt" not in line]
    assert (folder / "checksums.txt").read_text().splitlines() == lines


@pytest.mark.slow
def test_orders_that_are_mended(readme):
    folder = readme("etl")
    plain(folder, "orders.csv", "plain.db")
    query = 'SELECT * FROM orders ORDER BY "order"'
    assert rows(folder / "orders.db", query) == rows(folder / "plain.db", query)


@pytest.mark.slow
def test_a_census_on_two_agents_gives_the_same_file(tmp_path):
    made = Project(tmp_path / "census")
    shutil.copytree(EXAMPLES / "census", made.path, ignore=shutil.ignore_patterns("__pycache__", ".runner"))
    root = f"-p root={Path(json.__file__).parent.parent / 'concurrent'}"
    (script,) = (block.text for block in blocks(made.path / "README.md") if "--engine agents" in block.text)
    assert script.count("runner run ") == 1
    script = script.replace("pip install", "# pip install").replace("runner run ", f"runner run {root} ")
    outcome = made.run("-p", f"root={Path(json.__file__).parent.parent / 'concurrent'}")
    assert outcome.exit == 0, outcome
    command = made.path / "bin" / "runner"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m runner "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=made.path, capture_output=True, text=True, timeout=100, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "node `one` has joined" in done.stderr
    assert "node `two` has joined" in done.stderr
    assert (made.path / "agents.json").read_bytes() == (made.path / "census.json").read_bytes() != b""
