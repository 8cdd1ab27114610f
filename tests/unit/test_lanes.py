"""Queues with lanes: a line of the ledger beside a list that does the same in the plainest way, and whole simulated runs."""

from __future__ import annotations

import datetime as dt
import enum
from collections import Counter, namedtuple
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import crossed
import durable_lives
import pytest
from fake_engine import Script, plan, task
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st
from line_moves import moves, names_of

from runner.ledger.chunks import Chunk
from runner.ledger.journal import LedgerImage
from runner.ledger.lanes import LanedSubscription
from runner.ledger.ledger import Ledger
from runner.ledger.restore import restore_ledger
from runner.ledger.subscriptions import ItemRange
from runner.model import QueueConfig
from runner.store.ledger_file import LedgerFile
from runner.supervisor.resume import MessagePacker, find_graph_changes
from runner.tasks import To
from runner.transport.item_codec import decode_item, decode_payload
from runner.transport.messages import OBJECTS, PICKLED
from runner.worker.lanes import bucket_reader, hash_lane, read_lane
from runner.worker.outputs import OutputBuffer
from runner.worker.spec import OutputGroup

if TYPE_CHECKING:
    from pathlib import Path

    from runner.supervisor.plan import Plan

BITS = 2


@dataclass
class Waiting:
    """One item of a bucket that has not ended: it waits, sleeps, or is in somebody's hands."""

    name: str
    place: tuple[int, int]
    is_asleep: bool = False
    is_held: bool = False


@dataclass
class Model:
    """A queue as its page describes it: its buckets in the order in which items came."""

    buckets: dict[int, list[Waiting]] = field(default_factory=dict)

    def ready(self) -> list[list[Waiting]]:
        """What waits in each bucket of which nothing is held or asleep, the oldest first."""
        free = [
            each for each in self.buckets.values() if each and not any(one.is_held or one.is_asleep for one in each)
        ]
        return sorted(free, key=lambda each: each[0].place)


steps = moves((st.integers(1, 5), st.integers(0, 3)), (st.integers(1, 8), st.booleans()), most=50)


@examples(100, 3000)
@given(steps)
def test_a_line_with_lanes_does_what_the_page_says(moves: list[Any]) -> None:  # noqa: C901  an oracle in one piece
    line, model = LanedSubscription("q", ("eat",), bucket_bits=BITS), Model()
    held: list[ItemRange] = []
    known: dict[str, tuple[int, Waiting]] = {}
    put = ended = 0
    for number, (what, count, more) in enumerate(moves, 1):
        if what == "put":
            line.admit_chunk(Chunk(number, b"", count, 10 * count, bucket=(1 << BITS) | more))
            put += count
            for index in range(count):
                item = Waiting(f"{number}.{index}", (number, index))
                model.buckets.setdefault(more, []).append(item)
                known[item.name] = (more, item)
        elif what == "take":
            pieces = line.take_ranges("eat", count, 1 << 60, together=count if more else 1)
            ready = model.ready()
            wanted = [one for each in (ready if more else ready[:1]) for one in each][:count]
            assert [name for piece in pieces for name in names_of(piece)] == [one.name for one in wanted]
            for one in wanted:
                one.is_held = True
            held += pieces
        elif what in {"back", "done"} and held:
            piece = held.pop(count % len(held))
            if what == "done":
                line.end_items(piece)
                ended += piece.count
            else:
                line.give_back(piece, "eat", 1.0 if more else None)
            for name in names_of(piece):
                bucket, one = known[name]
                one.is_held, one.is_asleep = False, bool(more) and what == "back"
                if what == "done":
                    model.buckets[bucket].remove(one)
        elif what == "wake":
            line.wake_sleepers(2.0)
            for _, one in known.values():
                one.is_asleep = False
        waiting = sum(not one.is_held for each in model.buckets.values() for one in each)
        assert line.count == waiting == put - ended - sum(piece.count for piece in held)
        assert line.held_bytes == 10 * waiting
        assert line.available_items("eat") == sum(map(len, model.ready()))


def test_a_line_with_chunks_of_fewer_buckets_has_no_more() -> None:
    """An earlier life had fewer workers: lanes that shared a bucket then share one now."""
    line = LanedSubscription("q", ("eat",), bucket_bits=3)
    line.restore_ranges([ItemRange(Chunk(1, b"", 1, 1, bucket=0b1101), 0, 1)])
    line.restore_ranges([ItemRange(Chunk(2, b"", 1, 1, bucket=0b1010), 0, 1)])
    line.restore_ranges([ItemRange(Chunk(3, b"", 1, 1, bucket=0b11), 0, 1)])
    line.admit_chunk(Chunk(4, b"", 1, 1, bucket=0b1111))
    assert line.bucket_bits == 1
    assert [[piece.item_id for piece in line.take_ranges("eat", 9, 99)] for _ in range(3)] == [
        ["1.0", "3.0", "4.0"],
        ["2.0"],
        [],
    ]


def test_items_of_unknown_lanes_are_executed_one_after_the_other() -> None:
    line = LanedSubscription("q", ("eat",), bucket_bits=3)
    line.admit_chunk(Chunk(1, b"", 1, 1, bucket=0b1101))
    line.admit_chunk(Chunk(2, b"", 1, 1))
    line.admit_chunk(Chunk(3, b"", 1, 1, bucket=0b1000))
    assert [piece.item_id for piece in line.take_ranges("eat", 9, 99)] == ["1.0", "2.0", "3.0"]


def test_what_is_left_when_its_readers_end_is_counted_once() -> None:
    line = LanedSubscription("q", ("eat",), bucket_bits=BITS)
    for number in range(4):
        line.admit_chunk(Chunk(number, b"", 2, 2, bucket=0b100 | number % 2))
    (asleep,) = line.take_ranges("eat", 1, 99)
    line.give_back(asleep, "eat", 5.0)
    (held,) = line.take_ranges("eat", 1, 99)
    line.remove_reader("eat", {"eat"})
    assert (line.counts.left, line.count, line.sleeping_items, line.available_items("eat")) == (7, 0, 0, 0)
    line.give_back(held, "eat")  # what a worker had is counted with what is left at the end
    assert (line.count, line.leased_items) == (1, 0)


def test_the_bucket_of_a_chunk_survives_on_disk(tmp_path: Path) -> None:
    image = LedgerImage()
    book = Ledger([LanedSubscription("q", ("eat",), bucket_bits=3)])
    restore_ledger(book, image)
    assert book.journal is not None
    for bucket in (0b1101, 0b1000, 0b1101):
        book.put("q", [book.make_chunk(b"x", 2, 2, bucket=bucket)], sender="bake")
    group = book.journal.hand_over()
    assert group is not None
    file = LedgerFile(tmp_path, MessagePacker(), make=True)
    file.read_image()
    file.write_groups([group])
    file.close()
    file = LedgerFile(tmp_path, MessagePacker())
    again = Ledger([LanedSubscription("q", ("eat",), bucket_bits=3)])
    restore_ledger(again, file.read_image())
    file.close()
    leases = [again.grant_lease("eat", worker, 9) for worker in range(3)]
    assert [lease and [piece.item_id for _, piece in lease.item_ranges] for lease in leases] == [
        ["1.0", "3.0"],
        ["2.0"],
        None,
    ]


def laned_plan(lane: str) -> Plan:
    return plan([task("make", (), ("q",)), task("eat", ("q",), count=2)], [QueueConfig("q", lane=lane)])


@pytest.mark.parametrize(
    ("before", "after", "is_refused"),
    [("a", "a", False), ("a", "b", True), ("", "b", True), ("a", "", False), ("", "", False)],
)
def test_a_run_goes_on_with_the_lanes_that_it_had(before: str, after: str, is_refused: bool) -> None:
    image = LedgerImage(1, {1: Chunk(1, b"", 2, 2)}, {("q", 1): None}, lanes={"q": before} if before else {})
    had = f'`lane = "{before}"`' if before else "no `lane`"
    text = f"queue `q`, which holds 2 items, had {had} when they came; --drop q"
    assert find_graph_changes(laned_plan(after), image) == ([text] if is_refused else [])
    assert find_graph_changes(laned_plan(after), image, dropped=["q"]) == []


def test_there_are_some_buckets_for_each_item_that_is_executed_at_a_time() -> None:
    def bits(*readers: Any, **queue: Any) -> int:
        made = plan([task("make", (), ("q",)), *readers], [QueueConfig("q", lane="x", **queue)])
        (group,) = made.output_groups(made.tasks["make"].config)
        lines = made.subscriptions(made.build_topology().readers)
        assert {line.bucket_bits for line in lines if isinstance(line, LanedSubscription)} == {group.bucket_bits}
        return group.bucket_bits

    assert bits(task("eat", ("q",))) == 6
    assert bits(task("eat", ("q",), count=3)) == 7
    assert bits(task("eat", ("q",), count=64)) == 10
    assert bits(task("eat", ("q",), count=2), task("feast", ("q",), count=2), fanout="copy") == 8


# -- lanes, where items are made -----------------------------------------------------------------


class Order:
    def __init__(self, customer: Any) -> None:
        self.customer = customer


Row = namedtuple("Row", ["number", "customer"])


class Size(enum.IntEnum):
    SMALL = 3


class Name(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "another"


def test_the_lane_is_a_key_an_attribute_or_the_first_of_a_tuple() -> None:
    items: list[Any] = [{"customer": 7}, Order(7), Row(1, 7), (7, "x"), [7], (7,)]
    assert [read_lane(item, "customer") for item in items] == [7] * 6
    assert read_lane((7, "x"), ".") == (7, "x")
    assert read_lane((5, "x"), "count") == 5, "a method of tuples is no lane"


@pytest.mark.parametrize("item", [{}, {"other": 1}, 5, "text", (), [], None, Order])
def test_an_item_without_a_lane_is_refused(item: Any) -> None:
    with pytest.raises(TypeError, match='`lane = "customer"` takes items with that key or attribute'):
        read_lane(item, "customer")


def test_equal_lanes_have_one_hash_in_every_process() -> None:
    day = dt.date(2026, 11, 30)
    assert hash_lane(3) == hash_lane(3.0) == hash_lane(Size.SMALL)
    assert hash_lane("anna") == hash_lane(Name("anna"))
    assert hash_lane(("a", 1, day)) == hash_lane(["a", 1, dt.date(2026, 11, 30)])
    assert len({hash_lane(lane) for lane in ("a", b"a", 1, 1.5, None, day, ("a",), -1, 1 << 80, "\ud800")}) == 10
    with pytest.raises(TypeError, match="and not Order"):
        hash_lane(Order(1))


@pytest.mark.parametrize(
    "lanes", [range(100_000), [f"customer-{n:06}" for n in range(100_000)], [(n % 7, str(n)) for n in range(100_000)]]
)
def test_buckets_are_even(lanes: Any) -> None:
    """Of 100,000 lanes in 1,024 buckets about 98 are in each: none has half as many again by more than chance."""
    bucket_of = bucket_reader(".", 10)
    found = Counter(map(bucket_of, lanes))
    assert len(found) == 1024
    assert set(found) <= set(range(1024, 2048))
    assert 45 < min(found.values()) <= max(found.values()) < 155


def shown(output: Any) -> tuple[int, list[Any]]:
    if isinstance(output.payload, list):
        return output.bucket, output.payload
    return output.bucket, [decode_item(each) for each in decode_payload(output.payload)]


@pytest.mark.parametrize("kind", [OBJECTS, PICKLED])
def test_items_of_one_bucket_make_a_chunk_in_their_order(kind: int) -> None:
    buffer = OutputBuffer((OutputGroup("default", ("q",), kind, lane="customer", bucket_bits=6),))
    items = [(customer, number) for number, customer in enumerate([5, 6, 5, 7, 6, 5])]
    for item in items:
        buffer.emit_item(item)
    bucket_of = bucket_reader("customer", 6)
    assert len({bucket_of((customer,)) for customer in (5, 6, 7)}) == 3
    assert [shown(output) for output in buffer.take_outputs()] == [
        (bucket_of((customer,)), [item for item in items if item[0] == customer]) for customer in (5, 6, 7)
    ]
    assert buffer.take_outputs() == ()


def test_an_item_goes_to_queues_with_lanes_and_to_others() -> None:
    groups = (
        OutputGroup("default", ("q",), PICKLED, lane="customer", bucket_bits=6),
        OutputGroup("default", ("r",), PICKLED),
        OutputGroup("default", ("s",), PICKLED, has_priorities=True, is_read_singly=True),
        OutputGroup("other", ("t",), PICKLED),
    )
    buffer = OutputBuffer(groups)
    buffer.emit_item((5, "a"))
    mark = buffer.rollback_mark()
    buffer.emit_item((6, "b"))
    buffer.roll_back_to(mark)
    buffer.emit_item(To("other", "no lane"))
    with pytest.raises(TypeError, match="a str has no `customer`"):
        buffer.emit_item("no lane")
    buffer.emit_item((5, "c"))
    bucket = bucket_reader("customer", 6)((5,))
    outputs = buffer.take_outputs()
    assert [(each.group_index, each.count, each.bucket, each.rank) for each in outputs] == [
        (0, 2, bucket, 0.0),
        (1, 2, 0, 0.0),
        (2, 2, 0, 5.0),
        (3, 1, 0, 0.0),
    ]


# -- whole runs --------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [0, *(pytest.param(block, marks=pytest.mark.slow) for block in (1, 2))])
def test_all_features_crossed_with_lanes(block: int) -> None:
    found = [crossed.check(seed, laned=True, durable=seed % 4 == 3) for seed in range(block * 8, block * 8 + 8)]
    assert sum(each["begun"] for each in found) > 50


@pytest.mark.slow
def test_lives_of_a_durable_run_with_lanes_and_other_workers_in_each() -> None:
    lives = [durable_lives.check_lives(seed, laned=True) for seed in range(10)]
    assert sum(each.laned_items for each in lives) > 500
    assert sum(each.crashes for each in lives) >= 5


def test_a_bucket_that_is_free_is_shown_to_the_other_task_that_reads_its_queue() -> None:
    """A slow task has ended an item, and has no room for the next one of its bucket; a quick one has nothing else to do."""
    made = plan(
        [
            task("make", (), ("q",)),
            task("slow", ("q",), ("full",)),
            task("quick", ("q",)),
            task("end", ("full",)),
        ],
        [QueueConfig("q", lane="x", fanout="share"), QueueConfig("full", size=1)],
    )
    script = Script(3)
    costs = {"slow": 100.0, "quick": 0.01, "end": 5000.0}
    script.seconds = lambda name, item: costs[name]  # type: ignore[method-assign]
    progress: list[tuple[float, int]] = []

    def watch(supervisor: Any) -> None:
        progress.append((supervisor.clock.now(), supervisor.ledger.task_counts["quick"].done))

    crossed.run(made, script, 60, watch)
    most = progress[-1][1]
    assert most > 50
    assert next(when for when, done in progress if done == most) < 1000, "it was told with the room of the other task"
