"""The record of a durable run is that of all its lives; and no content of it keeps the run from going on."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from integration.test_durable import LETTERS, Durable, line, numbers, slow
from topology_runs import wait_for

from runner.report import record_builder as folding
from runner.store.durable_folder import DurableFolder
from runner.supervisor.resume import MessagePacker

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 2400


def lives_of(record: dict[str, Any]) -> list[tuple[int, str]]:
    return [(life["done_before"], life["end"]) for life in record["lives"]]


def killed(made: Durable, size: int, verb: str = "run", number: int = signal.SIGKILL) -> Any:
    outcome = made.go(verb, lambda: made.size_of("out.txt") >= size, number)
    assert outcome.exit in {-signal.SIGKILL, 130}, outcome
    return outcome


def record_of(made: Durable) -> Path:
    (path,) = made.path.glob(".runner/runs/*/record.json")
    return path


@pytest.mark.slow
def test_a_run_that_is_killed_and_resumed_three_times_has_four_lives_in_its_record(project: Any) -> None:
    made = Durable(project, line(count=COUNT), COUNT)
    killed(made, 100)
    killed(made, 2000, "resume")
    killed(made, 4000, "resume", signal.SIGINT)
    outcome = made.go("resume")
    assert outcome.exit == 0, outcome
    balance = f"{COUNT:,} read = {COUNT:,} done + 0 dead + 0 dropped + 0 left"
    assert balance in outcome.err
    record = made.project.run("--json", verb="report").json
    before, ends = zip(*lives_of(record), strict=True)
    assert [end.partition(" after ")[0] for end in ends[:2]] == ["killed at an unknown moment"] * 2
    assert ends[2:] == ("Ctrl-C", "ended")
    assert list(before) == sorted(before)
    assert before[0] == 0
    assert 0 < before[1] < before[3] < COUNT
    seconds = [life["seconds"] for life in record["lives"]]
    assert record["seconds"] == pytest.approx(sum(seconds), abs=0.01)
    assert record["began"] == pytest.approx(record["lives"][0]["began"])
    told = re.search(r"life 4 of this run, \S+ in all: ([\d,]+) done before it\n", outcome.err)
    assert told, outcome
    assert int(told[1].replace(",", "")) == before[3]
    done = {task["name"]: (task["taken"], task["sent"]) for task in record["tasks"]}
    assert done == {"numbers": (0, COUNT), "work": (COUNT, COUNT), "sink": (COUNT, 0)}
    assert {key: record["balance"][key] for key in ("read", "done", "left")} == {
        "read": COUNT,
        "done": COUNT,
        "left": 0,
    }
    at, sent = record["series"]["at"], record["series"]["done"]["work"]
    assert at == sorted(set(at))
    assert at[-1] == pytest.approx(record["seconds"], abs=0.5)
    assert list(sent) == sorted(sent)
    assert sent[-1] == COUNT
    for start in (sum(seconds[:2]), sum(seconds[:3])):
        assert min(abs(start - each) for each in at) < 0.2, "a life begins with what was done before"
    begins = [moment["text"] for moment in record["moments"] if moment["kind"] == "life"]
    assert [text.partition(" with ")[0] for text in begins][-2:] == ["life 3 begins", "life 4 begins"]
    assert sum(moment["kind"] == "task" for moment in record["moments"]) > 8, "also of the life that ended with Ctrl-C"
    listed = made.project.run("runs", verb="list").out
    assert " in 4 lives " in listed
    page = made.project.run("--html", "-", verb="report").out
    assert '<h2 id="lives">Lives</h2>' in page
    assert '"lives":[[' in page


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, *map(slow, [None, "", '{"version": 1}', '{"run": "another", "title": "", "version": 1}'])],
)
def test_a_record_that_is_missing_or_damaged_begins_anew_and_the_run_goes_on(project: Any, content: str | None) -> None:
    made = Durable(project, line(count=400), 400)
    killed(made, 10)
    path = record_of(made)
    path.unlink() if content is None else path.write_text(content)
    outcome = made.go("resume")
    assert outcome.exit == 0, outcome
    assert sorted(made.lines(), key=int) == numbers(400)
    record = made.project.run("--json", verb="report").json
    assert len(record["lives"]) == 2, "the ledger knows"
    notices = {moment["text"]: moment["at"] for moment in record["moments"] if moment["kind"] == "notice"}
    (why,) = [text for text in notices if text.startswith("the record of the earlier lives cannot be read, and begins")]
    assert set(notices.values()) == {record["lives"][0]["seconds"]}, f"also what is told before it begins; {why}"


@pytest.mark.slow
def test_a_record_and_a_ledger_without_lives_are_continued(project: Any) -> None:
    """As an earlier version of runner has written them."""
    made = Durable(project, line(count=1200), 1200)
    killed(made, 100, number=signal.SIGINT)
    path = record_of(made)
    record = json.loads(path.read_text())
    (life,) = record.pop("lives")
    path.write_text(json.dumps(record))
    forget_lives(path.parent)
    outcome = made.go("resume")
    assert outcome.exit == 0, outcome
    after = made.project.run("--json", verb="report").json
    assert after["began"] == pytest.approx(record["began"])
    assert [end for _, end in lives_of(after)] == ["not known", "ended"]
    assert after["lives"][0]["seconds"] == pytest.approx(life["seconds"], abs=0.01)
    at = record["series"]["at"]
    assert after["series"]["at"][: len(at)] == pytest.approx(at, abs=folding.MIN_GAP)
    assert after["series"]["done"]["work"][-1] == 1200


def forget_lives(folder: Path) -> None:

    with closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as database:
        assert database.execute("DELETE FROM meta WHERE key = 'lives'").rowcount == 1


@pytest.mark.slow
def test_params_of_a_resume_are_kept_for_the_next_one(project: Any) -> None:
    """The last one given wins; `--halt` and its like are for one time, except those of the command that began it."""
    text = line(count=3000).replace("[tasks.work]", '[tasks.work]\nwith = { seconds = "${seconds}" }')
    head = '[params]\nseconds = 0.001\nother = "a"\ntoken = { default = "none", secret = true }\n'
    made = Durable(project, head + text, 3000)
    running = made.project.start("--progress", "none", "-p", "other=b", "--halt", "7", "tasks.toml")
    given = [("resume", ("-p", "seconds=0.002", "-p", "token=swordfish", "--deadline", "500s"))]
    given += [("resume", ("--set", "tasks.work.workers=3", "-p", "token=swordfish")), ("resume", ("-p", "token=x"))]
    for size, (verb, args) in zip((100, 2000, 4000), given, strict=True):
        wait_for(lambda size=size: made.size_of("out.txt") > size)
        running.process.kill()
        running.finish()
        for page in made.path.glob(".runner/runs/*/cells"):
            page.unlink()
        assert not any(
            b"swordfish" in path.read_bytes() for path in (made.path / ".runner").rglob("*") if path.is_file()
        )
        if verb == "resume" and "-p" in args:
            running = made.project.start("--progress", "none", *args, verb=verb)
    wait_for(lambda: made.size_of("out.txt") > 5000)
    command = json.loads(noted(record_of(made).parent, "command"))
    assert command["params"] == {"other": "b", "seconds": "0.002"}
    assert sorted(map(tuple, command["sets"])) == [("run.halt", "7"), ("tasks.work.workers", "3")]
    assert command["withheld"] == ["-p token"]
    outcome = running.finish()
    assert outcome.exit == 0, outcome
    assert "changed since the last time" not in outcome.err
    assert sorted(made.lines(), key=int) == numbers(3000)


def noted(folder: Path, key: str) -> str:
    with closing(sqlite3.connect(f"file:{folder}/ledger.db?mode=ro", uri=True)) as database:
        return str(database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0])


@pytest.mark.slow
def test_a_run_whose_letters_all_went_into_a_queue_keeps_no_ledger(project: Any) -> None:
    made = Durable(project, LETTERS.replace("count = 1000", "count = 100"), 100)
    outcome = made.go("run")
    assert outcome.exit == 4, outcome
    assert len(made.lines("bad.jsonl")) == 50
    assert not made.runs()
    again = made.go("resume")
    assert again.exit == 2, "no run has a ledger"
    again = made.project.run(record_of(made).parent.name, verb="resume")
    assert again.exit == 4, again
    assert "nothing is left of run" in again.err
    assert "100 read = 50 done + 50 dead" in again.err


def test_a_run_that_was_killed_before_it_began_is_not_gone_on_with_and_hinders_no_other(project: Any) -> None:
    made = Durable(project, line(count=3), 3)
    DurableFolder(made.path / ".runner", "20261130-120000-0000000000000001", MessagePacker(), is_new=True).close()
    outcome = made.go("resume")
    assert outcome.exit == 3, outcome
    assert "was ended before it began: there is nothing to go on with" in outcome.err
    assert made.project.run("--resume").exit == 0
    assert sorted(made.lines()) == numbers(3)
