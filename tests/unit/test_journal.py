"""The journal and its image: what is owed, by ranges; what is referred to; and what memory is held meanwhile."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from runner.ledger.balance import ItemCounts
from runner.ledger.journal import LedgerImage
from runner.ledger.leases import Again, Dead, Dropped
from runner.ledger.ledger import Ledger
from runner.ledger.restore import restore_ledger
from runner.ledger.subscriptions import Subscription
from runner.supervisor.resume import replace_damaged
from runner.transport.item_codec import decode_item, decode_payload


class Payload(list[Any]):
    """A list that can be watched."""


class DurableLedger(Ledger):
    """One queue into a task (ordered or not), another one behind it, and an image of both."""

    def __init__(self, image: LedgerImage | None = None, *, ordered: bool = False, copies: bool = False) -> None:
        readers = [("work",), ("other",)] if copies else [("work",)]
        lines = [Subscription("a", each, is_copy=copies) for each in readers]
        super().__init__([*lines, Subscription("out", ("sink",))], ["work"] if ordered else [])
        self.image = LedgerImage() if image is None else image
        restore_ledger(self, self.image)

    def write(self) -> Any:
        """Write what has changed."""
        assert self.journal is not None
        if (group := self.journal.hand_over()) is not None:
            self.image.apply_group(group)
            assert self.image.find_faults() == []
            self.wake_kept(group.number)
        return group

    def come_in(self, *items: object, shared_bytes: int = 0) -> Payload:
        payload = Payload(items)
        self.put("a", [self.make_chunk(payload, len(items), 10 * len(items), shared_bytes)])
        self.write()
        return payload

    def grant(self, most: int, task: str = "work") -> int:
        lease = self.grant_lease(task, 0, most)
        assert lease is not None
        return lease.id

    def output(self, *items: object) -> list[tuple[str, Any]]:
        return [("out", self.make_chunk(Payload(items), len(items), 10))]


def arrived(book: Ledger, task: str = "sink") -> list[object]:
    found: list[object] = []
    while (lease := book.grant_lease(task, 0, 100)) is not None:
        found += [piece.chunk.payload[piece.start + at] for _, piece in lease.item_ranges for at in range(piece.count)]
        book.settle_lease(lease.id, lease.count, {}, [])
    return found


def test_what_has_come_in_sleeps_until_it_is_on_disk_and_counts_for_the_bound() -> None:
    book = DurableLedger()
    book.put("a", [book.make_chunk(["x"], 1, 10)])
    assert book.grant_lease("work", 0, 1) is None
    assert book.free_room_in("a") == 999
    assert book.has_items("work")
    assert book.waits_for_disk("work")
    book.write()
    assert book.grant_lease("work", 0, 1) is not None
    assert not book.waits_for_disk("work")


def test_nothing_is_handed_over_when_nothing_has_changed() -> None:
    book = DurableLedger()
    assert book.write() is None
    book.come_in(1, 2)
    book.grant(1)  # leases are never written
    assert book.write() is None
    assert book.journal is not None
    assert book.journal.is_idle


def test_what_is_owed_is_told_by_ranges_with_its_attempts_and_crashes() -> None:
    book = DurableLedger()
    book.come_in(*range(10))
    book.settle_lease(book.grant(3), 3, {}, [])
    book.settle_lease(book.grant(3), 3, {1: Again(9.0), 2: Dropped()}, [])
    book.settle_lost_lease(book.grant(4), range(1, 2), 1, lambda _: None)
    book.write()
    assert book.image.owed == {("a", 1): ((4, 1, 1, 0), (6, 1, 0, 0), (7, 1, 0, 1), (8, 2, 0, 0))}
    assert book.image.line_counts["a"] == ItemCounts(put=10, done=4, dropped=1)
    assert book.image.task_tallies["work"].repeated == 3
    again = DurableLedger(book.image)
    lease = again.grant_lease("work", 0, 9)
    assert lease is not None
    assert [(piece.start, piece.attempts) for _, piece in lease.item_ranges] == [(4, 1)]
    again.settle_lease(lease.id, 1, {}, [])
    assert arrived(again, "work") == [6, 7, 8, 9]
    again.write()
    assert not again.image.owed
    assert not again.image.chunks


def test_a_chunk_is_there_as_long_as_one_of_its_readers_is_owed_it() -> None:
    book = DurableLedger(copies=True)
    book.come_in(1, 2)
    assert arrived(book, "work") == [1, 2]
    book.write()
    assert list(book.image.owed) == [("a->other", 1)]
    assert arrived(DurableLedger(book.image, copies=True), "other") == [1, 2]
    assert arrived(book, "other") == [1, 2]
    book.write()
    assert not book.image.chunks


def test_a_dead_item_keeps_its_chunk() -> None:
    book = DurableLedger()
    book.come_in(1, 2)
    settlement = book.settle_lease(book.grant(2), 2, {1: Dead("why")}, [])
    assert settlement is not None
    assert book.journal is not None
    book.journal.bury(settlement.dead_items[0], "work", "2")
    book.write()
    assert not book.image.owed
    assert list(book.image.chunks) == [1]
    ((key, dead),) = book.image.dead_items.items()
    assert (key, dead.queue, dead.evidence, dead.preview) == (("work", 1, 1), "a", "why", "2")
    again = DurableLedger(book.image)
    again.come_in(3)
    arrived(again, "work")
    again.write()
    assert list(again.image.chunks) == [1], "of the earlier life, and still referred to"


def test_a_letter_keeps_the_chunk_of_its_item() -> None:
    book = DurableLedger()
    book.come_in(1, 2)
    book.settle_lease(book.grant(2), 2, {0: Dead("why")}, [])
    book.put("out", [book.make_chunk(["letter"], 1, 10, origin=1)])
    book.write()
    assert list(book.image.chunks) == [1, 2]
    again = DurableLedger(book.image)
    assert arrived(again) == ["letter"]
    again.write()
    assert not again.image.chunks


@pytest.mark.parametrize("life", [1, 2])
def test_what_lies_in_arenas_is_held_until_its_removal_is_on_disk(life: int) -> None:
    book = DurableLedger()
    watched = weakref.ref(book.come_in(1, shared_bytes=10))
    if life == 2:
        book = DurableLedger(book.image)
    arrived(book, "work")
    assert book.journal is not None
    group = book.journal.hand_over()
    assert group is not None
    number = group.number
    book.image.chunks.clear()  # what is on disk is no longer in memory
    del group
    gc.collect()
    assert watched() is not None
    book.journal.release(number)
    gc.collect()
    assert watched() is None


def test_results_that_wait_for_those_before_them_are_owed() -> None:
    book = DurableLedger(ordered=True)
    book.come_in(1, 2, 3, 4)
    first, second = book.grant(2), book.grant(2)
    book.settle_lease(second, 2, {}, book.output(30, 40))
    assert book.write() is None
    again = DurableLedger(book.image, ordered=True)
    assert again.available_items("work") == 4
    book.settle_lease(first, 2, {}, book.output(10, 20))
    book.write()
    assert not any(line == "a" for line, _ in book.image.owed)
    assert arrived(DurableLedger(book.image, ordered=True)) == [10, 20, 30, 40], "in order, whatever their numbers"


def test_what_an_order_holds_back_at_the_end_is_left_and_not_done() -> None:
    book = DurableLedger(ordered=True)
    book.come_in(1, 2, 3, 4)
    book.grant(2)
    book.settle_lease(book.grant(2), 2, {}, book.output(30, 40))
    book.remove_reader("work", {"work"})
    book.count_left()
    line = book.subscriptions[0]
    assert (line.counts.done, line.counts.left, line.counts.missing) == (0, 4, 0)
    (taken_back,) = [each for each in book.taken_back if each.done]
    assert (taken_back.done, taken_back.sent) == (2, [("out", 2)])
    assert not book.taken_items["work"]
    book.write()
    assert DurableLedger(book.image, ordered=True).available_items("work") == 4


def test_an_image_says_what_does_not_add_up() -> None:
    book = DurableLedger()
    book.come_in(1, 2)
    image = book.image
    image.line_counts["a"].put = 3
    assert image.find_faults() == ["`a` was put 3 items, and 2 are accounted for"]
    image.line_counts["a"].put = 2
    del image.chunks[1]
    assert image.find_faults()[0] == "`a` is owed items of chunk 1, which is not there"


def test_a_damaged_chunk_becomes_dead_letters_that_say_so() -> None:
    book = DurableLedger()
    book.come_in(1, 2)
    replace_damaged(book.image, {1})
    chunk = book.image.chunks[1]
    assert chunk.count == 2
    for encoded in decode_payload(chunk.payload):
        with pytest.raises(ValueError, match="this item is damaged on disk"):
            decode_item(encoded)
