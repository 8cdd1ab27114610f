"""Functions of large items: each is bytes that say which one it is, over and over, so that a wrong byte is seen."""

from __future__ import annotations

import os
import signal
import struct
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZES = (70_000, 200_000, 1_500_000)


def blob(number: int, size: int) -> bytes:
    return struct.pack("<Q", number) * (size // 8)


def number_of(item: bytes) -> int:
    """Return which one it is; ValueError if it is not wholly that."""
    number: int = struct.unpack_from("<Q", item)[0]
    if item != blob(number, len(item)):
        raise ValueError(f"the bytes of item {number} are not its own")
    return number


def blobs(count: int, seconds: float = 0.0) -> Iterator[bytes]:
    for number in range(count):
        threading.Event().wait(seconds)
        yield blob(number, SIZES[number % len(SIZES)])


def passed(item: bytes, seconds: float = 0.0) -> bytes:
    """Every second one goes on as it came, the others are made anew."""
    number = number_of(item)
    threading.Event().wait(seconds)
    return item if number % 2 else blob(number, len(item))


def strikes_agent(item: bytes, at: int, mark: Path) -> bytes:
    """Kills the agent of its machine at one item."""
    if number_of(item) == at and not mark.exists():
        mark.touch()
        os.kill(int(os.environ["RUNNER_PID"]), signal.SIGKILL)
        threading.Event().wait(30)
    return item


def of_agent(count: int, seconds: float) -> Iterator[bytes]:
    """Items that say which agent is that of the machine where they were made."""
    for _ in range(count):
        threading.Event().wait(seconds)
        yield blob(int(os.environ["RUNNER_PID"]), 100_000)


def with_agent(item: bytes) -> tuple[int, int]:
    """Return the agents of the machines where an item was made and read."""
    return number_of(item), int(os.environ["RUNNER_PID"])
