"""The task functions of bench.limit: they wait, or they compute. Light, because workers import it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def compute(seconds: float) -> None:
    """So much processor time of this thread, with the interpreter held: what else the machine does costs time only."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def read(items: int, wait: float = 0.0) -> Iterator[int]:
    """A source."""
    for item in range(items):
        if wait:
            time.sleep(wait)
        yield item


def step(item: int, wait: float = 0.0, cpu: float = 0.0) -> int:
    """A transform."""
    if wait:
        time.sleep(wait)
    if cpu:
        compute(cpu)
    return item


def save(item: int, wait: float = 0.0, cpu: float = 0.0) -> None:
    """A sink."""
    step(item, wait, cpu)


async def fetch(item: int, wait: float) -> int:
    """A transform that waits together with others."""
    await asyncio.sleep(wait)
    return item
