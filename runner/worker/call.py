"""A function called for every item of a grant, or for every batch of them.

The loop over small items is the hottest code there is: one call, one store into the progress cell and one append
for each. The clock is read every `stride` items, about once a millisecond; a grant that takes more than twice its
slice is answered with what is done, and the rest handed back.
"""

from __future__ import annotations

from operator import length_hint
from time import perf_counter
from typing import TYPE_CHECKING, Any

from runner.error_text import describe_error
from runner.transport import item_codec
from runner.transport.messages import OBJECTS, SHARED, Ack, Failure, Grant, Reply
from runner.transport.progress_page import pack_burst
from runner.worker.failure import WORKER_ENDING_ERRORS, decide_verdict, make_failure
from runner.worker.returned_values import exhaust_result, needs_inspection
from runner.worker.runtime import (
    MAX_BURST,
    QUICK_SECONDS,
    SLOW_SECONDS,
    WorkerRuntime,
    decode_item,
    each_encoded_item,
    encoded_items,
    item_decoder,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runner.transport.messages import GrantedRange

_MAX_CLOCK_CHECK_INTERVAL = 4096
#: Items are executed in stretches after so many quick strides.
_QUICK_ENOUGH = 2
#: Fewer are sooner executed one by one.
_FEW = 16
_Items = item_codec.EncodedItems | memoryview
#: Items that have failed: index in the part, and the error.
_Faults = list[tuple[int, BaseException]]


def call_granted_items(
    bench: WorkerRuntime, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Execute grants until the inputs have ended."""
    if bench.call_shape.kind == "class":
        # Bound once: looking it up for each item costs as much as calling it.
        target = target.__call__  # type: ignore[operator]  # an instance, here
    if args or kwargs:
        plain = target

        def target(item: Any) -> Any:
            return plain(item, *args, **kwargs)

    if bench.spec.batch:
        execute: Callable[[Grant], Reply] = PerBatch(bench, target).execute_grant
    else:
        execute = PerItem(bench, target).execute_grant
    while True:
        grant = bench.handle_message(bench.port.receive())
        if grant is not None:
            answer = execute(grant)
            bench.send_reply(answer)
            bench.measurements.report_when_due(perf_counter())
        elif bench.inputs_ended:
            return


class PerItem:
    """Item by item; or, while each takes next to no time, some hundreds in one stretch."""

    def __init__(self, bench: WorkerRuntime, target: Callable[[Any], Any]) -> None:
        self.bench = bench
        self.target = target
        self.clock_check_interval = 1
        self.needs_context = bench.call_shape.context is not None or bench.call_shape.constructor_context is not None
        spec, collector = bench.spec, bench.output_buffer
        #: Whether stretches are possible at all. With a time limit, or an order to keep, each item stands alone.
        self.may_burst = (
            not (self.needs_context or spec.timed or spec.ordered) and bench.call_shape.call_kind == "function"
        )
        self.may_burst = self.may_burst and (collector.direct_buffer is not None or not spec.output_groups)
        self.quick_intervals = self.slow_intervals = 0
        #: Types of results that need no look, as far as they are known.
        self.plain: frozenset[object] = item_codec.SMALL_TYPES

    def execute_grant(self, grant: Grant) -> Reply:
        """Call the function for each item, within the slice; an only worker goes on, and says what is done so far."""
        began = perf_counter()
        deadline = began + 2 * grant.time_slice
        failures: list[Failure] = []
        self.bench.show_position(grant.lease)
        base = told = 0
        for part in grant.parts:
            items = encoded_items(part)
            if part.crashes:
                self.bench.send_suspect_preview(grant.lease, part, items[0])
            at = 0
            while at < len(items):
                at, faults = self._until_fault(part, items, at, base, deadline)
                failures += [self._failed(part, items[index], base + index - told, error) for index, error in faults]
                if faults and self.bench.spec.ordered:
                    return self._answer(grant, base + at, failures, began)
                if (now := perf_counter()) > deadline and (base + at < grant.count):
                    if not self.bench.spec.is_only_worker:
                        return self._answer(grant, base + at, failures, began)
                    self.bench.send_reply(self._answer(grant, base + at - told, failures, began, more=True))
                    self.bench.measurements.report_when_due(now)
                    told, failures, began, deadline = base + at, [], now, now + 2 * grant.time_slice
            base += len(items)
        return self._answer(grant, base - told, failures, began)

    def _answer(self, grant: Grant, done: int, failures: list[Failure], began: float, *, more: bool = False) -> Reply:
        worked = perf_counter()
        outputs = self.bench.output_buffer.take_outputs()
        ended = perf_counter()
        return Reply((Ack(grant.lease, done, tuple(failures), more),), outputs, ended - began, ended - worked)

    def _failed(self, part: GrantedRange, frozen: Any, index: int, error: BaseException) -> Failure:
        try:
            item = decode_item(part, frozen)
        except BaseException:  # noqa: BLE001  it may be the item that cannot be decoded: shown as it travelled
            item = frozen
        fault = make_failure(self.bench.spec, index, 1, error, item, part.attempt)
        self.bench.output_buffer.end_failed_call(again=fault.verdict == "retry")
        return fault

    def _until_fault(
        self, part: GrantedRange, items: _Items, at: int, base: int, deadline: float
    ) -> tuple[int, _Faults]:
        """Execute from `at` until the end, an error, or the deadline; return where it stopped, and what has failed.

        `base` is the index in the lease of the part's first item.
        """
        run = self._way(part)
        before = perf_counter()
        quick, together = 0, 0.0  # items in stretches are measured together: so quick are they
        plain = part.dead_letter is None and not part.crashes
        while at < len(items):
            was = at
            quick_enough = self.quick_intervals >= _QUICK_ENOUGH and len(items) - at >= _FEW
            stretching = quick_enough and plain and self.may_burst
            if stretching:
                at, faults = self._run_burst(part, items, at, min(len(items), at + MAX_BURST), base)
            else:
                at, faults = run(part, items, at, min(len(items), at + self.clock_check_interval), base)
            now = perf_counter()
            if stretching:
                quick += at - was
                together += now - before
            else:
                self.bench.measurements.record_items(now - before, at - was)
            if faults:
                break
            self._adapt(now - before)
            if now > deadline:
                break
            before = now
        self.bench.measurements.record_items(together, quick)
        return at, faults

    def _adapt(self, seconds: float) -> None:
        """Read the clock about once a millisecond.

        One slow stride among quick ones says nothing: another thread had the interpreter meanwhile.
        """
        if seconds < QUICK_SECONDS:
            self.slow_intervals = 0
            self.clock_check_interval = min(_MAX_CLOCK_CHECK_INTERVAL, 2 * self.clock_check_interval)
            if self.clock_check_interval > MAX_BURST:
                self.quick_intervals += 1
        elif seconds > SLOW_SECONDS:
            self.slow_intervals += 1
            if self.slow_intervals > 1 or not self.quick_intervals:
                self.clock_check_interval = max(1, self.clock_check_interval // 4)
                self.quick_intervals = 0

    def _way(self, part: GrantedRange) -> Callable[[GrantedRange, _Items, int, int, int], tuple[int, _Faults]]:
        plain = (
            not self.needs_context
            and part.dead_letter is None
            and part.payload_kind != SHARED
            and self.bench.output_buffer.direct_buffer is not None
        )
        return self._fast if plain else self._careful

    def _fast(self, part: GrantedRange, items: _Items, at: int, stop: int, base: int) -> tuple[int, _Faults]:
        """One ordinary group out: the usual case."""
        collector, target, cell = self.bench.output_buffer, self.target, self.bench.progress_slot
        direct, small, thaw_ = collector.direct_buffer, item_codec.SMALL_TYPES, item_codec.decode_item
        assert direct is not None
        index = base + at
        objects = part.payload_kind == OBJECTS
        same: type | None = None  # most results are of the type that the one before was: no look-up
        try:
            for frozen in item_codec.items_between(items, at, stop):
                cell[1] = index
                result = target(frozen if objects or type(frozen) is not tuple else thaw_(frozen))
                if type(result) is same:
                    direct.append(result)
                elif type(result) in small:
                    same = type(result)
                    collector.small_types.add(same)
                    direct.append(result)
                else:
                    self.may_burst = self.may_burst and self._plain({type(result)})
                    collector.emit_result(result)
                index += 1
        except WORKER_ENDING_ERRORS:
            raise
        except BaseException as error:  # noqa: BLE001  whatever the user's function raises
            return index - base + 1, [(index - base, error)]
        return stop, []

    def _careful(self, part: GrantedRange, items: _Items, at: int, stop: int, base: int) -> tuple[int, _Faults]:
        """Every other combination."""
        bench, context = self.bench, self.bench.context
        emit, target = (bench.output_buffer.emit_result if bench.spec.output_groups else exhaust_result), self.target
        try:
            while at < stop:
                bench.progress_slot[1] = base + at
                if self.needs_context:
                    context.set_item(part, part.start + at)
                result = target(decode_item(part, items[at]))
                if self.may_burst and type(result) not in item_codec.SMALL_TYPES:
                    self.may_burst = self._plain({type(result)})
                emit(result)
                at += 1
        except WORKER_ENDING_ERRORS:
            raise
        except BaseException as error:  # noqa: BLE001  whatever the user's function raises
            return at + 1, [(at, error)]
        return at, []

    def _run_burst(self, part: GrantedRange, items: _Items, at: int, stop: int, base: int) -> tuple[int, _Faults]:
        """Call the function for some hundreds of items at the speed of C; until now all its results were plain.

        The cell shows all of them as suspects, so a death here makes each of them be given again alone. Should a
        result be something else for the first time, it is frozen a moment later than it would be item by item; after
        that the worker goes item by item for good.
        """
        self.bench.progress_slot[1] = pack_burst(base + at, stop - at)
        self.bench.burst_items = frozen = some = iter(item_codec.items_between(items, at, stop))
        if (made := item_decoder(part, items)) is not None:
            some = map(made, frozen)
        if not self.bench.spec.output_groups:
            try:
                self._sink(some)
            except WORKER_ENDING_ERRORS:
                raise
            except BaseException as error:  # noqa: BLE001  whatever the user's function raises
                failed = stop - length_hint(frozen) - 1  # the last one that was taken
                return failed + 1, [(failed, error)]
            return stop, []
        results: list[Any] = []
        faults: _Faults = []
        try:
            self._call(some, results)  # what was made before an error stays in the list
        except WORKER_ENDING_ERRORS:
            raise
        except BaseException as error:  # noqa: BLE001  whatever the user's function raises
            faults.append((at + len(results), error))
        done = at + len(results) + len(faults)
        kinds = item_codec.types_of(results)
        if not self._plain(kinds):
            self.may_burst = False
            return done, self._emit_each(part, results, at) + faults
        self.bench.output_buffer.emit_many(results, kinds)
        return done, faults

    def _call(self, some: Iterator[Any], results: list[Any]) -> None:
        """As quick as `map`, which would take a `StopIteration` of the function's for the end of the items."""
        target = self.target
        for item in some:
            results.append(target(item))  # noqa: PERF401  a comprehension would lose them all with the first error

    def _sink(self, some: Iterator[Any]) -> None:
        """Call the function for items whose results nobody takes."""
        target = self.target
        same: type | None = None
        for item in some:
            result = target(item)
            # Most return None, which is seen without a call of `type`.
            if result is not None and type(result) is not same:
                exhaust_result(result)
                if needs_inspection(type(result)):
                    self.may_burst = False
                else:
                    same = type(result)

    def _plain(self, kinds: set[type]) -> bool:
        """Whether results of these types can be taken without a look at each."""
        if kinds <= self.plain:
            return True
        if (self.bench.spec.output_groups and not self.bench.output_buffer.objects_only) or any(
            map(needs_inspection, kinds)
        ):
            return False
        self.plain = self.plain | kinds
        return True

    def _emit_each(self, part: GrantedRange, results: list[Any], at: int) -> _Faults:
        collector, spec = self.bench.output_buffer, self.bench.spec
        faults: _Faults = []
        for index, result in enumerate(results, at):
            try:
                collector.emit_result(result)
            except WORKER_ENDING_ERRORS:
                raise
            except BaseException as error:  # noqa: BLE001  it cannot be pickled, or its generator has raised
                faults.append((index, error))
                # At once: what others have emitted comes after it.
                collector.end_failed_call(
                    again=decide_verdict(spec, error, describe_error(error), part.attempt) == "retry"
                )
        return faults


class PerBatch:
    """Lists of items."""

    def __init__(self, bench: WorkerRuntime, target: Callable[[Any], Any]) -> None:
        self.bench = bench
        self.target = target

    def execute_grant(self, grant: Grant) -> Reply:
        """Call the function for each full list, and for what remains."""
        bench, spec = self.bench, self.bench.spec
        emit = bench.output_buffer.emit_result if spec.output_groups else exhaust_result
        began = last = perf_counter()
        failures: list[Failure] = []
        done = 0
        bench.show_position(grant.lease)
        for batch in self._lists(grant):
            if done and (last - began > 2 * grant.time_slice or (failures and spec.ordered)):
                break
            bench.show_position(grant.lease, done)
            attempt = batch[0][0].attempt
            bench.context.set_item(batch[0][0], batch[0][1])
            items: item_codec.EncodedItems = []
            if batch[0][0].crashes:
                bench.send_suspect_preview(grant.lease, batch[0][0], batch[0][2])
            try:
                items = [decode_item(part, frozen) for part, _, frozen in batch]
                emit(self.target(items))
            except WORKER_ENDING_ERRORS:
                raise
            except BaseException as error:  # noqa: BLE001  whatever the user's function raises
                # What could not be decoded is shown as it travelled.
                each = items or [frozen for _, _, frozen in batch]
                fault = make_failure(spec, done, len(batch), error, each, attempt, each)
                bench.output_buffer.end_failed_call(again=fault.verdict == "retry")
                failures.append(fault)
            done += len(batch)
            now = perf_counter()
            bench.measurements.record_items(now - last, len(batch))
            last = now
        worked = perf_counter()
        outputs = bench.output_buffer.take_outputs()
        ended = perf_counter()
        return Reply((Ack(grant.lease, done, tuple(failures)),), outputs, ended - began, ended - worked)

    def _lists(self, grant: Grant) -> Any:
        """Cut the grant into batches, by number and by bytes."""
        most, most_bytes = self.bench.spec.batch or 1, self.bench.spec.batch_bytes
        batch: list[tuple[GrantedRange, int, Any]] = []
        size = 0
        for each in each_encoded_item(grant):
            part, _, item = each
            more = 0
            if most_bytes is not None:
                more = item_codec.item_size(item) if part.payload_kind == OBJECTS else item_codec.encoded_size(item)
            if batch and (len(batch) >= most or (most_bytes is not None and size + more > most_bytes)):
                yield batch
                batch, size = [], 0
            batch.append(each)
            size += more
        if batch:
            yield batch
