"""Another number of workers for a task with a range: further ones are started, or some are retired; none is killed.

too many ──▶ given nothing more ──▶ holds nothing: told to end ──▶ gone; its place can be used again
                 └▶ needed after all: stays                └▶ needed after all: another one follows it
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.supervisor.run_state import Phase
from runner.supervisor.shutdown import renounce_start
from runner.supervisor.time_accounting import ENDED, STARTING

if TYPE_CHECKING:
    from runner.supervisor.run_state import TaskState, WorkerSlot
    from runner.supervisor.workers import WorkerPool


def resize_task(pool: WorkerPool, task: TaskState, number: int, now: float) -> None:
    """Have this number of workers; those that could not be started are not among the present ones."""
    missing = number - sum(not slot.surplus for slot in task.slots)
    task.set_worker_count(number)
    if missing > 0:
        _add_workers(pool, task, missing, now)
    for slot in _dispensable_slots(task)[: max(0, -missing)]:
        _dismiss_surplus(pool, slot, now)
    pool.state.dirty_tasks.add_tasks((task.name,))


def _dispensable_slots(task: TaskState) -> list[WorkerSlot]:
    """Return the workers above the least number, those first that are not there yet, then those that are free."""
    extra = [slot for slot in reversed(task.slots) if slot.is_extra and not slot.surplus]
    return sorted(extra, key=lambda slot: (slot.phase not in (Phase.WAITING, Phase.STARTING), bool(slot.leases)))


def _dismiss_surplus(pool: WorkerPool, slot: WorkerSlot, now: float) -> None:
    slot.surplus = slot.retiring = True
    slot.task.count_acceptor(slot)
    if slot.phase is Phase.READY:
        pool.timeout_watchdog.check_lifespan(slot)
    elif renounce_start(pool.state, slot):  # one that is being started ends when it is ready
        slot.time_account.enter_state(ENDED, now)


def _add_workers(pool: WorkerPool, task: TaskState, count: int, now: float) -> None:
    """Keep workers that were to end; then use the places of former ones, then new ones, then those of ending ones."""
    surplus = [slot for slot in task.slots if slot.surplus]
    kept = [slot for slot in surplus if slot.phase in (Phase.READY, Phase.STARTING) and not slot.leaving][:count]
    for slot in kept:
        slot.surplus = slot.retiring = False
        task.update_free_slot(slot)
        task.count_acceptor(slot)
    count -= len(kept)
    gone = [slot for slot in surplus if slot.phase is Phase.GONE][:count]
    for slot in gone:
        slot.surplus = False
        task.first_live = min(task.first_live, task.slots.index(slot))
        pool.start_again(slot, now)
    count -= len(gone)
    names = task.plan.config.workers[len(task.slots) :][:count]
    for name in names:
        slot = pool.add_slot(task, name, now)
        pool.start_again(slot, now)
    count -= len(names)
    for slot in [slot for slot in surplus if slot.surplus][:count]:  # it ends, and another one follows it
        slot.surplus, slot.restart_requested = False, True
        slot.time_account.enter_state(STARTING, now)
