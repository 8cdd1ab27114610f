"""The second way of counting: what workers said they sent and ended, against what the ledger's lines have.

answers ──▶ sent into each queue ──────────────▶ what each of its lines was put
        └─▶ ended by each task ────────────────▶ what its tally, and all lines together, say of it
tasks that ended well, in a run that was not cut short ──▶ nothing is left in their inputs

It is written where messages are heard, and shares no number with the ledger: an item that was taken and not sent, sent
and not put, or put and never taken is runner's own fault, and shows as such.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from runner.ledger.leases import Again
from runner.topology import Stage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from runner.ledger.leases import TakenBack, Verdict
    from runner.ledger.ledger import Ledger
    from runner.topology import Topology


class BalanceAudit:
    """Counts of one run, by queue and by task."""

    def __init__(self) -> None:
        self.sent_by_queue: dict[str, int] = defaultdict(int)
        self.ended_by_task: dict[str, int] = defaultdict(int)
        #: What an earlier run's dead letters put into each line, and what earlier lives of this run did.
        self.retried_by_line: dict[str, int] = defaultdict(int)

    def take_back(self, taken_back: Iterable[TakenBack]) -> None:
        """Count what an ordered task had done as neither ended nor sent: it is owed, and will be executed again."""
        for each in taken_back:
            self.ended_by_task[each.task] -= each.done
            for queue, items in each.sent:
                self.sent_by_queue[queue] -= items

    def find_faults(self, ledger: Ledger, topology: Topology, *, cut_short: bool) -> Iterator[tuple[str, str]]:
        """Yield what does not add up once what is left has been counted: a queue's or task's name, and a sentence."""
        for line in ledger.subscriptions:
            tally, sent = line.counts, self.sent_by_queue[line.queue] + self.retried_by_line[line.name]
            if tally.missing:
                known = tally.put - tally.missing
                yield line.name, f"`{line.name}` was put {tally.put:,} items, and {known:,} are accounted for"
            if tally.put != sent:
                yield line.name, f"`{line.name}` was put {tally.put:,} items, and was sent {sent:,}"
        for name in topology.nodes:
            tally, ended = ledger.task_counts[name], self.ended_by_task[name]
            if (counted := tally.done + tally.dead + tally.dropped) != ended:
                yield name, f"task `{name}` counts {counted:,} items as ended, and its workers ended {ended:,}"
        tallies = [*(line.counts for line in ledger.subscriptions), *ledger.former_counts.values()]
        counted, ended = sum(each.put - each.left for each in tallies), sum(self.ended_by_task.values())
        counted -= sum(ledger.dropped_by_queue.values())
        if counted != ended:
            yield "all queues", f"{counted:,} items have left all queues, and tasks have ended {ended:,}"
        if cut_short:
            return
        # What is left, although all its readers have ended well, and so have all readers of what they send.
        hindered = topology.leading_to(name for name, stage in topology.stages.items() if stage is not Stage.OK)
        for line in ledger.subscriptions:
            if not line.counts.left or not line.readers or hindered.intersection(line.readers):
                continue
            readers = ", ".join(f"`{reader}`" for reader in line.readers)
            yield line.name, f"`{line.name}` has {line.counts.left:,} items left that {readers} should have taken"


def count_finished(verdicts: Iterable[Verdict], done: int) -> int:
    """Return how many of `done` items are over, when some of them are to be tried again."""
    return done - sum(verdict.count for verdict in verdicts if isinstance(verdict, Again))
