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
from runner.forked_copies import ExitOnTouch
from runner.shm.writer import READER_WAIT_SECONDS
from runner.tasks import Outbox
from runner.transport import item_codec
from runner.transport.messages import Credit, Produced
from runner.worker.outbox_threads import outbox_until_released
from runner.worker.outputs import MAX_CHUNK_BYTES
from runner.worker.returned_values import check_result, yields_items

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import AsyncGeneratorType

    from runner.shm.writer import ArenaWriter
    from runner.worker.runtime import WorkerRuntime


#: A stride shorter than this many seconds is doubled, a longer one than that is quartered; items of one at most.
_QUICK, _SLOW = 0.0001, 0.002
_MAX_CLOCK_CHECK_INTERVAL = 512
#: With so many there is something to gain from a stretch.
_MIN_BURST = 32


class SourceStopped(BaseException):
    """Raised where a source waits for room when the run is stopping; closes its generator."""


class SourceOutput:
    """Where a source's items leave, within its credit."""

    def __init__(self, bench: WorkerRuntime) -> None:
        self.bench = bench
        self.output_buffer = bench.output_buffer
        self.lock = threading.Lock()
        self.credit_condition = threading.Condition(self.lock)
        #: How many items may have been made, how many were sent; `idle`: nothing is under way.
        self.credit_total = 0
        self.sent_items = 0
        self.nothing_in_flight = True
        #: With so many waiting they leave although others are under way.
        self.push_threshold = 1
        #: Not empty: the next item leaves at once, or must not be made. All that is looked at between two items.
        self.attention_flag: list[int] = [1]
        #: So many items are made between two looks at the clock, as long as they take next to no time.
        self.clock_check_interval = 1
        #: What items are grouped by in a stretch: their type, until `hear` ends it.
        self.burst_key: Any = partial(type)
        self._count = 0
        self._since = perf_counter()
        #: Seconds since then that were spent waiting for room, and since when it waits now.
        self._waited = 0.0
        self._waits_since: float | None = None
        #: The function has returned: nothing is taken any more.
        self.function_returned = False
        self._owner = threading.get_ident()
        bench.fork_cleanups.append(self.abandon_fork)
        bench.port.start_listening(self.handle_message)

    @property
    def waiting_items(self) -> int:
        """Items that have been made and not sent."""
        return self._count if self.output_buffer.direct_buffer is None else self.output_buffer.waiting_items

    def handle_message(self, message: Any) -> None:
        """A message, in another thread than the function's."""
        with self.lock:
            self.bench.handle_message(message)
            if message is None:  # nobody will ever answer
                self.bench.context.stopping = True
            if isinstance(message, Credit):
                self.credit_total = max(self.credit_total, message.total_items)
                self.push_threshold = max(1, (self.credit_total - self.sent_items) // 2)
                self.nothing_in_flight = True
                if self.waiting_items:
                    self._send()
            self._set_flag()
            self.credit_condition.notify_all()

    def abandon_fork(self) -> None:
        """This is a copy that the function has forked: whatever it yields ends it."""
        self.lock = self.credit_condition = ExitOnTouch()  # type: ignore[assignment]  # that is what it stands for
        self.attention_flag[:] = [1]
        self.burst_key.__setstate__((id, (), {}, None))

    def _set_flag(self) -> None:
        self.attention_flag[:] = [1] if self.nothing_in_flight or self.bench.context.stopping else []
        if self.attention_flag:  # an item's id is no type, so it is the first of another group
            self.burst_key.__setstate__((id, (), {}, None))

    def _enough(self) -> int:
        """With so many waiting there is something to do."""
        if self.nothing_in_flight or self.bench.context.stopping:
            return 1
        return max(1, min(self.push_threshold, self.credit_total - self.sent_items))

    def _send(self) -> None:
        now = perf_counter()
        outputs = self.output_buffer.take_outputs()
        # Counted from what was taken: the function's thread may append meanwhile.
        items = self._count if self.output_buffer.direct_buffer is None else sum(each.count for each in outputs)
        self._count = 0
        self.sent_items += items
        self.nothing_in_flight = False
        if self._waits_since is not None:  # the function's thread still waits: this is another one
            self._waited += now - self._waits_since
            self._waits_since = now
        busy = now - self._since - self._waited
        self.bench.measurements.record_items(busy, items)
        self.bench.port.send(Produced(items, outputs, busy))
        self._since, self._waited = now, 0.0

    @property
    def is_due(self) -> bool:
        """Whether what waits is to leave."""
        return self.waiting_items >= self._enough()

    def flush(self) -> None:
        """Send what has been made."""
        with self.lock:
            if self.waiting_items:
                self._send()

    def reserve_credit(self, timeout: float | None = None) -> bool:
        """Wait for credit for one more item; send what is there first, because the credit may depend on it."""
        with self.credit_condition:
            return self._reserve(timeout)

    def _reserve(self, timeout: float | None) -> bool:
        if threading.get_ident() == self._owner:
            self.bench.measurements.report_when_due(perf_counter())
        waiting = self.waiting_items
        if waiting and (
            self.nothing_in_flight or waiting >= min(self.push_threshold, self.credit_total - self.sent_items)
        ):
            self._send()
        store = self.bench.port.arena_writer
        if store is not None and timeout is None and store.should_wait_for_readers():
            self._give_time(store)
        enough = self._may_make() or self._wait(timeout)
        self._set_flag()
        if self.bench.context.stopping:
            raise SourceStopped
        return enough

    def _wait(self, timeout: float | None) -> bool:
        first = self._waits_since is None  # of several threads that wait one measures
        since = self._waits_since = perf_counter() if first else self._waits_since
        enough = self.credit_condition.wait_for(self._may_make, timeout)
        if first:
            self._waited += perf_counter() - (self._waits_since or since or 0.0)
            self._waits_since = None
        return enough

    def _give_time(self, store: ArenaWriter) -> None:
        """Much of this worker's memory is in use: what was made goes out, and readers may be done with some of it."""
        if self.waiting_items:
            self._send()
        if not self.credit_condition.wait_for(
            lambda: self.bench.context.stopping or not store.should_wait_for_readers(), READER_WAIT_SECONDS
        ):
            store.double_wait_threshold()

    def _may_make(self) -> bool:
        if self.bench.context.stopping or self.function_returned:
            return True
        waiting = self.waiting_items
        return self.sent_items + waiting < self.credit_total and (
            self.output_buffer.gathered_bytes < MAX_CHUNK_BYTES or not waiting
        )

    def emit_reserved(self, item: Any) -> None:
        """One item, for which credit has been reserved."""
        with self.lock:
            self.output_buffer.emit_item(item)
            self._count += 1

    def put(self, item: Any, timeout: float | None = None) -> None:
        """One item of an Outbox, from any thread; `queue.Full` when there was no room within `timeout` seconds."""
        with self.credit_condition:
            try:
                enough = self._reserve(timeout)
            except SourceStopped:
                if threading.get_ident() == self._owner:
                    raise
                raise ShutDown from None  # in a thread of the function's own
            if self.function_returned:
                raise ShutDown("the function has returned: nothing can be put into its Outbox any more")
            if not enough:
                raise queue.Full
            self.output_buffer.emit_item(item)
            self._count += 1
            if self.is_due:
                self._send()
            self._set_flag()

    def close(self) -> None:
        """Send what has been made, and take nothing more."""
        with self.credit_condition:
            self.function_returned = True
            self.credit_condition.notify_all()
            if self.waiting_items:
                self._send()

    def emit_all_from(self, items: Iterator[Any]) -> None:
        """All items of an iterator."""
        if self.bench.call_shape.outboxes:  # what it puts meanwhile, in whichever thread, comes in between
            for item in items:
                self.put(item)
        elif self.output_buffer.direct_buffer is None:
            self.reserve_credit()
            for item in items:
                self.emit_reserved(item)
                self.reserve_credit()
        else:
            while self._pour_some(items, self.output_buffer.direct_buffer):
                pass
        self.flush()

    def _pour_some(self, items: Iterator[Any], direct: list[Any]) -> bool:
        """What may be made before there is something to do, at most a stride. False: that was all.

        The hottest loop of a source. Small values go straight into the buffer of the one ordinary group.
        """
        self.reserve_credit()
        with self.lock:
            before = self.sent_items + self.waiting_items
            most = min(max(1, self._enough() - self.waiting_items), self.clock_check_interval)
            self.burst_key = partial(id if self.attention_flag else type)
        began = perf_counter()
        some = islice(items, most) if most < _MIN_BURST else None
        more = self._emit_burst(items, direct, most) if some is None else self._one_by_one(some, direct)
        with self.lock:
            made = self.sent_items + self.waiting_items - before
            if most >= _MIN_BURST:
                self.output_buffer.pack_direct_buffer()
        if made >= self.clock_check_interval:
            self._adapt(perf_counter() - began)
        return more or made == most

    def _adapt(self, seconds: float) -> None:
        if seconds < _QUICK:
            self.clock_check_interval = min(_MAX_CLOCK_CHECK_INTERVAL, 2 * self.clock_check_interval)
        elif seconds > _SLOW:
            self.clock_check_interval = max(1, self.clock_check_interval // 4)

    def _one_by_one(self, items: Iterable[Any], direct: list[Any]) -> bool:
        """True when it ends before they do."""
        small, flag = item_codec.SMALL_TYPES, self.attention_flag
        same: type | None = None  # most items are of the type that the one before was: no look-up
        for item in items:
            if type(item) is same:
                direct.append(item)
            elif type(item) in small:
                same = type(item)
                self.output_buffer.small_types.add(same)
                direct.append(item)
            else:
                self.emit_reserved(item)
                if self.output_buffer.gathered_bytes >= MAX_CHUNK_BYTES:
                    return True
            if flag:
                return True
        return False

    def _emit_burst(self, items: Iterable[Any], direct: list[Any], most: int) -> bool:
        """Items of one small type at the speed of C. False: there are no more.

        An item of another type is the first of the next group, and nothing was asked of the generator since: it is
        kept as it was when it was yielded. So is the item after which `hear` has ended the stretch.
        """
        groups = groupby(items, self.burst_key)
        found = next(groups, None)
        if found is None:
            return False
        kind, group = found
        if kind in item_codec.SMALL_TYPES:
            self.output_buffer.small_types.add(kind)
            direct.extend(islice(group, most - 1))
            item = next(group, self)
            if item is not self:
                direct.append(item)
                return True
            found = next(groups, None)
            if found is None:
                return False
            _, group = found
        self.emit_reserved(next(group))
        return True


class SourceOutbox(Outbox[Any]):
    """`runner.Outbox` of a task without inputs: `put` waits for room."""

    def __init__(self, tap: SourceOutput) -> None:
        self._tap = tap

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Send an item; `queue.Full` when there was no room within `timeout` seconds."""
        self._tap.put(item, timeout if block else 0)


def call_source(bench: WorkerRuntime, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the function once and send what it makes; its result, when it is none of that."""
    tap = SourceOutput(bench)
    bench.show_position((1 << 63) | bench.spec.slot)
    try:
        if not bench.call_shape.outboxes:
            return _take(tap, target(*args, **kwargs))
        with outbox_until_released(bench, SourceOutbox(tap), lambda: tap.sent_items + tap.waiting_items) as boxes:
            return _take(tap, target(*args, **kwargs, **boxes))
    except SourceStopped:
        return None
    except ShutDown:
        if bench.context.stopping:  # of a thread whose result the function has asked for
            return None
        raise
    finally:
        tap.close()
        bench.show_position(0)


def _take(tap: SourceOutput, result: Any) -> Any:
    """Send what a call has given; what is no item is the task's result."""
    bench = tap.bench
    if hasattr(type(result), "__await__"):
        result = bench.event_loop().run(result)
    if hasattr(type(result), "__anext__"):
        return bench.event_loop().run(_apour(tap, result))
    if yields_items(type(result)):
        return _pour(tap, result)
    if not bench.spec.output_groups:
        check_result(result)
        return result
    if result is not None or not bench.call_shape.outboxes:
        tap.put(result)
    return None


def _pour(tap: SourceOutput, items: Iterator[Any]) -> Any:
    try:
        if not tap.bench.spec.output_groups:
            return _last(items)
        tap.emit_all_from(items)
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


async def _apour(tap: SourceOutput, items: AsyncGeneratorType[Any, Any]) -> None:
    import asyncio

    loop = asyncio.get_running_loop()
    try:
        await loop.run_in_executor(None, tap.reserve_credit)
        async for item in items:
            tap.emit_reserved(item)
            if tap.is_due or tap.output_buffer.gathered_bytes >= MAX_CHUNK_BYTES:
                await loop.run_in_executor(None, tap.reserve_credit)
    finally:
        if hasattr(type(items), "aclose"):
            await items.aclose()
        tap.flush()
