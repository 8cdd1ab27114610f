"""Task functions of every form that does, for each item, what its `Script` says, and writes down what it gives.

They run in the workers under test: what they have noted is the truth to which a run's books are compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runner.errors import Reject, Retry
from runner.tasks import Context, Inbox, Outbox, To

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


class Abort(BaseException):
    """As test and time-out libraries raise it."""


class Hostile:
    """An item that answers no question."""

    def __refuse(self, *_: object) -> Any:
        raise RuntimeError("not to be asked")

    __eq__ = __bool__ = __len__ = __repr__ = __iter__ = __refuse
    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> Any:
        return Hostile, ()


#: What an item may raise, what it may give that is no item, and odd values that are items like any others.
RAISES: dict[str, Any] = {
    "value error": lambda: ValueError("no"),
    "cancelled": asyncio.CancelledError,
    "generator exit": GeneratorExit,
    "interrupt": KeyboardInterrupt,
    "own": lambda: Abort("enough"),
    "stop": StopIteration,
    "stop async": StopAsyncIteration,
    "reject": lambda: Reject(Hostile()),
    "retry": lambda: Retry("again", after=0),
    "late retry": lambda: _late(Retry("again")),
    "bad retry": lambda: Retry(after="2s"),
    "group": lambda: BaseExceptionGroup("some", [Abort("one")]),
}
NO_ITEMS = ["coroutine", "future", "async generator", "context manager", "awaitable", "no port"]
ODD: dict[str, Any] = {
    "none": None,
    "nan": float("nan"),
    "class": Hostile,
    "exception": ValueError("as an item"),
    "retry as an item": Retry("as an item"),
    "hostile": Hostile(),
    "huge": 10**5000,
    "surrogate": "\ud800",
    "empty": [],
    "ellipsis": ...,
}
MANY = ["iterator", "map", "generator"]


def _late(error: Retry) -> Retry:
    error.after = "soon"  # type: ignore[assignment]
    return error


@dataclass(frozen=True)
class Script:
    """What to do with which item; `folder` is where calls are noted. `once`: only at the first call for the item."""

    folder: Path
    acts: dict[int, str] = field(default_factory=dict)
    once: bool = False

    def act(self, item: int) -> str:
        act = self.acts.get(item, "ok")
        if self.once and act in RAISES and self.called(item):
            return "ok"
        return act

    def called(self, item: int) -> bool:
        """Whether there was a call for the item; now there has been one."""
        try:
            os.close(os.open(self.folder / f"call-{item}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return True
        return False

    def note(self, key: list[int], gives: list[Any] | None) -> None:
        """A call for these items gives so much, or fails (None). One write: several workers note at once."""
        line = json.dumps([key, gives]) + "\n"
        fd = os.open(self.folder / "notes", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)

    def notes(self) -> list[tuple[tuple[int, ...], list[Any] | None]]:
        path = self.folder / "notes"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(tuple(key), gives) for key, gives in map(json.loads, lines)]


def _fail(why: str) -> None:
    raise AssertionError(why)


async def _coroutine() -> None:
    _fail("a coroutine is not to be awaited")


async def _async_generator() -> AsyncIterator[int]:
    _fail("it is not to be iterated over")
    yield 0


@contextlib.contextmanager
def _manager() -> Iterator[None]:
    _fail("it is not to be entered")
    yield


class _Awaitable:
    def __await__(self) -> Any:
        raise AssertionError("nobody may await it")


def _no_item(act: str) -> Any:
    if act == "coroutine":
        return _coroutine()
    if act == "future":
        return _FUTURES.create_future()
    if act == "async generator":
        return _async_generator()
    if act == "context manager":
        return _manager()
    return _Awaitable() if act == "awaitable" else To("nowhere", 1)


class _Futures:
    """Makes futures of a loop that nobody runs."""

    def create_future(self) -> Any:
        loop = asyncio.new_event_loop()
        loop.close()
        return asyncio.Future(loop=loop)


_FUTURES = _Futures()


def perform(script: Script, items: list[int]) -> list[Any]:
    """What the calls for these items give; it is noted first."""
    acts = [script.act(item) for item in items]
    bad = next((act for act in acts if act in RAISES), None)
    if bad is not None:
        script.note(items, None)
        raise RAISES[bad]()  # noqa: RSE102  a function that makes one, in most cases
    gives: list[Any] = []
    noted: list[Any] = []
    for item, act in zip(items, acts, strict=True):
        if act in MANY:
            gives += [(item, number) for number in range(3)]
            noted += [[item, number] for number in range(3)]
        elif act in ODD:
            gives.append(ODD[act])
            noted.append(-1)
        elif act in NO_ITEMS:
            script.note(items, None)
            return [_no_item(act)]
        else:
            gives.append((item, 0))
            noted.append([item, 0])
    script.note(items, noted)
    return gives


def _one(script: Script, item: Any) -> Any:
    """As `return` gives it: one thing."""
    items = item if isinstance(item, list) else [item]
    gives = perform(script, items)
    act = script.acts.get(items[0], "ok") if len(items) == 1 else "generator"
    if act == "iterator":
        return iter(gives)
    if act == "map":
        return map(tuple, gives)
    if act == "generator":
        return (each for each in gives)
    return gives[0]


def _all(script: Script, item: Any) -> list[Any]:
    return perform(script, item if isinstance(item, list) else [item])


# -- the forms -------------------------------------------------------------------------------------


def plain(item: Any, *, script: Script) -> Any:
    return _one(script, item)


def generator(item: Any, *, script: Script) -> Iterator[Any]:
    yield from _all(script, item)


async def later(item: Any, *, script: Script) -> Any:
    await asyncio.sleep(0)
    return _one(script, item)


async def async_generator(item: Any, *, script: Script) -> AsyncIterator[Any]:
    for each in _all(script, item):
        await asyncio.sleep(0)
        yield each


def with_context(item: Any, context: Context | None = None, *, script: Script) -> Any:
    assert context is not None
    assert context.attempt >= 1
    return _one(script, item)


class Made:
    """A callable class whose tear-down swallows what it is told."""

    def __init__(self, script: Script) -> None:
        self.script = script

    def __enter__(self) -> Made:
        return self

    def __exit__(self, *_: object) -> bool:
        return True

    def __call__(self, item: Any) -> Any:
        return _one(self.script, item)


class MadeLater:
    """An async class; all of it must run on one loop."""

    def __init__(self, script: Script) -> None:
        self.script, self.loop = script, asyncio.get_running_loop()

    async def __aenter__(self) -> MadeLater:
        assert self.loop is asyncio.get_running_loop()
        return self

    async def __aexit__(self, *_: object) -> bool:
        assert self.loop is asyncio.get_running_loop()
        return True

    async def __call__(self, item: Any) -> Any:
        assert self.loop is asyncio.get_running_loop()
        return _one(self.script, item)


def _logged(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def _made_async(function: Any) -> Any:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        return function(*args, **kwargs)

    return wrapper


logged = _logged(_logged(plain.__get__(0).__func__))
logged_later = _logged(later)
logged_generator = _logged(generator)
made_async = _made_async(plain)
for _name in ("logged", "logged_later", "logged_generator", "made_async"):
    vars(sys.modules[__name__])[_name].__qualname__ = _name


def boxed(inbox: Inbox[int], outbox: Outbox[Any], *, script: Script) -> None:
    for item in inbox:
        for each in _all(script, item):
            outbox.put(each)


def boxed_get(inbox: Inbox[int], outbox: Outbox[Any], *, script: Script) -> None:
    while True:
        item = inbox.get()
        for each in _all(script, item):
            outbox.put(each)


def boxed_yields(inbox: Inbox[int], *, script: Script) -> Iterator[Any]:
    for item in inbox:
        yield from _all(script, item)


def boxed_threads(inbox: Inbox[int], outbox: Outbox[Any], *, script: Script) -> None:
    """Items are put by threads, some of which go on after the return."""
    for item in inbox:
        gives = _all(script, item)
        threading.Thread(target=_put_all, args=(outbox, gives)).start()
        del gives


def _put_all(outbox: Outbox[Any], gives: list[Any]) -> None:
    for each in gives:
        outbox.put(each)


FORMS: dict[str, Any] = {
    each.__name__ if not hasattr(each, "__wrapped__") else each.__qualname__: each
    for each in (
        plain, generator, later, async_generator, with_context, Made, MadeLater, logged, logged_later,
        logged_generator, made_async, boxed, boxed_get, boxed_yields, boxed_threads,
    )
}  # fmt: skip
#: Forms that give what they give one by one, or several things at a time as one.
YIELDING = {"generator", "async_generator", "logged_generator", "boxed", "boxed_get", "boxed_yields", "boxed_threads"}


# -- sources ---------------------------------------------------------------------------------------


def numbers(count: int) -> Iterator[int]:
    yield from range(count)


def src_generator(count: int) -> Iterator[Any]:
    yield from range(count)


def src_iterator(count: int) -> Any:
    return iter(range(count))


def src_map(count: int) -> Any:
    return map(int, range(count))


def src_returns_generator(count: int) -> Any:
    return src_generator(count)


async def src_async_generator(count: int) -> AsyncIterator[Any]:
    for number in range(count):
        yield number


def src_returns_async_generator(count: int) -> Any:
    return src_async_generator(count)


async def _later(count: int) -> Iterator[int]:
    await asyncio.sleep(0)
    return iter(range(count))


def src_returns_coroutine(count: int) -> Any:
    return _later(count)


def src_puts(outbox: Outbox[Any], count: int) -> None:
    for number in range(count):
        outbox.put(number)


def src_puts_and_yields(outbox: Outbox[Any], count: int) -> Iterator[Any]:
    for number in range(count):
        if number % 3:
            yield number
        else:
            outbox.put(number)


def src_threads(outbox: Outbox[Any], count: int) -> None:
    """Several threads put; nobody joins them."""
    for first in range(4):
        threading.Thread(target=_put_all, args=(outbox, list(range(first, count, 4)))).start()


def src_threads_beside_yield(outbox: Outbox[Any], count: int) -> Iterator[Any]:
    threads = [threading.Thread(target=_put_all, args=(outbox, list(range(k, count, 4)))) for k in range(1, 4)]
    for thread in threads:
        thread.start()
    yield from range(0, count, 4)
    for thread in threads:
        thread.join()


class SrcSwallows:
    """A source whose tear-down swallows its error."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __enter__(self) -> SrcSwallows:
        return self

    def __exit__(self, *_: object) -> bool:
        return True

    def __call__(self) -> Iterator[Any]:
        yield from range(self.count)
        raise Abort("half way")


SOURCES: dict[str, Any] = {
    name: value for name, value in list(globals().items()) if name.startswith("src_") or name == "SrcSwallows"
}
