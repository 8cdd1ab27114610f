"""`runner.stream`: the items of collected queues, one by one, while the run goes on in a thread of its own.

    caller's thread     Stream ◀── Handover (bounded) ◀── sinks `collect:QUEUE`
         │                                                     ▲
         └── close: HaltRequested ──▶ reactor of the run ──▶ supervisor, in the thread `runner-stream`

A consumer that is slow lets the handover fill, so the sinks wait, their queues fill, and all that is before them waits.
The thread of the run never refers to the `Stream`, so the stream is collected, and with it the run ends, when the
caller has no reference to it any more.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import weakref
from queue import SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from runner import api, events
from runner.engines.engine_events import HaltRequested, SignalReceived
from runner.engines.reactor import LocalReactor
from runner.errors import RunnerError, ShutDown, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from types import TracebackType

    from runner.fed_runs import FedQueues
    from runner.model import Config

T_co = TypeVar("T_co", covariant=True)
#: Items that the sinks may be ahead of the caller, unless the size of a queue is less. A handover costs two switches
#: between threads, some 30 us, which the items share. Arrays of 1 MiB take 64 MiB, the default of a queue's `bytes`.
_MOST_AHEAD = 64


#: Follows the last item.
_END = object()


class Handover:
    """Items on their way from the sinks to the caller: bounded, and ended by either side.

    Both ways are queues written in C, which a signal does not tear: a KeyboardInterrupt inside a `threading.Condition`,
    which is Python, can leave its lock held, and the other side would wait for ever.
    """

    def __init__(self, most_ahead: int) -> None:
        self._items: SimpleQueue[Any] = SimpleQueue()
        #: A token for each item that there is room for.
        self._room: SimpleQueue[None] = SimpleQueue()
        for _ in range(most_ahead):
            self._room.put(None)
        #: Sinks may put no more; and the caller wants no more, not even what is there.
        self._is_closed = self._is_unwanted = False

    def put(self, item: Any) -> None:
        """Add an item; wait while the caller is behind. ShutDown when no more is wanted."""
        self._room.get()
        if self._is_closed:
            self._room.put(None)  # for another sink that waits
            raise ShutDown
        self._items.put(item)

    def take(self) -> Any:
        """Wait for an item and return it; StopIteration when nothing will come."""
        item = self._items.get()
        if item is _END or self._is_unwanted:
            self._items.put(_END)  # for the next call, and for other threads
            raise StopIteration
        self._room.put(None)
        return item

    def refuse_items(self) -> None:
        """Let sinks put no more; what is there may still be taken."""
        self._is_closed = True
        self._room.put(None)

    def end(self, *, unwanted: bool = False) -> None:
        """Say that nothing will come; `unwanted`: what is there is not to be taken either."""
        self._is_unwanted = self._is_unwanted or unwanted
        self.refuse_items()
        self._items.put(_END)


class _StreamedRun:
    """One run in a thread of its own, and what its caller may do with it; holds no reference to the `Stream`."""

    def __init__(
        self,
        config: Config,
        feed: Mapping[str, Iterable[Any]] | None,
        collect: str | Collection[str],
        *,
        quiet: bool,
        on_event: Callable[[events.Event], None] | None,
    ) -> None:
        #: One queue gives its items, several give pairs.
        put = self._put_item if isinstance(collect, str) else self._put_pair
        self.queues: FedQueues = api.fed_queues(config, feed, collect, put)
        if not self.queues.collected:
            raise UsageError("`collect` names no queue, and a stream yields what comes out of one")
        sizes = [config.queues[queue].size or _MOST_AHEAD for queue in self.queues.collected]
        self.handover = Handover(min(_MOST_AHEAD, *sizes))
        self.result: api.Result | None = None
        self.failure: BaseException | None = None
        self._quiet, self._on_event = quiet, on_event
        self._grace = config.run.grace
        self._reactor = LocalReactor()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        #: The run has started, or will not; and how often it was told to stop.
        self.begun: SimpleQueue[None] = SimpleQueue()
        self._stops = 0
        #: A KeyboardInterrupt within `Thread.join` (Python 3.11, 3.12) lets a thread that goes on pass for one that
        #: has ended.
        self._ended: SimpleQueue[None] = SimpleQueue()
        self._has_ended = False
        self.consumer: threading.Thread = threading.current_thread()
        self.thread = threading.Thread(target=self._execute, name="runner-stream", daemon=True)
        try:
            self.thread.start()
        except BaseException:
            self._reactor.close()
            raise

    def _put_item(self, _: str, item: Any) -> None:
        self.handover.put(item)

    def _put_pair(self, queue: str, item: Any) -> None:
        self.handover.put((queue, item))

    def _execute(self) -> None:
        from runner.runs import OutputOptions

        try:
            with (
                self.queues,
                api.only_run(),
                api.writable_descriptor(sys.stdout) as out,
                api.writable_descriptor(sys.stderr) as err,
            ):
                options = OutputOptions(out, err, quiet=self._quiet, on_event=self._handle_event, beside_caller=True)
                result = api.run_config(self.queues.config, options, reactor=self._reactor)
            self.result = api.without_added_tasks(result, {})
            api.raise_feed_error(self.queues, result)
        except BaseException as error:  # noqa: BLE001  raised again where the caller is
            self.failure = error
        finally:
            with self._lock:
                self._reactor.close()
            self.handover.end()
            self.begun.put(None)
            self._has_ended = True
            self._ended.put(None)

    def _handle_event(self, event: events.Event) -> None:
        if isinstance(event, events.RunStarted):
            self.begun.put(None)
        elif isinstance(event, events.RunKilled):  # a sink that waits for the caller must not be left behind
            self.handover.refuse_items()
        if self._on_event is not None:
            self._on_event(event)

    def is_here(self) -> bool:
        """Return True unless this is a copy of the process that something has forked."""
        return os.getpid() == self._pid

    def stop(self, *, interrupted: bool = False) -> None:
        """Have the run hand out no more, the first time; end it at once, the second time. Returns at once.

        `interrupted`: it was Ctrl-C, and the exit code says so.
        """
        with self._lock:
            self._stops += 1
            if self.thread.is_alive():
                if interrupted or self._stops > 1:
                    self._reactor.post_event(SignalReceived(signal.SIGINT))
                if self._stops == 1:
                    self._reactor.post_event(HaltRequested())
        self.handover.end(unwanted=True)  # after the event: the run must know why its sinks return

    def wait(self, *, patient: bool = True) -> None:
        """Wait until everything of the run has ended; `patient`: feeds that make their next item as well."""
        until = monotonic() + self._grace
        if not self._has_ended:
            self._ended.get()
            self._ended.put(None)  # for another thread that waits
        self.thread.join()
        if patient:
            self.queues.wait_for_feeds(max(0.0, until - monotonic()))

    def end(self, *, interrupted: bool = False) -> bool:
        """Stop, and wait until everything has ended; return True if Ctrl-C came meanwhile, and ended it at once."""
        again = False
        while True:
            try:
                self.stop(interrupted=interrupted)
                self.wait(patient=not again)
            except KeyboardInterrupt:
                again = interrupted = True
            else:
                return again


def _finish(run: _StreamedRun) -> None:
    """End a run whose stream nobody has any more, or whose program ends."""
    if not run.is_here():
        return
    # The collector may have been called anywhere, in a thread of the run itself as well, which cannot wait for itself.
    if threading.current_thread() in {run.consumer, threading.main_thread()}:
        run.end()
    else:
        run.stop()


class Stream(Generic[T_co]):
    """The items of a run that goes on: an iterator, and a context manager that ends the run.

    `result` is the end of the run, None until then. The run ends when its tasks have ended, when the stream is closed
    or collected, and when waiting for an item is interrupted: it hands out no more items then, workers finish those
    that they hold within `grace`, and what is left is counted. Any thread may close it.
    """

    def __init__(self, run: _StreamedRun) -> None:
        self._run = run
        self._finalizer = weakref.finalize(self, _finish, run)

    @property
    def result(self) -> api.Result | None:
        """The end of the run; None while it goes on."""
        return self._run.result

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T_co:
        run = self._run
        if not run.is_here():
            raise RunnerError("this stream belongs to another process, of which this one is a copy")
        run.consumer = threading.current_thread()
        try:
            item: T_co = run.handover.take()
        except StopIteration:
            pass
        except BaseException as error:  # Ctrl-C, or what the program's handler of a signal raises
            self._stop_for(error)
            raise
        else:
            return item
        self._end_well()
        raise StopIteration

    def _stop_for(self, error: BaseException) -> None:
        """End the run because waiting for it was interrupted; of Ctrl-C, say how the run has ended."""
        is_ctrl_c = isinstance(error, KeyboardInterrupt)
        self._run.end(interrupted=is_ctrl_c)
        self._finalizer.detach()
        if is_ctrl_c and self._run.result is not None:
            raise api.Interrupted(self._run.result) from None

    def _end_well(self) -> None:
        """Wait for the end of the run, whose items have all been taken; raise, once, what is to be raised then."""
        try:
            self._run.wait()
        except BaseException as error:
            self._stop_for(error)
            raise
        if self._finalizer.detach() is not None and self._run.failure is not None:
            raise self._run.failure

    def close(self) -> None:
        """End the run, if it goes on, and wait until it has ended; the rest of its items are discarded."""
        if not self._finalizer.alive or not self._run.is_here():
            return
        was_interrupted = self._run.end()
        self._finalizer.detach()
        if was_interrupted:
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@overload
def stream(
    file: str | os.PathLike[str] | Config,
    *,
    collect: str,
    feed: Mapping[str, Iterable[Any]] | None = None,
    params: Mapping[str, Any] | None = None,
    set: Mapping[str, Any] | None = None,
    tasks: Collection[str] = (),
    skip: Collection[str] = (),
    quiet: bool = False,
    on_event: Callable[[events.Event], None] | None = None,
) -> Stream[Any]: ...


@overload
def stream(
    file: str | os.PathLike[str] | Config,
    *,
    collect: Collection[str],
    feed: Mapping[str, Iterable[Any]] | None = None,
    params: Mapping[str, Any] | None = None,
    set: Mapping[str, Any] | None = None,
    tasks: Collection[str] = (),
    skip: Collection[str] = (),
    quiet: bool = False,
    on_event: Callable[[events.Event], None] | None = None,
) -> Stream[tuple[str, Any]]: ...


def stream(
    file: str | os.PathLike[str] | Config,
    *,
    collect: str | Collection[str],
    feed: Mapping[str, Iterable[Any]] | None = None,
    params: Mapping[str, Any] | None = None,
    set: Mapping[str, Any] | None = None,  # noqa: A002  the name of the option
    tasks: Collection[str] = (),
    skip: Collection[str] = (),
    quiet: bool = False,
    on_event: Callable[[events.Event], None] | None = None,
) -> Stream[Any]:
    """Start the tasks of a file, and yield the items of a queue while the run goes on.

    The arguments are those of `run`. `collect` is one queue, of which each item is yielded, or several, of which pairs
    are: `(queue, item)`. A caller that takes its time holds the run back. The run ends when the caller stops: `with`,
    `close`, `break` out of the loop, an exception, Ctrl-C.

    It is started at once: ConfigError for a wrong file is raised here. What a feed raises is raised at the end, once
    all that it had given is done and yielded. `on_event` is called in the thread of the run.
    """
    run = _StreamedRun(api.configure(file, params, set, tasks, skip), feed, collect, quiet=quiet, on_event=on_event)
    items: Stream[Any] = Stream(run)
    try:
        run.begun.get()
    except BaseException:
        items.close()
        raise
    if run.result is None and run.failure is not None:
        items.close()
        raise run.failure
    return items
