"""What a test expected and what came: each thing that differs, with the first difference in words."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from runner.structs import dataclass
from runner.text import count_with_noun, cut_text, printable_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from runner.model import Expectations, QueueExpectation

#: Characters of a value that a message shows.
_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as expected: what it is, both values as text, and where they first differ."""

    what: str
    expected: str
    got: str
    first: str = ""


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """The counts of one task at the end of a run."""

    done: int
    dead: int
    tries: int


@dataclass(frozen=True, slots=True)
class RunEnd:
    """All that a test may look at once its run has ended; `put` is how many items were put into each queue."""

    exit: int
    items: Mapping[str, list[Any]]
    put: Mapping[str, int]
    tasks: Mapping[str, TaskEnd]
    repeated: int
    dropped: int


def compare(expect: Expectations, end: RunEnd) -> Iterator[Difference]:
    """Yield all that differs."""
    if end.exit != expect.exit:
        yield Difference("exit code", str(expect.exit), str(end.exit))
    for queue, wanted in expect.queues.items():
        if wanted.count is not None and wanted.count != end.put.get(queue, 0):
            yield Difference(f"items in queue `{queue}`", f"{wanted.count:,}", f"{end.put.get(queue, 0):,}")
        yield from _compare_items(queue, wanted, end.items.get(queue, []))
    for task, counts in expect.tasks.items():
        for word in ("done", "dead", "tries"):
            number, got = getattr(counts, word), getattr(end.tasks[task], word)
            if number is not None and number != got:
                yield Difference(f"`{word}` of task `{task}`", f"{number:,}", f"{got:,}")
    for word in ("repeated", "dropped"):
        number, got = getattr(expect, word), getattr(end, word)
        if number is not None and number != got:
            yield Difference(f"items {word}", f"{number:,}", f"{got:,}")


def _compare_items(queue: str, wanted: QueueExpectation, got: list[Any]) -> Iterator[Difference]:
    what = f"items in queue `{queue}`"
    if wanted.ordered is not None and (first := first_difference(wanted.ordered, got)):
        yield Difference(f"{what}, in this order", shown(wanted.ordered), shown(got), first)
    if wanted.any_order is not None:
        missing, more = _unmatched(wanted.any_order, got)
        if missing or more:
            told = [f"{shown(missing[0])} is missing"] if missing else []
            told += [f"{shown(more[0])} was not expected"] if more else []
            yield Difference(f"{what}, in any order", shown(wanted.any_order), shown(got), ", ".join(told))
    if wanted.contains is not None and (missing := _unmatched(wanted.contains, got)[0]):
        yield Difference(f"{what}, among them", shown(wanted.contains), shown(got), f"{shown(missing[0])} is missing")
    if wanted.matches is not None:
        wrong = next((n for n, item in enumerate(got) if not re.search(wanted.matches, as_text(item))), None)
        if wrong is not None:
            first = f"item {wrong + 1}, {shown(got[wrong])}, does not match"
            yield Difference(f"{what}, each matching", shown(wanted.matches), shown(got), first)
        elif not got:
            yield Difference(f"{what}, each matching", shown(wanted.matches), shown(got), "there is no item")


def _unmatched(expected: Sequence[Any], got: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return what is missing and what is there beyond it, each as often as it is."""
    left, missing = list(got), []
    for item in expected:
        at = next((n for n, each in enumerate(left) if not first_difference(item, each)), None)
        if at is None:
            missing.append(item)
        else:
            del left[at]
    return missing, left


class Fields(dict[str, Any]):
    """The fields of an object, a dead letter for instance: it is compared by those that the test names."""


def plain(value: Any) -> Any:
    """Return an item as a file can say it: tables, lists, strings, numbers.

    >>> plain((1, {"a": PurePath("b")}))
    [1, {'a': 'b'}]
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return Fields({field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)})
    if hasattr(value, "_asdict"):
        return Fields({key: plain(inner) for key, inner in value._asdict().items()})
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(plain, value), key=repr)
    return str(value) if isinstance(value, PurePath) else value


def first_difference(expected: Any, got: Any, place: str = "") -> str:
    """Return in words where two values first differ; empty if they do not.

    >>> first_difference([1, {"a": 2}], [1, {"a": 3}])
    'item 2, key `a`: expected 2, got 3'
    >>> first_difference([1], [1, 2]), first_difference([1, 2], [1])
    ('item 2: nothing was expected, got 2', 'item 2: expected 2, got nothing')
    >>> first_difference(1, 1.0), first_difference(1, True)
    ('', 'expected 1, got true')
    """
    at = f"{place}: " if place else ""
    if isinstance(expected, dict) and isinstance(got, dict):
        return _key_difference(expected, got, place)
    if isinstance(expected, list) and isinstance(got, list):
        return _list_difference(expected, got, place)
    try:
        same = bool(expected == got) and isinstance(expected, bool) == isinstance(got, bool)
    except Exception:  # noqa: BLE001  arrays and the like have no single answer
        same = False
    return "" if same else _differ(expected, got, at)


def _key_difference(expected: dict[str, Any], got: dict[str, Any], place: str) -> str:
    words = expected if isinstance(got, Fields) else [*expected, *(word for word in got if word not in expected)]
    for word in words:
        inner = f"{place}, key `{word}`" if place else f"key `{word}`"
        if word not in got or word not in expected:
            return _differ(expected.get(word, _NOTHING), got.get(word, _NOTHING), f"{inner}: ")
        if found := first_difference(expected[word], got[word], inner):
            return found
    return ""


def _list_difference(expected: list[Any], got: list[Any], place: str) -> str:
    for number in range(max(len(expected), len(got))):
        inner = f"{place}, item {number + 1}" if place else f"item {number + 1}"
        if number >= len(got) or number >= len(expected):
            wanted, came = (each[number] if number < len(each) else _NOTHING for each in (expected, got))
            return _differ(wanted, came, f"{inner}: ")
        if found := first_difference(expected[number], got[number], inner):
            return found
    return ""


_NOTHING = object()


def _differ(expected: Any, got: Any, at: str) -> str:
    wanted = "nothing was expected" if expected is _NOTHING else f"expected {shown(expected)}"
    return f"{at}{wanted}, got {'nothing' if got is _NOTHING else shown(got)}"


def as_text(item: Any) -> str:
    """Return an item as text: a string as it is, anything else as JSON, or else as Python shows it."""
    if isinstance(item, str):
        return item
    try:
        return json.dumps(item, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(item)


def shown(value: Any) -> str:
    """Return a value on one line, cut; strings in quotes.

    >>> shown("a"), shown([1, True])
    ('"a"', '[1, true]')
    """
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else as_text(value)
    more = f" ({count_with_noun(len(value), 'item')})" if isinstance(value, list) and len(text) > _SHOWN else ""
    return cut_text(printable_line(text), _SHOWN) + more
