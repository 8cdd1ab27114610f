"""Large arrays: source → a function that changes one number, or all of them → sink, for every contender."""

from __future__ import annotations

import mmap
import multiprocessing
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.functions import WARM, Warm, warming
from bench.stamps import stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

SLOTS = 16
_fork = multiprocessing.get_context("fork")


def made(count: int, size: int) -> Iterator[Any]:
    """Fresh arrays of `size` bytes, each full of its number; a tenth ahead (full of 0), and then the clock starts."""
    for _ in range(count // WARM):
        yield np.zeros(size // 8, np.int64)
    stamp("began")
    for number in range(1, count + 1):
        yield np.full(size // 8, number)


def arrays(count: int, size: int, workers: int = 0) -> Iterator[Any]:
    """The source."""
    yield from warming(workers)
    yield from made(count, size)


def change(array: Any) -> Any:
    """The work: the last number becomes -1; in place where that is allowed."""
    if array.__class__ is Warm:
        array.touch()
        return array
    if not array.flags.writeable:
        array = array.copy()
    array[-1] = -1
    return array


def rewrite(array: Any) -> Any:
    """The work: every number becomes its negative; in place where that is allowed."""
    if array.__class__ is Warm:
        array.touch()
        return array
    return np.negative(array, out=array if array.flags.writeable else None)


class Weighed:
    """The sink, as a task: reads every byte and adds up what must be there."""

    def __init__(self) -> None:
        self.total = self.items = 0

    def __call__(self, array: Any) -> None:
        if array.__class__ is not Warm:
            self.items += 1
            self.total += int(array.sum())

    def __enter__(self) -> Weighed:
        return self

    def __exit__(self, *exc: object) -> None:
        stamp("ended", total=self.total, items=self.items)


def weigh(results: Iterable[Any]) -> None:
    """The sink, as a loop."""
    with Weighed() as sink:
        for array in results:
            sink(array)


def alone(count: int, size: int, work: Callable[[Any], Any] = change) -> None:
    """Make, copy, change and weigh in one process."""
    weigh(work(array.copy()) for array in made(count, size))


def _fill(memory: Any, count: int, full: int, free: int) -> None:
    slots = bytearray(range(SLOTS))
    for array in made(count, 8 * memory.shape[1]):
        if not slots:
            slots += os.read(free, SLOTS)
        slot = slots.pop(0)
        memory[slot] = array
        os.write(full, bytes([slot]))
    os.write(full, b"\xff")


def ring(count: int, size: int, work: Callable[[Any], Any] = change) -> None:
    """By hand: sixteen slots of memory that all share, and pipes that say which is whose. One copy in all."""
    memory = np.frombuffer(mmap.mmap(-1, SLOTS * size), np.int64).reshape(SLOTS, size // 8)
    full, changed, free = os.pipe(), os.pipe(), os.pipe()

    def worker() -> None:
        while True:
            for slot in os.read(full[0], SLOTS):
                if slot < SLOTS:
                    work(memory[slot])
                os.write(changed[1], bytes([slot]))
                if slot >= SLOTS:
                    return

    def results() -> Iterator[Any]:
        while True:
            for slot in os.read(changed[0], SLOTS):
                if slot >= SLOTS:
                    return
                yield memory[slot]
                os.write(free[1], bytes([slot]))

    crew = [_fork.Process(target=_fill, args=(memory, count, full[1], free[0])), _fork.Process(target=worker)]
    _start_and(crew, lambda: weigh(results()))


def raw_pipe(count: int, size: int, work: Callable[[Any], Any] = change) -> None:
    """One hop: os.pipe, the bytes themselves, a buffer that is used again; the sink does the work."""
    read, out = os.pipe()

    def source() -> None:
        for array in made(count, size):
            view = memoryview(array).cast("B")
            while view:
                view = view[os.write(out, view) :]

    def results() -> Iterator[Any]:
        array = np.empty(size // 8, np.int64)
        with open(read, "rb", buffering=0) as file:  # noqa: PTH123
            for _ in range(count + count // WARM):
                view = memoryview(array).cast("B")
                while view:
                    view = view[file.readinto(view) :]
                yield work(array)

    _start_and([_fork.Process(target=source)], lambda: weigh(results()))


def _start_and(crew: list[Any], sink: Callable[[], None]) -> None:
    for each in crew:
        each.start()
    sink()
    for each in crew:
        each.join()
