"""A ledger from its image: what was queued, or in the hands of a worker, waits; what has ended is counted.

What was owed is ready at once, in the order in which it came in: attempts and crashes survive, pauses do not, and an
ordered task begins its order with what it still owes. What was executed when all processes died at once gets a crash
before (`mark_executed`); over what has two of them such a death must find nothing else being executed.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from runner.ledger.journal import Journal, JournalGroup, whole_ranges
from runner.ledger.ledger import NO_TASK
from runner.ledger.subscriptions import ItemRange, Subscription

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from runner.ledger.journal import LedgerImage, OwedKey, OwedRange, OwedRanges
    from runner.ledger.ledger import Ledger

#: Deaths that an item may cause before it is a dead letter.
MAX_CRASHES = 3


def mark_executed(image: LedgerImage, executed: Iterable[tuple[OwedKey, range]]) -> tuple[JournalGroup, list[str]]:
    """Return a group that gives each of these items a crash, if it is still owed, and their names.

    Each is owed by itself then, and is given alone.

    >>> from runner.ledger.chunks import Chunk
    >>> from runner.ledger.journal import LedgerImage
    >>> image = LedgerImage(chunks={7: Chunk(7, b"", 5, 5)}, owed={("q", 7): None})
    >>> group, names = mark_executed(image, [(("q", 7), range(1, 3)), (("gone", 7), range(1))])
    >>> group.owed
    {('q', 7): ((0, 1, 0, 0), (1, 1, 0, 1), (2, 1, 0, 1), (3, 2, 0, 0))}
    >>> names
    ['7.1', '7.2']
    """
    indices: dict[OwedKey, set[int]] = defaultdict(set)
    for key, items in executed:
        if key in image.owed:
            indices[key].update(range(items.start, min(items.stop, image.chunks[key[1]].count)))
    owed: dict[OwedKey, OwedRanges] = {}
    names: list[str] = []
    for key, shown in indices.items():
        line, number = key
        ranges = whole_ranges(image.chunks[number], image.owed[key])
        marked = {index for start, count, *_ in ranges for index in shown.intersection(range(start, start + count))}
        if marked:
            owed[line, number] = tuple(each for old in ranges for each in _with_crashes(old, marked))
            names += [f"{number}.{index}" for index in sorted(marked)]
    return JournalGroup(0, image.last_chunk, [], owed, {}, {}, {}, {}, {}, {}, []), names


def _with_crashes(owed: OwedRange, marked: set[int]) -> list[OwedRange]:
    """Part a range, so that each of the marked items is a range of its own with one crash more."""
    start, count, attempts, crashes = owed
    parts: list[OwedRange] = []
    for index in sorted(marked.intersection(range(start, start + count))):
        if index > start:
            parts.append((start, index - start, attempts, crashes))
        parts.append((index, 1, attempts, crashes + 1))
        count -= index + 1 - start
        start = index + 1
    return [*parts, (start, count, attempts, crashes)] if count else parts


def restore_ledger(ledger: Ledger, image: LedgerImage) -> None:
    """Fill a new ledger with what an image holds, and let it keep a journal from here on.

    >>> from runner.ledger.journal import LedgerImage
    >>> from runner.ledger.ledger import Ledger
    >>> from runner.ledger.subscriptions import Subscription
    >>> book = Ledger([Subscription("q", ("eat",))]); image = LedgerImage(); restore_ledger(book, image)
    >>> book.put("q", [book.make_chunk(["a", "b"], 2, 2)], sender="bake")
    >>> book.available_items("eat")  # it sleeps until it is on disk
    0
    >>> group = book.journal.hand_over(); image.apply_group(group); book.wake_kept(group.number)
    ['q']
    >>> book.available_items("eat")
    2
    >>> again = Ledger([Subscription("q", ("eat",))]); restore_ledger(again, image)
    >>> again.available_items("eat")
    2
    """
    lines = {line.name: line for line in ledger.subscriptions}
    for name, counts in image.line_counts.items():
        if (line := lines.get(name)) is None:  # a queue that the file no longer has; nothing of it is owed
            ledger.former_counts[name] = counts
            continue
        line.counts.put, line.counts.done = counts.put, counts.done
        line.counts.dead, line.counts.dropped = counts.dead, counts.dropped
    ledger.former_letter_queues = image.letter_queues
    places = {number: place for place, number in enumerate(image.chunks)}
    for name, number in sorted(image.owed, key=lambda key: places[key[1]]):
        lines[name].restore_ranges(_owed_pieces(image, (name, number)))
    for name, tally in image.task_tallies.items():
        ended = ledger.task_counts[name]
        ended.done, ended.dead, ended.dropped = tally.done, tally.dead, tally.dropped
        ledger.repeated_items[name] = tally.repeated
        ledger.taken_items[name] = tally.taken
        ledger.sent_items[name] = tally.sent
        ledger.source_items[name] = tally.read
    ledger.number_chunks_from(image.last_chunk + 1)
    ledger.journal = Journal(image, ledger.repeated_items)
    ledger.isolates = ledger.has_crashed(MAX_CRASHES - 1)


def _owed_pieces(image: LedgerImage, key: OwedKey) -> Iterator[ItemRange]:
    chunk = image.chunks[key[1]]
    for each in whole_ranges(chunk, image.owed[key]):
        yield ItemRange(chunk, *each)


def drop_owed_items(image: LedgerImage, lines: Container[str]) -> JournalGroup | None:
    """Return the group that counts all items that are owed to these lines as dropped; None: nothing is.

    >>> from runner.ledger.chunks import Chunk
    >>> from runner.ledger.journal import LedgerImage
    >>> image = LedgerImage(chunks={1: Chunk(1, b"", 3, 3)}, owed={("q", 1): ((1, 2, 0, 0),)})
    >>> image.apply_group(drop_owed_items(image, {"q"}))
    >>> image.owed, image.chunks, image.line_counts["q"].dropped, image.task_tallies[NO_TASK].dropped
    ({}, {}, 2, 2)
    """
    journal = Journal(image, {name: tally.repeated for name, tally in image.task_tallies.items()})
    for name, number in image.owed:
        if name in lines:
            for piece in _owed_pieces(image, (name, number)):
                journal.settle(Subscription(name, ()), piece, NO_TASK, "dropped")
    return journal.hand_over()
