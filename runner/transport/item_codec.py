"""Items to chunk payloads and back. Workers alone do this: the supervisor never looks inside.

A pickled payload is one pickle of a list. Small immutable values stand in it as they are, in the cheapest form that
there is (13 ns for an int); everything else is pickled by itself, at the moment it is produced, and stands in the
list as a 1-tuple of bytes; then it is no list but a tuple, so that a reader knows it without looking at each item.
So an item keeps the value it had when it was yielded, shares nothing with its neighbours, can be decoded without
them, and fails alone when it cannot be pickled.

Integers of 64 bits alone, and floats alone, travel as a row of machine words behind one letter (a pickle never begins
with one), and any part can be read without the rest. bench small: without it 1.01 s of CPU time, with it 0.95.

With an arena at hand (`ItemEncoder`) the large buffers of an item lie there, and the item stands in the list as a
2-tuple: its pickle and their references. A pickle that is large itself (of bytes, of text) lies there as a whole: then
None stands in its place, or True when the item is those bytes. An item that was kept by its dead letter
(`kept_items`) brings its buffers along, in a 3-tuple.
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
from runner.transport import array_pickles

SMALL_TYPES = frozenset({int, float, bool, type(None)})
PLAIN_TYPES = frozenset({str, bytes})
#: What two threads may have at once.
_IMMUTABLE_TYPES = SMALL_TYPES | PLAIN_TYPES | {complex, range, type, FunctionType, BuiltinFunctionType}
#: What travels as machine words: the codes of `struct` and `memoryview`. (An `array` takes half as long again.)
_WORD_CODES = {int: "q", float: "d"}
_TYPE_CODES = {ord(code): code for code in _WORD_CODES.values()}
#: Items as they travelled: a list of values, or a tuple of which some must be decoded.
EncodedItems = list[Any] | tuple[Any, ...]
#: How much of an object is looked at to learn what it weighs.
_MAX_DEPTH, _SAMPLE_SIZE = 3, 8

_dumps = pickle.dumps
_loads = pickle.loads


def types_of(items: list[Any]) -> set[type]:
    """Return the types of some values. bench small: those of one type, the usual case, are counted at the speed of C.

    >>> types_of([1, 2, 3]), types_of([])
    ({<class 'int'>}, set())
    """
    if not items:
        return set()
    item_type = type(items[0])
    return {item_type} if countOf(map(type, items), item_type) == len(items) else set(map(type, items))


class _PieceWriter(list[Any]):
    """A file for a pickler: large bytes arrive as the objects that they are, not as copies."""

    write = list.append


class ItemEncoder:
    """Encodes items for one worker, whose large buffers go into an arena, or on in the one in which they came.

    >>> encoder = ItemEncoder(1000)
    >>> encoder.encode_item("plain"), type(encoder.encode_item([1, 2]))
    ('plain', <class 'tuple'>)
    """

    def __init__(self, max_bytes: int, arena_writer: ArenaWriter | None = None) -> None:
        self.max_bytes = max_bytes
        self._arena_writer = arena_writer
        self._block_refs: list[Any] = []
        #: Something of this worker has lain in an arena.
        self.uses_arena = False
        #: The last pickle was large: the next one is written in pieces, and copied once.
        #: bench 1,500 dicts with 1 MB of bytes: without it 3.5 s of CPU time, with it 1.8
        self._is_large_pickle = False

    def encode_item(self, item: Any) -> Any:
        """Encode an item that is not of `SMALL_TYPES` for a payload's list; TooLarge above `max_bytes` bytes."""
        arena_writer = self._arena_writer
        if type(item) in PLAIN_TYPES and (arena_writer is None or len(item) < MIN_SHARED_BYTES):
            if len(item) > self.max_bytes:
                raise TooLarge(_too_large_text(item, len(item), self.max_bytes))
            return item
        if (
            type(item) is bytes
            and arena_writer is not None
            and len(item) <= self.max_bytes
            and (block_ref := arena_writer.copy_in([item], len(item)))
        ):
            self.uses_arena = True
            return True, (block_ref,)
        self._block_refs = []
        try:
            pieces = self._kept_pickle(item) or self._pickle_pieces(item)
        except Exception as error:  # noqa: BLE001  whatever the user's __reduce__ raises
            self._block_refs = []
            raise NotPicklable(_unpicklable_text(item, error)) from None
        block_refs, self._block_refs = self._block_refs, []
        length = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
        size = length + sum(block_ref[2] for block_ref in block_refs) if block_refs else length
        if size > self.max_bytes:
            raise TooLarge(_too_large_text(item, size, self.max_bytes))
        if arena_writer is not None:
            self._is_large_pickle = length >= MIN_SHARED_BYTES
            self.uses_arena = self.uses_arena or self._is_large_pickle or bool(block_refs)
            if self._is_large_pickle and (block_ref := arena_writer.copy_in(pieces, length)):
                return None, (block_ref, *block_refs)
        encoded = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return (encoded, tuple(block_refs)) if block_refs else (encoded,)

    def _kept_pickle(self, item: Any) -> list[Any] | None:
        """Return the pickle of an array like others before, whose buffer is in the arena now; else None."""
        if self._arena_writer is None or (pickled := array_pickles.pickle_of(item)) is None:
            return None
        return None if self._keep_inside(pickle.PickleBuffer(item)) else [pickled]

    def _pickle_pieces(self, item: Any) -> list[Any]:
        if not self._is_large_pickle:
            pickled = _dumps(item, 5, buffer_callback=self._keep_inside)
            if len(self._block_refs) == 1:
                array_pickles.keep_pickle(item, pickled)
            return [pickled]
        pieces = _PieceWriter()
        pickle.Pickler(pieces, 5, buffer_callback=self._keep_inside).dump(item)
        return [piece.raw() if type(piece) is pickle.PickleBuffer else piece for piece in pieces]

    def _keep_inside(self, buffer: pickle.PickleBuffer) -> bool:
        """Return True if a buffer stays inside the pickle; keep the reference of one that does not."""
        if self._arena_writer is None:
            return True
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if len(raw) < MIN_SHARED_BYTES or len(raw) > self.max_bytes:
            return True
        block_ref = reader.find_block_ref(raw) or self._arena_writer.copy_in([raw], len(raw))
        if block_ref is None:
            return True
        self._block_refs.append(block_ref)
        return False


def mark_items_sent(items: list[Any]) -> tuple[list[Any], tuple[tuple[int, int, int], ...]]:
    """Return encoded items as they travel, and the ranges of their buffers in arenas, now the supervisor's."""
    shared_ranges: list[tuple[int, int, int]] = []
    sent_items = []
    for item in items:
        if type(item) is tuple and len(item) == 2:
            block_refs = tuple(block_ref.mark_sent() for block_ref in item[1])
            shared_ranges += [block_ref[:3] for block_ref in block_refs]
            item = (item[0], block_refs)  # noqa: PLW2901  the same item, in other words
        sent_items.append(item)
    return sent_items, tuple(shared_ranges)


def encoded_size(encoded: Any, shared_discount: int = 1) -> int:
    """Return about how many bytes an encoded item takes in its payload and in arenas; those in arenas weigh less."""
    if type(encoded) is tuple:
        size = len(encoded[0]) if type(encoded[0]) is bytes else 0
        if len(encoded) > 1:
            size += sum(map(len, encoded[2])) if len(encoded) == 3 else 0
            for block_ref in encoded[1]:
                size += block_ref[2] // shared_discount
                if len(block_ref) > 3:
                    size += sum([len(content) for _, content in block_ref[3]])
        return size + 8
    return len(encoded) + 8 if type(encoded) in PLAIN_TYPES else 8


def item_size(item: Any) -> int:
    """Return the same for an object that travels as it is, between threads: its size in memory.

    >>> item_size(7), item_size("four"), item_size((1, bytes(1000))) > 1000
    (8, 12, True)
    """
    return encoded_size(item) if type(item) in SMALL_TYPES or type(item) in PLAIN_TYPES else memory_size(item)


def memory_size(item: Any, depth: int = _MAX_DEPTH) -> int:
    """Return about how many bytes an object holds in memory: for items that travel as they are, between threads.

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
        count, parts = _sample_contents(item) if depth and type(item) not in PLAIN_TYPES else (0, [])
    except Exception:  # noqa: BLE001  the user's __sizeof__ or __getattr__ may raise anything
        return 64
    seen = [memory_size(part, depth - 1) for part in parts]
    return total + (sum(seen) * count // len(seen) if seen else 0)


def _sample_contents(item: Any) -> tuple[int, list[Any]]:
    """Return the number of a container's parts, and the first of them."""
    if isinstance(item, (list, tuple, set, frozenset)):
        return len(item), list(islice(item, _SAMPLE_SIZE))
    fields = item if isinstance(item, dict) else getattr(item, "__dict__", None)
    if isinstance(fields, dict):
        return len(fields), list(islice(fields.values(), _SAMPLE_SIZE))
    slots = getattr(type(item), "__slots__", ())
    parts = [getattr(item, name, None) for name in ((slots,) if isinstance(slots, str) else slots)]
    return len(parts), parts


def encode_payload(encoded: list[Any]) -> bytes:
    """Return the payload of a list of encoded items."""
    return _dumps(tuple(encoded), 5)


def encode_values(values: list[Any], types: set[type]) -> bytes:
    r"""Return the payload of values that need no decoding; `types` has all their types, and may have others.

    >>> encode_values([1, 2], {int})[:1], encode_values([1 << 64], {int})[:1], encode_values([1, True], {int, bool})[:1]
    (b'q', b'\x80', b'\x80')
    """
    words = encode_words(values, types)
    return _dumps(values, 5) if words is None else words


def encode_words(values: list[Any], types: set[type]) -> bytes | None:
    """Return the payload of numbers as machine words; None if they are none of one type, or too large."""
    code = _WORD_CODES.get(next(iter(types))) if len(types) == 1 else None
    if code is not None:
        try:
            return struct.pack(f"=c{len(values)}{code}", code.encode(), *values)
        except struct.error:  # more than 64 bits
            pass
    return None


def is_pickle(payload: bytes) -> bool:
    """Return True if a payload is a pickle, and not machine words."""
    return payload[0] not in _TYPE_CODES


def decode_payload(payload: Any) -> EncodedItems:
    """Return the encoded items of a payload: of a tuple some must be decoded when their turn comes, of a list none.

    >>> decode_payload(encode_values([5, 6], {int})), decode_payload(encode_payload(["a"]))
    ([5, 6], ('a',))
    """
    items = lazy_items(payload)
    return items_between(items, 0, len(items))


def lazy_items(payload: Any, start: int = 0, count: int | None = None) -> EncodedItems | memoryview:
    """Return the same, but machine words packed until `items_between` asks for them."""
    stop = None if count is None else start + count
    code = _TYPE_CODES.get(payload[0])
    if code is not None:
        return memoryview(payload)[1:].cast(code)[start:stop]  # type: ignore[call-overload,no-any-return]  # of the table
    items: EncodedItems = _loads(payload)
    return items_between(items, start, len(items) if stop is None else stop)


def items_between(items: EncodedItems | memoryview, start: int, stop: int) -> EncodedItems:
    """Return some of the encoded items that `lazy_items` returned.

    >>> items_between(lazy_items(encode_values([5, 6, 7], {int})), 1, 3)
    [6, 7]
    """
    if type(items) is memoryview:
        return items[start:stop].tolist()
    return items if start == 0 and stop == len(items) else items[start:stop]


def decode_item(encoded: Any) -> Any:
    """Return the item that was encoded.

    >>> decode_item(decode_payload(encode_payload([ItemEncoder(1000).encode_item([1, 2])]))[0])
    [1, 2]
    """
    if type(encoded) is not tuple:
        return encoded
    try:
        if len(encoded) == 1:
            return _loads(encoded[0])
        return _decode_shared(*encoded) if len(encoded) == 2 else _loads(encoded[0], buffers=map(bytearray, encoded[2]))
    except StopIteration as error:  # as in generators: an iterator over items must not end because of one of them
        raise RuntimeError("unpickling the item raised StopIteration") from error


def copy_for_reader(item: Any) -> Any:
    """Copy an object that other threads have as well; what cannot change is handed over as it is.

    A pickle there and back takes a seventh of the time of `copy.deepcopy` for nested containers. That is for what
    brings a `__deepcopy__` (arrays: half the time), and for what cannot be pickled. NotPicklable when neither works.

    >>> item = [1, ["a"]]
    >>> copy_for_reader(item) == item, copy_for_reader(item)[1] is item[1]
    (True, False)
    >>> copy_for_reader("text") is copy_for_reader("text")
    True
    """
    item_type = type(item)
    if item_type in _IMMUTABLE_TYPES:
        return item
    if not hasattr(item_type, "__deepcopy__"):
        try:
            buffers: list[pickle.PickleBuffer] = []
            pickled = _dumps(item, 5, buffer_callback=buffers.append)  # large ones are copied once, not thrice
            return _loads(pickled, buffers=map(_copy_buffer, buffers)) if buffers else _loads(pickled)
        except Exception:  # noqa: BLE001, S110  whatever the user's __reduce__ raises: there is another way
            pass
    import copy

    try:
        return copy.deepcopy(item)
    except Exception as error:  # noqa: BLE001  whatever the user's __deepcopy__ raises
        text = (
            f"an item of type {item_type.__name__} has several readers, and cannot be copied for each of them: "
            f"{type(error).__name__}: {error}. Send plain data instead, or to one reader only."
        )
        raise NotPicklable(text) from None


def _copy_buffer(buffer: pickle.PickleBuffer) -> bytes | bytearray:
    raw = buffer.raw()
    return bytes(raw) if raw.readonly else bytearray(raw)


def _decode_shared(pickled: Any, block_refs: tuple[Any, ...]) -> Any:
    """Return an item with buffers in arenas."""
    if pickled is True:
        return bytes(reader.peek(*block_refs[0]))
    if pickled is None:
        pickled, block_refs = reader.peek(*block_refs[0]), block_refs[1:]
    if type(pickled) is not bytes or len(block_refs) != 1:
        return _loads(pickled, buffers=[reader.borrow(*block_ref) for block_ref in block_refs])
    buffer = reader.borrow(*block_refs[0])
    item = array_pickles.array_of(pickled, buffer)
    if item is None:
        item = _loads(pickled, buffers=[buffer])
        array_pickles.keep_layout(pickled, item)
    return item


def _too_large_text(item: Any, size: int, max_bytes: int) -> str:
    return (
        f"an item of type {type(item).__name__} has {size:,} bytes, more than `max_item` of [run] allows"
        f" ({max_bytes:,}); send a path or a key instead, or raise the bound"
    )


def _unpicklable_text(item: Any, error: Exception) -> str:
    path, culprit = _find_culprit(item, type(item).__name__, 0)
    where = f" (at {path})" if culprit is not item else ""
    text = str(error) or type(error).__name__
    return (
        f"an item of type {type(culprit).__name__} cannot be sent to another process{where}: {text}. "
        'Send plain data instead, or run both tasks with mode = "thread".'
    )


def _find_culprit(item: Any, path: str, depth: int) -> tuple[str, Any]:
    """Return the path to the innermost part that cannot be pickled, and that part."""
    if depth < 20:
        for step, part in _inner_parts(item):
            try:
                _dumps(part, 5)
            except Exception:  # noqa: BLE001  whatever pickling raises, this part is the culprit
                return _find_culprit(part, path + step, depth + 1)
    return path, item


def _inner_parts(item: Any) -> list[tuple[str, Any]]:
    if isinstance(item, dict):
        return [(f"[{key!r}]", value) for key, value in list(item.items())[:1000]]
    if isinstance(item, (list, tuple)):
        return [(f"[{index}]", value) for index, value in enumerate(item[:1000])]
    fields = getattr(item, "__dict__", None)
    if isinstance(fields, dict) and not isinstance(item, type):
        return [(f".{name}", value) for name, value in list(fields.items())[:1000]]
    return []
