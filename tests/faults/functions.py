"""Task functions that run in the workers under test, and the faults that they bring upon themselves.

A `Fault` says at which moment, in which task, at which item, in which way the process ends; a file that is made with
O_EXCL says that it has happened already. Nothing in runner knows of it: the moments inside runner's own code are
reached by replacing its functions in the worker process alone.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msgspec import structs

from runner.engines import child
from runner.errors import Reject, Retry
from runner.tasks import Context, Inbox, Outbox  # noqa: TC001  read at run time
from runner.transport import framing, messages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """Where and how a worker dies. `times`: so often, then never again."""

    moment: str
    way: str
    task: str
    item: int
    folder: Path
    times: int = 1

    def happens(self) -> bool:
        """Claim one of the times; each is claimed once, by whichever process comes first."""
        for number in range(self.times):
            try:
                os.close(os.open(self.folder / f"happened-{number}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            return True
        return False

    def strike(self) -> None:
        if self.happens():
            die(self.way)


def die(way: str) -> None:  # noqa: C901  one word after the other
    if way.startswith("agent "):  # the agent of this machine
        os.kill(int(os.environ["RUNNER_PID"]), getattr(signal, way.removeprefix("agent ")))
        threading.Event().wait(30 if way == "agent SIGKILL" else 0)
    elif way == "SIGSEGV":
        ctypes.string_at(0)
    elif way.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, way))
        threading.Event().wait(30)
    elif way == "stop":  # and go on, once it is woken
        os.kill(os.getpid(), signal.SIGSTOP)
    elif way == "abort":
        os.abort()
    elif way == "_exit(0)":
        os._exit(0)
    elif way == "_exit(3)":
        os._exit(3)
    elif way == "sys.exit":
        sys.exit(0)
    elif way == "GeneratorExit":
        raise GeneratorExit
    elif way == "close":  # everything that it has open, its socket too
        os.closerange(3, 256)
        os._exit(0)


class Dying:
    """An item whose pickling, or unpickling, is the moment."""

    def __init__(self, value: int, fault: Fault, moment: str) -> None:
        self.value, self.fault, self.moment = value, fault, moment

    def __reduce__(self) -> Any:
        if self.moment == "encode":
            self.fault.strike()
        return rebuilt, (self.value, self.fault, self.moment)


def rebuilt(value: int, fault: Fault, moment: str) -> Any:
    if moment == "decode" and os.environ.get("FAULT_TASK") != fault.task:
        return Dying(value, fault, moment)
    if moment == "decode":
        fault.strike()
    return value


def source(count: int, fault: Fault) -> Iterator[Any]:
    """Numbers; one of them is the item at which decoding is fatal for the first reader."""
    if fault.task == "source":
        _arm(fault)
    for number in range(count):
        if fault.task == "source" and fault.moment == "item" and number == fault.item:
            fault.strike()
        yield Dying(number, fault, "decode") if fault.moment == "decode" and number == fault.item else number


class Stage:
    """Passes items on, one more each time, and dies where its fault says so."""

    def __init__(self, name: str, fault: Fault, many: int = 0) -> None:
        self.name, self.fault, self.many = name, fault, many
        self.mine = fault.task == name
        os.environ["FAULT_TASK"] = name
        if self.mine:
            self._at("setup")
            _arm(fault)

    def _at(self, moment: str, item: int | None = None) -> None:
        if self.mine and self.fault.moment == moment and item in (None, self.fault.item):
            self.fault.strike()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._at("teardown")

    def __call__(self, item: int) -> Iterator[Any]:
        self._at("item", item)
        yield (
            Dying(item, self.fault, "encode")
            if self.mine and self.fault.moment == "encode" and item == self.fault.item
            else item
        )
        self._at("yielded", item)
        for _ in range(self.many):
            yield -1


class Listed(Stage):
    """The same, with `batch`."""

    def __call__(self, items: list[int]) -> Iterator[Any]:  # type: ignore[override]
        for item in items:
            yield from super().__call__(item)


class Late:
    """An `async` stage."""

    def __init__(self, name: str, fault: Fault) -> None:
        self.stage = Stage(name, fault)

    async def __call__(self, item: int) -> int:
        import asyncio

        await asyncio.sleep(0.001)
        for each in self.stage(item):
            item = each
        return item


class LateListed(Late):
    """The same, with `batch`."""

    async def __call__(self, items: list[int]) -> list[int]:  # type: ignore[override]
        return [await Late.__call__(self, item) for item in items]


class LateSpread(LateListed):
    """The same, which gives each of them by itself."""

    async def __call__(self, items: list[int]) -> AsyncIterator[int]:  # type: ignore[override]
        for item in items:
            yield await Late.__call__(self, item)


def emptying(items: list[int]) -> None:
    """Takes items out of its batch, and fails."""
    while len(items) > 1:
        items.pop()
    raise ValueError("no")


async def picky(numbers: list[int], *, retried: int, rejected: int, folder: Path) -> AsyncIterator[int]:
    """A batch that fails once, one that is given up, and others."""
    import asyncio

    await asyncio.sleep(0.001 * (numbers[0] % 3))
    for number in numbers:
        if number == rejected:
            raise Reject("not this one")
        if number == retried and not (folder / "tried").exists():
            (folder / "tried").touch()
            raise Retry(after=0.0)
        yield number


def boxed(inbox: Inbox[int], outbox: Outbox[int], *, name: str, fault: Fault) -> None:
    """A stage that asks for its items itself."""
    stage = Stage(name, fault)
    while True:
        for item in stage(inbox.get()):
            outbox.put(item)


def _arm(fault: Fault) -> None:
    """Reach the moments inside runner: around the messages that the worker sends and receives."""
    if fault.moment.startswith(("before ", "amid ", "after ")):
        when, kind = fault.moment.split(" ", 1)
        _arm_sending(fault, when, getattr(messages, kind))
    if fault.moment == "granted":
        receive = child.ProcessPort.receive

        def receiving(self: Any, timeout: float | None = None) -> Any:
            message = receive(self, timeout)
            if isinstance(message, messages.Grant) and _holds(message, fault.item):
                fault.strike()
            return message

        child.ProcessPort.receive = receiving  # type: ignore[method-assign]


def _holds(grant: messages.Grant, item: int) -> bool:
    from runner.transport import item_codec

    return any(
        item in item_codec.decode_payload(part.payload)[part.start : part.start + part.count] for part in grant.parts
    )


def _arm_sending(fault: Fault, when: str, kind: Any) -> None:
    send = child.ProcessPort.send

    def sending(self: Any, message: Any) -> None:
        if not isinstance(message, kind):
            send(self, message)
            return
        if when == "before":
            fault.strike()
        if when == "amid" and fault.happens():
            whole = b"".join(bytes(buffer) for buffer in framing.pack_message(message))
            self._link._socket.sendall(whole[: len(whole) // 2])
            die(fault.way)
        send(self, message)
        if when == "after":
            fault.strike()

    child.ProcessPort.send = sending  # type: ignore[method-assign]


def collect(item: Any, into: list[Any]) -> None:
    into.append(item)


# -- for the storm and single tests ----------------------------------------------------------------


def hanging(item: int, bad: int) -> int:
    threading.Event().wait(60 if item == bad else 0)
    return item


def deadly(item: int, bad: int) -> int:
    if item == bad:
        die("SIGKILL")
    return item


def gated(count: int, gate: Path) -> Iterator[int]:
    """Numbers, once a file is there."""
    while not gate.exists():
        threading.Event().wait(0.01)
    yield from range(count)


def numbers(count: int) -> Iterator[int]:
    yield from range(count)


def surroundings(item: int, names: list[str]) -> tuple[int, ...]:
    """Return the item, and the numbers that this worker's environment has."""
    threading.Event().wait(0.02)
    return (item, *(int(os.environ.get(name, "0")) for name in names))


def slowly(item: int, seconds: float = 0.001) -> int:
    threading.Event().wait(seconds)
    return item


class Room:
    """How many are in it, and the most that ever were."""

    def __init__(self) -> None:
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def __enter__(self) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.now -= 1


ROOM = Room()


def in_the_room(item: int) -> int:
    with ROOM:
        threading.Event().wait(0.05)
    return item


def slowly_all(items: list[int]) -> Iterator[int]:
    threading.Event().wait(0.001)
    yield from items


def failing(item: int, ctx: Context, *, kind: str, until: int = 10**9) -> int:
    """Fails with every third item, until it has been tried `until` times."""
    if item % 3 == 0 and ctx.attempt <= until:
        raise error(kind)
    return item


class Odd(Exception):
    """Cannot be pickled, and cannot be shown."""

    def __init__(self) -> None:
        super().__init__(threading.Lock())

    def __str__(self) -> str:
        raise RuntimeError("no words")


def error(kind: str) -> Exception:
    if kind == "odd":
        return Odd()
    if kind == "huge":
        return ValueError("x" * 5_000_000)
    if kind == "group":
        return ExceptionGroup("several", [ValueError("one"), OSError("two")])
    if kind == "chained":
        try:
            try:
                raise KeyError("inner")
            except KeyError as inner:
                raise LookupError("outer") from inner
        except LookupError as chained:
            return chained
    if kind == "retry":
        return Retry("again", after=0.001)
    if kind == "reject":
        return Reject("never")
    return ValueError("plain")


def stuck(item: int, ctx: Context, *, where: str, on: int = 5, until: int = 1) -> int:
    """Takes for ever with one item: asleep, busy, or in C code that holds the GIL."""
    if item == on and ctx.attempt <= until:
        hang(where)
    return item


def hang(where: str) -> None:
    if where == "asleep":
        threading.Event().wait(60)
    elif where == "busy":
        while True:
            pass
    elif where == "in C":
        libc = ctypes.PyDLL(None)
        for _ in range(100):  # a signal ends one of them
            libc.sleep(60)


async def stuck_async(item: int, ctx: Context, *, where: str, on: int = 5, until: int = 1) -> int:
    import asyncio

    if item == on and ctx.attempt <= until:
        if where == "awaiting":
            await asyncio.sleep(60)
        hang(where)
    return item


def call_that_hangs() -> None:
    hang("asleep")


def half_way(count: int) -> Iterator[int]:
    yield from range(count)
    raise ValueError("half way")


def many_then_error(item: int) -> Iterator[int]:
    yield item * 10
    yield item * 10 + 1
    if item == 3:
        raise ValueError("half way")


class Explosive:
    """Pickles well, and raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return explode, ()


def explode() -> None:
    raise ValueError("cannot be rebuilt")


def bad_items(item: int) -> Any:
    if item == 3:
        return threading.Lock()
    if item == 4:
        return {"deep": [1, {"er": lambda: 0}]}
    if item == 5:
        return Explosive()
    if item == 6:
        return bytes(2_000_000)
    return item


def identity(item: Any) -> Any:
    return item


def leaky(item: int) -> int:
    """Leaves a thread and a child behind with each item."""
    import subprocess

    subprocess.Popen(SLEEPER)
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    return item


def broken_setup() -> None:
    raise AssertionError("never called")


SLEEPER = ["sleep", "61.25"]


class BreaksSetup:
    def __init__(self) -> None:
        raise ValueError("no database")

    def __call__(self, item: int) -> int:
        return item


class DiesInSetup:
    def __init__(self, way: str) -> None:
        die(way)

    def __call__(self, item: int) -> int:
        return item


def always_failing(item: int) -> int:
    raise ValueError(f"number {item}")


_GROWN: list[bytes] = []


def grows(item: int) -> tuple[int, int]:
    """Holds 40 MB more with each item."""
    _GROWN.append(os.urandom(1 << 20) * 40)
    return item, os.getpid()


def pid(item: int) -> tuple[int, int]:
    return item, os.getpid()


def dies_once_at_five(item: int, ctx: Context) -> int:
    if item == 5 and ctx.attempt == 1:
        die("SIGKILL")
    return item


def names_foreign_memory_once(item: int, marker: str) -> int:
    """The first worker's replies name a block of shared memory that there is not."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return item
    send = child.ProcessPort.send

    def sending(self: Any, message: Any) -> None:
        if isinstance(message, messages.Reply):
            named = tuple(structs.replace(output, block_refs=((1 << 40, 0, 64),)) for output in message.outputs)
            message = structs.replace(message, outputs=named)
        send(self, message)

    child.ProcessPort.send = sending  # type: ignore[method-assign]
    return item


class Connected:
    """A class of which so many may be at the same time, as a server allows so many connections."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most

    def __enter__(self) -> Connected:
        for number in range(self.most):
            try:
                (self.folder / f"connection-{number}").mkdir()
            except FileExistsError:
                continue
            self.mine = self.folder / f"connection-{number}"
            return self
        raise ConnectionRefusedError("too many connections")

    def __exit__(self, *_: object) -> None:
        self.mine.rmdir()

    def __call__(self, item: int) -> int:
        threading.Event().wait(0.01)
        return item


def until_there(path: Path) -> Iterator[int]:
    """Yield numbers until there is a file."""
    for number in itertools.count():
        if number % 100 == 0 and path.exists():
            return
        yield number


async def ends_machines(item: int, bad: int) -> int:
    """Take the machine down with one item, a moment after it has begun."""
    import asyncio

    await asyncio.sleep(1.3 if item == bad else 0.2)
    if item == bad:
        die("agent SIGKILL")
        await asyncio.sleep(60)
    return item
