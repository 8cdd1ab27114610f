"""A worker's life: load, set up, work, tear down, report."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import pickle
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from runner import forked_copies
from runner.error_text import describe_error
from runner.errors import Reject, Retry
from runner.tasks import inspect_shape
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

_MAX_RESULT = 64 * 1024
_Where = Literal["load", "setup", "call", "teardown"]


class _Reported(BaseException):
    """The end of a worker that has sent `Failed`."""


def run(spec: WorkerSpec, port: WorkerPort, progress_slot: memoryview | list[int]) -> None:
    """Live one worker's life. Returns when it is over, after `Finished` or `Failed` has been sent."""
    with _ending_copies(), contextlib.suppress(_Reported, SupervisorGone):
        _run_with_hooks(spec, port, progress_slot)


@contextlib.contextmanager
def _ending_copies() -> Iterator[None]:
    """End a copy that user code has forked when it comes back out of it, in whatever way, before anything else."""
    pid = os.getpid()
    try:
        yield
    finally:
        if os.getpid() != pid:
            forked_copies.exit_copy()


def _run_with_hooks(spec: WorkerSpec, port: WorkerPort, progress_slot: memoryview | list[int]) -> None:
    os.environ.update(spec.env)
    if "TZ" in spec.env and hasattr(time, "tzset"):
        time.tzset()  # the C library has looked at it already
    if spec.previews_suspects:
        from runner.worker import suspect_preview  # few runs need it

        suspect_preview.serve_previews(spec, port)
        return
    finished: Finished | None = None
    with contextlib.ExitStack() as stack:
        if spec.hooks:
            from runner.worker import plugin_hooks  # few runs need it

            stack.enter_context(_reporting_errors(port, "teardown"))
            with _reporting_errors(port, "setup"):
                plugin_hooks.enter_hooks(spec, stack)
        finished = _load_and_perform(spec, port, progress_slot)
    if finished is not None:  # else a hook has swallowed the end of a life that was reported already
        port.send(finished)


def _load_and_perform(spec: WorkerSpec, port: WorkerPort, progress_slot: memoryview | list[int]) -> Finished:
    """Load the function, set up, work, tear down; return the worker's last message."""
    with _reporting_errors(port, "load"):
        target, args, kwargs = _load_target(spec)
    if spec.durable or spec.inline_payloads:  # a ledger on disk, or another machine, needs bytes, not places in memory
        port.arena_writer = None
    shape, context = inspect_shape(target), WorkerContext(spec, port)
    output_buffer = OutputBuffer(spec.output_groups, spec.max_item_bytes, port.arena_writer, spec.shared_discount)
    measurements = Measurements(port, spec.mode)
    runtime = WorkerRuntime(spec, port, progress_slot, output_buffer, context, shape, measurements)
    with contextlib.closing(forked_copies.ForkHook(runtime.abandon_fork)), contextlib.closing(runtime):
        leave_instance = _leave_nothing
        if shape.kind == "class":
            if shape.constructor_context:
                kwargs = {**kwargs, shape.constructor_context: context}
            with _reporting_errors(port, "setup"):
                target, leave_instance = _enter_instance(runtime, target, partial(target, *args, **kwargs))
            args, kwargs = (), {}
            if spec.inputs and (spec.mode != "thread" or spec.durable):
                with _reporting_errors(port, "setup"):
                    runtime.save_instance = _save_method(runtime, target)
        if shape.context:
            kwargs = {**kwargs, shape.context: context}
        port.send(Ready(os.getpid()))
        try:
            result = _work_and_leave(runtime, leave_instance, partial(_choose_body, runtime, target, args, kwargs))
        finally:
            measurements.report_now()
    # A source is early when it was stopped: it has more, or would have had.
    early = not runtime.inputs_ended if spec.inputs else bool(spec.output_groups) and context.stopping
    return Finished(result, returned_early=early)


def _work_and_leave(
    runtime: WorkerRuntime, leave_instance: Callable[..., Any], work: Callable[[], str | None]
) -> str | None:
    """Work, and tear down whatever happens; a callable class sees in `__exit__` whether it ended well.

    What `__exit__` returns is not looked at: it must not turn an error into a task that has ended well.
    """
    with _reporting_errors(runtime.port, "call"):
        try:
            with _ending_copies():
                result = work()
        except BaseException as error:
            try:
                leave_instance(type(error), error, error.__traceback__)
            except WORKER_ENDING_ERRORS:
                raise
            except BaseException as teardown_error:  # noqa: BLE001  whatever the user's tear-down raises
                error.add_note(f"its tear-down then raised {describe_error(teardown_error)}")
            raise
    with _reporting_errors(runtime.port, "teardown"):
        leave_instance(None, None, None)
    return result


def _leave_nothing(*_: Any) -> None:
    """Do nothing: there is no tear-down."""


def _choose_body(
    runtime: WorkerRuntime, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str | None:
    shape = runtime.call_shape
    if shape.inboxes or (shape.outboxes and runtime.spec.inputs):
        return _result_text(runtime, pull.call_with_boxes(runtime, target, args, kwargs))
    if runtime.spec.inputs:
        if shape.is_async:
            from runner.worker import async_runner  # asyncio takes 20 ms to import, and few workers need it

            async_runner.call_on_event_loop(runtime, target, args, kwargs)
        else:
            call.call_granted_items(runtime, target, args, kwargs)
        return None
    return _result_text(runtime, produce.call_source(runtime, target, args, kwargs))


def _result_text(runtime: WorkerRuntime, result: Any) -> str | None:
    """Return what a call has returned, as the summary shows it."""
    if result is None or runtime.spec.output_groups:
        return None
    try:
        return cut_middle(json.dumps(result), _MAX_RESULT)
    except Exception:  # noqa: BLE001  no JSON, so its text: results are shown, not moved
        return cut_middle(json.dumps(repr(result)), _MAX_RESULT)


def _load_target(spec: WorkerSpec) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    try:
        target = spec.reference.load_callable()
    except (SystemExit, KeyboardInterrupt) as error:  # its own: a worker is not told of Ctrl-C
        text = f"importing {spec.reference.module} raised {type(error).__name__}({error})"
        raise ImportError(text).with_traceback(error.__traceback__) from None
    args, kwargs = pickle.loads(spec.arguments)  # noqa: S301  made by the supervisor for its own worker
    return target, args, kwargs


def _enter_instance(
    runtime: WorkerRuntime, instance_class: type, make: Callable[[], Any]
) -> tuple[Any, Callable[..., Any]]:
    """Return an entered instance, and how to leave it. An async class is made, entered and left on its loop."""
    awaits = hasattr(instance_class, "__aenter__") or hasattr(instance_class, "__aexit__")
    if runtime.call_shape.is_async or (awaits and not hasattr(instance_class, "__enter__")):
        return runtime.event_loop().enter_instance(make), runtime.event_loop().leave_instance
    instance = make()
    if not hasattr(type(instance), "__enter__"):
        return instance, _leave_nothing
    entered = type(instance).__enter__(instance)
    returned_values.check_item(entered)
    return instance if entered is None else entered, partial(type(instance).__exit__, instance)


def _save_method(runtime: WorkerRuntime, instance: Any) -> Callable[[], Any] | None:
    """Return the instance's `save`, if it has one that takes nothing. TypeError where it would save half an item."""
    save = getattr(instance, "save", None)
    try:
        inspect.signature(save).bind()  # type: ignore[arg-type]  # of None it is a TypeError, too
    except (TypeError, ValueError):
        return None
    if runtime.call_shape.is_async:
        raise TypeError("`save` is for items that are done one after another: this class is called for many at a time")
    if runtime.spec.durable and runtime.spec.ordered:
        raise ValueError("in a durable run a class with `save` cannot be `ordered`: what is done waits for its turn")
    return save


@contextlib.contextmanager
def _reporting_errors(port: WorkerPort, where: _Where) -> Iterator[None]:
    """Report an exception, which ends the worker."""
    try:
        with _ending_copies():
            yield
    except (*WORKER_ENDING_ERRORS, _Reported):
        raise
    except BaseException as error:  # noqa: BLE001  whatever the user's function raises
        _report_failure(port, where, error)
        raise _Reported from None


def _report_failure(port: WorkerPort, where: _Where, error: BaseException) -> None:
    verdict: Literal["error", "retry", "reject"] = (
        "reject" if isinstance(error, Reject) else "retry" if isinstance(error, Retry) else "error"
    )
    try:
        after = retry_pause(error)
    except (TypeError, ValueError) as invalid:  # it was set after the Retry had been made
        _report_failure(port, where, invalid)
        return
    port.send(Failed(where, describe_error(error), verdict, after))
