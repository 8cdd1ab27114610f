"""Checks of `[[tests]]`: a test that names what does not take part in it tests something else than it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.problems import Problem, quote_name
from runner.structs import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.model import Config, Fault, FileTest, TaskConfig


def find_test_problems(config: Config) -> Iterator[Problem]:
    """Yield every problem of the file's tests."""
    seen: set[str] = set()
    for test in config.tests:
        if test.name in seen:
            text = f"two tests have the name {quote_name(test.name)}"
            yield Problem("E217", text, test.place, hint="give each its own: `-k` and reports go by it")
        seen.add(test.name)
        for text, hint in _Examined.of(config, test).mistakes():
            yield Problem("E218", f"test {quote_name(test.name)} {text}", test.place, hint=hint)


@dataclass(frozen=True, slots=True)
class _Examined:
    """One test, and the tasks that take part in it: those of `only`, without sources all of whose queues are fed."""

    config: Config
    test: FileTest
    tasks: dict[str, TaskConfig]

    @classmethod
    def of(cls, config: Config, test: FileTest) -> _Examined:
        tasks = {
            name: task
            for name, task in config.tasks.items()
            if task.enabled and (not test.only or name in test.only)
            if task.inputs or not task.outputs or not all(queue in test.feed for queue in task.outputs)
        }
        return cls(config, test, tasks)

    def mistakes(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong, and the way out."""
        test, expect = self.test, self.test.expect
        yield from self._feed_mistakes()
        yield from self._queue_mistakes()
        for task in (*test.stub, *({} if expect is None else expect.tasks)):
            if task not in self.tasks:
                yield f"names task {quote_name(task)}, which does not run in it", ""
        yield from self._stub_mistakes()
        for fault in test.fault:
            yield from self._fault_mistakes(fault)

    def _feed_mistakes(self) -> Iterator[tuple[str, str]]:
        test = self.test
        written = {queue for task in self.tasks.values() for queue in task.outputs_and_dead}
        read = {queue for task in self.tasks.values() for queue in task.inputs}
        letters = {task.dead for task in self.tasks.values()}
        for queue in test.feed:
            if queue not in read:
                yield f"feeds queue {quote_name(queue)}, which no task of it reads", "name the reader in `only`"
            elif queue in letters:
                yield f"feeds queue {quote_name(queue)}, which holds dead letters", "let the task fail: `stub`"
        for queue in sorted(read - written - set(test.feed)):
            hint = f"`feed.{queue} = [...]` in the test, or name a task that writes it in `only`"
            yield f"has nothing that writes queue {quote_name(queue)}", hint

    def _queue_mistakes(self) -> Iterator[tuple[str, str]]:
        test, expect = self.test, self.test.expect
        written = {queue for task in self.tasks.values() for queue in task.outputs_and_dead}
        for queue, wanted in {} if expect is None else expect.queues.items():
            if queue not in written and queue not in test.feed:
                yield f"expects items in queue {quote_name(queue)}, which no task of it writes", ""
            readers = [name for name, task in self.tasks.items() if queue in task.inputs]
            looks = any(
                each is not None for each in (wanted.any_order, wanted.ordered, wanted.contains, wanted.matches)
            )
            if looks and len(readers) > 1 and self.config.queues[queue].fanout == "share":
                both = " and ".join(map(quote_name, readers))
                text = f"looks at the items of queue {quote_name(queue)}, which {both} share"
                yield text, "expect its `count` only, or name one of them in `only`"

    def _stub_mistakes(self) -> Iterator[tuple[str, str]]:
        for name, stub in self.test.stub.items():
            task = self.tasks.get(name)
            if task is None:
                continue
            if not task.inputs and task.outputs and not isinstance(stub.gives, list) and not stub.error:
                yield f"has a stub of {quote_name(name)}, a source, without items", "`gives` is a list of them"
            ports = {port.name for port in task.ports}
            if (
                ports - {"default"}
                and stub.gives is not None
                and not (isinstance(stub.gives, dict) and stub.gives and set(stub.gives) <= ports)
                and task.inputs
            ):
                known = ", ".join(map(quote_name, sorted(ports)))
                yield f"has a stub of {quote_name(name)}, whose `gives` names no ports", f"a table of {known}"

    def _fault_mistakes(self, fault: Fault) -> Iterator[tuple[str, str]]:
        kinds = [word for word in ("kill", "stop", "interrupt_run") if getattr(fault, word) is not None]
        if len(kinds) != 1:
            yield "has a fault that is not exactly one of `kill`, `stop` and `interrupt_run`", ""
            return
        name = fault.kill or fault.stop
        if name is None:
            if fault.after is not None:
                yield "has `after` beside `interrupt_run`, which has the number itself", ""
            return
        if fault.after is None:
            yield f"does not say when a worker of {quote_name(name)} is to meet its fault", "`after = 1`"
        task = self.tasks.get(name)
        if task is None:
            yield f"names task {quote_name(name)}, which does not run in it", ""
        elif task.mode == "thread":
            yield (
                f"would {kinds[0]} a worker of {quote_name(name)}, a thread",
                "processes only: a thread cannot be killed",
            )
        elif fault.stop and task.timeout is None:
            text = f"stops a worker of {quote_name(name)}, which has no `timeout`, so it would hang"
            yield text, "`timeout` of the task ends what hangs"
