"""Task functions without inputs, in every form that there is, which kill their worker once at each item they are told."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

from runner.tasks import Context, Outbox, To

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


def die_once(folder: Path, number: int, deaths: tuple[int, ...], name: str = "") -> None:
    """Kill this process at an item at which it has not been killed before."""
    if number in deaths:
        try:
            os.close(os.open(folder / f"died-{name}-{number}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


def numbers(count: int, folder: Path, deaths: tuple[int, ...]) -> Iterator[int]:
    for number in range(count):
        die_once(folder, number, deaths)
        yield number


def own_numbers(count: int, folder: Path, deaths: tuple[int, ...], *, context: Context) -> Iterator[str]:
    """The same in each of several workers."""
    for number in range(count):
        die_once(folder, number, deaths, context.worker)
        yield f"{context.worker} {number}"


def dicts(count: int, folder: Path, deaths: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    for number in range(count):
        die_once(folder, number, deaths)
        yield {"number": number, "tags": ["a", "b"]}


def mixed(count: int, folder: Path, deaths: tuple[int, ...]) -> Iterator[Any]:
    for number in range(count):
        die_once(folder, number, deaths)
        yield number if number % 7 else str(number)


def arrays(count: int, folder: Path, deaths: tuple[int, ...]) -> Iterator[Any]:
    import numpy as np

    for number in range(count):
        die_once(folder, number, deaths)
        yield np.full(1 << 15, number)


def two_ports(count: int, folder: Path, deaths: tuple[int, ...]) -> Iterator[Any]:
    for number in range(count):
        die_once(folder, number, deaths)
        yield To("odd", number) if number % 2 else number


def outbox(count: int, folder: Path, deaths: tuple[int, ...], *, out: Outbox[int]) -> None:
    for number in range(count):
        die_once(folder, number, deaths)
        out.put(number)


def outbox_and_generator(count: int, folder: Path, deaths: tuple[int, ...], *, out: Outbox[int]) -> Iterator[int]:
    for number in range(0, count, 2):
        die_once(folder, number, deaths)
        out.put(number)
        if number + 1 < count:
            die_once(folder, number + 1, deaths)
            yield number + 1


async def async_numbers(count: int, folder: Path, deaths: tuple[int, ...]) -> AsyncIterator[int]:
    for number in range(count):
        die_once(folder, number, deaths)
        yield number


class Numbers:
    """A callable class."""

    def __init__(self, count: int, folder: Path, deaths: tuple[int, ...]) -> None:
        self.given = count, folder, deaths

    def __call__(self) -> Iterator[int]:
        yield from numbers(*self.given)


def from_a_place(
    count: int, folder: Path, deaths: tuple[int, ...], *, context: Context, every: int = 7
) -> Iterator[int]:
    """Go on from the place that was kept; so no number may come that lies before it."""
    begin = context.saved["next"] if context.saved else 0
    with (folder / "begun").open("a", encoding="utf-8") as file:
        file.write(f"{begin}\n")
    for number in range(begin, count):
        die_once(folder, number, deaths)
        yield number
        if number % every == 0:
            context.save({"next": number + 1})


def outbox_from_a_place(
    count: int, folder: Path, deaths: tuple[int, ...], *, context: Context, out: Outbox[int]
) -> None:
    for number in range(context.saved or 0, count):
        die_once(folder, number, deaths)
        out.put(number)
        context.save(number + 1)


def no_items(count: int, folder: Path, deaths: tuple[int, ...], *, context: Context) -> int:
    """A long piece of work without queues."""
    steps = 0
    for number in range(context.saved or 0, count):
        die_once(folder, number, deaths)
        steps += 1
        context.save(number + 1)
    return steps


def raises_once(count: int, folder: Path, at: int, *, context: Context, saves: bool = True) -> Iterator[int]:
    for number in range(context.saved or 0, count):
        if number == at and not (folder / "raised").exists():
            (folder / "raised").touch()
            raise OSError("the line was cut")
        yield number
        if saves:
            context.save(number + 1)


def other_each_time(count: int, folder: Path, deaths: tuple[int, ...]) -> Iterator[int]:
    """What a socket or a broker would do."""
    for number in range(count):
        die_once(folder, number, deaths)
        yield number + (os.getpid() << 20)


def fewer_each_time(count: int, folder: Path, deaths: tuple[int, ...]) -> Iterator[int]:
    lives = len(list(folder.glob("died-*")))
    for number in range(count if not lives else count // 4):
        die_once(folder, number, deaths)
        yield number


def unpicklable_now(count: int, folder: Path, deaths: tuple[int, ...]) -> Iterator[Any]:
    """An error of the function's own, in its second life."""
    for number in range(count):
        die_once(folder, number, deaths)
        if any(folder.glob("died-*")) and number == count // 2:
            raise ValueError("the second time is different")
        yield number


def deadly(count: int, at: int) -> Iterator[int]:
    for number in range(count):
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)
        yield number
