"""All features in random combination, in one generator: nothing is lost, counted twice or out of order, drops are exact."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import schedules

from runner.check import check_file
from runner.config import examine

if TYPE_CHECKING:
    from pathlib import Path

    from runner.supervisor.plan import Plan, TaskPlan

#: The slow set has so many schedules, in so many tests.
SEEDS, BLOCKS = 20_000, 80
#: Seeds that have shown something, or that were not as the oracle expected: a task that ends because nobody reads on
#: gives to its neighbour what its order held back (a durable run).
TELLING = (13_906,)
#: Seeds of the default set.
QUICK = 40


def test_everything_meets_and_nothing_is_lost() -> None:
    found = sum(map(schedules.check, range(QUICK)), Counter())
    assert min(found[word] for word in ("dropped", "begun", "changes", "crashes", "cut")) > 3, found


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("block", range(BLOCKS))
def test_many_more_schedules(block: int) -> None:
    for seed in range(1000 + block * SEEDS // BLOCKS, 1000 + (block + 1) * SEEDS // BLOCKS):
        schedules.check(seed)


@pytest.mark.parametrize("seed", TELLING)
def test_what_was_told_apart_by_hand(seed: int) -> None:
    schedules.check(seed)


def test_any_two_features_meet() -> None:
    """Of the schedules of the slow set, any two words that may meet do so in some hundred."""
    pairs: Counter[tuple[str, str]] = Counter()
    for seed in range(1000, 1400):
        words = sorted(schedules.features_of(schedules.draw_schedule(seed)))
        pairs.update((one, other) for at, one in enumerate(words) for other in words[at + 1 :])
    words = sorted({word for pair in pairs for word in pair})
    never = {
        f"{one}, {other}" for at, one in enumerate(words) for other in words[at + 1 :] if not pairs[one, other]
    }  # a run ends in one way, and only a run that lives once has machines
    assert never == NEVER


NEVER = {"with cut, with lives", "with cut, with whole", "with lives, with whole", "with lives, with machines"}


# -- what is drawn is what `runner check` lets through --------------------------------------------


def write_task(each: TaskPlan) -> str:
    """A task as its file says it; what only its function decides is left out."""
    config = each.config
    ports = {port.name: list(port.queues) for port in config.ports}
    keys: dict[str, Any] = {
        "call": "x:y",
        "mode": each.mode,
        "inputs": list(config.inputs),
        "workers": f"{config.least_workers}..{len(config.workers)}" if config.least_workers else len(config.workers),
        "attempts": config.attempts,
    }
    keys |= {"ordered": True} if config.ordered else {}
    keys |= {"batch": config.batch.items} if config.batch else {}
    keys |= {"dead": config.dead} if config.dead else {}
    keys |= {"timeout": "20s"} if config.timeout else {}
    keys |= {"on_error": config.on_error} if config.inputs else {}
    keys |= {"concurrency": config.concurrency} if each.is_async else {}
    text = f"[tasks.{config.name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
    if config.after:
        text += f"after = {{ {', '.join(f'{name} = {json.dumps(state)}' for name, state in config.after.items())} }}\n"
    if ports:
        text += f"outputs = {{ {', '.join(f'{name} = {json.dumps(found)}' for name, found in ports.items())} }}\n"
    return text


def write_file(made: Plan) -> str:
    """A topology as a file."""
    text = "[run]\n\n"
    for name, queue in made.queues.items():
        keys = {"size": queue.size, "full": queue.full, "order": queue.order}
        keys |= {key: getattr(queue, key) for key in ("lane", "fanout", "loop") if getattr(queue, key)}
        text += f"[queues.{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
    return text + "\n".join(map(write_task, made.tasks.values()))


def refusals(folder: Path, text: str) -> set[str]:
    """The codes of the errors of a file."""
    (folder / "tasks.toml").write_text(text)
    return {
        each.code + ": " + each.message
        for each in check_file(examine(folder / "tasks.toml"))
        if each.severity == "error"
    }


def test_what_is_drawn_is_what_check_lets_through(tmp_path: Path) -> None:
    for seed in range(150):
        text = write_file(schedules.draw_schedule(seed).made)
        assert not (found := refusals(tmp_path, text)), f"seed {seed}: {found}\n{text}"


@pytest.mark.parametrize(
    ("queue", "task"),
    [
        ('order = "lifo"', "ordered = true"),
        ('order = "priority"', "ordered = true"),
        ('lane = "x"', "ordered = true"),
        ('lane = "x"\norder = "lifo"', ""),
        ('lane = "x"\norder = "priority"', ""),
        ('lane = "x"\nfull = "drop-old"', ""),
        ('loop = true\nfull = "drop-new"', 'outputs = "q"'),
    ],
)
def test_what_is_not_drawn_is_what_check_refuses(tmp_path: Path, queue: str, task: str) -> None:
    head = '[queues.q]\n{}\n[tasks.make]\ncall = "x:y"\noutputs = "q"\n[tasks.eat]\ncall = "x:y"\ninputs = "q"\n{}\n'
    assert refusals(tmp_path, head.format(queue, task))
