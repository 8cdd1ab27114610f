"""The writers and readers of each queue, as the file alone gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.model import Config, TaskConfig


class TaskGraph:
    """The writers and readers of each queue, among the tasks that run."""

    def __init__(self, config: Config) -> None:
        self.tasks = {word: task for word, task in config.tasks.items() if task.enabled}
        self.writers: dict[str, list[str]] = {queue: [] for queue in config.queues}
        self.readers: dict[str, list[str]] = {queue: [] for queue in config.queues}
        for task in self.tasks.values():
            for queue in self.queues_written_by(task):
                self.writers.setdefault(queue, []).append(task.name)
            for queue in task.inputs:
                self.readers.setdefault(queue, []).append(task.name)
        for queue in {*self.writers, *self.readers}:  # also those of a misspelt `[queue.NAME]`
            self.writers.setdefault(queue, [])
            self.readers.setdefault(queue, [])
        unknown = {
            key for word in self.tasks for key in ("outputs", "dead", "inputs") if config.is_unknown("tasks", word, key)
        }
        #: Whether every writer, every reader is known: a reported mistake must not cause a second one.
        self.all_writers = not unknown & {"outputs", "dead"} and not config.is_unknown("tasks")
        self.all_readers = "inputs" not in unknown and not config.is_unknown("tasks")

    @staticmethod
    def queues_written_by(task: TaskConfig) -> list[str]:
        """The queues that a task writes, dead letters included."""
        return list(dict.fromkeys((*task.outputs, *([task.dead] if task.dead else []))))
