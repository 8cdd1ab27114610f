"""`runner report`, `runner run --report` and `runner graph --run`, as they are called."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import past_runs
import pytest

from runner.cli.graph import graph
from runner.cli.report import report, write_file
from runner.cli.run import write_report
from runner.errors import UsageError
from runner.report import page
from runner.report.journal import dump_json
from runner.store.records import RecordFile

SMALL = {
    "tasks.toml": '[tasks.hello]\nmode = "thread"\n',
    "plugins/hello.py": "from runner import task\n\n\n@task\ndef hello():\n    return 1\n",
}


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A folder with the records of two runs, the faster one last."""
    monkeypatch.chdir(tmp_path)
    for at, (run, seconds) in enumerate({"20261122-090000": 120.0, "20261123-101500": 60.0}.items()):
        RecordFile(Path(".runner"), run).write_record(dump_json(past_runs.past_run(run=run, seconds=seconds)))
        os.utime(f".runner/runs/{run}/record.json", (at, at))
    return tmp_path


def test_the_page_is_written_beside_the_record(kept, capsys):
    report()
    path = Path(capsys.readouterr().out.strip())
    assert path == Path(".runner/runs/20261123-101500/report.html")
    assert "run 20261123-101500" in path.read_text(encoding="utf-8")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir() if one.name.startswith(".")] == []


def test_the_page_goes_where_it_is_wanted(kept, capfdbinary):
    report(run="20261122", html="old.html")
    assert "run 20261122-090000" in Path("old.html").read_text(encoding="utf-8")
    report(html="-")
    assert capfdbinary.readouterr().out.rstrip().endswith(b"</html>")


def test_where_nothing_can_be_written_it_says_so(kept):
    with pytest.raises(UsageError, match=r"no/where\.html: No such file or directory"):
        report(html="no/where.html")
    with pytest.raises(UsageError, match="only one of"):
        report(html="-", as_json=True)
    with pytest.raises(UsageError, match="wants a file"):
        report(html="-", show=True)


def test_a_file_that_is_there_stays_whole_when_writing_fails(tmp_path, monkeypatch):
    target = tmp_path / "page.html"
    target.write_text("old")
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("runner.store.run_folders.os.rename", lambda *_, **__: (_ for _ in ()).throw(full))
    with pytest.raises(UsageError, match="No space left"):
        write_file("new", str(target))
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_it_opens_the_browser(kept, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr("webbrowser.open", lambda url: bool(asked.append(url)))
    report(show=True)
    assert asked == [(kept / ".runner/runs/20261123-101500/report.html").as_uri()]
    assert "no browser could be started" in capsys.readouterr().err


def test_two_runs_are_compared(kept, capsys):
    report(compare="last~1")
    assert "seconds      2m00s   1m00s    -50 %" in capsys.readouterr().out
    assert not list(kept.rglob("*.html"))
    report(compare="last~1", as_json=True, html="both.html")
    found, _, path = capsys.readouterr().out.rpartition("}")
    assert json.loads(found + "}")["before"]["run"] == "20261122-090000"
    assert path.strip() == "both.html"
    assert "Compared with 20261122-090000" in Path("both.html").read_text(encoding="utf-8")


def test_runs_are_counted_back(kept):
    with pytest.raises(UsageError, match=r"only 2 in \.runner have a record"):
        report(run="last~2")
    with pytest.raises(UsageError, match="matches none of them"):
        report(run="last~x")


def test_a_trace_is_written(kept, capsys):
    report(trace="trace.json")
    assert capsys.readouterr().out == "trace.json\n"
    assert json.loads(Path("trace.json").read_text())["otherData"]["run"] == "20261123-101500"
    assert not list(kept.rglob("*.html"))


@pytest.mark.parametrize(
    ("format_", "wanted"),
    [("text", ", 90% busy"), ("mermaid", "90#37; busy"), ("dot", r"90% busy"), ("svg", ">90% busy</text>")],
)
def test_a_past_run_is_drawn_with_its_counts(kept, capsys, monkeypatch, format_, wanted):
    monkeypatch.setenv("COLUMNS", "120")
    graph(run="last", format_=format_)
    assert wanted in capsys.readouterr().out


def test_a_past_run_has_its_own_file(kept):
    with pytest.raises(UsageError, match="takes no FILE"):
        graph(run="last", file="tasks.toml")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: found["series"]["queues"]["paths"].pop(), "series.queues: not one entry for each"),
        (lambda found: found["series"]["workers"]["read"]["read0"][3].pop(), "series.workers: not one entry for each"),
        (lambda found: found.update(seconds=float("nan")), "not a record of a run"),
        (lambda found: found.update(seconds="long"), r"Expected `float`, got `str` - at `\$.seconds`"),
        (lambda found: found.clear(), "missing required field `run`"),
    ],
)
def test_a_record_that_is_none_is_told(kept, change, words):
    path = Path(".runner/runs/20261123-101500/record.json")
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    with pytest.raises(UsageError, match=words):
        report()


def test_a_time_that_no_clock_has_is_not_shown():
    assert page._local_time(1e300) is page._local_time(0.0) is None


# -- at the end of a run ----------------------------------------------------------------------


def test_a_run_leaves_its_page(project):
    made = project(SMALL)
    outcome = made.run("--report", "--html", "here.html")
    assert outcome.exit == 0
    assert "report: here.html" in outcome.err
    assert "hello" in (made.path / "here.html").read_text(encoding="utf-8")
    assert outcome.err.splitlines()[-1].startswith("tasks.toml  ended in"), "the balance comes last"
    outcome = made.run("--report")
    assert list(made.path.glob(".runner/runs/*/report.html"))


def test_a_page_that_cannot_be_is_refused_before_the_run(project):
    made = project(SMALL)
    for args, words in (
        (("--html", "no/where.html"), "the folder no does not exist"),
        (("--html", "-"), "standard output is for what the tasks print"),
        (("--report", "--no-record"), "say where, with --html FILE"),
    ):
        outcome = made.run(*args)
        assert (outcome.exit, words in outcome.err) == (2, True), outcome
        assert "ended in" not in outcome.err


def test_a_page_that_cannot_be_written_after_all_is_told():
    told = write_report(past_runs.past_run(), partial(write_file, to="no/where.html"), quiet=False)
    assert told == "the report could not be written: no/where.html: No such file or directory"


def test_what_draws_pages_is_imported_for_pages_only():
    code = "import sys, runner.cli.run, runner.cli.report, runner.cli.graph"
    code += "; print({'jinja2', 'markupsafe', 'webbrowser'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
