"""The price of an Asian option (the right to the average price of a year), by simulated years."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from random import Random

from runner import Context, task

Sums = tuple[int, float, float]  # years, payoffs, their squares

PRICE, STRIKE, DRIFT, SWING = 100.0, 100.0, 0.05, 0.2


@task
def chunks(context: Context, *, count: int, seed: int) -> Iterator[str]:
    """A seed for each chunk, so that a chunk gives the same numbers whenever and wherever it is simulated."""
    for chunk in range(context.saved or 0, count):
        yield f"{seed}/{chunk}"
        context.save(chunk + 1)
        context.progress(chunk + 1, count)


@task
def simulate(seed: str, *, years: int) -> Sums:
    """Simulate so many years of 12 months."""
    chance = Random(seed)
    month = 1 / 12
    drift, swing = (DRIFT - SWING**2 / 2) * month, SWING * math.sqrt(month)
    total = squares = 0.0
    for _ in range(years):
        price, prices = PRICE, 0.0
        for _ in range(12):
            price *= math.exp(drift + swing * chance.gauss(0, 1))
            prices += price
        payoff = max(prices / 12 - STRIKE, 0.0) * math.exp(-DRIFT)
        total += payoff
        squares += payoff**2
    return years, total, squares


@task
class Estimate:
    """Adds chunks up. Its sums are saved with the ledger, so that no chunk counts twice, or not at all."""

    def __init__(self, context: Context, *, out: str) -> None:
        self.out = Path(out)
        saved: Sums = context.saved or (0, 0.0, 0.0)
        self.years, self.total, self.squares = saved

    def __enter__(self) -> "Estimate":
        return self

    def __call__(self, sums: Sums) -> None:
        self.years += sums[0]
        self.total += sums[1]
        self.squares += sums[2]

    def save(self) -> Sums:
        return self.years, self.total, self.squares

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None and self.years:
            self.out.write_text(json.dumps(estimate(self.save())) + "\n")


def estimate(sums: Sums) -> dict[str, float]:
    years, total, squares = sums
    mean = total / years
    return {"years": years, "price": mean, "error": math.sqrt((squares / years - mean**2) / years)}
