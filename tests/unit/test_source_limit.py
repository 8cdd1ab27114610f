"""`run --limit N`: each source gives its first N items, whatever happens to its workers, and the run ends by itself."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from fake_engine import Script, random_plan, simulate


def check(seed: int) -> None:
    draw = random.Random(f"limit {seed}")
    limit, items = draw.choice([1, 3, 10, 200]), draw.choice([1, 20, 60])
    made = replace(random_plan(seed, attempts=2), limit=limit)
    script = Script(
        seed,
        cost=draw.choice([0.00001, 0.01]),
        spread=draw.choice([1, 3]),
        kills=draw.choice([0, 0.03]),
        random_deaths=draw.choice([0, 0.2]),
        source_deaths=draw.choice([0, 0, 0.3]),
    )
    result, _, supervisor, _ = simulate(made, script, items)
    assert result.exit_code in {0, 4}, f"seed {seed}: {result}"
    assert not result.headline.left
    for name, task in made.tasks.items():
        if not task.config.inputs:
            there_are = items * len(task.config.workers)
            assert supervisor.ledger.source_items[name] == min(limit, there_are), f"seed {seed}: {name}"
            assert (name in result.ended.unfinished) or limit >= there_are


@pytest.mark.parametrize("seed", range(12))
def test_each_source_gives_its_first_items(seed: int) -> None:
    check(seed)


@pytest.mark.slow
def test_in_many_schedules() -> None:
    for seed in range(100, 600):
        check(seed)
