"""`runner ps`: the runs that are going on, and what each of their workers does. Nothing of the project is imported."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from runner.cli.shared_options import DEFAULT_STATE, StateOption
from runner.cli.streams import claim_stdout
from runner.report.displays import queue_fields
from runner.report.progress import ProgressTracker, worker_place
from runner.text import format_duration, format_table, printable_line, size_or_empty, time_or_empty

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner import events
    from runner.report.progress import ProgressSnapshot
    from runner.store.running_runs import RunningRun

#: What a worker does, in words.
STATE_WORDS = {
    "starting": "starting",
    "item": "waits for an item",
    "executing": "executing",
    "encoding": "executing",
    "room": "waits for room",
    "turn": "waits for its turn",
    "ended": "ended",
}


def ps(
    state: StateOption = DEFAULT_STATE,
    as_json: Annotated[bool, Option("--json", help="Write JSON.")] = False,
) -> None:
    """Show the runs that are going on: each of their workers with its process, and what it does.

    What a worker does is a second old at most; whether it is alive, its processor time and its memory are of now.

    Examples:
      runner ps

      runner ps --json
    """
    from runner.store.running_runs import check_watched_folder, find_running, is_writable

    document = claim_stdout() if as_json else None
    check_watched_folder(state, "ps")
    found = [RunNow.read(each) for each in find_running(state)]
    if document is not None:
        document(json.dumps([each.as_json() for each in found], indent=2))
        return
    if not found:
        unlisted = (
            "" if is_writable(state) else "; it cannot be written, so a run here keeps no record and is not listed"
        )
        print(f"no run is going on in {printable_line(str(state))}{unlisted}")
    for number, each in enumerate(found):
        print("\n".join(["", *each.lines()] if number else each.lines()))


@dataclass(frozen=True)
class RunNow:
    """A run that is going on, as its status says; `last` is None before its workers have begun."""

    running: RunningRun
    started: events.RunStarted
    last: events.Progress | None
    progress: ProgressSnapshot

    @classmethod
    def read(cls, running: RunningRun) -> RunNow:
        """Return the run of a status; of one that cannot be read, no more than that the run goes on."""
        from runner.errors import UsageError
        from runner.events import Progress
        from runner.report.status import parse_status

        tracker, last = ProgressTracker(), None
        try:
            for event in parse_status(running.status):
                tracker.handle_event(event)
                last = event if isinstance(event, Progress) else last
        except UsageError:
            pass
        return cls(running, tracker.started, last, tracker.take_snapshot())

    @property
    def seconds(self) -> float:
        """How long it has been going on."""
        return max(0.0, time.time() - self.started.unix) if self.started.unix else 0.0

    @property
    def ledger_bytes(self) -> int | None:
        """How large the ledger of a durable run is; None of another run."""
        if not self.started.lives:
            return None
        from runner.store.ledger_summary import ledger_bytes

        return ledger_bytes(self.running.folder)

    def lines(self) -> list[str]:
        """Return the run for people."""
        holder, title = self.running.holder, printable_line(self.started.title)
        where = f"process {holder.pid}" if holder.is_here else f"process {holder.pid} on {printable_line(holder.host)}"
        going = f"for {format_duration(self.seconds)}" if self.started.unix else "began just now"
        ledger = "" if (size := self.ledger_bytes) is None else f", durable: {size_or_empty(size)}"
        suspended = ", suspended" if holder.is_suspended() else ""
        head = f"{self.running.run}  {title}  {going}  ({where}{ledger}{suspended})"
        stopping = [f"  stopping: {printable_line(self.progress.stop_reason)}"] if self.progress.stop_reason else []
        rows = [
            ("  task", "worker", "pid", "state", "for", "alive", "cpu", "memory", "items"),
            *(self._row(worker) for worker in self.workers()),
        ]
        return [head, *stopping, *(format_table(rows) if len(rows) > 1 else [])]

    def _row(self, worker: dict[str, Any]) -> tuple[str, ...]:
        alive = {True: "yes", False: "no", None: ""}[worker["alive"]]
        return (
            f"  {printable_line(worker['task'])}",
            printable_line(worker["worker"]),
            printable_line(worker_place(worker["pid"], worker["node"] or "")),
            STATE_WORDS[worker["state"]],
            time_or_empty(worker["item_age"] or None),  # 0: it was another item a moment ago
            alive,
            time_or_empty(worker["cpu"] or None),
            size_or_empty(worker["memory"]),
            f"{worker['items']:,}",
        )

    def as_json(self) -> dict[str, Any]:
        """Return the run for programs, see docs/reference/commands.md."""
        holder = self.running.holder
        return {
            "run": self.running.run,
            "title": self.started.title,
            "pid": holder.pid,
            "host": holder.host,
            "here": holder.is_here,
            "began": self.started.unix or None,
            "seconds": round(self.seconds, 3),
            "stopping": self.progress.stop_reason or None,
            "suspended": holder.is_suspended(),
            "ledger": self.ledger_bytes,
            "queues": {name: queue_fields(queue) for name, queue in self.progress.queues.items()},
            "workers": list(self.workers()),
        }

    def workers(self) -> Iterator[dict[str, Any]]:
        """Return what is known of each worker, by task."""
        if self.last is None:
            return
        modes = {task.name: task.mode for task in self.started.plan.tasks}
        for task, workers in self.last.workers.items():
            for worker in workers:
                yield {
                    "task": task,
                    "worker": worker.name,
                    "mode": modes.get(task, ""),
                    "pid": worker.pid,
                    "node": worker.node or None,
                    "state": worker.state,
                    "item_age": None if worker.item_age is None else round(worker.item_age, 3),
                    "items": worker.items,
                    **self._process_now(worker, is_thread=modes.get(task) == "thread"),
                }

    def _process_now(self, worker: events.WorkerNow, *, is_thread: bool) -> dict[str, Any]:
        """Return what its process is now; of a thread, and of a process elsewhere, what it has said itself."""
        told: dict[str, Any] = {"alive": None, "cpu": round(worker.cpu, 3), "memory": worker.memory}
        if is_thread or worker.node or not worker.pid or not self.running.holder.is_here:
            return told
        import psutil

        try:
            process = psutil.Process(worker.pid)
            with process.oneshot():
                if process.status() == psutil.STATUS_ZOMBIE:
                    return {**told, "alive": False}
                times = process.cpu_times()
                return {
                    "alive": True,
                    "cpu": round(times.user + times.system, 3),
                    "memory": process.memory_info().rss,
                }
        except psutil.NoSuchProcess:
            return {**told, "alive": False}
        except psutil.Error:  # of another user
            return told
