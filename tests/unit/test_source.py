"""A source's hottest loop: at the speed of C while items are small and quick, and yet each as it was yielded, at once
when nothing is under way, and none more once the run stops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from runner.errors import OtherItems
from runner.tasks import Reference, Shape
from runner.transport import item_codec
from runner.transport.messages import OBJECTS, PICKLED, Credit, MeasuredTimes, PlaceReport, Produced, Stop
from runner.worker import produce
from runner.worker.given_items import item_digest
from runner.worker.measurements import Measurements
from runner.worker.outputs import MAX_CHUNK_BYTES, OutputBuffer
from runner.worker.produce import SourceOutput, SourceStopped
from runner.worker.runtime import WorkerRuntime
from runner.worker.spec import OutputGroup, RestartPoint, WorkerSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

BEGINNING = RestartPoint()
LENGTHS = [0, 1, 2, 31, 32, 33, 64, 513, 1024, 4095, 4096, 4097, 5000, 20_000]


class Port:
    """Gives so much credit for each message, and at once."""

    arena_writer = None

    def __init__(self, kind: int, credit: int, *, acks: bool = True) -> None:
        self.kind, self.credit, self.acks = kind, credit, acks
        self.items: list[Any] = []
        self.messages: list[Produced] = []
        self.reports: list[PlaceReport] = []
        self.given = 0

    def start_listening(self, deliver: Any) -> None:
        self.deliver = deliver

    def send(self, message: Any) -> None:
        if isinstance(message, MeasuredTimes):
            return
        if isinstance(message, PlaceReport):
            assert all(number < self.given + len(self.items) for number, _ in message.digests)
            self.reports.append(message)
            return
        assert isinstance(message, Produced)
        self.messages.append(message)
        for output in message.outputs:
            if self.kind == OBJECTS:
                self.items += output.payload
            else:
                self.items += [item_codec.decode_item(frozen) for frozen in item_codec.decode_payload(output.payload)]

    def ack(self) -> None:
        self.deliver(Credit(len(self.items) + self.credit, 0.02))


class Context:
    stopping = False
    keep_place: Any = None


def tap(kind: int = PICKLED, credit: int = 100_000, start: RestartPoint = BEGINNING) -> tuple[SourceOutput, Port]:
    port = Port(kind, credit)
    port.given = start.given_items
    spec = WorkerSpec("read", "read", "run", 0, Reference("read", "read"), b"", restart_point=start)
    collector = OutputBuffer((OutputGroup("default", ("out",), kind),))
    bench = WorkerRuntime(spec, port, [0, 0], collector, Context(), Shape("function"), Measurements(port, "process"))  # type: ignore[arg-type]
    made = SourceOutput(bench)
    port.ack()
    return made, port


def poured(made: SourceOutput, port: Port, items: Iterator[Any]) -> list[Any]:
    """Pour with a credit after each reserve, as a supervisor that is quick."""
    reserve = made.reserve_credit

    def reserved(timeout: float | None = None) -> bool:
        if not made.attention_flag and made.sent_items + made.waiting_items >= made.credit_total - 10:
            port.ack()
        return reserve(timeout)

    made.reserve_credit = reserved  # type: ignore[method-assign]
    made.emit_all_from(items)  # type: ignore[arg-type]
    return port.items


@pytest.mark.parametrize("kind", [OBJECTS, PICKLED], ids=["objects", "pickled"])
@pytest.mark.parametrize("length", LENGTHS)
def test_all_items_in_order(kind: int, length: int) -> None:
    assert poured(*tap(kind), (number for number in range(length))) == list(range(length))


@pytest.mark.parametrize("kind", [OBJECTS, PICKLED], ids=["objects", "pickled"])
@pytest.mark.parametrize("every", [1, 2, 3, 7, 100, 513, 2000])
def test_items_of_many_types(kind: int, every: int) -> None:
    others = [None, 1.5, True, "text", b"bytes", (1, 2), {"a": 1}]
    items = [others[at // every % 7] if at % every == 0 else at for at in range(5000)]
    found = poured(*tap(kind), (item for item in items))
    assert found == items
    assert [type(item) for item in found] == [type(item) for item in items]


@pytest.mark.parametrize("before", LENGTHS)
def test_an_item_is_as_it_was_when_it_was_yielded(before: int) -> None:
    """Even where the items before it were made at the speed of C."""

    def rows() -> Iterator[Any]:
        yield from range(before)
        row: dict[str, int] = {}
        for number in range(600):
            row["number"] = number
            yield row

    assert poured(*tap(), rows())[before:] == [{"number": number} for number in range(600)]


def test_while_nothing_is_under_way_an_item_leaves_before_the_next_one_is_made() -> None:
    made, port = tap()
    late: list[int] = []

    def items() -> Iterator[int]:
        yield from range(20_000)
        for number in range(20_000, 20_700):
            made.handle_message(Credit(made.credit_total, 0.02))  # what waited leaves
            made.handle_message(Credit(made.credit_total, 0.02))  # and has arrived: nothing is under way
            assert made.waiting_items == 0
            yield number
            if port.items[-1:] != [number]:
                late.append(number)

    poured(made, port, items())
    assert port.items == list(range(20_700))
    assert late == []


@pytest.mark.parametrize("given", LENGTHS)
@pytest.mark.parametrize("kind", [OBJECTS, PICKLED], ids=["objects", "pickled"])
def test_what_was_given_before_is_passed_over(given: int, kind: int) -> None:
    made, port = tap(kind, start=RestartPoint(given))
    poured(made, port, iter(range(given + 100)))
    assert port.items == list(range(given, given + 100))
    assert made.next_number == given + 100
    made.given_items.check_all_passed()


@pytest.mark.parametrize("given", [1, 31, 5000, 20_000])
def test_items_that_were_given_are_compared(given: int) -> None:
    made, port = tap()
    poured(made, port, iter(range(given)))
    made.close()
    digests = tuple(pair for report in port.reports for pair in report.digests)
    assert digests[0][0] == 0, "the first item is always compared"
    again, port = tap(start=RestartPoint(given, digests))
    poured(again, port, iter(range(given + 1)))
    assert port.items == [given]
    last = digests[-1][0]
    other, port = tap(start=RestartPoint(given, digests))
    with pytest.raises(OtherItems, match=f"item {last + 1:,} is not the one"):
        poured(other, port, iter([*range(last), -1, *range(last + 1, given + 1)]))
    assert port.items == []
    with pytest.raises(OtherItems, match="is not the one"):
        other.given_items.check_all_passed()
    fewer, port = tap(start=RestartPoint(given, digests))
    poured(fewer, port, iter(range(given - 1)))
    with pytest.raises(OtherItems, match=f"it gave {given:,} items before its worker died, and only {given - 1:,} now"):
        fewer.given_items.check_all_passed()


def test_what_was_given_after_the_place_was_kept_is_passed_over() -> None:
    start = RestartPoint(given_items=50, digests=((45, item_digest(45) or 0),), saved='{"at":40}', saved_items=40)
    made, port = tap(start=start)
    poured(made, port, iter(range(40, 60)))
    assert port.items == list(range(50, 60))


def test_a_place_is_reported_behind_the_items_that_it_tells_of() -> None:
    made, port = tap()

    def items() -> Iterator[int]:
        for number in range(200):
            yield number
            made.keep_place(str(number + 1))
            assert all(report.saved_items <= len(port.items) for report in port.reports)

    poured(made, port, items())
    made.close()
    last = [report for report in port.reports if report.saved is not None][-1]
    assert (last.saved, last.saved_items) == ("200", 200)


def test_a_source_that_passes_items_over_ends_when_the_run_stops() -> None:
    made, port = tap(start=RestartPoint(1000))
    asked: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            asked.append(number)
            if number == 10:
                made.handle_message(Stop(inputs_ended=False))
            yield number

    with pytest.raises(SourceStopped):
        made.emit_all_from(items())
    assert len(asked) == 11
    assert port.items == []


def test_slow_items_are_not_confirmed_and_quick_ones_behind_them_wait_for_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, port = tap()
    seconds = made._sent_at
    monkeypatch.setattr(produce, "perf_counter", lambda: seconds)
    left: list[list[int]] = []

    def items() -> Iterator[int]:
        nonlocal seconds
        for number in range(5):  # slow, and never confirmed
            seconds += 0.003
            yield number
            left.append(port.items.copy())
        yield from range(5, 9)  # quick: the first is to be confirmed, and the others wait
        left.append(port.items.copy())
        port.ack()
        left.append(port.items.copy())

    made.emit_all_from(items())
    assert left == [list(range(stop)) for stop in (1, 2, 3, 4, 5, 6, 9)]
    assert [(message.item_count, message.wants_ack) for message in port.messages] == [
        *[(1, False)] * 5,
        (1, True),
        (3, True),
    ]


def test_slow_items_are_confirmed_before_they_are_more_bytes_than_a_message_may_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, port = tap()
    seconds = made._sent_at
    monkeypatch.setattr(produce, "perf_counter", lambda: seconds)
    text = "." * (MAX_CHUNK_BYTES // 3)

    def items() -> Iterator[str]:
        nonlocal seconds
        for _ in range(5):
            seconds += 1.0
            yield text
        assert len(port.items) == 3  # the third wants to be confirmed, and the others wait
        port.ack()
        assert len(port.items) == 5
        seconds += 1.0
        yield text

    made.emit_all_from(items())
    assert [message.wants_ack for message in port.messages] == [False, False, True, True, True]


def test_what_waits_leaves_when_what_was_under_way_has_arrived_although_the_generator_is_at_work() -> None:
    made, port = tap()

    def items() -> Iterator[int]:
        yield from range(20_100)
        made.handle_message(Credit(made.credit_total, 0.02))
        assert port.items == list(range(20_100))
        yield 20_100

    poured(made, port, items())
    assert port.items == list(range(20_101))


@pytest.mark.parametrize("before", [0, 10, 5000, 20_000])
def test_once_the_run_stops_one_more_item_is_made_at_most(before: int) -> None:
    made, port = tap()
    asked: list[int] = []

    def items() -> Iterator[int]:
        yield from range(before)
        made.runtime.context.stopping = True
        made.handle_message(Stop(inputs_ended=False))
        for number in range(before, before + 100):
            asked.append(number)
            yield number

    with pytest.raises(SourceStopped):
        poured(made, port, items())
    assert len(asked) == 1
    made.flush()
    assert port.items == list(range(before + 1))


@pytest.mark.parametrize("before", LENGTHS)
def test_what_came_before_an_error_counts(before: int) -> None:
    made, port = tap()

    def items() -> Iterator[int]:
        yield from range(before)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        poured(made, port, items())
    made.flush()
    assert port.items == list(range(before))


def test_items_are_made_within_their_credit() -> None:
    made, port = tap(credit=100)
    most = 0

    def items() -> Iterator[int]:
        nonlocal most
        for number in range(5000):
            yield number
            most = max(most, number + 1 - made.credit_total)

    poured(made, port, items())
    assert port.items == list(range(5000))
    assert most <= 0
