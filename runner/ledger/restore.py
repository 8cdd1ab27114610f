"""A ledger from its image: what was queued, or in the hands of a worker, waits; what has ended is counted.

What was owed is ready at once, in the order in which it came in: attempts and crashes survive, pauses do not, and an
ordered task begins its order with what it still owes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.ledger.journal import Journal
from runner.ledger.subscriptions import ItemRange

if TYPE_CHECKING:
    from runner.ledger.journal import LedgerImage
    from runner.ledger.ledger import Ledger


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
        if (line := lines.get(name)) is None:
            continue  # a queue that the file no longer has; nothing of it is owed
        line.counts.put, line.counts.done = counts.put, counts.done
        line.counts.dead, line.counts.dropped = counts.dead, counts.dropped
    places = {number: place for place, number in enumerate(image.chunks)}
    for (name, number), ranges in sorted(image.owed.items(), key=lambda each: places[each[0][1]]):
        line, chunk = lines[name], image.chunks[number]
        whole = ((0, chunk.count, 0, 0),)
        pieces = [ItemRange(chunk, *each) for each in (whole if ranges is None else ranges)]
        line.restore_ranges(pieces)
    for name, tally in image.task_tallies.items():
        ended = ledger.task_counts[name]
        ended.done, ended.dead, ended.dropped = tally.done, tally.dead, tally.dropped
        ledger.repeated_items[name] = tally.repeated
        ledger.taken_items[name] = tally.taken
        ledger.sent_items[name] = tally.sent
        ledger.source_items[name] = tally.read
    ledger.number_chunks_from(image.last_chunk + 1)
    ledger.journal = Journal(image, ledger.repeated_items)
