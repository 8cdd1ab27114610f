"""A function called for every item of a grant, or for every batch of them.

The loop over small items is the hottest code there is: one call, one store into the progress slot and one append
for each. The clock is read every `clock_check_interval` items, about once a millisecond; a grant that takes more than
twice its time slice is answered with what is done, and the rest is handed back.
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
from runner.worker.pace import MAX_BURST, QUICK_SECONDS, SLOW_SECONDS, ClockPace
from runner.worker.returned_values import exhaust_result, needs_inspection
from runner.worker.runtime import (
    WorkerRuntime,
    decode_if_possible,
    decode_item,
    each_encoded_item,
    encoded_items,
    item_decoder,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runner.transport.messages import GrantedRange

_MAX_CLOCK_CHECK_INTERVAL = 4096
#: Quick intervals after which items are executed in bursts.
_MIN_QUICK_INTERVALS = 2
#: Fewer are sooner executed one by one.
_MIN_BURST = 16
_Items = item_codec.EncodedItems | memoryview
#: Items that have failed: index in the part, and the error.
_Faults = list[tuple[int, BaseException]]


def call_granted_items(
    runtime: WorkerRuntime, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Execute grants until the inputs have ended."""
    if runtime.call_shape.kind == "class":
        # bench small: bound once; looking it up for each item costs as much as calling it.
        target = target.__call__  # type: ignore[operator]  # an instance, here
    if args or kwargs:
        function = target

        def target(item: Any) -> Any:
            return function(item, *args, **kwargs)

    if runtime.spec.batch:
        execute: Callable[[Grant], Reply] = PerBatch(runtime, target).execute_grant
    else:
        execute = PerItem(runtime, target).execute_grant
    while True:
        grant = runtime.handle_message(runtime.port.receive())
        if grant is not None:
            reply = execute(grant)
            runtime.send_reply(reply)
            runtime.measurements.report_when_due(perf_counter())
        elif runtime.inputs_ended:
            return


def _make_reply(
    runtime: WorkerRuntime, grant: Grant, done: int, failures: list[Failure], began: float, *, more: bool = False
) -> Reply:
    worked = perf_counter()
    outputs = runtime.output_buffer.take_outputs()
    ended = perf_counter()
    return Reply((Ack(grant.lease, done, tuple(failures), more),), outputs, ended - began, ended - worked)


class PerItem:
    """Calls item by item; or, while each takes next to no time, some hundreds in one burst."""

    def __init__(self, runtime: WorkerRuntime, target: Callable[[Any], Any]) -> None:
        self.runtime = runtime
        self.target = target
        self.pace = ClockPace(_MAX_CLOCK_CHECK_INTERVAL)
        self.needs_context = (
            runtime.call_shape.context is not None or runtime.call_shape.constructor_context is not None
        )
        spec, output_buffer = runtime.spec, runtime.output_buffer
        #: Bursts are possible at all. With a time limit, or an order to keep, each item stands alone.
        self.may_burst = (
            not (self.needs_context or spec.timed or spec.ordered) and runtime.call_shape.call_kind == "function"
        )
        self.may_burst = self.may_burst and (output_buffer.direct_buffer is not None or not spec.output_groups)
        self.quick_intervals = self.slow_intervals = 0
        #: Types of results that need no look, as far as they are known.
        self.plain_types: frozenset[object] = item_codec.SMALL_TYPES

    def execute_grant(self, grant: Grant) -> Reply:
        """Call the function for each item, within the slice; an only worker goes on, and says what is done so far."""
        runtime = self.runtime
        began = perf_counter()
        deadline = began + 2 * grant.time_slice
        failures: list[Failure] = []
        runtime.show_position(grant.lease)
        base = answered = 0
        for part in grant.parts:
            items = encoded_items(part)
            if part.crashes:
                runtime.send_suspect_preview(grant.lease, part, items[0])
            at = 0
            while at < len(items):
                at, faults = self._run_until_fault(part, items, at, base, deadline)
                failures += [
                    self._record_failure(part, items[index], base + index - answered, error) for index, error in faults
                ]
                if faults and runtime.spec.ordered:
                    return _make_reply(runtime, grant, base + at, failures, began)
                if (now := perf_counter()) > deadline and (base + at < grant.count):
                    if not runtime.spec.is_only_worker:
                        return _make_reply(runtime, grant, base + at, failures, began)
                    runtime.send_reply(_make_reply(runtime, grant, base + at - answered, failures, began, more=True))
                    runtime.measurements.report_when_due(now)
                    answered, failures, began, deadline = base + at, [], now, now + 2 * grant.time_slice
            base += len(items)
        return _make_reply(runtime, grant, base - answered, failures, began)

    def _record_failure(self, part: GrantedRange, encoded: Any, index: int, error: BaseException) -> Failure:
        item = decode_if_possible(part, encoded)
        failure = make_failure(self.runtime.spec, index, 1, error, item, part.attempt)
        self.runtime.output_buffer.end_failed_call(again=failure.verdict == "retry")
        return failure

    def _run_until_fault(
        self, part: GrantedRange, items: _Items, at: int, base: int, deadline: float
    ) -> tuple[int, _Faults]:
        """Execute from `at` until the end, an error, or the deadline; return where it stopped, and what has failed.

        `base` is the index in the lease of the part's first item.
        """
        run = self._choose_loop(part)
        before = perf_counter()
        burst_items, burst_seconds = 0, 0.0  # bursts are measured together: their items are that quick
        is_ordinary = part.dead_letter is None and not part.crashes
        while at < len(items):
            was = at
            quick_enough = self.quick_intervals >= _MIN_QUICK_INTERVALS and len(items) - at >= _MIN_BURST
            in_burst = quick_enough and is_ordinary and self.may_burst
            if in_burst:
                at, faults = self._run_burst(part, items, at, min(len(items), at + MAX_BURST), base)
            else:
                at, faults = run(part, items, at, min(len(items), at + self.pace.clock_check_interval), base)
            now = perf_counter()
            if in_burst:
                burst_items += at - was
                burst_seconds += now - before
            else:
                self.runtime.measurements.record_items(now - before, at - was)
            if faults:
                break
            self._adapt_interval(now - before)
            if now > deadline:
                break
            before = now
        self.runtime.measurements.record_items(burst_seconds, burst_items)
        return at, faults

    def _adapt_interval(self, seconds: float) -> None:
        """Adapt the pace, and count intervals that were quick enough for bursts.

        One slow interval among quick ones says nothing: another thread had the interpreter meanwhile.
        """
        if seconds > SLOW_SECONDS:
            self.slow_intervals += 1
            if self.slow_intervals == 1 and self.quick_intervals:
                return
            self.quick_intervals = 0
        self.pace.adapt_interval(seconds)
        if seconds < QUICK_SECONDS:
            self.slow_intervals = 0
            self.quick_intervals += self.pace.clock_check_interval > MAX_BURST

    def _choose_loop(self, part: GrantedRange) -> Callable[[GrantedRange, _Items, int, int, int], tuple[int, _Faults]]:
        is_ordinary = (
            not self.needs_context
            and part.dead_letter is None
            and part.payload_kind != SHARED
            and self.runtime.output_buffer.direct_buffer is not None
        )
        return self._run_plain if is_ordinary else self._run_general

    def _run_plain(self, part: GrantedRange, items: _Items, at: int, stop: int, base: int) -> tuple[int, _Faults]:
        """Execute items with one ordinary output group: the usual case."""
        output_buffer, target, progress_slot = self.runtime.output_buffer, self.target, self.runtime.progress_slot
        direct, small, decode = output_buffer.direct_buffer, item_codec.SMALL_TYPES, item_codec.decode_item
        assert direct is not None
        index = base + at
        objects = part.payload_kind == OBJECTS
        same: type | None = None  # bench small: most results are of the type of the one before, so no look-up
        try:
            for encoded in item_codec.items_between(items, at, stop):
                progress_slot[1] = index
                result = target(encoded if objects or type(encoded) is not tuple else decode(encoded))
                if type(result) is same:
                    direct.append(result)
                elif type(result) in small:
                    same = type(result)
                    output_buffer.small_types.add(same)
                    direct.append(result)
                else:
                    self.may_burst = self.may_burst and self._are_plain_types({type(result)})
                    output_buffer.emit_result(result)
                index += 1
        except WORKER_ENDING_ERRORS:
            raise
        except BaseException as error:  # noqa: BLE001  whatever the user's function raises
            return index - base + 1, [(index - base, error)]
        return stop, []

    def _run_general(self, part: GrantedRange, items: _Items, at: int, stop: int, base: int) -> tuple[int, _Faults]:
        """Execute items in every other combination."""
        runtime, context = self.runtime, self.runtime.context
        emit, target = (
            (runtime.output_buffer.emit_result if runtime.spec.output_groups else exhaust_result),
            self.target,
        )
        try:
            while at < stop:
                runtime.progress_slot[1] = base + at
                if self.needs_context:
                    context.set_item(part, part.start + at)
                result = target(decode_item(part, items[at]))
                if self.may_burst and type(result) not in item_codec.SMALL_TYPES:
                    self.may_burst = self._are_plain_types({type(result)})
                emit(result)
                at += 1
        except WORKER_ENDING_ERRORS:
            raise
        except BaseException as error:  # noqa: BLE001  whatever the user's function raises
            return at + 1, [(at, error)]
        return at, []

    def _run_burst(self, part: GrantedRange, items: _Items, at: int, stop: int, base: int) -> tuple[int, _Faults]:
        """Call the function for some hundreds of items at the speed of C; until now all its results were plain.

        bench small: one store into the progress slot, one check of types and one packing for all of them.

        The progress slot shows all of them as suspects: after a death here each is given again alone. The first
        result of another type is encoded a moment later than it would be item by item; from then on the worker goes
        item by item.
        """
        self.runtime.progress_slot[1] = pack_burst(base + at, stop - at)
        self.runtime.burst_items = encoded = burst = iter(item_codec.items_between(items, at, stop))
        if (decoder := item_decoder(part, items)) is not None:
            burst = map(decoder, encoded)
        if not self.runtime.spec.output_groups:
            try:
                self._call_sink(burst)
            except WORKER_ENDING_ERRORS:
                raise
            except BaseException as error:  # noqa: BLE001  whatever the user's function raises
                failed = stop - length_hint(encoded) - 1  # the last one that was taken
                return failed + 1, [(failed, error)]
            return stop, []
        results: list[Any] = []
        faults: _Faults = []
        try:
            self._call_each(burst, results)  # what was made before an error stays in the list
        except WORKER_ENDING_ERRORS:
            raise
        except BaseException as error:  # noqa: BLE001  whatever the user's function raises
            faults.append((at + len(results), error))
        done = at + len(results) + len(faults)
        types = item_codec.types_of(results)
        if not self._are_plain_types(types):
            self.may_burst = False
            return done, self._emit_one_by_one(part, results, at) + faults
        self.runtime.output_buffer.emit_many(results, types)
        return done, faults

    def _call_each(self, burst: Iterator[Any], results: list[Any]) -> None:
        """Call the function for each item; `map` would take its `StopIteration` for the end of the items."""
        target = self.target
        for item in burst:
            results.append(target(item))  # noqa: PERF401  a comprehension would lose them all with the first error

    def _call_sink(self, burst: Iterator[Any]) -> None:
        """Call the function for items whose results are not used."""
        target = self.target
        same: type | None = None
        for item in burst:
            result = target(item)
            # bench small: most return None, which is seen without a call of `type`.
            if result is not None and type(result) is not same:
                exhaust_result(result)
                if needs_inspection(type(result)):
                    self.may_burst = False
                else:
                    same = type(result)

    def _are_plain_types(self, types: set[type]) -> bool:
        """Return True if results of these types can be taken without a look at each."""
        if types <= self.plain_types:
            return True
        if (self.runtime.spec.output_groups and not self.runtime.output_buffer.objects_only) or any(
            map(needs_inspection, types)
        ):
            return False
        self.plain_types = self.plain_types | types
        return True

    def _emit_one_by_one(self, part: GrantedRange, results: list[Any], at: int) -> _Faults:
        output_buffer, spec = self.runtime.output_buffer, self.runtime.spec
        faults: _Faults = []
        for index, result in enumerate(results, at):
            try:
                output_buffer.emit_result(result)
            except WORKER_ENDING_ERRORS:
                raise
            except BaseException as error:  # noqa: BLE001  it cannot be pickled, or its generator has raised
                faults.append((index, error))
                # At once: what others have emitted comes after it.
                output_buffer.end_failed_call(
                    again=decide_verdict(spec, error, describe_error(error), part.attempt) == "retry"
                )
        return faults


class PerBatch:
    """Calls with lists of items."""

    def __init__(self, runtime: WorkerRuntime, target: Callable[[Any], Any]) -> None:
        self.runtime = runtime
        self.target = target

    def execute_grant(self, grant: Grant) -> Reply:
        """Call the function for each full list, and for what remains."""
        runtime, spec = self.runtime, self.runtime.spec
        emit = runtime.output_buffer.emit_result if spec.output_groups else exhaust_result
        began = last = perf_counter()
        failures: list[Failure] = []
        done = 0
        runtime.show_position(grant.lease)
        for batch in self._split_batches(grant):
            if done and (last - began > 2 * grant.time_slice or (failures and spec.ordered)):
                break
            runtime.show_position(grant.lease, done)
            attempt = batch[0][0].attempt
            runtime.context.set_item(batch[0][0], batch[0][1])
            items: item_codec.EncodedItems = []
            if batch[0][0].crashes:
                runtime.send_suspect_preview(grant.lease, batch[0][0], batch[0][2])
            try:
                items = [decode_item(part, encoded) for part, _, encoded in batch]
                emit(self.target(items))
            except WORKER_ENDING_ERRORS:
                raise
            except BaseException as error:  # noqa: BLE001  whatever the user's function raises
                # What could not be decoded is shown as it travelled.
                shown = items or [encoded for _, _, encoded in batch]
                failure = make_failure(spec, done, len(batch), error, shown, attempt, shown)
                runtime.output_buffer.end_failed_call(again=failure.verdict == "retry")
                failures.append(failure)
            done += len(batch)
            now = perf_counter()
            runtime.measurements.record_items(now - last, len(batch))
            last = now
        return _make_reply(runtime, grant, done, failures, began)

    def _split_batches(self, grant: Grant) -> Any:
        """Cut the grant into batches, by number and by bytes."""
        most, most_bytes = self.runtime.spec.batch or 1, self.runtime.spec.batch_bytes
        batch: list[tuple[GrantedRange, int, Any]] = []
        size = 0
        for entry in each_encoded_item(grant):
            part, _, item = entry
            more = 0
            if most_bytes is not None:
                more = item_codec.item_size(item) if part.payload_kind == OBJECTS else item_codec.encoded_size(item)
            if batch and (len(batch) >= most or (most_bytes is not None and size + more > most_bytes)):
                yield batch
                batch, size = [], 0
            batch.append(entry)
            size += more
        if batch:
            yield batch
