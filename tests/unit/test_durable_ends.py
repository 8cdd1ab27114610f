"""The two ends of a durable run: a source that is passed over and compared, and files that are cut to what was saved."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from runner.errors import OtherItems
from runner.std.sinks import WriteCsv, WriteJsonl, WriteLines
from runner.std.targets import part_name
from runner.worker.given_items import GivenItems
from runner.worker.source_crc import SourceCrc
from runner.worker.spec import RestartPoint

if TYPE_CHECKING:
    from pathlib import Path


class Source:
    """A source over several lives, each of which knows what the ledger would know of the one before."""

    def __init__(self) -> None:
        self.start = RestartPoint()

    def give(self, items: list[Any], sent: int | None = None, saved_at: int | None = None) -> list[Any]:
        """Return what is new of these items, which begin at the place that was saved; `sent` of them leave."""
        crc = SourceCrc(self.start)
        given = GivenItems(self.start, crc)
        count, new, place = self.start.saved_items, [], (self.start.saved_items, self.start.saved_crc)
        for item in items:
            if given.left > 0:
                given.pass_over(item)
            else:
                new.append(crc.add(item))
            count += 1
            if count == saved_at:
                place = (count, crc.value)
        given.check_all_passed()
        leaves = len(new) if sent is None else sent
        value, checks, _ = crc.take_sent(leaves)
        made = self.start.given_items + leaves
        self.start = RestartPoint(made, (), None, place[0], value, {**self.start.checks, **checks}, place[1])
        return new


@pytest.mark.parametrize("sent", [0, 1, 2, 3, 5, 8, 100])
def test_a_source_goes_on_after_what_was_sent(sent: int) -> None:
    items = [f"line {number}" for number in range(100)]
    source = Source()
    source.give(items, sent)
    assert source.give(items, (100 - sent) // 2) == items[sent:]
    assert source.give(items) == items[sent + (100 - sent) // 2 :]


@pytest.mark.parametrize("saved_at", [0, 1, 31, 32, 50, 90])
def test_a_source_with_a_place_goes_on_from_there(saved_at: int) -> None:
    items = list(range(100))
    source = Source()
    source.give(items, 90, saved_at)
    assert source.give(items[saved_at:], 5) == items[90:]
    assert source.give(items[saved_at:]) == items[95:]


@pytest.mark.parametrize(("saved_at", "at"), [(10, 10), (10, 63), (64, 64), (64, 89)])
def test_another_item_after_a_place_is_noticed(saved_at: int, at: int) -> None:
    items: list[Any] = list(range(100))
    source = Source()
    source.give(items, 90, saved_at)
    items[at] = "another one"
    with pytest.raises(OtherItems):
        source.give(items[saved_at:])


@pytest.mark.parametrize("at", [0, 1, 4, 62, 63, 64, 89])
def test_another_item_is_noticed_wherever_it_is(at: int) -> None:
    items: list[Any] = list(range(100))
    source = Source()
    source.give(items, 90)
    items[at] = "another one"
    with pytest.raises(OtherItems, match="is not the one that it gave before; "):
        source.give(items)


def test_the_items_are_named_among_which_another_one_is() -> None:
    source = Source()
    source.give(["a"] * 9)
    with pytest.raises(OtherItems, match="one of the items 5 to 8 is not"):
        source.give(["a"] * 5 + ["b"] + ["a"] * 3)
    with pytest.raises(OtherItems, match="item 1 is not"):
        source.give(["b"] * 9)


def test_an_item_that_was_not_sent_may_be_another_one() -> None:
    items: list[Any] = list(range(100))
    source = Source()
    source.give(items, 90)
    items[90] = "another one"
    assert source.give(items) == items[90:]


@pytest.mark.parametrize("change", ["swapped", "removed", "added"])
def test_other_orders_and_numbers_are_noticed(change: str) -> None:
    items: list[Any] = [{"row": number} for number in range(10)]
    source = Source()
    source.give(items)
    if change == "swapped":
        items[3], items[4] = items[4], items[3]
    elif change == "removed":
        del items[3]
    else:
        items.insert(3, {"row": 0})
    with pytest.raises(OtherItems):
        source.give(items)


def test_a_source_that_ends_too_early_is_noticed() -> None:
    source = Source()
    source.give(list(range(10)))
    with pytest.raises(OtherItems, match="it gave 10 items before, and only 8 now"):
        source.give(list(range(8)))
    assert source.give(list(range(10))) == []


def test_objects_are_compared_by_their_type() -> None:
    first_set, other_set = {"a", "b"}, {"b", "c"}
    source = Source()
    source.give([first_set, object()])
    assert source.give([other_set, object()]) == []
    with pytest.raises(OtherItems):
        source.give([other_set, 1])


# -- files -----------------------------------------------------------------------------------------


def context(saved: Any = None, **more: Any) -> Any:
    """That of a worker of a durable run; what was saved has been JSON."""
    known = {"run": "r1", "durable": True, "saved": json.loads(json.dumps(saved)), "stopping": False, "batched": False}
    return SimpleNamespace(**known | more)


def life(make: Any, path: Path, items: list[Any], saved: Any = None, *, unsaved: Any = (), ends: bool = False) -> Any:
    """One life of a sink: it writes items, saves, and writes some more, which are not saved."""
    sink = make(str(path), context=context(saved))
    sink.__enter__()
    for item in items:
        sink(item)
    place = sink.save()
    for item in unsaved:
        sink(item)
    if ends:
        sink.__exit__(None, None, None)
    else:
        sink.__exit__(RuntimeError, None, None)
    return place


@pytest.mark.parametrize(
    ("make", "items", "whole"),
    [
        (WriteLines, ["a", "b", "c"], "a\nb\nc\n"),
        (WriteJsonl, [1, [2], {"k": 3}], '1\n[2]\n{"k": 3}\n'),
        (WriteCsv, [{"x": 1, "y": 2}, {"y": 4, "x": 3}, {"x": 5, "y": 6}], "x,y\n1,2\n3,4\n5,6\n"),
    ],
)
def test_each_item_is_there_once_over_three_lives(tmp_path: Path, make: Any, items: list[Any], whole: str) -> None:
    path = tmp_path / "out"
    place = life(make, path, items[:1], unsaved=items[1:])
    assert not path.exists()
    place = life(make, path, items[1:2], place, unsaved=items[:1])
    life(make, path, items[2:], place, ends=True)
    assert path.read_text() == whole
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_was_in_its_place_already_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "out"
    place = life(WriteLines, path, ["a", "b"], ends=True)
    assert path.exists()
    life(WriteLines, path, [], place, ends=True)
    assert path.read_text() == "a\nb\n"


def test_what_another_run_has_put_in_its_place_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "out"
    place = life(WriteLines, path, ["a", "b"], ends=True)
    path.write_text("something else")
    with pytest.raises(OSError, match="is gone"):
        life(WriteLines, path, [], place)
    assert path.read_text() == "something else"


def test_a_part_that_is_shorter_than_what_was_saved_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "out"
    place = life(WriteLines, path, ["a", "b"])
    (tmp_path / part_name("out.r1")).write_text("a\n")
    with pytest.raises(OSError, match="is gone"):
        life(WriteLines, path, [], place)


def test_a_run_that_is_not_durable_leaves_the_part_of_one_that_is(tmp_path: Path) -> None:
    path = tmp_path / "out"
    place = life(WriteLines, path, ["a"])
    sink = WriteLines(str(path), context=context(durable=False, run="r2"))
    with sink:
        sink("other")
    assert path.read_text() == "other\n"
    life(WriteLines, path, ["b"], place, ends=True)
    assert path.read_text() == "a\nb\n"
