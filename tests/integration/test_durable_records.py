"""The record of a durable run is that of all its lives; and no content of it keeps the run from going on."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from integration.test_durable import Durable, line, numbers

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
    for start in (sum(seconds[:1]), sum(seconds[:2]), sum(seconds[:3])):
        assert min(abs(start - each) for each in at) < 0.2, "a life begins with what was done before"
    begins = [moment["text"] for moment in record["moments"] if moment["kind"] == "life"]
    assert [text.partition(" with ")[0] for text in begins] == ["life 2 begins", "life 3 begins", "life 4 begins"]
    assert sum(moment["kind"] == "task" for moment in record["moments"]) > 8, "also of the life that ended with Ctrl-C"
    listed = made.project.run("runs", verb="list").out
    assert " in 4 lives " in listed
    page = made.project.run("--html", "-", verb="report").out
    assert '<h2 id="lives">Lives</h2>' in page
    assert '"lives":[[' in page


@pytest.mark.parametrize(
    "content", [None, "", '{"version": 1}', '{"run": "another", "title": "", "version": 1}', "[" * 100_000]
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
    assert after["series"]["at"][: len(record["series"]["at"])] == record["series"]["at"]
    assert after["series"]["done"]["work"][-1] == 1200


def forget_lives(folder: Path) -> None:

    with closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as database:
        assert database.execute("DELETE FROM meta WHERE key = 'lives'").rowcount == 1
