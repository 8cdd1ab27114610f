"""What a worker has given and saved, for the one that follows if it dies and goes on where it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct, field

from runner.worker.spec import RestartPoint

if TYPE_CHECKING:
    from runner.ledger.journal import Journal, SourcePlace
    from runner.model import TaskConfig
    from runner.transport.messages import PlaceReport, Produced


class SlotHistory(Struct, eq=False):
    """One slot's workers together: items of a source that have arrived, digests of some, and what was saved last.

    >>> from runner.transport.messages import PlaceReport
    >>> history = SlotHistory()
    >>> for number in (0, 90, 100, 170, 250):
    ...     history.add_report(PlaceReport(((number, number + 1),)))
    >>> history.digests
    [(0, 1), (90, 91), (250, 251)]
    """

    #: Those of earlier lives; the present life's are `WorkerSlot.received_items`.
    given_items: int = 0
    digests: list[tuple[int, int]] = field(default_factory=list)
    saved: str | None = None
    saved_items: int = 0
    #: In a durable run, of all items: their CRC, those at powers of two, and that of the items before the place.
    crc: int = 0
    checks: dict[int, int] = field(default_factory=dict)
    saved_crc: int = 0
    #: Of a source with a `key`: those that earlier lives have given; the items of these are not counted here.
    key_file: str = ""
    #: How many there were when a worker died last.
    items_at_death: int = 0

    def add_report(self, report: PlaceReport) -> None:
        """Note digests, the last one and some that lie twice as far apart each; and a place."""
        for number, digest in report.digests:
            if len(self.digests) > 1 and self.digests[-1][0] < 2 * self.digests[-2][0]:
                self.digests.pop()
            self.digests.append((number, digest))
        if report.saved is not None:
            self.saved, self.saved_items, self.saved_crc = report.saved, report.saved_items, report.saved_crc

    def add_checks(self, message: Produced) -> None:
        """Note the CRCs with which items of a durable run have come."""
        self.crc = message.crc
        self.checks |= message.checks

    def restart_point(self) -> RestartPoint:
        """Return where the next worker goes on."""
        digests = tuple(pair for pair in self.digests if self.saved_items <= pair[0] < self.given_items)
        checks = {count: crc for count, crc in self.checks.items() if count > self.saved_items}
        place = (self.given_items, digests, self.saved, self.saved_items)
        return RestartPoint(*place, self.crc, checks, self.saved_crc, self.key_file)


def history_on_disk(place: SourcePlace, saved: str | None, key_file: str) -> SlotHistory:
    """Return the history of a worker in earlier lives of a durable run; `saved` is of one that has inputs."""
    if key_file:
        return SlotHistory(saved=place.saved, key_file=key_file)
    return SlotHistory(
        given_items=place.made,
        saved=saved if place.saved is None else place.saved,
        saved_items=place.saved_items,
        crc=place.crc,
        checks=dict(place.checks),
        saved_crc=place.saved_crc,
    )


def count_first_workers(task: TaskConfig, journal: Journal | None) -> int:
    """Return how many workers a task begins with: of a range the least number, or as many as have saved a place."""
    if journal is None or not task.is_adaptive:
        return task.least_workers or len(task.workers)
    saved = [count for count, name in enumerate(task.workers, 1) if journal.saved_place(task.name, name) is not None]
    return max([task.least_workers, *saved])
