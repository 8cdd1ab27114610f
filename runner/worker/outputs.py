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

    from runner.shm.writer import Store
    from runner.worker.spec import Group

#: Items of one chunk; more would only leave the processor's cache.
MOST_ITEMS = 8 * 1024
#: The same where a reader takes single items of it.
MOST_SINGLY = 64
MOST_BYTES = 1 << 20
_PLAIN_WEIGHT = item_codec.weight(0)

Mark = tuple[int, ...]


class Collector:
    """The outputs that wait for the next message."""

    def __init__(
        self, groups: tuple[Group, ...], most: int = 1 << 62, store: Store | None = None, light: int = 1
    ) -> None:
        self.groups = groups
        self.light = light
        self.freezer = item_codec.Freezer(most, store)
        self.buffers: list[list[Any]] = [[] for _ in groups]
        self.ranks: list[list[float]] = [[] for _ in groups]
        self.size = 0
        #: Whether there is anything but small values, and whether any of it is pickled by itself.
        self.large = self.mixed = False
        #: The types of all small values that there have ever been.
        self.kinds: set[type] = set()
        self._begun: Mark | None = None
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
        self.direct: list[Any] | None = self.buffers[0] if plain else None
        self.objects = bool(groups) and all(group.kind == OBJECTS for group in groups)
        #: What was gathered before all that is in `direct`, in the form in which it travels; so many items are it.
        self._rows: list[bytes] = []
        self._packed = 0
        self._packed_kinds: set[type] = set()
        self._packs = plain and not self.objects and not groups[0].singly

    def emit(self, item: Any) -> None:
        """Take one item: to the default port, or where a `To` says. NotPicklable names the culprit."""
        targets = self._default
        if type(item) is To:
            targets = self._ports.get(item.port, [])
            if not targets:
                if not self.groups:
                    return
                known = ", ".join(sorted(self._ports))
                raise ValueError(f"To({item.port!r}, ...): this task has no such port (its ports: {known})")
            item = item.item
        frozen: Any = None
        if type(item) is not self._fit:
            returned_values.check(item)
            self._fit = type(item)
        if type(item) in item_codec.SMALL:
            self.kinds.add(type(item))
            frozen = item
        elif self.objects:
            self.large = True
            self.size += item_codec.weight(item)
        else:  # before anything is kept: it may be refused
            frozen = self.freezer.freeze(item)
            self.size += item_codec.moved(frozen, self.light)
            self.large = True
            self.mixed = self.mixed or type(frozen) is tuple
        ranks = [priority(item) if self.groups[index].priority else None for index in targets]
        for index, rank in zip(targets, ranks, strict=True):
            self.buffers[index].append(item if self.groups[index].kind == OBJECTS else frozen)
            if rank is not None:
                self.ranks[index].append(rank)

    def extend(self, items: list[Any], kinds: set[type]) -> None:
        """Take items of these types at once for the one ordinary group: small values, or objects for threads alone."""
        assert self.direct is not None
        if kinds <= item_codec.SMALL:
            self.kinds |= kinds
            self.compact()
            if not self.direct and self._pack(items):
                return
        else:
            self.large = True
            self.size += sum(map(item_codec.weight, items))
        self.direct.extend(items)

    @property
    def waiting(self) -> int:
        """How many items there are for the one ordinary group."""
        return self._packed + (len(self.direct) if self.direct else 0)

    def compact(self) -> None:
        """Pack what there is as machine words, if it can be, while it still is in the processor's cache."""
        if self.direct and self._pack(self.direct):
            self.direct.clear()

    def _pack(self, items: list[Any]) -> bool:
        if not self._packs or self.large or (row := item_codec.words(items, self.kinds)) is None:
            return False
        self._rows.append(row)
        self._packed += len(items)
        self._packed_kinds = set(self.kinds)  # there may be others when it is taken
        return True

    def emit_all(self, result: Any) -> None:
        """Take what a call returned: a generator's items (or another iterator's), or the one item."""
        kind = type(result)
        if kind is not self._single:
            if returned_values.iterates(kind):
                self._begun = self.mark()
                for item in result:
                    self.emit(item)
                self._begun = None
                return
            self._single = kind
        self.emit(result)

    def cut_short(self, *, again: bool) -> None:
        """A call has failed. What its generator had yielded counts, unless the item is given `again`."""
        if self._begun is not None and again:
            self.rollback(self._begun)
        self._begun = None

    def mark(self) -> Mark:
        """A place to roll back to."""
        return tuple(map(len, self.buffers)) if self.direct is None else (len(self.direct),)

    def rollback(self, mark: Mark) -> None:
        """Forget what was emitted since `mark`."""
        for buffer, ranks, length in zip(self.buffers, self.ranks, mark, strict=True):
            del buffer[length:]
            del ranks[length:]

    def take(self) -> tuple[Output, ...]:
        """Everything gathered so far, as chunks. Safe beside another thread that appends."""
        outputs = list(self._cut_rows()) if self._rows else []
        for index, buffer in enumerate(self.buffers):
            count = len(buffer)
            if count:
                items = buffer[:count]
                del buffer[:count]
                ranks = self.ranks[index][:count]
                del self.ranks[index][:count]
                outputs.extend(self._cut(index, items, ranks))
        self.size = 0
        self.large = self.mixed = False
        return tuple(outputs)

    def _cut_rows(self) -> Iterator[Output]:
        rows, self._rows, self._packed = self._rows, [], 0
        chunk: list[bytes] = []
        size = 0
        for row in rows:
            if size + len(row) > MOST_ITEMS * item_codec.WORD and chunk:
                yield self._row(chunk, size)
                chunk, size = [], 0
            chunk.append(row)
            size += len(row)
        yield self._row(chunk, size)

    def _row(self, rows: list[bytes], size: int) -> Output:
        return Output(0, size // item_codec.WORD, size + 1, item_codec.joined(rows, self._packed_kinds))

    def _cut(self, index: int, items: list[Any], ranks: list[float]) -> Iterator[Output]:
        group = self.groups[index]
        objects = group.kind == OBJECTS
        most = MOST_SINGLY if group.singly and not objects else MOST_ITEMS
        slots: tuple[tuple[int, int, int], ...] = ()
        start = 0
        while start < len(items):
            part = items if not start and len(items) <= most else items[start : start + most]
            if objects:
                payload: Any = part
                size = self._weight(part, whole=part is items)
            else:
                part = _within_bytes(part, self.light) if self.large else part
                travelling, slots = item_codec.sent(part) if self.freezer.lodges else (part, ())
                payload = item_codec.encode(travelling) if self.mixed else item_codec.encode_values(part, self._kinds())
                size = len(payload) + sum(length for _, _, length in slots)
            yield Output(index, len(part), size, payload, tuple(ranks[start : start + len(part)]), slots)
            start += len(part)

    def _kinds(self) -> set[type]:
        return self.kinds if not self.large else set()

    def _weight(self, part: list[Any], *, whole: bool) -> int:
        """What objects weigh; what has been weighed when it was emitted is not weighed again."""
        if not self.large:
            return _PLAIN_WEIGHT * len(part)
        if whole and self.objects and len(self.groups) == 1:
            return self.size + _PLAIN_WEIGHT * len(part)
        return sum(map(item_codec.weight, part))


def _within_bytes(items: list[Any], light: int) -> list[Any]:
    """As many of them as a chunk may hold, at least one."""
    total = 0
    for at, item in enumerate(items):
        total += item_codec.moved(item, light)
        if total > MOST_BYTES:
            return items[: max(1, at)]
    return items


def priority(item: Any) -> float:
    """An item's rank in a priority queue: its own `priority`, its key of that name, its first element, or itself.

    The lowest comes first, as in the standard library's `PriorityQueue`.

    >>> priority((3, "paint")), priority({"priority": 1}), priority(7)
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
