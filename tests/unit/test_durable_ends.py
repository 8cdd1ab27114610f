"""The two ends of a durable run: a source that is passed over and compared, and files that are cut to what was saved."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from runner.errors import SourceChanged
from runner.std.sinks import WriteCsv, WriteJsonl, WriteLines
from runner.std.targets import part_name
from runner.worker.source_position import SourcePosition

if TYPE_CHECKING:
    from pathlib import Path


def given(
    items: list[Any], earlier: SourcePosition | None = None, sent: int | None = None, made: int = 0
) -> tuple[list[Any], SourcePosition, int]:
    """What is new of a source's items; its position, and how many items have been sent in all, once `sent` of the new ones left."""
    crc, checks = (0, {}) if earlier is None else EARLIER[id(earlier)]
    position = SourcePosition("read", made, crc, checks)
    new = [item for item in items if position.is_new(item)]
    leaves = len(new) if sent is None else sent
    crc, more = position.count_sent(leaves)
    EARLIER[id(position)] = (crc, {**checks, **more})
    KEPT.append(position)
    return new, position, made + leaves


#: What the ledger would know of a position; and the positions, so that their ids stay theirs.
EARLIER: dict[int, tuple[int, dict[int, int]]] = {}
KEPT: list[SourcePosition] = []


@pytest.mark.parametrize("sent", [0, 1, 2, 3, 5, 8, 100])
def test_a_source_goes_on_after_what_was_sent(sent: int) -> None:
    items = [f"line {number}" for number in range(100)]
    _, first, made = given(items, sent=sent)
    new, second, made = given(items, first, sent=(100 - made) // 2, made=made)
    assert new == items[sent:]
    again, _, _ = given(items, second, made=made)
    assert again == items[made:]


@pytest.mark.parametrize("at", [0, 1, 4, 62, 63, 64, 89])
def test_another_item_is_noticed_wherever_it_is(at: int) -> None:
    items: list[Any] = list(range(100))
    _, first, made = given(items, sent=90)
    items[at] = "another one"
    with pytest.raises(SourceChanged, match="`read` gave other items than before"):
        given(items, first, made=made)


def test_an_item_that_was_not_sent_may_be_another_one() -> None:
    items: list[Any] = list(range(100))
    _, first, made = given(items, sent=90)
    items[90] = "another one"
    new, _, _ = given(items, first, made=made)
    assert new == items[90:]


@pytest.mark.parametrize("change", ["swapped", "removed", "added"])
def test_other_orders_and_numbers_are_noticed(change: str) -> None:
    items: list[Any] = [{"row": number} for number in range(10)]
    _, first, made = given(items)
    if change == "swapped":
        items[3], items[4] = items[4], items[3]
    elif change == "removed":
        del items[3]
    else:
        items.insert(3, {"row": 0})
    with pytest.raises(SourceChanged):
        given(items, first, made=made)


def test_a_source_that_ends_too_early_is_noticed() -> None:
    _, first, made = given(list(range(10)))
    _, second, _ = given(list(range(8)), first, made=made)
    with pytest.raises(SourceChanged, match="gave 8 items, and 10 before"):
        second.check_end()
    _, third, _ = given(list(range(10)), first, made=made)
    third.check_end()


def test_objects_are_compared_by_their_type() -> None:
    first_set, other_set = {"a", "b"}, {"b", "c"}
    _, first, made = given([first_set, object()])
    assert given([other_set, object()], first, made=made)[0] == []
    with pytest.raises(SourceChanged):
        given([other_set, 1], first, made=made)


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
    with pytest.raises(OSError, match="No such file"):
        life(WriteLines, path, [], place)
    assert path.read_text() == "something else"


def test_a_part_that_is_shorter_than_what_was_saved_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "out"
    place = life(WriteLines, path, ["a", "b"])
    (tmp_path / part_name("out.r1")).write_text("a\n")
    with pytest.raises(OSError, match="shorter than what was saved"):
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
