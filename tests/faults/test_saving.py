"""Sinks and transforms in processes that keep their place: a killed one's successor goes on there.

A file then has each item once, however often its worker was killed, and whether before, amid or after a write.
"""

from __future__ import annotations

import csv
import json
import random
from typing import TYPE_CHECKING, Any

import pytest
from faults import saving, sources
from faults.harness import plan, run, task
from faults.sinks import collector

from runner import events
from runner.model import Lifespan, QueueConfig

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("fork_server")

COUNT = 2000


def deaths_of(seed: object, count: int = COUNT, times: int = 6) -> tuple[int, ...]:
    return tuple(random.Random(repr(seed)).sample(range(count), times))


def file_run(sink: Any, source: Any, folder: Path, deaths: tuple[int, ...], with_: Any = None, **options: Any) -> Any:
    made = plan(
        [
            task("source", source, outputs="a", args=(COUNT, folder, ()), mode="thread"),
            task("sink", sink, "a", args=(str(folder / "out"), folder, deaths), with_=with_, **options),
        ],
        {"a": QueueConfig("a", size=300)},
    )
    return run(made)


def numbers_in(path: Path, form: str) -> list[int]:
    if form == "lines":
        return [int(line) for line in path.read_text().splitlines()]
    if form == "jsonl" or form == "batches":
        return [json.loads(line)["number"] for line in path.read_text().splitlines()]
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    if form == "csv":
        assert rows.pop(0) == ["number", "tags"]
    return [int(row[0]) for row in rows]


FORMS: dict[str, tuple[Any, Any, Any]] = {
    "lines": (saving.Lines, sources.numbers, {}),
    "jsonl": (saving.Jsonl, sources.dicts, {}),
    "csv": (saving.Csv, sources.dicts, {}),
    "csv without a header": (saving.Csv, sources.dicts, {"header": False}),
}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))])
@pytest.mark.parametrize("form", FORMS)
def test_a_file_has_each_item_once(form: str, seed: int, tmp_path: Path) -> None:
    sink, source, with_ = FORMS[form]
    deaths = deaths_of((form, seed))
    outcome = file_run(sink, source, tmp_path, deaths, with_)
    assert outcome.result.exit_code == 0, outcome.result
    assert len(outcome.of(events.WorkerDied)) == len(deaths)
    assert sorted(numbers_in(tmp_path / "out", form)) == list(range(COUNT))
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith("died")} == {"out"}


def test_batches(tmp_path: Path) -> None:
    deaths = (0, 700, 1400)
    outcome = file_run(saving.Batches, sources.dicts, tmp_path, deaths, batch=100)
    assert outcome.result.exit_code == 0, outcome.result
    assert sorted(numbers_in(tmp_path / "out", "batches")) == list(range(COUNT))


def test_a_worker_that_is_replaced_has_renamed_its_file_and_the_next_one_goes_on_with_it(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("what was there before\n")
    outcome = file_run(saving.Lines, sources.numbers, tmp_path, (1000,), lifespan=Lifespan(items=300))
    assert outcome.result.exit_code == 0, outcome.result
    assert sorted(numbers_in(tmp_path / "out", "lines")) == list(range(COUNT))


def test_a_part_that_was_taken_away_ends_the_task(tmp_path: Path) -> None:
    def take_away(event: events.Event) -> None:
        if isinstance(event, events.WorkerDied):
            (tmp_path / ".out.part").unlink()

    made = plan(
        [
            task("source", sources.numbers, outputs="a", args=(COUNT, tmp_path, ()), mode="thread"),
            task("sink", saving.Lines, "a", args=(str(tmp_path / "out"), tmp_path, (COUNT - 1,))),
        ],
        {"a": QueueConfig("a", size=10)},
    )
    outcome = run(made, on_event=take_away)
    assert outcome.result.exit_code == 1
    assert "what an earlier worker of this run has written is gone" in outcome.result.tasks["sink"].why
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seed", range(3))
def test_a_state_of_its_own(seed: int, tmp_path: Path) -> None:
    collected: list[Any] = []
    deaths = deaths_of(seed, times=4)
    made = plan(
        [
            task("source", sources.numbers, outputs="a", args=(COUNT, tmp_path, ()), mode="thread"),
            task("sum", saving.Summing, "a", "b", args=(tmp_path, deaths), ordered=True),
            collector(collected, "b"),
        ],
        {"a": QueueConfig("a", size=100), "b": QueueConfig("b", size=100)},
    )
    outcome = run(made, collected)
    assert outcome.result.exit_code == 0, outcome.result
    assert len(outcome.of(events.WorkerDied)) == len(deaths)
    assert max(collected) == sum(range(COUNT)), "each item was added once"
    assert len(collected) == COUNT


def test_a_loop_over_an_inbox(tmp_path: Path) -> None:
    made = plan(
        [
            task("source", sources.numbers, outputs="a", args=(COUNT, tmp_path, ()), mode="thread"),
            task("sum", saving.Looping, "a", args=(tmp_path, deaths_of("loop", times=4))),
        ],
        {"a": QueueConfig("a", size=100)},
    )
    outcome = run(made)
    assert outcome.result.exit_code == 0, outcome.result
    assert (tmp_path / "total").read_text() == str(sum(range(COUNT)))


@pytest.mark.parametrize(
    ("sink", "why"),
    [
        (saving.Failing, "OSError: the disk is full"),
        (saving.TooMuch, "ValueError: a place to go on from has at most 4,096 bytes of JSON"),
        (saving.Async, "TypeError: `save` is for items that are done one after another"),
    ],
)
def test_what_save_does_wrong_is_said(sink: Any, why: str, tmp_path: Path) -> None:
    made = plan([task("source", sources.numbers, outputs="a", args=(10, tmp_path, ())), task("sink", sink, "a")])
    outcome = run(made)
    assert outcome.result.exit_code == 1
    assert why in outcome.result.tasks["sink"].why


def test_a_save_that_takes_something_is_not_meant(tmp_path: Path) -> None:
    source = task("source", sources.numbers, outputs="a", args=(10, tmp_path, ()))
    assert run(plan([source, task("sink", saving.Unrelated, "a")])).result.exit_code == 0
