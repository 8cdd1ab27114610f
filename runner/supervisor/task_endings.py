"""The ends of tasks: dismissed when no more work comes, failed, judged when all workers are gone, finished.

dismissed, or failed ─▶ workers end, or are killed ─▶ the last one is gone: judged ─▶ finished: `TaskEnded`
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner import events
from runner.supervisor.run_state import Phase
from runner.supervisor.time_accounting import ENDED
from runner.topology import Stage
from runner.transport.messages import Stop

if TYPE_CHECKING:
    from runner.supervisor.run_state import RunState, TaskState, WorkerSlot


def dismiss_task(state: RunState, task: TaskState) -> None:
    """End the workers of a task: its inputs have ended, or no reader is left for its outputs."""
    if task.dismissed:
        return
    task.dismissed = True
    for slot in task.slots:
        if slot.phase is Phase.READY:
            dismiss_worker(state, slot)
        elif slot.phase is Phase.WAITING and not _must_still_run(state, slot):
            slot.phase = Phase.GONE
    finish_if_over(state, task)


def _must_still_run(state: RunState, slot: WorkerSlot) -> bool:
    """Return True if the worker has to be started although no item will come.

    A class's set-up and tear-down do something of their own (a sink opens its file, and puts it in its place):
    when the last worker failed in its set-up, or died, that has not been done.
    """
    return slot.task.plan.shape.kind == "class" and not (slot.retiring or state.stopping)


def dismiss_worker(state: RunState, slot: WorkerSlot) -> None:
    """Tell a worker that no more will come; a source ends at its next item, and says so itself."""
    engine = slot.task.engine
    if slot.task.is_source:
        engine.send(slot.index, Stop(inputs_ended=False))
        return
    slot.phase = Phase.ENDING
    slot.time_account.enter_state(ENDED, state.clock.now())
    if state.stopping or _is_fed_by_failed(state, slot.task):  # so that its tear-down knows
        engine.send(slot.index, Stop(inputs_ended=False))
    engine.send(slot.index, Stop(inputs_ended=True))


def _is_fed_by_failed(state: RunState, task: TaskState) -> bool:
    """Return True if a task has failed whose items could have come here, directly or through others."""
    return any(state.tasks[name].failure_reason for name in state.topology.leading_to([task.name]))


def fail_task(state: RunState, task: TaskState, why: str) -> None:
    """End a task that has failed: its workers end, its outputs close, tasks after it do not start."""
    if task.failure_reason:
        return
    task.failure_reason = why
    task.dismissed = True
    for slot in task.slots:
        if slot.phase in {Phase.WAITING, Phase.GONE}:
            slot.phase = Phase.GONE
            continue
        if not task.engine.kill(slot.index):
            task.engine.send(slot.index, Stop(inputs_ended=False))
            task.engine.send(slot.index, Stop(inputs_ended=True))  # a thread ends after the item at hand
        slot.phase = Phase.ENDING
    finish_if_over(state, task)


def finish_if_over(state: RunState, task: TaskState) -> None:
    """Finish a task whose workers are all gone."""
    if state.topology.stages[task.name] is not Stage.RUNNING:
        return
    slots = task.slots
    while task.first_live < len(slots) and slots[task.first_live].phase is Phase.GONE:
        task.first_live += 1
    if task.first_live == len(slots):
        if task.returned_early and not task.failure_reason and not state.stopping:
            task.failure_reason = _why_early(state, task)
        finish_task(state, task, Stage.FAILED if task.failure_reason else Stage.OK)


def _why_early(state: RunState, task: TaskState) -> str:
    """Return what is wrong with a function that returned by itself; empty when nothing was left for it."""
    inputs = task.plan.config.inputs
    left = state.ledger.queued_items(task.name)
    if not left and all(map(state.topology.is_closed, inputs)):
        return ""
    names = ", ".join(f"`{queue}`" for queue in inputs)
    return f"its function returned before its input {names} had ended; {left:,} items are left in it"


def skip_task(state: RunState, task: TaskState, why: str) -> None:
    """End a task that was never started."""
    task.failure_reason = why
    finish_task(state, task, Stage.SKIPPED)


def finish_task(state: RunState, task: TaskState, stage: Stage) -> None:
    """Tell everyone that a task is over; tasks before and after it are looked at again."""
    name, now = task.name, state.clock.now()
    state.topology.finish(name, stage)
    task.ended_at = now
    state.check_starts = state.check_ends = True
    state.emit(events.TaskEnded(now, name, stage.value, task.failure_reason))
    state.ledger.remove_reader(name, state.topology.ended_tasks)
    state.dirty_tasks.add_input_writers(name)
    for queue in state.topology.nodes[name].outputs:
        state.dirty_tasks.add_readers(queue)
