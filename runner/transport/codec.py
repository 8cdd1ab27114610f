"""Items to chunk payloads and back. Workers alone do this: the supervisor never looks inside.

A pickled payload is one pickle of a list. Small immutable values stand in it as they are, in the cheapest form that
there is (13 ns for an int); everything else is pickled by itself, at the moment it is produced, and stands in the
list as a 1-tuple of bytes; then it is no list but a tuple, so that a reader knows it without looking at each item.
So an item keeps the value it had when it was yielded, shares nothing with its neighbours, can be decoded without
them, and fails alone when it cannot be pickled.

Integers of 64 bits alone, and floats alone, travel as a row of machine words behind one letter (a pickle never begins
with one): half the time of a pickle on either side, and any part can be read without the rest.
"""

from __future__ import annotations

import pickle
import sys
from array import array
from itertools import islice
from operator import countOf
from typing import Any

from runner.errors import NotPicklable, TooLarge

SMALL = frozenset({int, float, bool, type(None)})
PLAIN = frozenset({str, bytes})
#: What travels as machine words, and how: the codes of `array` and `memoryview`.
_WORDS = {int: "q", float: "d"}
_CODES = {ord(code): code for code in _WORDS.values()}
#: Items as they travelled: a list of values, or a tuple of which some must be thawed.
Frozen = list[Any] | tuple[Any, ...]
#: How much of an object is looked at to learn what it weighs.
_LEVELS, _SAMPLE = 3, 8

_dumps = pickle.dumps
_loads = pickle.loads


def freeze(item: Any, most: int = 1 << 62) -> Any:
    """The form in which an item that is not `SMALL` stands in a payload's list; TooLarge above `most` bytes.

    >>> freeze("plain"), type(freeze([1, 2]))
    ('plain', <class 'tuple'>)
    """
    if type(item) in PLAIN:
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


def kinds_of(items: list[Any]) -> set[type]:
    """The types of some values. Those of one type, the usual case, are counted at the speed of C.

    >>> kinds_of([1, 2, 3]), kinds_of([])
    ({<class 'int'>}, set())
    """
    if not items:
        return set()
    kind = type(items[0])
    return {kind} if countOf(map(type, items), kind) == len(items) else set(map(type, items))


def size_of(frozen: Any) -> int:
    """Bytes that a frozen item takes in its payload, about."""
    if type(frozen) is tuple:
        return len(frozen[0]) + 8
    if type(frozen) in PLAIN:
        return len(frozen) + 8
    return 8


def weight(item: Any, levels: int = _LEVELS) -> int:
    """Bytes that an object holds in memory, about: for items that travel as they are, between threads.

    A few parts of each container stand for all of them, a few levels deep.

    >>> weight({"name": "x", "body": b"." * 1_000_000}) // 1_000_000, weight([bytes(1000)] * 5000) // 1_000_000
    (1, 5)
    """
    if type(item) in SMALL:
        return 32
    try:
        total = sys.getsizeof(item)
        count, parts = _contents(item) if levels and type(item) not in PLAIN else (0, [])
    except Exception:  # noqa: BLE001  the user's __sizeof__ or __getattr__ may raise anything
        return 64
    seen = [weight(part, levels - 1) for part in parts]
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


def encode(frozen: list[Any]) -> bytes:
    """The payload of a list of frozen items."""
    return _dumps(tuple(frozen), 5)


def encode_values(values: list[Any], kinds: set[type]) -> bytes:
    r"""The payload of values that need no thawing; `kinds` has all their types, and may have others.

    >>> encode_values([1, 2], {int})[:1], encode_values([1 << 64], {int})[:1], encode_values([1, True], {int, bool})[:1]
    (b'q', b'\x80', b'\x80')
    """
    if len(kinds) == 1:
        code = _WORDS.get(next(iter(kinds)))
        if code is not None:
            try:
                return b"".join((code.encode(), array(code, values)))
            except OverflowError:
                pass
    return _dumps(values, 5)


def decode(payload: Any, start: int = 0, count: int | None = None) -> Frozen:
    """Frozen items of a payload: all of them, or `count` from `start`.

    Of a tuple some must be thawed when their turn comes, of a list none.

    >>> decode(encode_values([5, 6, 7], {int}), 1, 2), decode(encode([freeze("a"), freeze("b")]), 1)
    ([6, 7], ('b',))
    """
    stop = None if count is None else start + count
    code = _CODES.get(payload[0])
    if code is not None:
        words = memoryview(payload)[1:].cast(code)  # type: ignore[call-overload]  # a code of the table
        return words[start:stop].tolist()  # type: ignore[no-any-return]
    items: Frozen = _loads(payload)
    return items if start == 0 and (stop is None or stop == len(items)) else items[start:stop]


def thaw(frozen: Any) -> Any:
    """The item itself.

    >>> thaw(decode(encode([freeze([1, 2])]))[0])
    [1, 2]
    """
    return _loads(frozen[0]) if type(frozen) is tuple else frozen


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
