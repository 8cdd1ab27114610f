"""A worker's life: load, set up, work, tear down, report."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import time
from typing import TYPE_CHECKING, Any, Literal

from runner.errors import Reject, Retry
from runner.errortext import describe, shorten
from runner.tasks import Shape, shape
from runner.transport.messages import Failed, Finished, Ready
from runner.worker import boxes, each, source
from runner.worker.bench import Bench
from runner.worker.collect import Collector
from runner.worker.context import WorkerContext
from runner.worker.meter import Meter
from runner.worker.spec import SupervisorGone

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.worker.spec import Port, WorkerSpec

_MOST_RESULT = 64 * 1024


class _GiveUp(BaseException):
    """The worker has said `Failed`."""


def run(spec: WorkerSpec, port: Port, cell: memoryview | list[int]) -> None:
    """Live one worker's life. Returns when it is over, after `Finished` or `Failed` has been sent."""
    with contextlib.suppress(_GiveUp, SupervisorGone):
        _live(spec, port, cell)


def _live(spec: WorkerSpec, port: Port, cell: memoryview | list[int]) -> None:
    os.environ.update(spec.env)
    if "TZ" in spec.env and hasattr(time, "tzset"):
        time.tzset()  # the C library has looked at it already
    if not spec.hooks:
        finished = _execute(spec, port, cell)
        port.send(finished)
        return
    from runner.worker import surround

    around = contextlib.ExitStack()
    said = None
    try:
        with around:
            _reporting(port, "setup", lambda: surround.enter(spec, around))
            said = _execute(spec, port, cell)
    except Exception as error:  # noqa: BLE001  whatever a plugin's hook raises at the end
        _report(port, "teardown", error)
        raise _GiveUp from None
    if said is not None:  # else a hook has swallowed the end of a life that was reported already
        port.send(said)


def _execute(spec: WorkerSpec, port: Port, cell: memoryview | list[int]) -> Finished:
    """The life itself; what it has to say at its end."""
    target, args, kwargs = _reporting(port, "load", lambda: _load(spec))
    form = shape(target)
    context = WorkerContext(spec, port)
    collector, meter = Collector(spec.groups, spec.max_item, port.store, spec.light), Meter(port, spec.mode)
    bench = Bench(spec, port, cell, collector, context, form, meter)
    given = {form.context: context} if form.context else {}
    stack = contextlib.ExitStack()
    if form.kind == "class":
        kwargs = {**kwargs, **({form.made: context} if form.made else {})}
        target = _reporting(port, "setup", lambda: _make(target, args, kwargs, stack))
        args, kwargs = (), {}
    kwargs = {**kwargs, **given}
    port.send(Ready(os.getpid()))

    where: Literal["call", "teardown"] = "call"
    result = None
    try:
        with stack:  # a callable class sees in __exit__ whether it ended well
            result = _work(bench, form, target, args, kwargs)
            where = "teardown"
    except Exception as error:  # noqa: BLE001  whatever the user's function raises
        _report(port, where, error)
        raise _GiveUp from None
    finally:
        meter.tell_all()
    return Finished(result, early=bool(spec.inputs) and not bench.ended)


def _work(
    bench: Bench, form: Shape, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str | None:
    if form.inboxes or (form.outboxes and bench.spec.inputs):
        return _shown(bench, boxes.work(bench, target, args, kwargs))
    if bench.spec.inputs:
        if form.is_async:
            from runner.worker import flight  # asyncio takes 20 ms to import, and few workers need it

            flight.work(bench, target, args, kwargs)
        else:
            each.work(bench, target, args, kwargs)
        return None
    return _shown(bench, source.work(bench, target, args, kwargs))


def _shown(bench: Bench, result: Any) -> str | None:
    """What a call has returned, as the summary shows it."""
    if result is None or bench.spec.groups:
        return None
    try:
        return shorten(json.dumps(result), _MOST_RESULT)
    except Exception:  # noqa: BLE001  no JSON, so its text: results are shown, not moved
        return shorten(json.dumps(repr(result)), _MOST_RESULT)


def _load(spec: WorkerSpec) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    try:
        target = spec.reference.load()
    except (SystemExit, KeyboardInterrupt) as error:  # its own: a worker is not told of Ctrl-C
        text = f"importing {spec.reference.module} raised {type(error).__name__}({error})"
        raise ImportError(text).with_traceback(error.__traceback__) from None
    args, kwargs = pickle.loads(spec.arguments)  # noqa: S301  made by the supervisor for its own worker
    return target, args, kwargs


def _make(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], stack: contextlib.ExitStack) -> Any:
    instance = target(*args, **kwargs)
    if hasattr(type(instance), "__enter__"):
        entered = stack.enter_context(instance)
        return instance if entered is None else entered
    return instance


def _reporting(port: Port, where: Literal["load", "setup"], deed: Callable[[], Any]) -> Any:
    """Do it; an exception is reported and ends the life."""
    try:
        return deed()
    except Exception as error:  # noqa: BLE001  whatever the user's function raises
        _report(port, where, error)
        raise _GiveUp from None


def _report(port: Port, where: Literal["load", "setup", "call", "teardown"], error: Exception) -> None:
    verdict: Literal["error", "retry", "reject"] = (
        "reject" if isinstance(error, Reject) else "retry" if isinstance(error, Retry) else "error"
    )
    port.send(Failed(where, describe(error), verdict, error.after if isinstance(error, Retry) else None))
