"""Stubs in a plan: the functions of `std.stub` in place of those of tasks, which keep all else that they are."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runner.std import stub as functions
from runner.tasks import Reference, inspect_shape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner.model import Stub
    from runner.supervisor.plan import Plan, TaskPlan


def with_stubs(plan: Plan, stubs: Mapping[str, Stub]) -> Plan:
    """Return the plan with a stub for each of the tasks."""
    return replace(
        plan, tasks={**plan.tasks, **{name: _stubbed(plan.tasks[name], stub) for name, stub in stubs.items()}}
    )


def _stubbed(task: TaskPlan, stub: Stub) -> TaskPlan:
    kwargs: dict[str, Any] = {"gives": stub.gives, "fails": stub.fails, "error": stub.error, "slow": stub.slow}
    function: Any = functions.StubFunction
    if not task.config.inputs:
        function = functions.stub_source if task.config.outputs else functions.stub_call
        del kwargs["fails"]
    elif not task.config.outputs:
        function = functions.stub_sink
    else:
        kwargs["ports"] = [port.name for port in task.config.ports] != ["default"]
        kwargs["batch"] = task.config.batch is not None
    reference = Reference(functions.__name__, function.__name__)
    return replace(task, reference=reference, shape=inspect_shape(function), arguments=pickle.dumps(((), kwargs), 5))
