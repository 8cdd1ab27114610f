"""A function called for every item of a grant, or for every batch of them.

The loop over small items is the hottest code there is: one call, one store into the progress slot and one append
for each. The clock is read every `clock_check_interval` items, about once a millisecond; a grant that takes more than
twice its time slice is answered with what is done, and the rest is handed back.
"""

from __future__ import annotations

from functools import partial
from operator import length_hint
from time import perf_counter
from typing import TYPE_CHECKING, Any

from runner.error_text import describe_error
from runner.transport import item_codec
from runner.transport.messages import OBJECTS, Ack, Failure, Grant, Reply
from runner.transport.progress_page import pack_burst
from runner.worker.failure import WORKER_ENDING_ERRORS, decide_verdict, make_failure
from runner.worker.measurements import MAX_BURST, ClockPace
from runner.worker.returned_values import exhaust_result, needs_inspection
from runner.worker.runtime import (
    WorkerRuntime,
    decode_if_possible,
    decode_item,
    each_encoded_item,
    encoded_items,
    item_decoder,
    object_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runner.transport.messages import GrantedRange
    from runner.worker.spec import WorkerSpec

_MAX_CLOCK_CHECK_INTERVAL = 4096
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
        # Bound once, not looked up for each item.
        target = target.__call__  # type: ignore[operator]  # an instance, here
    if args or kwargs:
        function = target

        def target(item: Any) -> Any:  # `partial` would put the item behind `args`
            return function(item, *args, **kwargs)

    execute = (
        partial(execute_batches, runtime, target) if runtime.spec.batch else PerItem(runtime, target).execute_grant
    )
    while not runtime.inputs_ended:
        message = runtime.port.receive()
        if type(message) is Grant:
            runtime.send_reply(execute(message))
            # A thread's grant holds the items themselves: not until the next one arrives.
            runtime.burst_items = iter(())
        else:
            runtime.handle_message(message)
        del message


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
        spec, shape, output_buffer = runtime.spec, runtime.call_shape, runtime.output_buffer
        self.needs_context = shape.context is not None or shape.constructor_context is not None
        self.take_result = output_buffer.emit_result if spec.output_groups else exhaust_result
        #: Bursts are possible at all. With a time limit, or an order to keep, each item stands alone.
        self.may_burst = (
            not (self.needs_context or spec.timed or spec.stops_at_failure)
            and shape.call_kind == "function"
            and (output_buffer.direct_buffer is not None or not spec.output_groups)
        )
        #: Types of results that need no look, as far as they are known.
        self.plain_types: frozenset[object] = item_codec.SMALL_TYPES

    def execute_grant(self, grant: Grant) -> Reply:
        """Call the function for each item, within the slice; an only worker goes on, and says what is done so far."""
        runtime = self.runtime
        began = perf_counter()
        if len(grant.parts) == 1 and grant.parts[0].count == 1 and not grant.parts[0].crashes:
            return self._execute_item(grant, grant.parts[0], began)
        deadline = began + 2 * grant.time_slice
        failures: list[Failure] = []
        runtime.show_position(grant.lease)
        base = answered = 0
        for part in grant.parts:
            items = encoded_items(part)
            runtime.send_suspect_preview(grant.lease, part, items[0])
            at = 0
            while at < len(items):
                at, faults = self._run_until_fault(part, items, at, base, deadline)
                failures += [
                    self._record_failure(part, items[index], base + index - answered, error) for index, error in faults
                ]
                if faults and runtime.spec.stops_at_failure:
                    return _make_reply(runtime, grant, base + at - answered, failures, began)
                del faults
                if (now := perf_counter()) > deadline and (base + at < grant.count):
                    if not runtime.spec.is_only_worker:
                        return _make_reply(runtime, grant, base + at, failures, began)
                    runtime.send_reply(_make_reply(runtime, grant, base + at - answered, failures, began, more=True))
                    answered, failures, began, deadline = base + at, [], now, now + 2 * grant.time_slice
            base += len(items)
        return _make_reply(runtime, grant, base - answered, failures, began)

    def _execute_item(self, grant: Grant, part: GrantedRange, began: float) -> Reply:
        """Call the function for a grant of one item: there is nothing to hand back, and nobody waits for the clock.

        # bench latency, from a grant to its reply: without it and the same in `take_outputs` 141 us, with them 94
        """
        runtime = self.runtime
        runtime.show_position(grant.lease)
        items = encoded_items(part)
        decode = item_decoder(part, items)
        failures: list[Failure] = []
        try:
            if self.needs_context:
                runtime.context.set_item(part, part.start)
            result = self.target(items[0] if decode is None else decode(items[0]))
            if self.may_burst and type(result) not in self.plain_types:
                self.may_burst = self._are_plain_types({type(result)})
            self.take_result(result)
            del result
        except WORKER_ENDING_ERRORS:
            raise
        except BaseException as error:  # noqa: BLE001  whatever the user's function raises
            failures.append(self._record_failure(part, items[0], 0, error))
        worked = perf_counter()
        runtime.measurements.record_items(worked - began, 1)
        self.pace.adapt_interval(worked - began)
        outputs = runtime.output_buffer.take_outputs()
        ended = perf_counter()
        return Reply((Ack(grant.lease, 1, tuple(failures)),), outputs, ended - began, ended - worked)

    def _record_failure(self, part: GrantedRange, encoded: Any, index: int, error: BaseException) -> Failure:
        item = decode_if_possible(part, encoded)
        objects = [object_of(part, encoded)]
        failure = make_failure(self.runtime.spec, index, 1, error, item, part.attempt, objects=objects)
        self.runtime.output_buffer.end_failed_call(again=failure.verdict == "retry")
        # Its frames hold what the call has made, and perhaps the error itself.
        BaseException.with_traceback(error, None)
        return failure

    def _run_until_fault(
        self, part: GrantedRange, items: _Items, at: int, base: int, deadline: float
    ) -> tuple[int, _Faults]:
        """Execute from `at` until the end, an error, or the deadline; return where it stopped, and what has failed.

        `base` is the index in the lease of the part's first item.
        """
        decode = item_decoder(part, items)
        is_ordinary = part.dead_letter is None and not part.crashes
        faults: _Faults = []
        before = perf_counter()
        while at < len(items):
            is_quick = self.pace.clock_check_interval > MAX_BURST and len(items) - at >= _MIN_BURST
            in_burst = is_quick and is_ordinary and self.may_burst
            stop = min(len(items), at + (MAX_BURST if in_burst else self.pace.clock_check_interval))
            encoded = iter(item_codec.items_between(items, at, stop))
            self.runtime.burst_items = encoded
            was, run = at, self._run_burst if in_burst else self._run_singly
            at, faults = run(part, encoded if decode is None else map(decode, encoded), at, stop, base)
            now = perf_counter()
            self.runtime.measurements.record_items(now - before, at - was)
            if faults:
                break
            self.pace.adapt_interval(now - before)
            if now > deadline:
                break
            before = now
        return at, faults

    def _run_singly(
        self, part: GrantedRange, items: Iterator[Any], at: int, stop: int, base: int
    ) -> tuple[int, _Faults]:
        """Call the function item by item, and take each result before the next call."""
        target, take_result, progress_slot = self.target, self.take_result, self.runtime.progress_slot
        direct = self.runtime.output_buffer.direct_buffer
        set_item = self.runtime.context.set_item if self.needs_context else None
        same: type | None = None  # bench ordered: results of the type of the last small one; without it 1.3, with it 1
        try:
            while at < stop:
                progress_slot[1] = base + at
                if set_item is not None:
                    set_item(part, part.start + at)
                result = target(next(items))
                if type(result) is same:
                    direct.append(result)  # type: ignore[union-attr]  # `same` is None without it
                else:
                    if self.may_burst and type(result) not in self.plain_types:
                        self.may_burst = self._are_plain_types({type(result)})
                    take_result(result)
                    same = type(result) if direct is not None and type(result) in item_codec.SMALL_TYPES else None
                    del result  # bench arrays-1m: without it 1.3, with it 1, with the same in sources
                at += 1
        except WORKER_ENDING_ERRORS:
            raise
        except BaseException as error:  # noqa: BLE001  whatever the user's function raises
            return at + 1, [(at, error)]
        return at, []

    def _run_burst(
        self, part: GrantedRange, items: Iterator[Any], at: int, stop: int, base: int
    ) -> tuple[int, _Faults]:
        """Call the function for some hundreds of items in the shortest loop; until now all its results were plain.

        bench one worker alone: without it 1.43, with it 1 (a sink: 4.9).

        The progress slot shows all of them as suspects: after a death here each is given again alone. The first
        result of another type is taken a moment later than it would be item by item.
        """
        self.runtime.progress_slot[1] = pack_burst(base + at, stop - at)
        results: list[Any] = []
        faults: _Faults = []
        try:
            self._call_each(items, results)  # what was made before an error stays in the list
        except WORKER_ENDING_ERRORS:
            raise
        except BaseException as error:  # noqa: BLE001  whatever the user's function raises
            faults.append((stop - length_hint(self.runtime.burst_items) - 1, error))
        done = stop - length_hint(self.runtime.burst_items)
        types = item_codec.types_of(results)
        if not types <= self.plain_types:
            self.may_burst = self._are_plain_types(types)
            return done, self._take_one_by_one(part, results, at) + faults
        if results:
            self.runtime.output_buffer.emit_many(results, types)
        return done, faults

    def _call_each(self, items: Iterator[Any], results: list[Any]) -> None:
        """Call the function for each item; `map` would take its `StopIteration` for the end of the items."""
        target = self.target
        if self.runtime.spec.output_groups:
            for item in items:
                results.append(target(item))  # a comprehension would lose them all with the first error
                del item
        else:
            for item in items:
                if (result := target(item)) is not None:
                    exhaust_result(result)
                del item

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

    def _take_one_by_one(self, part: GrantedRange, results: list[Any], at: int) -> _Faults:
        faults: _Faults = []
        for index, result in enumerate(results, at):
            try:
                self.take_result(result)
            except WORKER_ENDING_ERRORS:
                raise
            except BaseException as error:  # noqa: BLE001  it cannot be pickled, or its generator has raised
                faults.append((index, error))
                # At once: what others have emitted comes after it.
                verdict = decide_verdict(self.runtime.spec, error, describe_error(error), part.attempt)
                self.runtime.output_buffer.end_failed_call(again=verdict == "retry")
        return faults


def execute_batches(runtime: WorkerRuntime, target: Callable[[Any], Any], grant: Grant) -> Reply:
    """Call the function for each full list of the grant's items, and for what remains."""
    spec = runtime.spec
    emit = runtime.output_buffer.emit_result if spec.output_groups else exhaust_result
    began = last = perf_counter()
    failures: list[Failure] = []
    done = 0
    for batch in split_batches(spec, grant):
        if done and (last - began > 2 * grant.time_slice or (failures and spec.stops_at_failure)):
            break
        runtime.show_position(grant.lease, pack_burst(done, len(batch)))
        first_range, first_index, first = batch[0]
        runtime.context.set_item(first_range, first_index)
        items: list[Any] = []
        runtime.send_suspect_preview(grant.lease, first_range, first)
        try:
            items = [decode_item(part, encoded) for part, _, encoded in batch]
            emit(target(items))
        except WORKER_ENDING_ERRORS:
            raise
        except BaseException as error:  # noqa: BLE001  whatever the user's function raises
            failure = make_batch_failure(spec, batch, items, done, error)
            runtime.output_buffer.end_failed_call(again=failure.verdict == "retry")
            failures.append(failure)
        done += len(batch)
        now = perf_counter()
        runtime.measurements.record_items(now - last, len(batch))
        last = now
    return _make_reply(runtime, grant, done, failures, began)


def make_batch_failure(
    spec: WorkerSpec, batch: list[tuple[GrantedRange, int, Any]], items: list[Any], at: int, error: BaseException
) -> Failure:
    """Describe the failure of a batch, `at` that place of its lease.

    `items` is the list that the function was given: if it has taken some out, or one could not be decoded, they are
    shown as they came. Else they are not decoded twice, because the error's frames keep the first ones alive.
    """
    is_whole = len(items) == len(batch)
    shown = items if is_whole else [decode_if_possible(part, encoded) for part, _, encoded in batch]
    objects = [object_of(part, encoded) for part, _, encoded in batch]
    return make_failure(spec, at, len(batch), error, shown, batch[0][0].attempt, shown, objects)


def split_batches(spec: WorkerSpec, grant: Grant) -> Iterator[list[tuple[GrantedRange, int, Any]]]:
    """Cut the grant into batches, by number and by bytes."""
    batch: list[tuple[GrantedRange, int, Any]] = []
    size = more = 0
    for part, index, encoded in each_encoded_item(grant):
        if spec.batch_bytes is not None:
            more = (item_codec.item_size if part.payload_kind == OBJECTS else item_codec.encoded_size)(encoded)
        if batch and (
            len(batch) >= (spec.batch or 1) or (spec.batch_bytes is not None and size + more > spec.batch_bytes)
        ):
            yield batch
            batch, size = [], 0
        batch.append((part, index, encoded))
        size += more
    if batch:
        yield batch
