"""The benchmark suite's own machinery: accounting, checking, tables. No assertion on speed."""

from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
import time

import pytest
from helpers import ROOT

from bench import durable, faults, files, functions, kills, measure, peers, suite, table
from bench.kinds import Outcome, Row, Workload, rate
from bench.workloads import MODULES, find


@pytest.mark.parametrize("module", [durable, faults, files, functions, kills, peers, table])
def test_doctests(module):
    touch = functions.Warm.touch
    try:
        assert doctest.testmod(module).failed == 0
    finally:
        functions.Warm.touch = touch


@pytest.mark.parametrize("name", MODULES)
def test_every_workload_is_whole(name):
    workload = find(name)
    assert len({row.name for row in workload.rows}) == len(workload.rows)
    assert not workload.limit or workload.row(workload.limit)
    assert all(bool(row.run) + bool(row.toml) + bool(row.command) == 1 for row in workload.rows)
    assert any(row.toml for row in workload.rows)


def script(text):
    return [sys.executable, "-c", text]


def test_what_a_command_did(tmp_path):
    hog = "import time; held = bytearray(60 << 20); [None for _ in iter(lambda: time.process_time() > 0.3, True)]"
    text = f"""
import subprocess, sys
from bench.stamps import stamp
stamp("began")
subprocess.run([sys.executable, "-c", {hog!r}])
stamp("ended")
"""
    outcome = measure.run(script(text), tmp_path / "stamps", 20)
    assert outcome.exit == 0
    assert outcome.orphans == 0
    assert outcome.cpu >= 0.3
    assert outcome.wall >= outcome.between() >= 0.3
    assert outcome.peak > 60 << 20 > outcome.main_peak
    assert outcome.pss == 0 or outcome.peak > outcome.pss > 30 << 20  # 0 where the kernel does not tell


def test_what_is_left_behind_is_counted_and_ended(tmp_path):
    text = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)"
    outcome = measure.run(script(text), tmp_path / "stamps", 20)
    assert (outcome.exit, outcome.orphans) == (0, 1)
    with pytest.raises(ProcessLookupError):
        os.kill(int(outcome.output), 0)


def test_a_time_limit_ends_the_whole_tree(tmp_path):
    text = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    began = time.monotonic()
    outcome = measure.run(script(text), tmp_path / "stamps", 0.5)
    assert outcome.exit == "no end after 0.5 s"
    assert time.monotonic() - began < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int(outcome.output), 0)


def workload(rows, check=lambda outcome, count: None, **more):
    given = {"items": 1000, "quick": 100, "figure": rate, "limit": "limit", "unit": "items/s"}
    return Workload("mine", "Mine", "about it", rows=tuple(rows), check=check, **(given | more))


def scripted(name, seconds="0.01", **more):
    text = f"from bench.stamps import stamp; import time; stamp('began'); time.sleep({seconds}); stamp('ended')"
    return Row(name, command=script(text), **more)


def test_a_sheet(tmp_path):
    rows = [scripted("limit"), scripted("slow", "0.05"), scripted("absent", needs=("no_such_package",))]
    failing = Row("failing", command=script("raise SystemExit('it is | broken')"))
    sheet = suite.measured(workload([*rows, failing]), 2, quick=True)
    limit, slow, absent, broken = sheet["lines"]
    assert len(limit["figures"]) == 2
    assert limit["ratio"] == 1
    assert slow["ratio"] < 1
    assert absent["problem"] == "no_such_package: not installed"
    assert broken["problem"] == "exit 1; it is | broken"
    text = table.document([json.loads(json.dumps(sheet))])
    assert "| limit | " in text
    assert "it is / broken" in text
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {12}


def test_wrong_results_are_no_figure():
    row = Row("wrong", run=print)
    wrong = suite.wrong_with(workload([row], check=lambda *_: "two are missing"), row, Outcome(1, 1, 1, 1, 0), 5)
    assert wrong == "two are missing"
    assert "no stamp 'ended'" in suite.wrong_with(find("small"), row, Outcome(1, 1, 1, 1, 0), 5)


def test_only_the_part_between_the_marks_is_replaced(tmp_path):
    file = tmp_path / "performance.md"
    file.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.write(file, "new\n")
    assert file.read_text() == f"before\n{table.BEGIN}\n\nnew\n\n{table.END}\nafter\n"


@pytest.mark.slow
def test_runner_and_a_peer_come_to_the_same_results():
    small = find("small")
    for row in (small.row("runner"), small.row(small.limit)):
        outcome = measure.contender(small, row, 2000, timeout=60)
        assert suite.wrong_with(small, row, outcome, 2000) == "", outcome.output
        assert small.figure(outcome, 2000) > 0


def test_chunks_go_through_a_ledger_on_disk_and_through_a_peer(tmp_path):
    line = durable.LedgerLine(tmp_path / "ledger")
    assert line.hop(b"payload", 3, 20, under_way=4) > 0
    assert line.ledger.subscriptions[0].counts.done == 60
    durable.by_hand(tmp_path, 5)
    assert durable.open_seconds(tmp_path / "owed") > 0


FORM = kills.Form("numbers", "call", "thread", "1", ordered=False, copied=True, fails=True, commit_seconds=0.0)


def written_run(folder, **files):
    """What a run of that form leaves, with some files changed."""
    good = {name: [str(number) for number in sorted(numbers)] for name, numbers in FORM.expected.items()}
    good["executed"] = [f"run:1.{number} {number}" for number in range(kills.COUNT)]
    for name, lines in good.items():
        key = name.partition(".")[0]
        changed = files.get(key, list)(lines)
        (folder / name).write_text("".join(f"{line}\n" for line in changed))
    tally = kills.Tally()
    kills._count(FORM, folder, tally)
    return tally


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, {}),
        ({"out": lambda lines: lines[1:]}, {"lost": 1}),
        ({"bad": lambda lines: lines[:-2]}, {"lost": 2}),
        ({"copy": lambda lines: [*lines, lines[-1]]}, {"twice": 1}),
        ({"out": lambda lines: [*lines, "3"]}, {"twice": 1, "disorder": 1}),
        ({"out": lambda lines: [lines[1], lines[0], *lines[2:]]}, {"disorder": 1}),
        ({"executed": lambda lines: [*lines, lines[5]]}, {}),
        ({"executed": lambda lines: [*lines, "run:1.5 6"]}, {"ids": 1}),
    ],
)
def test_what_kills_are_said_to_do(tmp_path, files, expected):
    tally = written_run(tmp_path, **files)
    found = {name: getattr(tally, name) for name in ("lost", "twice", "ids", "disorder")}
    assert {name: count for name, count in found.items() if count} == expected
    assert tally.is_good == (not expected)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(1, 5))
def test_a_thousand_kills_lose_nothing(tmp_path, seed):
    """Each of four tests has 250, so that the workers of the session share them."""
    told = subprocess.run(
        [sys.executable, "-m", "bench.kills", "--kills", "250", "--jobs", "3", "--seed", str(seed)],
        cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stdout + told.stderr
    both = next(line for line in told.stdout.splitlines() if line.startswith("| both"))
    counts = [int(cell.replace(",", "")) for cell in both.split("|")[2:-1]]
    assert counts[0] == 250
    assert counts[1] > 100, "most of them while it executed"
    assert counts[4:] == [0] * 5
