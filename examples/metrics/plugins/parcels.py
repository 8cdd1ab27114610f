"""A job that goes on for a while, and in which something goes wrong now and then."""

from __future__ import annotations

import time
from collections.abc import Iterator

from runner import Reject, task


@task
def arrive(*, parcels: int) -> Iterator[int]:
    yield from range(1, parcels + 1)


@task
def weigh(parcel: int, *, seconds: float) -> int:
    if parcel % 50 == 0:
        raise Reject("no label on it")
    time.sleep(seconds)
    return parcel


@task
def load(parcel: int) -> int:
    time.sleep(0.001)
    return parcel
