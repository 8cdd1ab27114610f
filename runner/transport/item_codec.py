"""Items to chunk payloads and back. Workers alone do this: the supervisor never looks inside.

A pickled payload is one pickle of a list. Small immutable values stand in it as they are, in the cheapest form that
there is (13 ns for an int); everything else is pickled by itself, at the moment it is produced, and stands in the
list as a 1-tuple of bytes; then it is no list but a tuple, so that a reader knows it without looking at each item.
So an item keeps the value it had when it was yielded, shares nothing with its neighbours, can be decoded without
them, and fails alone when it cannot be pickled.

Integers of 64 bits alone, and floats alone, travel as a row of machine words behind one letter (a pickle never begins
with one): half the time of a pickle on either side, and any part can be read without the rest.

With an arena at hand (`ItemEncoder`) the large buffers of an item lie there, and the item stands in the list as a
2-tuple: its pickle and their handles. A pickle that is large itself (of bytes, of text) lies there as a whole: then
None stands in its place, or True when the item is those bytes.
"""

from __future__ import annotations

import pickle
import struct
import sys
from itertools import islice
from operator import countOf
from types import BuiltinFunctionType, FunctionType
from typing import Any

from runner.errors import NotPicklable, TooLarge
from runner.shm import reader
from runner.shm.writer import MIN_SHARED_BYTES, ArenaWriter

SMALL_TYPES = frozenset({int, float, bool, type(None)})
PLAIN_TYPES = frozenset({str, bytes})
#: What two threads may have at once.
_ATOMIC = SMALL_TYPES | PLAIN_TYPES | {complex, range, type, FunctionType, BuiltinFunctionType}
#: What travels as machine words: the codes of `struct` and `memoryview`. (An `array` takes half as long again.)
_WORDS = {int: "q", float: "d"}
#: Bytes of one.
WORD_BYTES = 8
_CODES = {ord(code): code for code in _WORDS.values()}
#: Items as they travelled: a list of values, or a tuple of which some must be thawed.
EncodedItems = list[Any] | tuple[Any, ...]
#: How much of an object is looked at to learn what it weighs.
_LEVELS, _SAMPLE = 3, 8

_dumps = pickle.dumps
_loads = pickle.loads


def encode_item(item: Any, most: int = 1 << 62) -> Any:
    """The form in which an item that is not `SMALL` stands in a payload's list; TooLarge above `most` bytes.

    >>> encode_item("plain"), type(encode_item([1, 2]))
    ('plain', <class 'tuple'>)
    """
    if type(item) in PLAIN_TYPES:
        if len(item) > most:
            raise TooLarge(_too_large(item, len(item), most))
        return item
    try:
        frozen = _dumps(item, 5)
    except Exception as error:  # noqa: BLE001  whatever the user's __reduce__ raises
        raise NotPicklable(_why_not(item, error)) from None
    if len(frozen) > most:
        raise TooLarge(_too_large(item, len(frozen), most))
    return (frozen,)


def types_of(items: list[Any]) -> set[type]:
    """The types of some values. Those of one type, the usual case, are counted at the speed of C.

    >>> types_of([1, 2, 3]), types_of([])
    ({<class 'int'>}, set())
    """
    if not items:
        return set()
    kind = type(items[0])
    return {kind} if countOf(map(type, items), kind) == len(items) else set(map(type, items))


class _Pieces(list[Any]):
    """A file for a pickler: large bytes arrive as the objects that they are, not as copies."""

    write = list.append


class ItemEncoder:
    """`freeze` for one worker, whose large buffers go into an arena, or on in the one in which they came."""

    def __init__(self, most: int, store: ArenaWriter | None) -> None:
        self.most = most
        self._store = store
        self._handles: list[Any] = []
        #: Whether anything of this worker has ever lain in an arena.
        self.uses_arena = False
        #: The last item had a large pickle: the next one is written piece by piece, so that nothing is copied twice.
        self._bulky = False

    def encode_item(self, item: Any) -> Any:
        """The form in which an item that is not `SMALL` stands in a payload's list."""
        store = self._store
        if store is None or (type(item) in PLAIN_TYPES and len(item) < MIN_SHARED_BYTES):
            return encode_item(item, self.most)
        if type(item) is bytes and len(item) <= self.most and (handle := store.copy_in([item], len(item))):
            self.uses_arena = True
            return True, (handle,)
        self._handles = []
        try:
            pieces = self._pickled(item)
        except Exception as error:  # noqa: BLE001  whatever the user's __reduce__ raises
            raise NotPicklable(_why_not(item, error)) from None
        handles, self._handles = self._handles, []
        length = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
        size = length + sum(handle[2] for handle in handles) if handles else length
        if size > self.most:
            raise TooLarge(_too_large(item, size, self.most))
        self._bulky = length >= MIN_SHARED_BYTES
        self.uses_arena = self.uses_arena or self._bulky or bool(handles)
        if self._bulky and (handle := store.copy_in(pieces, length)):
            return None, (handle, *handles)
        frozen = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return (frozen, tuple(handles)) if handles else (frozen,)

    def _pickled(self, item: Any) -> list[Any]:
        if not self._bulky:
            return [_dumps(item, 5, buffer_callback=self._inside)]
        pieces = _Pieces()
        pickle.Pickler(pieces, 5, buffer_callback=self._inside).dump(item)
        return [piece.raw() if type(piece) is pickle.PickleBuffer else piece for piece in pieces]

    def _inside(self, buffer: pickle.PickleBuffer) -> bool:
        """Whether a buffer stays inside the pickle; the others' handles are kept."""
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if len(raw) < MIN_SHARED_BYTES or len(raw) > self.most:
            return True
        assert self._store is not None
        handle = reader.find_block_ref(raw) or self._store.copy_in([raw], len(raw))
        if handle is None:
            return True
        self._handles.append(handle)
        return False


def mark_items_sent(items: list[Any]) -> tuple[list[Any], tuple[tuple[int, int, int], ...]]:
    """Frozen items as they travel, and where in arenas their buffers lie; those belong to the supervisor now."""
    slots: list[tuple[int, int, int]] = []
    travelling = []
    for item in items:
        if type(item) is tuple and len(item) == 2:
            handles = tuple(handle.mark_sent() for handle in item[1])
            slots += [handle[:3] for handle in handles]
            item = (item[0], handles)  # noqa: PLW2901  the same item, in other words
        travelling.append(item)
    return travelling, tuple(slots)


def encoded_size(frozen: Any) -> int:
    """Bytes that a frozen item takes in its payload and in arenas, about."""
    if type(frozen) is tuple:
        if len(frozen) == 2:
            return transfer_cost(frozen, 1)
        return len(frozen[0]) + 8
    if type(frozen) in PLAIN_TYPES:
        return len(frozen) + 8
    return 8


def item_size(item: Any) -> int:
    """The same for an object that travels as it is, between threads; what would be pickled is measured in memory.

    >>> item_size(7), item_size("four"), item_size((1, bytes(1000))) > 1000
    (8, 12, True)
    """
    return encoded_size(item) if type(item) in SMALL_TYPES or type(item) in PLAIN_TYPES else memory_size(item)


def transfer_cost(frozen: Any, light: int) -> int:
    """What a frozen item counts for when it is asked how many to move at once: bytes in arenas weigh less."""
    if type(frozen) is tuple and len(frozen) == 2:
        changed = sum(len(content) for handle in frozen[1] if len(handle) > 3 for _, content in handle[3])
        inside = len(frozen[0]) if type(frozen[0]) is bytes else 0
        return inside + changed + _shared_bytes(frozen) // light + 8
    return encoded_size(frozen)


def _shared_bytes(frozen: Any) -> int:
    return sum(handle[2] for handle in frozen[1])


def memory_size(item: Any, levels: int = _LEVELS) -> int:
    """Bytes that an object holds in memory, about: for items that travel as they are, between threads.

    A few parts of each container stand for all of them, a few levels deep.

    >>> memory_size({"name": "x", "body": b"." * 1_000_000}) // 1_000_000
    1
    >>> memory_size([bytes(1000)] * 5000) // 1_000_000
    5
    """
    if type(item) in SMALL_TYPES:
        return 32
    try:
        total = sys.getsizeof(item)
        count, parts = _contents(item) if levels and type(item) not in PLAIN_TYPES else (0, [])
    except Exception:  # noqa: BLE001  the user's __sizeof__ or __getattr__ may raise anything
        return 64
    seen = [memory_size(part, levels - 1) for part in parts]
    return total + (sum(seen) * count // len(seen) if seen else 0)


def _contents(item: Any) -> tuple[int, list[Any]]:
    """How many parts a container has, and the first of them."""
    if isinstance(item, (list, tuple, set, frozenset)):
        return len(item), list(islice(item, _SAMPLE))
    fields = item if isinstance(item, dict) else getattr(item, "__dict__", None)
    if isinstance(fields, dict):
        return len(fields), list(islice(fields.values(), _SAMPLE))
    slots = getattr(type(item), "__slots__", ())
    parts = [getattr(item, name, None) for name in ((slots,) if isinstance(slots, str) else slots)]
    return len(parts), parts


def encode_payload(frozen: list[Any]) -> bytes:
    """The payload of a list of frozen items."""
    return _dumps(tuple(frozen), 5)


def encode_values(values: list[Any], kinds: set[type]) -> bytes:
    r"""The payload of values that need no thawing; `kinds` has all their types, and may have others.

    >>> encode_values([1, 2], {int})[:1], encode_values([1 << 64], {int})[:1], encode_values([1, True], {int, bool})[:1]
    (b'q', b'\x80', b'\x80')
    """
    row = pack_words(values, kinds)
    return _dumps(values, 5) if row is None else join_words([row], kinds)


def pack_words(values: list[Any], kinds: set[type]) -> bytes | None:
    """Values as machine words, without the letter; None where their types (`kinds` has them all) have no such form."""
    code = _WORDS.get(next(iter(kinds))) if len(kinds) == 1 else None
    if code is None:
        return None
    try:
        return struct.pack(f"={len(values)}{code}", *values)
    except struct.error:  # more than 64 bits
        return None


def join_words(rows: list[bytes], kinds: set[type]) -> bytes:
    """The payload of some `words`, one row after the other.

    >>> decode_payload(join_words([pack_words([1, 2], {int}), pack_words([3], {int})], {int}))
    [1, 2, 3]
    """
    (kind,) = kinds
    return b"".join([_WORDS[kind].encode(), *rows])


def decode_payload(payload: Any, start: int = 0, count: int | None = None) -> EncodedItems:
    """Frozen items of a payload: all of them, or `count` from `start`.

    Of a tuple some must be thawed when their turn comes, of a list none.

    >>> decode_payload(encode_values([5, 6, 7], {int}), 1, 2)
    [6, 7]
    >>> decode_payload(encode_payload([encode_item("a"), encode_item("b")]), 1)
    ('b',)
    """
    items = lazy_items(payload, start, count)
    return items_between(items, 0, len(items))


def lazy_items(payload: Any, start: int = 0, count: int | None = None) -> EncodedItems | memoryview:
    """The same; machine words stay what they are until `some` of them are asked for."""
    stop = None if count is None else start + count
    code = _CODES.get(payload[0])
    if code is not None:
        return memoryview(payload)[1:].cast(code)[start:stop]  # type: ignore[call-overload,no-any-return]  # of the table
    items: EncodedItems = _loads(payload)
    return items_between(items, start, len(items) if stop is None else stop)


def items_between(items: EncodedItems | memoryview, start: int, stop: int) -> EncodedItems:
    """Frozen items of a `view`.

    >>> items_between(lazy_items(encode_values([5, 6, 7], {int})), 1, 3)
    [6, 7]
    """
    if type(items) is memoryview:
        return items[start:stop].tolist()
    return items if start == 0 and stop == len(items) else items[start:stop]


def decode_item(frozen: Any) -> Any:
    """The item itself.

    >>> decode_item(decode_payload(encode_payload([encode_item([1, 2])]))[0])
    [1, 2]
    """
    if type(frozen) is not tuple:
        return frozen
    try:
        return _loads(frozen[0]) if len(frozen) == 1 else _lent(*frozen)
    except StopIteration as error:  # as in generators: an iterator over items must not end because of one of them
        raise RuntimeError("unpickling the item raised StopIteration") from error


def copy_for_reader(item: Any) -> Any:
    """A copy of an object that other threads have as well; what cannot change is handed over as it is.

    A pickle there and back takes a seventh of the time of `copy.deepcopy` for nested containers. That is for what
    brings a `__deepcopy__` (arrays: half the time), and for what cannot be pickled. NotPicklable when neither works.

    >>> item = [1, ["a"]]
    >>> copy_for_reader(item) == item, copy_for_reader(item)[1] is item[1]
    (True, False)
    >>> copy_for_reader("text") is copy_for_reader("text")
    True
    """
    kind = type(item)
    if kind in _ATOMIC:
        return item
    if not hasattr(kind, "__deepcopy__"):
        try:
            buffers: list[pickle.PickleBuffer] = []
            pickled = _dumps(item, 5, buffer_callback=buffers.append)  # large ones are copied once, not thrice
            return _loads(pickled, buffers=map(_copied, buffers)) if buffers else _loads(pickled)
        except Exception:  # noqa: BLE001, S110  whatever the user's __reduce__ raises: there is another way
            pass
    import copy

    try:
        return copy.deepcopy(item)
    except Exception as error:  # noqa: BLE001  whatever the user's __deepcopy__ raises
        text = (
            f"an item of type {kind.__name__} has several readers, and cannot be copied for each of them: "
            f"{type(error).__name__}: {error}. Send plain data instead, or to one reader only."
        )
        raise NotPicklable(text) from None


def _copied(buffer: pickle.PickleBuffer) -> bytes | bytearray:
    raw = buffer.raw()
    return bytes(raw) if raw.readonly else bytearray(raw)


def _lent(pickled: Any, handles: tuple[Any, ...]) -> Any:
    """An item with buffers in arenas."""
    if pickled is True:
        return bytes(reader.peek(*handles[0]))
    if pickled is None:
        pickled, handles = reader.peek(*handles[0]), handles[1:]
    return _loads(pickled, buffers=[reader.borrow(*handle) for handle in handles])


def _too_large(item: Any, size: int, most: int) -> str:
    return (
        f"an item of type {type(item).__name__} has {size:,} bytes, more than `max_item` of [run] allows"
        f" ({most:,}); send a path or a key instead, or raise the bound"
    )


def _why_not(item: Any, error: Exception) -> str:
    path, culprit = _culprit(item, type(item).__name__, 0)
    where = f" (at {path})" if culprit is not item else ""
    text = str(error) or type(error).__name__
    return (
        f"an item of type {type(culprit).__name__} cannot be sent to another process{where}: {text}. "
        'Send plain data instead, or run both tasks with mode = "thread".'
    )


def _culprit(item: Any, path: str, depth: int) -> tuple[str, Any]:
    """The innermost part that cannot be pickled, and the path to it."""
    if depth < 20:
        for step, part in _parts(item):
            try:
                _dumps(part, 5)
            except Exception:  # noqa: BLE001  whatever pickling raises, this part is the culprit
                return _culprit(part, path + step, depth + 1)
    return path, item


def _parts(item: Any) -> list[tuple[str, Any]]:
    if isinstance(item, dict):
        return [(f"[{key!r}]", value) for key, value in list(item.items())[:1000]]
    if isinstance(item, (list, tuple)):
        return [(f"[{index}]", value) for index, value in enumerate(item[:1000])]
    fields = getattr(item, "__dict__", None)
    if isinstance(fields, dict) and not isinstance(item, type):
        return [(f".{name}", value) for name, value in list(fields.items())[:1000]]
    return []
