"""The stage of the tutorial: a dancer and a singer perform side by side, each in a process of its own."""

from __future__ import annotations

import os
import time

from runner import task


@task
def dance(times: int, *, seconds: float = 0.1) -> None:
    """Dance `times` times, `seconds` each."""
    perform("dancing", times, seconds)


@task
def sing(times: int, *, seconds: float = 0.1) -> None:
    """Sing `times` times, `seconds` each."""
    perform("singing", times, seconds)


def perform(what: str, times: int, seconds: float) -> None:
    """Say who performs where: the parent of a worker is not the main process, so runner tells its own pid."""
    main = os.environ.get("RUNNER_PID", "unknown")
    for number in range(1, times + 1):
        print(f"{what} {number} of {times}, pid {os.getpid()}, main pid {main}")
        time.sleep(seconds)
