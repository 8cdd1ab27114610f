"""A task without inputs: a generator's items, a returned value, or what a function puts into its Outbox.

    generator ──▶ buffer ──▶ Made ──▶ supervisor
                     ▲                    │
                     └──── Credit ◀───────┘   (also the ack: everything sent so far has arrived)

An item leaves at once when nothing of this worker is under way; what is made meanwhile leaves together, with the
next credit. The credit is read in a thread of its own, so that nothing stays behind while the generator blocks.
Nothing is made without credit, so a queue's bound holds exactly here.
"""

from __future__ import annotations

import queue
import threading
from functools import partial
from itertools import groupby, islice
from time import perf_counter
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from runner.errors import ShutDown
from runner.forked_copies import Over
from runner.shm.writer import PATIENCE
from runner.tasks import Outbox
from runner.transport import item_codec
from runner.transport.messages import Credit, Made
from runner.worker.outbox_threads import lingering
from runner.worker.outputs import MOST_BYTES
from runner.worker.returned_values import check_result, iterates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import AsyncGeneratorType

    from runner.shm.writer import Store
    from runner.worker.runtime import Bench


#: A stride shorter than this many seconds is doubled, a longer one than that is quartered; items of one at most.
_QUICK, _SLOW = 0.0001, 0.002
_MOST_STRIDE = 512
#: With so many there is something to gain from a stretch.
_STRETCH = 32


class RunStopping(BaseException):
    """Raised where a source waits for room when the run is stopping; closes its generator."""


class Tap:
    """Where a source's items leave, within its credit."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.collector = bench.collector
        self.lock = threading.Lock()
        self.room = threading.Condition(self.lock)
        #: How many items may have been made, how many were sent; `idle`: nothing is under way.
        self.total = 0
        self.sent = 0
        self.idle = True
        #: With so many waiting they leave although others are under way.
        self.push = 1
        #: Not empty: the next item leaves at once, or must not be made. All that is looked at between two items.
        self.flag: list[int] = [1]
        #: So many items are made between two looks at the clock, as long as they take next to no time.
        self.stride = 1
        #: What items are grouped by in a stretch: their type, until `hear` ends it.
        self.key: Any = partial(type)
        self._count = 0
        self._since = perf_counter()
        #: Seconds since then that were spent waiting for room, and since when it waits now.
        self._waited = 0.0
        self._waits_since: float | None = None
        #: The function has returned: nothing is taken any more.
        self.over = False
        self._owner = threading.get_ident()
        bench.loose.append(self.abandon)
        bench.port.listen(self.hear)

    @property
    def waiting(self) -> int:
        """Items that have been made and not sent."""
        return self._count if self.collector.direct is None else self.collector.waiting

    def hear(self, message: Any) -> None:
        """A message, in another thread than the function's."""
        with self.lock:
            self.bench.hear(message)
            if message is None:  # nobody will ever answer
                self.bench.context.stopping = True
            if isinstance(message, Credit):
                self.total = max(self.total, message.total)
                self.push = max(1, (self.total - self.sent) // 2)
                self.idle = True
                if self.waiting:
                    self._send()
            self._set_flag()
            self.room.notify_all()

    def abandon(self) -> None:
        """This is a copy that the function has forked: whatever it yields ends it."""
        self.lock = self.room = Over()  # type: ignore[assignment]  # that is what it stands for
        self.flag[:] = [1]
        self.key.__setstate__((id, (), {}, None))

    def _set_flag(self) -> None:
        self.flag[:] = [1] if self.idle or self.bench.context.stopping else []
        if self.flag:  # an item's id is no type, so it is the first of another group
            self.key.__setstate__((id, (), {}, None))

    def _enough(self) -> int:
        """With so many waiting there is something to do."""
        if self.idle or self.bench.context.stopping:
            return 1
        return max(1, min(self.push, self.total - self.sent))

    def _send(self) -> None:
        now = perf_counter()
        outputs = self.collector.take()
        # Counted from what was taken: the function's thread may append meanwhile.
        items = self._count if self.collector.direct is None else sum(each.count for each in outputs)
        self._count = 0
        self.sent += items
        self.idle = False
        if self._waits_since is not None:  # the function's thread still waits: this is another one
            self._waited += now - self._waits_since
            self._waits_since = now
        busy = now - self._since - self._waited
        self.bench.meter.took(busy, items)
        self.bench.port.send(Made(items, outputs, busy))
        self._since, self._waited = now, 0.0

    @property
    def due(self) -> bool:
        """Whether what waits is to leave."""
        return self.waiting >= self._enough()

    def flush(self) -> None:
        """Send what has been made."""
        with self.lock:
            if self.waiting:
                self._send()

    def reserve(self, timeout: float | None = None) -> bool:
        """Wait for credit for one more item; send what is there first, because the credit may depend on it."""
        with self.room:
            return self._reserve(timeout)

    def _reserve(self, timeout: float | None) -> bool:
        if threading.get_ident() == self._owner:
            self.bench.meter.tell(perf_counter())
        waiting = self.waiting
        if waiting and (self.idle or waiting >= min(self.push, self.total - self.sent)):
            self._send()
        store = self.bench.port.store
        if store is not None and timeout is None and store.crowded():
            self._give_time(store)
        enough = self._may_make() or self._wait(timeout)
        self._set_flag()
        if self.bench.context.stopping:
            raise RunStopping
        return enough

    def _wait(self, timeout: float | None) -> bool:
        first = self._waits_since is None  # of several threads that wait one measures
        since = self._waits_since = perf_counter() if first else self._waits_since
        enough = self.room.wait_for(self._may_make, timeout)
        if first:
            self._waited += perf_counter() - (self._waits_since or since or 0.0)
            self._waits_since = None
        return enough

    def _give_time(self, store: Store) -> None:
        """Much of this worker's memory is in use: what was made goes out, and readers may be done with some of it."""
        if self.waiting:
            self._send()
        if not self.room.wait_for(lambda: self.bench.context.stopping or not store.crowded(), PATIENCE):
            store.content()

    def _may_make(self) -> bool:
        if self.bench.context.stopping or self.over:
            return True
        waiting = self.waiting
        return self.sent + waiting < self.total and (self.collector.size < MOST_BYTES or not waiting)

    def emit(self, item: Any) -> None:
        """One item, for which credit has been reserved."""
        with self.lock:
            self.collector.emit(item)
            self._count += 1

    def put(self, item: Any, timeout: float | None = None) -> None:
        """One item of an Outbox, from any thread; `queue.Full` when there was no room within `timeout` seconds."""
        with self.room:
            try:
                enough = self._reserve(timeout)
            except RunStopping:
                if threading.get_ident() == self._owner:
                    raise
                raise ShutDown from None  # in a thread of the function's own
            if self.over:
                raise ShutDown("the function has returned: nothing can be put into its Outbox any more")
            if not enough:
                raise queue.Full
            self.collector.emit(item)
            self._count += 1
            if self.due:
                self._send()
            self._set_flag()

    def close(self) -> None:
        """Send what has been made, and take nothing more."""
        with self.room:
            self.over = True
            self.room.notify_all()
            if self.waiting:
                self._send()

    def pour(self, items: Iterator[Any]) -> None:
        """All items of an iterator."""
        if self.bench.form.outboxes:  # what it puts meanwhile, in whichever thread, comes in between
            for item in items:
                self.put(item)
        elif self.collector.direct is None:
            self.reserve()
            for item in items:
                self.emit(item)
                self.reserve()
        else:
            while self._pour_some(items, self.collector.direct):
                pass
        self.flush()

    def _pour_some(self, items: Iterator[Any], direct: list[Any]) -> bool:
        """What may be made before there is something to do, at most a stride. False: that was all.

        The hottest loop of a source. Small values go straight into the buffer of the one ordinary group.
        """
        self.reserve()
        with self.lock:
            before = self.sent + self.waiting
            most = min(max(1, self._enough() - self.waiting), self.stride)
            self.key = partial(id if self.flag else type)
        began = perf_counter()
        some = islice(items, most) if most < _STRETCH else None
        more = self._stretch(items, direct, most) if some is None else self._one_by_one(some, direct)
        with self.lock:
            made = self.sent + self.waiting - before
            if most >= _STRETCH:
                self.collector.compact()
        if made >= self.stride:
            self._adapt(perf_counter() - began)
        return more or made == most

    def _adapt(self, seconds: float) -> None:
        if seconds < _QUICK:
            self.stride = min(_MOST_STRIDE, 2 * self.stride)
        elif seconds > _SLOW:
            self.stride = max(1, self.stride // 4)

    def _one_by_one(self, items: Iterable[Any], direct: list[Any]) -> bool:
        """True when it ends before they do."""
        small, flag = item_codec.SMALL, self.flag
        same: type | None = None  # most items are of the type that the one before was: no look-up
        for item in items:
            if type(item) is same:
                direct.append(item)
            elif type(item) in small:
                same = type(item)
                self.collector.kinds.add(same)
                direct.append(item)
            else:
                self.emit(item)
                if self.collector.size >= MOST_BYTES:
                    return True
            if flag:
                return True
        return False

    def _stretch(self, items: Iterable[Any], direct: list[Any], most: int) -> bool:
        """Items of one small type at the speed of C. False: there are no more.

        An item of another type is the first of the next group, and nothing was asked of the generator since: it is
        kept as it was when it was yielded. So is the item after which `hear` has ended the stretch.
        """
        groups = groupby(items, self.key)
        found = next(groups, None)
        if found is None:
            return False
        kind, group = found
        if kind in item_codec.SMALL:
            self.collector.kinds.add(kind)
            direct.extend(islice(group, most - 1))
            item = next(group, self)
            if item is not self:
                direct.append(item)
                return True
            found = next(groups, None)
            if found is None:
                return False
            _, group = found
        self.emit(next(group))
        return True


class SourceOutbox(Outbox[Any]):
    """`runner.Outbox` of a task without inputs: `put` waits for room."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Send an item; `queue.Full` when there was no room within `timeout` seconds."""
        self._tap.put(item, timeout if block else 0)


def work(bench: Bench, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the function once and send what it makes; its result, when it is none of that."""
    tap = Tap(bench)
    bench.show((1 << 63) | bench.spec.slot)
    try:
        if not bench.form.outboxes:
            return _take(tap, target(*args, **kwargs))
        with lingering(bench, SourceOutbox(tap), lambda: tap.sent + tap.waiting) as boxes:
            return _take(tap, target(*args, **kwargs, **boxes))
    except RunStopping:
        return None
    except ShutDown:
        if bench.context.stopping:  # of a thread whose result the function has asked for
            return None
        raise
    finally:
        tap.close()
        bench.show(0)


def _take(tap: Tap, result: Any) -> Any:
    """Send what a call has given; what is no item is the task's result."""
    bench = tap.bench
    if hasattr(type(result), "__await__"):
        result = bench.loop().run(result)
    if hasattr(type(result), "__anext__"):
        return bench.loop().run(_apour(tap, result))
    if iterates(type(result)):
        return _pour(tap, result)
    if not bench.spec.groups:
        check_result(result)
        return result
    if result is not None or not bench.form.outboxes:
        tap.put(result)
    return None


def _pour(tap: Tap, items: Iterator[Any]) -> Any:
    try:
        if not tap.bench.spec.groups:
            return _last(items)
        tap.pour(items)
    finally:
        if isinstance(items, GeneratorType):
            items.close()
    return None


def _last(items: Iterator[Any]) -> Any:
    """A generator of a task without outputs: run it; its return value is the result."""
    while True:
        try:
            check_result(next(items))
        except StopIteration as end:
            return end.value


async def _apour(tap: Tap, items: AsyncGeneratorType[Any, Any]) -> None:
    import asyncio

    loop = asyncio.get_running_loop()
    try:
        await loop.run_in_executor(None, tap.reserve)
        async for item in items:
            tap.emit(item)
            if tap.due or tap.collector.size >= MOST_BYTES:
                await loop.run_in_executor(None, tap.reserve)
    finally:
        if hasattr(type(items), "aclose"):
            await items.aclose()
        tap.flush()
