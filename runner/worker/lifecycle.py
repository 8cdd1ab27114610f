"""A worker's life: load, set up, work, tear down, report."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from runner import forked_copies
from runner.error_text import describe_error
from runner.errors import Reject, Retry
from runner.tasks import Shape, inspect_shape
from runner.text import cut_middle
from runner.transport.messages import Failed, Finished, Ready
from runner.worker import call, produce, pull, returned_values
from runner.worker.context import WorkerContext
from runner.worker.failure import WORKER_ENDING_ERRORS, retry_pause
from runner.worker.measurements import Measurements
from runner.worker.outputs import OutputBuffer
from runner.worker.runtime import WorkerRuntime
from runner.worker.spec import SupervisorGone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runner.worker.spec import WorkerPort, WorkerSpec

_MOST_RESULT = 64 * 1024


class _GiveUp(BaseException):
    """The worker has said `Failed`."""


def run(spec: WorkerSpec, port: WorkerPort, cell: memoryview | list[int]) -> None:
    """Live one worker's life. Returns when it is over, after `Finished` or `Failed` has been sent."""
    with _no_copy(), contextlib.suppress(_GiveUp, SupervisorGone):
        _live(spec, port, cell)


@contextlib.contextmanager
def _no_copy() -> Iterator[None]:
    """End a copy that user code has forked when it comes back out of it, in whatever way, before anything else."""
    pid = os.getpid()
    try:
        yield
    finally:
        if os.getpid() != pid:
            forked_copies.exit_copy()


def _live(spec: WorkerSpec, port: WorkerPort, cell: memoryview | list[int]) -> None:
    os.environ.update(spec.env)
    if "TZ" in spec.env and hasattr(time, "tzset"):
        time.tzset()  # the C library has looked at it already
    if spec.previews_suspects:
        from runner.worker import suspect_preview  # few runs need it

        suspect_preview.serve_previews(spec, port)
        return
    if not spec.hooks:
        finished = _execute(spec, port, cell)
        port.send(finished)
        return
    from runner.worker import plugin_hooks

    around = contextlib.ExitStack()
    said = None
    try:
        with around:
            _reporting(port, "setup", lambda: plugin_hooks.enter_hooks(spec, around))
            said = _execute(spec, port, cell)
    except (*WORKER_ENDING_ERRORS, _GiveUp):
        raise
    except BaseException as error:  # noqa: BLE001  whatever a plugin's hook raises at the end
        _report(port, "teardown", error)
        raise _GiveUp from None
    if said is not None:  # else a hook has swallowed the end of a life that was reported already
        port.send(said)


def _execute(spec: WorkerSpec, port: WorkerPort, cell: memoryview | list[int]) -> Finished:
    """The life itself; what it has to say at its end."""
    target, args, kwargs = _reporting(port, "load", lambda: _load(spec))
    form = inspect_shape(target)
    context = WorkerContext(spec, port)
    collector, meter = (
        OutputBuffer(spec.output_groups, spec.max_item_bytes, port.arena_writer, spec.shared_discount),
        Measurements(port, spec.mode),
    )
    bench = WorkerRuntime(spec, port, cell, collector, context, form, meter)
    with forked_copies.temporary_fork_hook(bench.abandon_fork):
        return _perform(bench, target, args, kwargs)


def _perform(bench: WorkerRuntime, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Finished:
    """Set up, work, tear down."""
    spec, port, form, context = bench.spec, bench.port, bench.call_shape, bench.context
    returned_values = {form.context: context} if form.context else {}
    with contextlib.closing(bench):
        leave = _nothing
        if form.kind == "class":
            kwargs = {**kwargs, **({form.constructor_context: context} if form.constructor_context else {})}
            kind, make = target, partial(target, *args, **kwargs)
            target, leave = _reporting(port, "setup", lambda: _entered(bench, kind, make))
            args, kwargs = (), {}
        kwargs = {**kwargs, **returned_values}
        port.send(Ready(os.getpid()))
        try:
            result = _between(bench, leave, lambda: _work(bench, form, target, args, kwargs))
        finally:
            bench.measurements.report_now()
    # A source is early when it was stopped: it has more, or would have had.
    early = not bench.inputs_ended if spec.inputs else bool(spec.output_groups) and context.stopping
    return Finished(result, returned_early=early)


def _between(bench: WorkerRuntime, leave: Callable[..., Any], work: Callable[[], str | None]) -> str | None:
    """Work, and tear down whatever happens; a callable class sees in `__exit__` whether it ended well.

    What `__exit__` returns is not looked at: it must not turn an error into a task that has ended well.
    """
    try:
        with _no_copy():
            result = work()
    except BaseException as error:
        try:
            leave(type(error), error, error.__traceback__)
        except WORKER_ENDING_ERRORS:
            raise
        except BaseException as late:  # noqa: BLE001  whatever the user's tear-down raises
            error.add_note(f"its tear-down then raised {describe_error(late)}")
        if isinstance(error, WORKER_ENDING_ERRORS):
            raise
        _report(bench.port, "call", error)
        raise _GiveUp from None
    _reporting(bench.port, "teardown", lambda: leave(None, None, None))
    return result


def _nothing(*_: Any) -> None:
    """There is no tear-down."""


def _work(
    bench: WorkerRuntime, form: Shape, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str | None:
    if form.inboxes or (form.outboxes and bench.spec.inputs):
        return _shown(bench, pull.call_with_boxes(bench, target, args, kwargs))
    if bench.spec.inputs:
        if form.is_async:
            from runner.worker import async_runner  # asyncio takes 20 ms to import, and few workers need it

            async_runner.call_on_event_loop(bench, target, args, kwargs)
        else:
            call.call_granted_items(bench, target, args, kwargs)
        return None
    return _shown(bench, produce.call_source(bench, target, args, kwargs))


def _shown(bench: WorkerRuntime, result: Any) -> str | None:
    """What a call has returned, as the summary shows it."""
    if result is None or bench.spec.output_groups:
        return None
    try:
        return cut_middle(json.dumps(result), _MOST_RESULT)
    except Exception:  # noqa: BLE001  no JSON, so its text: results are shown, not moved
        return cut_middle(json.dumps(repr(result)), _MOST_RESULT)


def _load(spec: WorkerSpec) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    try:
        target = spec.reference.load_callable()
    except (SystemExit, KeyboardInterrupt) as error:  # its own: a worker is not told of Ctrl-C
        text = f"importing {spec.reference.module} raised {type(error).__name__}({error})"
        raise ImportError(text).with_traceback(error.__traceback__) from None
    args, kwargs = pickle.loads(spec.arguments)  # noqa: S301  made by the supervisor for its own worker
    return target, args, kwargs


def _entered(bench: WorkerRuntime, kind: type, make: Callable[[], Any]) -> tuple[Any, Callable[..., Any]]:
    """An instance that has been entered, and how to leave it. An async class is made, entered and left on its loop."""
    awaits = hasattr(kind, "__aenter__") or hasattr(kind, "__aexit__")
    if bench.call_shape.is_async or (awaits and not hasattr(kind, "__enter__")):
        return bench.event_loop().enter_instance(make), bench.event_loop().leave_instance
    instance = make()
    if not hasattr(type(instance), "__enter__"):
        return instance, _nothing
    inside = type(instance).__enter__(instance)
    returned_values.check_item(inside)
    return instance if inside is None else inside, partial(type(instance).__exit__, instance)


def _reporting(port: WorkerPort, where: Literal["load", "setup", "teardown"], deed: Callable[[], Any]) -> Any:
    """Do it; an exception is reported and ends the life."""
    try:
        with _no_copy():
            return deed()
    except WORKER_ENDING_ERRORS:
        raise
    except BaseException as error:  # noqa: BLE001  whatever the user's function raises
        _report(port, where, error)
        raise _GiveUp from None


def _report(port: WorkerPort, where: Literal["load", "setup", "call", "teardown"], error: BaseException) -> None:
    verdict: Literal["error", "retry", "reject"] = (
        "reject" if isinstance(error, Reject) else "retry" if isinstance(error, Retry) else "error"
    )
    try:
        after = retry_pause(error)
    except (TypeError, ValueError) as wrong:  # it was set after the Retry had been made
        _report(port, where, wrong)
        return
    port.send(Failed(where, describe_error(error), verdict, after))
