"""The lease page: what a progress slot shows is found again, by who comes later; what cannot be believed is nothing."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from runner import linux_only
from runner.ledger.balance import ItemCounts
from runner.ledger.chunks import Chunk
from runner.ledger.journal import JournalGroup, LedgerImage
from runner.ledger.leases import Lease
from runner.ledger.restore import mark_executed
from runner.ledger.subscriptions import ItemRange, Subscription
from runner.store.durable_folder import DurableFolder
from runner.supervisor.resume import MessagePacker
from runner.transport import lease_page
from runner.transport.lease_page import ExecutingRange, LeasePage, LeasePageHead, read_executing
from runner.transport.progress_page import PAGE_BYTES, ProgressPage, pack_burst
from runner.worker import orderly_exit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LINES = {name: Subscription(name, ("work",)) for name in "ab"}


class Life:
    """One life of a run, which notes leases, and shows positions as its workers would."""

    def __init__(self, path: Path, boot: str = "boot", life: str = "life") -> None:
        self.path = path
        self.page = LeasePage(path, LeasePageHead(life, boot, tuple(LINES)))
        self.shown = ProgressPage(self.page.fd)
        self.numbers = iter(range(17, 100_000))

    def lease(self, *parts: tuple[str, int, int, int], slot: int = 2, all_at_once: bool = False) -> int:
        """Note a lease of (line, chunk, start, count) parts."""
        pieces = [
            (LINES[line], ItemRange(Chunk(number, b"", 100, 100), start, count)) for line, number, start, count in parts
        ]
        lease = Lease(next(self.numbers), "work", slot, pieces, sum(part[3] for part in parts))
        self.page.note_lease(lease, slot, all_at_once=all_at_once)
        return lease.id

    def show(self, lease: int, word: int, slot: int = 2) -> None:
        words = self.shown.progress_slot(slot)
        words[1], words[0] = word, lease
        words.release()

    def close(self) -> None:
        self.page.close()
        self.shown.close()

    def found(self, boot: str = "boot") -> list[tuple[str, int, int, int]]:
        """What a later life finds."""
        _, ranges = read_executing(self.path, boot)
        return [(each.line, each.chunk_number, each.start, each.count) for each in ranges]


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    made = Life(tmp_path / "cells")
    yield made
    made.close()


PARTS = (("a", 5, 10, 3), ("b", 6, 0, 1), ("a", 7, 20, 6))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (0, [("a", 5, 10, 1)]),
        (2, [("a", 5, 12, 1)]),
        (3, [("b", 6, 0, 1)]),
        (9, [("a", 7, 25, 1)]),
        (10, []),
        (pack_burst(1, 2), [("a", 5, 11, 2)]),
        (pack_burst(2, 4), [("a", 5, 12, 1), ("b", 6, 0, 1), ("a", 7, 20, 2)]),
        (pack_burst(8, 100), [("a", 7, 24, 2)]),
    ],
)
def test_what_a_worker_shows_is_found_in_its_lease(life: Life, word: int, expected: Any) -> None:
    life.lease(("a", 4, 0, 50), slot=3)
    number = life.lease(*PARTS)
    assert life.found() == [], "nothing is executed yet"
    life.show(number, word)
    assert life.found() == expected
    life.show(0, word)
    assert life.found() == []


def test_what_is_executed_side_by_side_is_all_that_is_granted(life: Life) -> None:
    first, second = (life.lease(("a", number, 0, 1), all_at_once=True) for number in (8, 9))
    assert life.found() == [("a", 8, 0, 1), ("a", 9, 0, 1)]
    life.page.forget_lease(first)
    assert life.found() == [("a", 9, 0, 1)]
    life.page.forget_lease(second)
    assert life.found() == []


def test_a_position_of_another_lease_or_slot_or_of_a_source_blames_nothing(life: Life) -> None:
    number = life.lease(*PARTS)
    life.show(number, 0, slot=3)
    life.show(number + 1, 0)
    assert life.found() == []
    life.show((1 << 63) | 2, 0)
    assert life.found() == []
    life.show(number, 0)
    life.page.forget_lease(number)
    assert life.found() == []


def test_entries_are_used_again_and_more_leases_than_there_is_room_for_are_not_noted(life: Life) -> None:
    numbers = [life.lease(("a", chunk, 0, 1), all_at_once=True) for chunk in range(lease_page._MAX_ENTRIES + 5)]
    assert len(life.found()) == lease_page._MAX_ENTRIES
    for number in numbers:
        life.page.forget_lease(number)
    assert life.found() == []
    life.show(life.lease(*PARTS), 0)
    assert life.found() == [("a", 5, 10, 1)]


def test_a_page_that_was_renounced_or_is_of_another_boot_counts_for_nothing(life: Life) -> None:
    life.show(life.lease(*PARTS), 0)
    assert life.found("another boot") == []
    assert life.found("") == []
    life.page.renounce()
    assert life.found() == []


def test_a_page_of_a_boot_that_is_not_known_counts_for_nothing(tmp_path: Path) -> None:
    life = Life(tmp_path / "cells", boot="")
    life.show(life.lease(*PARTS), 0)
    assert life.found("") == []
    life.close()


def test_an_orderly_end_leaves_no_page_and_a_new_life_begins_with_an_empty_one(life: Life) -> None:
    life.show(life.lease(*PARTS), 0)
    after = Life(life.path, life="next")
    assert after.found() == []
    life.show(life.lease(*PARTS), 0)  # a process of the first life that is still there has its own page
    assert after.found() == []
    assert read_executing(life.path, "boot")[0] == "next"
    after.close()
    assert not life.path.exists()


def test_a_file_that_was_cut_or_is_not_what_it_was_is_nothing_or_names_other_items_and_never_an_error(
    life: Life, tmp_path: Path
) -> None:
    life.show(life.lease(*PARTS), 0)
    whole = life.path.read_bytes()
    torn = tmp_path / "torn"
    for length in (0, 1, PAGE_BYTES, PAGE_BYTES + 30, len(whole) - 1):
        torn.write_bytes(whole[:length])
        assert read_executing(torn, "boot") == ("", [])
    head, entries = PAGE_BYTES, lease_page._ENTRIES_AT
    for at in (*range(32, 48), *range(head, head + 64), *range(entries, entries + 3 * 56)):
        torn.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        _, found = read_executing(torn, "boot")
        assert all(isinstance(each, ExecutingRange) for each in found)
        image = LedgerImage(chunks={5: Chunk(5, b"", 100, 100)}, owed={("a", 5): None})
        mark_executed(image, [((e.line, e.chunk_number), range(e.start, e.start + e.count)) for e in found])


def test_a_worker_that_ends_does_not_take_the_page_for_a_file_of_the_users(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would look at each of its objects for what is to be flushed."""
    if (every := linux_only.open_files()) is None:
        pytest.skip("which files are open is not known here, so all are looked at")
    files = {fd: path for fd, path in every.items() if path == str(life.path)}
    assert len(files) > 1, "a map of the file has a descriptor of its own"
    monkeypatch.setattr(linux_only, "open_files", lambda: files)
    assert not orderly_exit._has_open_files({life.page.fd})
    assert orderly_exit._has_open_files(set())


# -- crashes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owed", "shown", "expected", "names"),
    [
        (None, [range(2, 3)], ((0, 2, 0, 0), (2, 1, 0, 1), (3, 2, 0, 0)), ["7.2"]),
        (None, [range(5)], tuple((at, 1, 0, 1) for at in range(5)), [f"7.{at}" for at in range(5)]),
        (None, [range(1), range(4, 5)], ((0, 1, 0, 1), (1, 3, 0, 0), (4, 1, 0, 1)), ["7.0", "7.4"]),
        (None, [range(3, 9)], ((0, 3, 0, 0), (3, 1, 0, 1), (4, 1, 0, 1)), ["7.3", "7.4"]),
        (((1, 1, 2, 1), (3, 1, 0, 2)), [range(5)], ((1, 1, 2, 2), (3, 1, 0, 3)), ["7.1", "7.3"]),
        # A batch that failed as a whole keeps its attempts.
        (((0, 3, 2, 0),), [range(1, 3)], ((0, 1, 2, 0), (1, 1, 2, 1), (2, 1, 2, 1)), ["7.1", "7.2"]),
        # It was shown twice, and is over.
        (((0, 2, 0, 0),), [range(1, 2), range(1, 2), range(4, 5)], ((0, 1, 0, 0), (1, 1, 0, 1)), ["7.1"]),
    ],
)
def test_what_was_executed_gets_one_crash_and_is_owed_alone(owed: Any, shown: Any, expected: Any, names: Any) -> None:
    image = LedgerImage(last_chunk=9, chunks={7: Chunk(7, b"", 5, 5)}, owed={("q", 7): owed, ("r", 7): None})
    group, marked = mark_executed(image, [(("q", 7), items) for items in shown])
    assert marked == names
    image.apply_group(group)
    assert image.owed == {("q", 7): expected, ("r", 7): None}, "of another reader nothing was executed"
    assert image.last_chunk == 9


def test_what_is_over_is_not_blamed() -> None:
    image = LedgerImage(chunks={7: Chunk(7, b"", 5, 5)}, owed={("q", 7): ((0, 1, 0, 0),)})
    group, marked = mark_executed(image, [(("q", 7), range(1, 5)), (("q", 8), range(1)), (("r", 7), range(1))])
    assert (group.owed, marked) == ({}, [])


def test_the_crashes_of_one_life_are_written_once(tmp_path: Path) -> None:
    """Whoever goes on may be killed before the page is a new one."""

    def write(life: str) -> tuple[bool, Any]:
        with closing(DurableFolder(tmp_path, "run", MessagePacker(), is_new=False)) as folder:
            group, _ = mark_executed(folder.image, [(("q", 7), range(1))])
            return folder.write_crashes(group, life), folder.image.owed["q", 7]

    counts, chunk = {"q": ItemCounts(put=5)}, Chunk(7, b"payload", 5, 5)
    with closing(DurableFolder(tmp_path, "run", MessagePacker(), is_new=True)) as folder:
        group = JournalGroup(1, 7, [chunk], {("q", 7): None}, {}, counts, {}, {}, {}, {}, [])
        folder._file.write_groups([group])
    assert write("a life") == (True, ((0, 1, 0, 1), (1, 4, 0, 0)))
    for _ in range(2):
        assert write("a life") == (False, ((0, 1, 0, 1), (1, 4, 0, 0)))
    assert write("another life") == (True, ((0, 1, 0, 2), (1, 4, 0, 0)))
