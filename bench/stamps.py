"""How the measured processes report: they append moments to a file. Every worker imports this, so it is light."""

from __future__ import annotations

import json
import os
import time

#: The environment variable that names the file.
STAMPS = "BENCH_STAMPS"


def stamp(event: str, **values: object) -> None:
    """Note a moment, and the CPU time of this process so far: one line, written at once, by whichever process.

    The clock is the same for all of them.
    """
    line = json.dumps({"event": event, "at": time.monotonic(), "cpu": time.process_time(), **values}) + "\n"
    with open(os.environ[STAMPS], "ab", buffering=0) as file:  # noqa: PTH123  pathlib costs a worker its import
        file.write(line.encode())


def _seen() -> list[dict[str, object]]:
    try:
        with open(os.environ[STAMPS]) as file:  # noqa: PTH123
            return [json.loads(line) for line in file if line.endswith("\n")]
    except FileNotFoundError:
        return []


def workers_seen() -> set[object]:
    """The workers that have stamped so far."""
    return {each.get("worker") for each in _seen()} - {None}


def has_stamped(event: str) -> bool:
    """Whether that moment has come, in whichever process."""
    return any(each["event"] == event for each in _seen())


def nothing() -> None:
    """A task that does nothing."""
    stamp("ended")
