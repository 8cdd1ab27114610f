"""Dead items of a durable run: `dead retry` gives them again from the ledger, in the same run."""

from __future__ import annotations

import json
from typing import Any

import pytest
from integration.test_durable import Durable, line, numbers

TEXT = line(count=1000).replace("[tasks.work]", '[tasks.work]\ncall = "${which}"')
PARAM = '[params.which]\ndefault = "odd"\n'
EVEN = [str(number) for number in range(0, 1000, 2)]


def dead_run(project: Any) -> Durable:
    made = Durable(project, PARAM + TEXT, 1000)
    outcome = made.go("run")
    assert outcome.exit == 4, outcome
    assert sorted(made.lines(), key=int) == EVEN
    return made


def command(made: Durable, *args: str, verb: str = "dead") -> Any:
    return made.project.run(*args, verb=verb)


@pytest.mark.slow
def test_dead_items_are_given_again_in_the_same_run(project: Any) -> None:
    made = dead_run(project)
    (run,) = made.runs()
    assert "500 into a for work" in command(made, "retry", "--dry-run").out.replace(" items", "")
    outcome = command(made, "retry", "--error", "odd: [0-9]$", "-p", "which=work", "--progress", "none")
    assert outcome.exit == 4, outcome
    assert "1,000 read = 505 done + 495 dead + 0 dropped + 0 left" in outcome.err
    assert sorted(made.lines(), key=int) == sorted([*EVEN, *"13579"], key=int)
    assert "495 dead: runner dead list last" in outcome.err
    listed = command(made, "list", "--limit", "0").out.splitlines()
    assert len([text for text in listed if "ValueError" in text]) == 495 + 1, "and one for their kind"
    outcome = command(made, "retry", "-p", "which=work", "--progress", "none")
    assert outcome.exit == 0, outcome
    assert "1,000 read = 1,000 done + 0 dead" in outcome.err
    assert sorted(made.lines(), key=int) == numbers(1000)
    assert made.runs() == [], "nothing is left, so the ledger is gone"
    assert not (made.path / ".runner" / "runs" / run / "dead.jsonl").exists()


@pytest.mark.slow
def test_what_is_dead_again_is_one_letter(project: Any) -> None:
    made = dead_run(project)
    outcome = command(made, "retry", "--error", "odd: 7$", "--progress", "none")
    assert outcome.exit == 4, outcome
    exported = [json.loads(text) for text in command(made, "export").out.splitlines()]
    assert sorted(each["item"] for each in exported) == list(range(1, 1000, 2))


@pytest.mark.slow
def test_a_retry_that_is_killed_goes_on_and_nothing_is_given_twice(project: Any) -> None:
    made = dead_run(project)
    running = made.project.start("retry", "-p", "which=work", "--progress", "none", verb="dead")
    size = made.size_of("out.txt")
    while running.process.poll() is None and made.size_of("out.txt") <= size + 100:
        pass
    running.process.kill()
    running.finish()
    outcome = made.project.run("--progress", "none", "-p", "which=work", verb="resume")
    assert outcome.exit == 0, outcome
    assert "1,000 read = 1,000 done" in outcome.err
    assert sorted(made.lines(), key=int) == numbers(1000)


@pytest.mark.slow
def test_a_file_that_does_not_fit_is_refused_and_leaves_all_as_it_was(project: Any) -> None:
    made = dead_run(project)
    file = made.path / "tasks.toml"
    text = file.read_text()
    file.write_text(text.replace("[tasks.work]", "[tasks.other]"))
    outcome = command(made, "retry", "--progress", "none")
    assert outcome.exit == 3, outcome
    assert "task `work` does not read queue `a` any more (500 items)" in outcome.err
    file.write_text(text)
    outcome = command(made, "retry", "-p", "which=work", "--progress", "none")
    assert outcome.exit == 0, outcome


@pytest.mark.slow
def test_a_queue_cannot_begin_to_carry_dead_letters(project: Any) -> None:
    """Its letters would be counted twice: where the items died, and here."""
    made = dead_run(project)
    file = made.path / "tasks.toml"
    text = file.read_text().replace('outputs = "b"', 'outputs = "c"\ndead = "b"').replace("b = {}", "b = {}\nc = {}")
    file.write_text(text + '[tasks.other]\ncall = "only"\ninputs = "c"\n')
    outcome = command(made, "retry", "--progress", "none")
    assert outcome.exit == 3, outcome
    assert "queue `b` has carried no dead letters" in outcome.err
