"""Outputs on their way out: gathered by group, frozen at the moment they are produced, cut into chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.errors import NotPicklable
from runner.tasks import To
from runner.transport import item_codec
from runner.transport.messages import OBJECTS, Output
from runner.worker import returned_values

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.shm.writer import ArenaWriter
    from runner.worker.spec import OutputGroup

#: Items of one chunk; more would only leave the processor's cache.
MAX_CHUNK_ITEMS = 8 * 1024
#: The same where a reader takes single items of it.
MAX_SINGLY_READ_ITEMS = 64
MAX_CHUNK_BYTES = 1 << 20
_PLAIN_WEIGHT = item_codec.memory_size(0)

RollbackMark = tuple[int, ...]


class OutputBuffer:
    """The outputs that wait for the next message."""

    def __init__(
        self, groups: tuple[OutputGroup, ...], most: int = 1 << 62, store: ArenaWriter | None = None, light: int = 1
    ) -> None:
        self.output_groups = groups
        self.shared_discount = light
        self.item_encoder = item_codec.ItemEncoder(most, store)
        self.buffers: list[list[Any]] = [[] for _ in groups]
        self.priorities: list[list[float]] = [[] for _ in groups]
        self.gathered_bytes = 0
        #: Whether there is anything but small values, and whether any of it is pickled by itself.
        self.has_large_items = self.has_encoded_items = False
        #: The types of all small values that there have ever been.
        self.small_types: set[type] = set()
        self._begun: RollbackMark | None = None
        #: The type of the last item, and of the last result that was one: known to be in order without a look.
        self._fit: type = str
        self._single: type = str
        self._ports: dict[str, list[int]] = {}
        for index, group in enumerate(groups):
            self._ports.setdefault(group.port, []).append(index)
        first = groups[0].port if groups else ""
        self._default = self._ports.get("default", self._ports.get(first, []))
        #: With one ordinary group, `direct` is its buffer, and bodies may append to it themselves.
        plain = len(groups) == 1 and not groups[0].priority
        self.direct_buffer: list[Any] | None = self.buffers[0] if plain else None
        self.objects_only = bool(groups) and all(group.payload_kind == OBJECTS for group in groups)
        #: What was gathered before all that is in `direct`, in the form in which it travels; so many items are it.
        self._packed_words: list[bytes] = []
        self._packed = 0
        self._packed_kinds: set[type] = set()
        self._packs = plain and not self.objects_only and not groups[0].is_read_singly

    def emit_item(self, item: Any) -> None:
        """Take one item: to the default port, or where a `To` says. NotPicklable names the culprit."""
        targets = self._default
        if type(item) is To:
            targets = self._ports.get(item.port, [])
            if not targets:
                if not self.output_groups:
                    return
                known = ", ".join(sorted(self._ports))
                raise ValueError(f"To({item.port!r}, ...): this task has no such port (its ports: {known})")
            item = item.item
        frozen: Any = None
        if type(item) is not self._fit:
            returned_values.check_item(item)
            self._fit = type(item)
        if type(item) in item_codec.SMALL_TYPES:
            self.small_types.add(type(item))
            frozen = item
        elif self.objects_only:
            self.has_large_items = True
            self.gathered_bytes += item_codec.memory_size(item)
        else:  # before anything is kept: it may be refused
            frozen = self.item_encoder.encode_item(item)
            self.gathered_bytes += item_codec.transfer_cost(frozen, self.shared_discount)
            self.has_large_items = True
            self.has_encoded_items = self.has_encoded_items or type(frozen) is tuple
        ranks = [item_priority(item) if self.output_groups[index].priority else None for index in targets]
        for index, rank in zip(targets, ranks, strict=True):
            self.buffers[index].append(item if self.output_groups[index].payload_kind == OBJECTS else frozen)
            if rank is not None:
                self.priorities[index].append(rank)

    def emit_many(self, items: list[Any], kinds: set[type]) -> None:
        """Take items of these types at once for the one ordinary group: small values, or objects for threads alone."""
        assert self.direct_buffer is not None
        if kinds <= item_codec.SMALL_TYPES:
            self.small_types |= kinds
            self.pack_direct_buffer()
            if not self.direct_buffer and self._pack(items):
                return
        else:
            self.has_large_items = True
            self.gathered_bytes += sum(map(item_codec.memory_size, items))
        self.direct_buffer.extend(items)

    @property
    def waiting_items(self) -> int:
        """How many items there are for the one ordinary group."""
        return self._packed + (len(self.direct_buffer) if self.direct_buffer else 0)

    def pack_direct_buffer(self) -> None:
        """Pack what there is as machine words, if it can be, while it still is in the processor's cache."""
        if self.direct_buffer and self._pack(self.direct_buffer):
            self.direct_buffer.clear()

    def _pack(self, items: list[Any]) -> bool:
        if not self._packs or self.has_large_items or (row := item_codec.pack_words(items, self.small_types)) is None:
            return False
        self._packed_words.append(row)
        self._packed += len(items)
        self._packed_kinds = set(self.small_types)  # there may be others when it is taken
        return True

    def emit_result(self, result: Any) -> None:
        """Take what a call returned: a generator's items (or another iterator's), or the one item."""
        kind = type(result)
        if kind is not self._single:
            if returned_values.yields_items(kind):
                self._begun = self.rollback_mark()
                for item in result:
                    self.emit_item(item)
                self._begun = None
                return
            self._single = kind
        self.emit_item(result)

    def end_failed_call(self, *, again: bool) -> None:
        """A call has failed. What its generator had yielded counts, unless the item is given `again`."""
        if self._begun is not None and again:
            self.roll_back_to(self._begun)
        self._begun = None

    def rollback_mark(self) -> RollbackMark:
        """A place to roll back to."""
        return tuple(map(len, self.buffers)) if self.direct_buffer is None else (len(self.direct_buffer),)

    def roll_back_to(self, mark: RollbackMark) -> None:
        """Forget what was emitted since `mark`."""
        for buffer, ranks, length in zip(self.buffers, self.priorities, mark, strict=True):
            del buffer[length:]
            del ranks[length:]

    def take_outputs(self) -> tuple[Output, ...]:
        """Everything gathered so far, as chunks. Safe beside another thread that appends."""
        outputs = list(self._cut_packed_words()) if self._packed_words else []
        for index, buffer in enumerate(self.buffers):
            count = len(buffer)
            if count:
                items = buffer[:count]
                del buffer[:count]
                ranks = self.priorities[index][:count]
                del self.priorities[index][:count]
                outputs.extend(self._cut(index, items, ranks))
        self.gathered_bytes = 0
        self.has_large_items = self.has_encoded_items = False
        return tuple(outputs)

    def _cut_packed_words(self) -> Iterator[Output]:
        rows, self._packed_words, self._packed = self._packed_words, [], 0
        chunk: list[bytes] = []
        size = 0
        for row in rows:
            if size + len(row) > MAX_CHUNK_ITEMS * item_codec.WORD_BYTES and chunk:
                yield self._packed_output(chunk, size)
                chunk, size = [], 0
            chunk.append(row)
            size += len(row)
        yield self._packed_output(chunk, size)

    def _packed_output(self, rows: list[bytes], size: int) -> Output:
        return Output(0, size // item_codec.WORD_BYTES, size + 1, item_codec.join_words(rows, self._packed_kinds))

    def _cut(self, index: int, items: list[Any], ranks: list[float]) -> Iterator[Output]:
        group = self.output_groups[index]
        objects = group.payload_kind == OBJECTS
        most = MAX_SINGLY_READ_ITEMS if group.is_read_singly and not objects else MAX_CHUNK_ITEMS
        slots: tuple[tuple[int, int, int], ...] = ()
        start = 0
        while start < len(items):
            part = items if not start and len(items) <= most else items[start : start + most]
            if objects:
                payload: Any = part
                size = self._weight(part, whole=part is items)
            else:
                part = _within_bytes(part, self.shared_discount) if self.has_large_items else part
                travelling, slots = item_codec.mark_items_sent(part) if self.item_encoder.uses_arena else (part, ())
                payload = (
                    item_codec.encode_payload(travelling)
                    if self.has_encoded_items
                    else item_codec.encode_values(part, self._kinds())
                )
                size = len(payload) + sum(length for _, _, length in slots)
            yield Output(index, len(part), size, payload, tuple(ranks[start : start + len(part)]), slots)
            start += len(part)

    def _kinds(self) -> set[type]:
        return self.small_types if not self.has_large_items else set()

    def _weight(self, part: list[Any], *, whole: bool) -> int:
        """What objects weigh; what has been weighed when it was emitted is not weighed again."""
        if not self.has_large_items:
            return _PLAIN_WEIGHT * len(part)
        if whole and self.objects_only and len(self.output_groups) == 1:
            return self.gathered_bytes + _PLAIN_WEIGHT * len(part)
        return sum(map(item_codec.memory_size, part))


def _within_bytes(items: list[Any], light: int) -> list[Any]:
    """As many of them as a chunk may hold, at least one."""
    total = 0
    for at, item in enumerate(items):
        total += item_codec.transfer_cost(item, light)
        if total > MAX_CHUNK_BYTES:
            return items[: max(1, at)]
    return items


def item_priority(item: Any) -> float:
    """An item's rank in a priority queue: its own `priority`, its key of that name, its first element, or itself.

    The lowest comes first, as in the standard library's `PriorityQueue`.

    >>> item_priority((3, "paint")), item_priority({"priority": 1}), item_priority(7)
    (3.0, 1.0, 7.0)
    """
    found: Any = item
    if isinstance(item, dict):
        found = item.get("priority", 0.0)
    elif hasattr(item, "priority"):
        found = item.priority
    elif isinstance(item, (tuple, list)) and item:
        found = item[0]
    try:
        return float(found)
    except (TypeError, ValueError):
        raise NotPicklable(
            f"an item of type {type(item).__name__} has no priority:"
            " give it a number as `priority`, or as first element"
        ) from None
