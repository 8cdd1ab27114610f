"""One test, in a process of its own and an empty folder: the file is run as it says, and what came is compared."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from runner import api, runs
from runner.config import select_tasks
from runner.engines.lifeline import arm_lifeline
from runner.errors import RunnerError
from runner.fed_runs import FedQueues, is_replaced_source, sharing_readers
from runner.file_tests.comparison import Difference, RunEnd, TaskEnd, compare, plain
from runner.file_tests.faults import FaultInjector, with_single_items
from runner.file_tests.reading import read_tests
from runner.file_tests.stubs import with_stubs
from runner.model import CLUSTER_ENGINES, Expectations
from runner.supervisor.outcome import EXIT_DEAD, EXIT_DEADLINE, EXIT_OK

if TYPE_CHECKING:
    from runner.model import Config, FileTest
    from runner.supervisor.outcome import RunOutcome
    from runner.supervisor.plan import Plan

#: A run that is out of time drains for so many seconds at most.
_GRACE = 2.0


class TestRequest(Struct, frozen=True):
    """What the process of a test is told: the file and the number of the test in it, and where to run it.

    `lifeline` is the end of a pipe that closes when the process that wants to know is gone.
    """

    __test__ = False  # for pytest, which looks for classes of tests by their names

    file: str
    number: int
    folder: str
    lifeline: int


class TestEnd(Struct, frozen=True):
    """What the process of a test answers. `is_error`: it could not be run, for the file or a plugin is wrong."""

    __test__ = False

    differences: tuple[tuple[str, str, str, str], ...] = ()
    balance: str = ""
    exit_code: int | None = None
    seconds: float = 0.0
    is_error: bool = False


def main() -> None:
    """Run the test that the first argument asks for; its end goes into a file, output where this process writes."""
    request = msgspec.json.decode(sys.argv[1], type=TestRequest)
    arm_lifeline(request.lifeline)
    began = time.monotonic()
    try:
        config, test = _read_file(request)
        os.chdir(Path(request.folder, "work"))
        end = execute_test(config, test, Path(request.folder))
    except RunnerError as error:
        end = TestEnd(((str(error), "", "", ""),), is_error=True, seconds=time.monotonic() - began)
    path = Path(request.folder, "end.json")
    path.with_suffix(".new").write_bytes(msgspec.json.encode(end))
    path.with_suffix(".new").rename(path)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)  # a thread that does not end must not keep this process


def _read_file(request: TestRequest) -> tuple[Config, FileTest]:
    """Return the file with the params of the test, and the test."""
    found = read_tests(request.file)
    test, folder = found.tests[request.number], found.folder.resolve()
    given = {name: _with_folder(value, str(folder)) for name, value in test.params.items()}
    config = api.read_config(found.file, given, None)
    return replace(config, folder=folder), test


def _with_folder(value: Any, folder: str) -> Any:
    if isinstance(value, list):
        return [_with_folder(each, folder) for each in value]
    return value.replace("${folder}", folder) if isinstance(value, str) else value


def execute_test(config: Config, test: FileTest, folder: Path) -> TestEnd:
    """Run the file as the test says, and compare; ConfigError or UsageError if it cannot be run."""
    began = time.monotonic()
    config = replace(select_tasks(config, test.only, ()), tests=())
    own_deadline = config.run.deadline is not None and config.run.deadline <= test.timeout
    grace = min(config.run.grace, _GRACE, test.timeout / 4)
    deadline = config.run.deadline if own_deadline else test.timeout
    settings = replace(config.run, deadline=deadline, grace=grace, state=folder / "state", record=0, overlap="allow")
    if settings.engine in CLUSTER_ENGINES:  # nobody joins a test
        settings = replace(settings, engine="local")
    expect = test.expect or Expectations()
    queues = FedQueues(replace(config, run=settings), test.feed, _collected_queues(config, test, expect))
    injector = FaultInjector(test.fault)
    with queues, api.only_run():
        plan = with_single_items(with_stubs(runs.prepare_plan(queues.config), test.stub), test.fault)
        outcome = _perform(plan, injector)
    found = list(compare(expect, _end_of(outcome, queues)))
    if outcome.exit_code == EXIT_DEADLINE and not own_deadline and expect.exit != EXIT_DEADLINE:
        found = [Difference("time", f"an end within {test.timeout:g} s", "none: the run was stopped"), *found]
    if outcome.headline.missing:
        found.append(Difference("balance", "every item accounted for", str(outcome.headline)))
    for fault in injector.pending:
        what = f"`{fault.kill or fault.stop}`" if fault.interrupt_run is None else "the run"
        number = fault.after if fault.interrupt_run is None else fault.interrupt_run
        why = "; a stub that is `slow` gives it time" if fault.stop else ""
        found.append(Difference("fault", f"of {what}, after {number}", f"none: the run had ended before{why}"))
    mask = plan.secret_mask
    return TestEnd(
        tuple((mask(each.what), mask(each.expected), mask(each.got), mask(each.first)) for each in found),
        str(outcome.headline),
        outcome.exit_code,
        time.monotonic() - began,
    )


def _collected_queues(config: Config, test: FileTest, expect: Expectations) -> list[str]:
    """Return the queues whose items the test looks at, and those that no task of it reads."""
    tasks = [task for task in config.tasks.values() if task.enabled and not is_replaced_source(task, test.feed)]
    read = {queue for task in tasks for queue in task.inputs}
    written = {queue for task in tasks for queue in task.outputs_and_dead} | {*test.feed}
    wanted = [name for name in expect.queues if not sharing_readers(config, config.queues[name])]
    return list(dict.fromkeys([*wanted, *sorted(written - read)]))


def _perform(plan: Plan, injector: FaultInjector) -> RunOutcome:
    """Run the plan; a durable run that a fault has interrupted goes on."""
    options = runs.OutputOptions(keep_record=False)
    outcome = runs.perform(plan, options, injector.make_reactor(), wrap_engine=injector.wrap_engine)[0]
    if injector.interrupted and plan.settings.durable and outcome.is_complete:  # `runner resume` would say how it ended
        return replace(outcome, exit_code=EXIT_DEAD if outcome.headline.dead else EXIT_OK)
    if injector.interrupted and outcome.is_resumable:
        from runner.store.durable_folder import DurableFolder  # few runs need SQLite
        from runner.supervisor.resume import MessagePacker

        earlier = DurableFolder(plan.settings.state, plan.run_id, MessagePacker(), is_new=False)
        outcome = runs.perform(plan, options, injector.make_reactor(), earlier, injector.wrap_engine)[0]
    return outcome


def _end_of(outcome: RunOutcome, queues: FedQueues) -> RunEnd:
    put = {queue.name: queue.put for queue in outcome.ended.queues}
    put |= {queue: len(items) for queue, items in queues.collected.items()}
    tasks = {
        task.name: TaskEnd(
            done=task.done if queues.config.tasks[task.name].inputs else task.sent,
            dead=task.dead,
            tries=task.done + task.dead + task.dropped + task.repeated,
        )
        for task in outcome.ended.tasks
    }
    items = {queue: [plain(item) for item in found] for queue, found in queues.collected.items()}
    return RunEnd(outcome.exit_code, items, put, tasks, outcome.headline.repeated, outcome.headline.dropped)
