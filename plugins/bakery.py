"""The bakery of the tutorial: bakers put loaves on a queue, eaters buy them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import current_thread

from runner import task


@task
def bake(*, count: int = 10, seconds: float = 0.1) -> Iterator[str]:
    """Bake `count` loaves, one every `seconds`; a loaf bears its baker's name and a number."""
    baker = current_thread().name
    for number in range(count):
        time.sleep(seconds)
        loaf = f"{baker}{number}"
        print(f"{baker} baked {loaf}")
        yield loaf


@task
def eat(loaf: str, *, seconds: float = 0.1) -> None:
    """Buy one loaf and eat it, which takes `seconds`."""
    print(f"{current_thread().name} bought {loaf}")
    time.sleep(seconds)
