"""A ledger from its image: what was queued, or in the hands of a worker, waits; what has ended is counted.

What was owed is ready at once, in the order in which it came in: attempts and crashes survive, pauses do not, and an
ordered task begins its order with what it still owes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.ledger.journal import Journal
from runner.ledger.subscriptions import ItemRange, Subscription

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from runner.ledger.journal import JournalGroup, LedgerImage, OwedKey
    from runner.ledger.ledger import Ledger

#: The task for which items are counted that a user has dropped: no task has this name.
NO_TASK = ""


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


def _owed_pieces(image: LedgerImage, key: OwedKey) -> Iterator[ItemRange]:
    chunk, ranges = image.chunks[key[1]], image.owed[key]
    for each in ((0, chunk.count, 0, 0),) if ranges is None else ranges:
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
