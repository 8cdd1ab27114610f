"""Sinks in processes that keep their place, and kill their worker once at each item they are told."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from faults.sources import die_once

from runner.std.sinks import WriteCsv, WriteJsonl, WriteLines

if TYPE_CHECKING:
    from pathlib import Path

    from runner.tasks import Context, Inbox


class Deadly:
    """Dies before an item is written, when half of it is, or after it: in turn, at the items of `deaths`."""

    folder: Path
    deaths: tuple[int, ...]

    def __call__(self, item: Any) -> None:
        number = self.number_of(item)
        moment = self.deaths.index(number) % 3 if number in self.deaths else -1
        if moment == 0:
            die_once(self.folder, number, self.deaths)
        if moment == 1 and not (self.folder / f"died--{number}").exists():
            os.write(self._to._fd, b'{"half')  # type: ignore[attr-defined]  # of the sink beside it
        if moment == 1:
            die_once(self.folder, number, self.deaths)
        super().__call__(item)  # type: ignore[misc]
        if moment == 2:
            die_once(self.folder, number, self.deaths)

    def number_of(self, item: Any) -> int:
        return int(item if not isinstance(item, dict) else item["number"])


class Lines(Deadly, WriteLines):
    def __init__(self, path: str, folder: Path, deaths: tuple[int, ...], context: Context | None = None) -> None:
        super().__init__(path, context=context)
        self.folder, self.deaths = folder, deaths


class Jsonl(Deadly, WriteJsonl):
    def __init__(self, path: str, folder: Path, deaths: tuple[int, ...], context: Context | None = None) -> None:
        super().__init__(path, context=context)
        self.folder, self.deaths = folder, deaths


class Csv(Deadly, WriteCsv):
    def __init__(
        self,
        path: str,
        folder: Path,
        deaths: tuple[int, ...],
        header: bool = True,
        context: Context | None = None,
    ) -> None:
        super().__init__(path, header=header, context=context)
        self.folder, self.deaths = folder, deaths


class Batches(Jsonl):
    """Dies in a batch; its items are numbered by the first."""

    def number_of(self, item: Any) -> int:
        return int(item[0]["number"])


class Summing:
    """A transform with a state of its own: the running sum goes out with each item."""

    def __init__(self, folder: Path, deaths: tuple[int, ...], context: Context) -> None:
        self.folder, self.deaths = folder, deaths
        self.total = context.saved or 0

    def __call__(self, item: int) -> int:
        die_once(self.folder, item, self.deaths)
        self.total += item
        return self.total

    def save(self) -> int:
        return self.total


class Looping:
    """The same, as a loop over an inbox, into a file at its end."""

    def __init__(self, folder: Path, deaths: tuple[int, ...], context: Context) -> None:
        self.folder, self.deaths = folder, deaths
        self.total = context.saved or 0

    def __call__(self, inbox: Inbox[int]) -> None:
        for item in inbox:
            die_once(self.folder, item, self.deaths)
            self.total += item
        (self.folder / "total").write_text(str(self.total))

    def save(self) -> int:
        return self.total


class Failing:
    """A `save` that fails."""

    def __call__(self, item: int) -> None:
        pass

    def save(self) -> Any:
        raise OSError("the disk is full")


class TooMuch:
    def __call__(self, item: int) -> None:
        pass

    def save(self) -> Any:
        return "." * 5000


class Unrelated:
    """It has a `save` of its own, which takes something: none of runner's."""

    def __call__(self, item: int) -> None:
        pass

    def save(self, path: str) -> None:
        raise AssertionError


class Async:
    async def __call__(self, item: int) -> None:
        pass

    def save(self) -> int:
        return 0
