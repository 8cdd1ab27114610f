"""An Outbox beyond the function's return: threads that the function has started may still put into it.

Python waits for such threads at the end of a program; here the worker does, before it says that its work is over.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
import weakref
from time import monotonic
from typing import TYPE_CHECKING, Any

from runner.worker.spec import WorkerThread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runner.tasks import Outbox
    from runner.worker.runtime import WorkerRuntime

#: Seconds that may pass without a `put` before no thread is waited for any longer.
MAX_SILENCE_SECONDS = 10.0
_CHECK_SECONDS = 0.02


@contextlib.contextmanager
def outbox_until_released(
    runtime: WorkerRuntime, outbox: Outbox[Any], puts: Callable[[], int]
) -> Iterator[dict[str, Outbox[Any]]]:
    """Give the function its Outbox. When it has returned wait as long as a thread that it has started still holds it.

    `puts` counts what has been put. The worker waits at most `MAX_SILENCE_SECONDS` for the next one, and not at all
    when the call has failed or the run is stopping.
    """
    before = set(threading.enumerate())
    outbox_ref = weakref.ref(outbox)
    outboxes = dict.fromkeys(runtime.call_shape.outboxes, outbox)
    del outbox
    yield outboxes
    outboxes.clear()
    if outbox_ref() is None or not _threads_started_since(before):
        return
    gc.collect()  # what cannot be reached any more holds nothing
    count, since = puts(), monotonic()
    while outbox_ref() is not None and (alive := _threads_started_since(before)) and not runtime.context.stopping:
        if count != (count := puts()):
            since = monotonic()
        if monotonic() - since > MAX_SILENCE_SECONDS:
            break
        alive[0].join(_CHECK_SECONDS)


def _threads_started_since(before: set[threading.Thread]) -> list[threading.Thread]:
    """Return threads that have been started since, but for a pool's that wait for work."""
    frames = sys._current_frames()
    new = [each for each in threading.enumerate() if each not in before and type(each) is not WorkerThread]
    alive = [thread for thread in new if not _is_idle_pool_thread(frames.get(thread.ident or 0))]
    frames.clear()  # this frame is one of them: a cycle that would hold what they hold
    return alive


def _is_idle_pool_thread(frame: Any) -> bool:
    code = None if frame is None else frame.f_code
    return code is not None and code.co_name == "_worker" and code.co_filename.endswith("futures/thread.py")
