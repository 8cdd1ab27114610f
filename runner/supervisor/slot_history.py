"""What a worker has given and saved, for the one that follows if it dies and goes on where it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct, field

from runner.worker.spec import RestartPoint

if TYPE_CHECKING:
    from runner.transport.messages import PlaceReport


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
    #: How many there were when a worker died last.
    items_at_death: int = 0

    def add_report(self, report: PlaceReport) -> None:
        """Note digests, the last one and some that lie twice as far apart each; and a place."""
        for number, digest in report.digests:
            if len(self.digests) > 1 and self.digests[-1][0] < 2 * self.digests[-2][0]:
                self.digests.pop()
            self.digests.append((number, digest))
        if report.saved is not None:
            self.saved, self.saved_items = report.saved, report.saved_items

    def restart_point(self) -> RestartPoint:
        """Return where the next worker goes on."""
        digests = tuple(pair for pair in self.digests if self.saved_items <= pair[0] < self.given_items)
        return RestartPoint(self.given_items, digests, self.saved, self.saved_items)
