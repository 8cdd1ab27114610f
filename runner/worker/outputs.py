"""Outputs on their way out: gathered by group, encoded at the moment they are produced, cut into chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from runner.tasks import To
from runner.transport import item_codec
from runner.transport.messages import OBJECTS, PICKLED, Output
from runner.worker import returned_values
from runner.worker.lanes import bucket_reader
from runner.worker.priorities import group_by_mark, read_priority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runner.shm.writer import ArenaWriter
    from runner.worker.spec import OutputGroup

#: Items of one chunk; more would only leave the processor's cache.
MAX_CHUNK_ITEMS = 8 * 1024
#: The same where a reader takes single items of it.
MAX_SINGLY_READ_ITEMS = 64
MAX_CHUNK_BYTES = 1 << 20
_PLAIN_BYTES = item_codec.memory_size(0)
#: What a small value counts in a chunk's bytes.
_SMALL_BYTES = item_codec.encoded_size(0)

RollbackMark = tuple[int, ...]


class OutputBuffer:
    """The outputs that wait for the next message."""

    def __init__(
        self,
        output_groups: tuple[OutputGroup, ...],
        max_item_bytes: int = 1 << 62,
        arena_writer: ArenaWriter | None = None,
        shared_discount: int = 1,
    ) -> None:
        self.output_groups = output_groups
        self.shared_discount = shared_discount
        self.item_encoder = item_codec.ItemEncoder(max_item_bytes, arena_writer)
        self.buffers: list[list[Any]] = [[] for _ in output_groups]
        #: If any group is sorted: the priority or the bucket of each item in the buffers, and what reads it.
        self._is_sorted = any(group.is_sorted for group in output_groups)
        self._marks: list[list[float]] = [[] for _ in output_groups]
        self._mark_readers = tuple(_mark_reader(group) for group in output_groups)
        #: Chunks of a source's one group that are older than what its buffer holds.
        self._encoded_chunks: list[Output] = []
        self.encoded_items = 0
        self.gathered_bytes = 0
        #: There is something else than small values; some of it is pickled by itself.
        self.has_large_items = self.has_encoded_items = False
        #: The types of all small values that there have ever been.
        self.small_types: set[type] = set()
        self._call_mark: RollbackMark | None = None
        #: The type of the last item, and of the last result that was one: it need not be checked again.
        self._checked_type: type = str
        self._single_item_type: type = str
        self._groups_by_port: dict[str, list[int]] = {}
        for index, group in enumerate(output_groups):
            self._groups_by_port.setdefault(group.port, []).append(index)
        first_port = output_groups[0].port if output_groups else ""
        self._default_groups = self._groups_by_port.get("default", self._groups_by_port.get(first_port, []))
        #: With one group this is its buffer, to which bodies append themselves.
        is_one = len(output_groups) == 1 and not self._is_sorted
        self.direct_buffer: list[Any] | None = self.buffers[0] if is_one else None
        #: What comes before what is in that buffer: chunks of machine words, or of small values for threads; the last
        #: of them may grow.
        self._word_chunks: list[bytearray] = []
        self._value_chunks: list[list[Any]] = []
        self._may_pack = is_one and output_groups[0].payload_kind == PICKLED and not output_groups[0].is_read_singly
        self.objects_only = bool(output_groups) and all(group.payload_kind == OBJECTS for group in output_groups)

    def emit_item(self, item: Any) -> None:
        """Take one item: to the default port, or where a `To` says. NotPicklable names the culprit."""
        if type(item) in item_codec.SMALL_TYPES and self.direct_buffer is not None:
            self.small_types.add(type(item))
            self.direct_buffer.append(item)
            return
        targets = self._default_groups
        if type(item) is To:
            targets = self._groups_by_port.get(item.port, [])
            if not targets:
                if not self.output_groups:
                    return
                known = ", ".join(sorted(self._groups_by_port))
                raise ValueError(f"To({item.port!r}, ...): this task has no such port (its ports: {known})")
            item = item.item
        marks = self._read_marks(item, targets) if self._is_sorted else None
        encoded: Any = None
        if type(item) is not self._checked_type:
            returned_values.check_item(item)
            self._checked_type = type(item)
        if type(item) in item_codec.SMALL_TYPES:
            self.small_types.add(type(item))
            encoded = item
        elif self.objects_only:
            self.has_large_items = True
            self.gathered_bytes += item_codec.memory_size(item)
        else:  # before anything is kept: it may be refused
            encoded = self.item_encoder.encode_item(item)
            self.gathered_bytes += item_codec.encoded_size(encoded, self.shared_discount)
            self.has_large_items = True
            self.has_encoded_items = self.has_encoded_items or type(encoded) is tuple
        if marks is not None:  # first: another thread takes as many as there are items
            self._keep_marks(targets, marks)
        for index in targets:
            self.buffers[index].append(item if self.output_groups[index].payload_kind == OBJECTS else encoded)

    def _read_marks(self, item: Any, targets: list[int]) -> list[float]:
        """Return the priority, or the bucket, of an item for each of these groups. TypeError: it does not say."""
        if len(targets) == 1:
            return [self._mark_readers[targets[0]](item)]
        return [self._mark_readers[index](item) for index in targets]

    def _keep_marks(self, targets: list[int], marks: list[float]) -> None:
        if len(targets) == 1:
            self._marks[targets[0]] += marks
            return
        for index, mark in zip(targets, marks, strict=True):
            self._marks[index].append(mark)

    def emit_many(self, items: list[Any], types: set[type]) -> None:
        """Take items of these types at once for the one group: small values, or objects for threads alone."""
        assert self.direct_buffer is not None
        if types <= item_codec.SMALL_TYPES:
            self.small_types |= types
            if self._take_small(items, types):
                return
        else:
            self.has_large_items = True
            self.gathered_bytes += sum(map(item_codec.memory_size, items))
        self.direct_buffer.extend(items)

    def _take_small(self, values: list[Any], types: set[type]) -> bool:
        """Take small values in the form in which they travel. False: they must wait as the objects that they are.

        A few before them that were taken one by one (a part of a grant may be one item) go the same way: else all that
        a message has would wait behind them, 40 bytes each. # bench small: without it 53 to 55 MB of PSS, with it 50
        """
        waiting = self.direct_buffer
        if waiting:
            if self.has_large_items or len(waiting) + len(values) > MAX_CHUNK_ITEMS:
                return False
            values = waiting + values
            types = item_codec.types_of(values)
        taken = self._pack_numbers(values, types) or self._gather_values(values)
        if taken and waiting:
            waiting.clear()
        return taken

    def encode_full_chunk(self) -> None:
        """Encode the oldest of a source's small values for its one group once they fill a chunk.

        A message may have 100,000 of them; as objects they take 32 bytes each, and 8 in a list.
        # bench small: without it 54 MB of PSS, with it 52
        """
        buffer = self.direct_buffer
        if buffer is None or len(buffer) < MAX_CHUNK_ITEMS or self.has_large_items or self.objects_only:
            return
        self._encoded_chunks.extend(self._cut_chunks(0, buffer[:MAX_CHUNK_ITEMS]))
        self.encoded_items += MAX_CHUNK_ITEMS
        del buffer[:MAX_CHUNK_ITEMS]

    def _pack_numbers(self, numbers: list[Any], types: set[type]) -> bool:
        """Pack numbers while they are in the processor's cache. False: not of one type, too large, or too many.

        bench one worker alone, granted 32,768 at a time: without it 1.08 (and 6 times the page faults), with it 1.
        """
        may_pack = self._may_pack and len(numbers) <= MAX_CHUNK_ITEMS
        words = item_codec.encode_words(numbers, types) if may_pack else None
        if words is None:
            return False
        chunks = self._word_chunks
        if chunks and chunks[-1][0] == words[0] and len(chunks[-1]) + len(words) <= MAX_CHUNK_ITEMS * 8 + 2:
            chunks[-1] += memoryview(words)[1:]
        else:
            chunks.append(bytearray(words))
        return True

    def _gather_values(self, values: list[Any]) -> bool:
        """Gather values for threads in the chunk that travels, so that they are not copied when it does."""
        if not self.objects_only or len(values) > MAX_CHUNK_ITEMS:
            return False
        if self._value_chunks and len(self._value_chunks[-1]) + len(values) <= MAX_CHUNK_ITEMS:
            self._value_chunks[-1].extend(values)
        else:
            self._value_chunks.append(values.copy())
        return True

    def emit_result(self, result: Any) -> None:
        """Take what a call returned: a generator's items (or another iterator's), or the one item."""
        result_type = type(result)
        if result_type is not self._single_item_type:
            if returned_values.yields_items(result_type):
                self._call_mark = self.rollback_mark()
                for item in result:
                    self.emit_item(item)
                    del item  # else it lives while the next one is made
                self._call_mark = None
                return
            self._single_item_type = result_type
        self.emit_item(result)

    def end_failed_call(self, *, again: bool) -> None:
        """End a call that has failed. What its generator had yielded counts, unless the item is given `again`."""
        if self._call_mark is not None and again:
            self.roll_back_to(self._call_mark)
        self._call_mark = None

    def rollback_mark(self) -> RollbackMark:
        """Return a mark to roll back to."""
        return tuple(map(len, self.buffers)) if self.direct_buffer is None else (len(self.direct_buffer),)

    def roll_back_to(self, mark: RollbackMark) -> None:
        """Forget what was emitted since `mark`."""
        for buffer, marks, length in zip(self.buffers, self._marks, mark, strict=True):
            del buffer[length:]
            del marks[length:]

    def take_outputs(self) -> tuple[Output, ...]:
        """Take everything gathered so far, as chunks. Safe beside another thread that appends."""
        outputs: list[Output] = []
        if self._encoded_chunks or self._word_chunks or self._value_chunks:
            outputs, self._encoded_chunks, self.encoded_items = self._encoded_chunks, [], 0
            outputs += [Output(0, len(words) // 8, len(words), bytes(words)) for words in self._word_chunks]
            outputs += [Output(0, len(values), _PLAIN_BYTES * len(values), values) for values in self._value_chunks]
            self._word_chunks, self._value_chunks = [], []
        for index, buffer in enumerate(self.buffers):
            count = len(buffer)
            if (group := self.output_groups[index]).is_sorted:
                word = "rank" if group.has_priorities else "bucket"
                parts = group_by_mark(buffer[:count], self._marks[index])
                for mark, items in sorted(parts) if group.has_priorities else parts:
                    outputs += [replace(output, **{word: mark}) for output in self._cut_chunks(index, items)]
            elif count == 1 and self.output_groups[index].payload_kind != OBJECTS:  # bench: see `call`
                outputs.append(self._encode_output(index, buffer[:1]))
            elif count:
                outputs.extend(self._cut_chunks(index, buffer[:count]))
            del buffer[:count], self._marks[index][:count]
        self.gathered_bytes = 0
        self.has_large_items = self.has_encoded_items = False
        return tuple(outputs)

    def _cut_chunks(self, index: int, buffer: list[Any]) -> Iterator[Output]:
        group, count = self.output_groups[index], len(buffer)
        objects = group.payload_kind == OBJECTS
        max_items = MAX_SINGLY_READ_ITEMS if group.is_read_singly and not objects else MAX_CHUNK_ITEMS
        start = 0
        while start < count:
            piece = buffer[start : start + max_items]
            if objects:
                yield Output(index, len(piece), self._chunk_size(index, piece, count), piece)
            else:
                if self.gathered_bytes + _SMALL_BYTES * len(piece) > MAX_CHUNK_BYTES:
                    piece = _within_bytes(piece, self.shared_discount)
                yield self._encode_output(index, piece)
            start += len(piece)

    def _encode_output(self, index: int, piece: list[Any]) -> Output:
        """Return encoded items as a chunk for another process."""
        if self.item_encoder.uses_arena:
            piece, block_refs = item_codec.mark_items_sent(piece)
            size = sum([length for _, _, length in block_refs])
        else:
            block_refs, size = (), 0
        payload = (
            item_codec.encode_payload(piece)
            if self.has_encoded_items
            else item_codec.encode_values(piece, set() if self.has_large_items else self.small_types)
        )
        return Output(index, len(piece), size + len(payload), payload, block_refs)

    def _chunk_size(self, index: int, piece: list[Any], count: int) -> int:
        """Return the size of some of `count` objects; what was measured when it was emitted is not measured again.

        Of a group that is sorted each chunk gets its share of that: together they have all of it.
        """
        if not self.has_large_items:
            return _PLAIN_BYTES * len(piece)
        total = len(self.buffers[index]) if self.output_groups[index].is_sorted else count
        is_measured = self.objects_only and len(self.output_groups) == 1
        if is_measured and (len(piece) == total or self.output_groups[index].is_sorted):
            return self.gathered_bytes * len(piece) // total + _PLAIN_BYTES * len(piece)
        return sum(map(item_codec.memory_size, piece))


def _no_mark(_item: Any) -> float:
    return 0.0


def _mark_reader(group: OutputGroup) -> Callable[[Any], float]:
    """Return what says of an item by what its group is sorted: 0 where it is not. TypeError: it does not say."""
    if group.has_priorities:
        return read_priority
    return bucket_reader(group.lane, group.bucket_bits) if group.lane else _no_mark


def _within_bytes(items: list[Any], shared_discount: int) -> list[Any]:
    """Return as many of the items as a chunk may hold, at least one."""
    total = 0
    for at, item in enumerate(items):
        total += item_codec.encoded_size(item, shared_discount)
        if total > MAX_CHUNK_BYTES:
            return items[: max(1, at)]
    return items
