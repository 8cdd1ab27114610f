"""A durable run while it is executed: its folder, what writes its ledger, and the page that shows what is executed."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from runner.engines.engine_events import GroupKept
from runner.ledger.restore import mark_executed
from runner.supervisor.outcome import describe_end
from runner.supervisor.resume import MessagePacker, replace_damaged
from runner.text import count_with_noun

if TYPE_CHECKING:
    from pathlib import Path

    from runner.engines.reactor import LocalReactor
    from runner.store.durable_folder import DurableFolder
    from runner.store.keeper import LedgerKeeper
    from runner.supervisor.outcome import RunOutcome
    from runner.supervisor.plan import Plan
    from runner.transport.lease_page import LeasePage

#: Items that a notice names.
_MOST_SHOWN = 10


class DurableRun:
    """The ledger of an earlier life, or a new one, and what writes it.

    `outcome`: how it has ended, if nothing is left to be done. `is_over`: nothing of it need be kept. `notice` says
    what was executed when all processes of the earlier life died. There is no `lease_page` on a disk that is full, or
    if nothing names the boot of the machine.
    """

    keeper: LedgerKeeper
    notice = ""
    lease_page: LeasePage | None = None

    def __init__(self, plan: Plan, earlier: DurableFolder | None) -> None:
        from runner.store.durable_folder import DurableFolder  # few runs need SQLite

        self._plan = plan
        self.outcome, self.is_over = "", earlier is None  # until it begins
        self.folder = earlier or DurableFolder(plan.settings.state, plan.run_id, MessagePacker(), is_new=True)
        try:
            self._begin_life(plan)
        except BaseException:
            self.folder.close(remove=self.is_over)
            raise

    def _begin_life(self, plan: Plan) -> None:
        from runner.linux_only import boot_id
        from runner.transport.lease_page import CELLS_FILE, LeasePage, LeasePageHead

        letters = {task.config.dead for task in plan.tasks.values() if task.config.dead is not None}
        lanes = {name: queue.lane for name, queue in plan.queues.items() if queue.lane}
        self.folder.begin_life(plan.command, letters, lanes)
        replace_damaged(self.folder.image, self.folder.damaged_chunks)
        path, boot = self.folder.path / CELLS_FILE, boot_id()
        self._blame_executed(path, boot)
        if boot:
            lines = tuple(line.name for line in plan.subscriptions(plan.build_topology().readers))
            with contextlib.suppress(OSError):
                self.lease_page = LeasePage(path, LeasePageHead(os.urandom(8).hex(), boot, lines))

    def _blame_executed(self, page: Path, boot: str) -> None:
        """Give a crash to each item that was executed when all processes of the earlier life died."""
        from runner.transport.lease_page import read_executing

        life, executing = read_executing(page, boot)
        ranges = [((each.line, each.chunk_number), range(each.start, each.start + each.count)) for each in executing]
        group, names = mark_executed(self.folder.image, ranges)
        if names and self.folder.write_crashes(group, life):
            shown = ", ".join(names[:_MOST_SHOWN]) + (", ..." if len(names) > _MOST_SHOWN else "")
            were = "was" if len(names) == 1 else "were"
            what = f"{count_with_noun(len(names), 'item')} {were} being executed when all processes of this run died"
            self.notice = f"{what}: {shown}"

    def start_keeper(self, reactor: LocalReactor) -> None:
        """Write from here on what is handed over: threads may be started now."""
        self.is_over = False
        self.keeper = self.folder.start_keeper(lambda number: reactor.post_event(GroupKept(number)))

    def end_life(self, outcome: RunOutcome) -> None:
        """Note how this life has ended, and whether anything of the run need be kept."""
        self.outcome = str(outcome.headline) if outcome.is_complete else ""
        has_keys = any(task.config.key for task in self._plan.tasks.values())  # `resume --again` needs them
        self.is_over = outcome.is_complete and not has_keys
        self.folder.end_life(outcome.ended.seconds, self._plan.secret_mask(describe_end(outcome.ended)))

    def close(self) -> None:
        """Write what waits, and close everything."""
        if self.lease_page is not None:
            self.lease_page.close()
        self.folder.close(remove=self.is_over, outcome=self.outcome)
