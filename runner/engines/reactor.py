"""The one place where the supervisor waits: sockets, pidfds, thread workers and signals together.

Signal handlers only count and wake (`signal.set_wakeup_fd`); what a signal means is decided in the loop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from runner import forked_copies, linux_only
from runner.engines.engine_events import SignalReceived

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType

    from runner.engines.engine_events import EngineEvent


READ, WRITE = linux_only.POLL_READ, linux_only.POLL_WRITE


class RealClock:
    """The machine's monotonic clock."""

    #: Seconds since some fixed moment. The function itself: it is asked several times for each message.
    now = staticmethod(time.monotonic)


class LocalReactor:
    """The descriptors that are watched, and a queue of events that threads post."""

    def __init__(self) -> None:
        #: `_limit_units`: of its time limits, in a second. `_wakeup_fd`: -1 where each wakes by the pipe.
        self._poller, self._limit_units, self._wakeup_fd = linux_only.create_poller()
        #: What is called when a descriptor is ready.
        self._calls_by_fd: dict[int, Callable[[int], None]] = {}
        self._posted_events: deque[EngineEvent] = deque()
        self._sleeping = False
        #: What is to be looked at later: when, and by what.
        self._delayed_calls: list[tuple[float, Callable[[], None]]] = []
        #: Called before each wait: what an engine has to send when it has nothing else to send.
        self.before_wait: list[Callable[[], None]] = []
        #: Signals write into a pipe.
        self._reader, self._writer = os.pipe()
        for fd in (self._reader, self._writer):
            os.set_blocking(fd, False)
        self.watch_fd(self._reader, READ, self._empty_wakeup_pipe)
        self._handlers: dict[int, object] = {}
        self._old_wakeup: int | None = None
        self._fork_hook = forked_copies.ForkHook(self.abandon_in_fork)

    def abandon_in_fork(self) -> None:
        """Let go of everything in a copy that code in this process has forked: no supervisor waits there."""
        self.release_signals()
        self._close_descriptors()
        self._poller = forked_copies.ExitOnTouch()

    def post_event(self, event: EngineEvent, *, wake: bool = True) -> None:
        """Report an event from any thread; without `wake` the loop hears of it when something else wakes it."""
        self._posted_events.append(event)
        if wake and self._sleeping:
            self.wake_up()

    def wake_up(self) -> None:
        """End the present wait, or the next one."""
        if self._wakeup_fd >= 0:
            linux_only.wake_poller(self._wakeup_fd)
            return
        with contextlib.suppress(BlockingIOError):  # full: it will wake anyway
            os.write(self._writer, b"\0")

    def _empty_wakeup_pipe(self, _: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 4096)

    def watch_fd(self, fd: int, events: int, call: Callable[[int], None]) -> None:
        """Call `call(mask)` in the loop whenever the descriptor is ready; an error is in both directions."""
        self._poller.register(fd, events)
        self._calls_by_fd[fd] = call

    def change_fd_events(self, fd: int, events: int) -> None:
        """Change what a descriptor is watched for."""
        self._poller.modify(fd, events)

    def is_watching_fd(self, fd: int) -> bool:
        """Return True if the descriptor is watched."""
        return fd in self._calls_by_fd

    def unwatch_fd(self, fd: int) -> None:
        """Stop watching; before the descriptor is closed."""
        if self._calls_by_fd.pop(fd, None) is not None:
            with contextlib.suppress(OSError, ValueError):  # it, or all of this, is closed already
                self._poller.unregister(fd)

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call `call` in the loop after `seconds`."""
        self._delayed_calls.append((time.monotonic() + seconds, call))

    def _call_due(self) -> float:
        """Call what is due; return the seconds until the next one."""
        now = time.monotonic()
        for due in [due for due in self._delayed_calls if due[0] <= now]:
            self._delayed_calls.remove(due)
            due[1]()
        return max(0.0, min((when for when, _ in self._delayed_calls), default=now) - now)

    def wait(self, timeout: float | None) -> list[EngineEvent]:
        """Run the callbacks of what is ready; return all events."""
        for call in self.before_wait:
            call()
        if self._delayed_calls:
            patience = self._call_due()
            if self._delayed_calls:
                timeout = patience if timeout is None else min(timeout, patience)
        self._sleeping = True
        if self._posted_events:  # looked at afterwards: what is posted from now on wakes
            timeout = 0
        try:
            ready = self._poller.poll(None if timeout is None else timeout * self._limit_units)
        finally:
            self._sleeping = False
        for fd, mask in ready:
            if (ready_call := self._calls_by_fd.get(fd)) is not None:  # an earlier one may have unwatched it
                ready_call(mask)
        events: list[EngineEvent] = []
        for _ in range(len(self._posted_events)):  # threads post meanwhile
            events.append(self._posted_events.popleft())  # noqa: PERF401  a comprehension would be one more call
        return events

    def suspend_process(self) -> None:
        """Stop this process, as Ctrl-Z does; returns when it is continued."""
        os.kill(os.getpid(), signal.SIGSTOP)

    def catch_signals(self, signals: Iterable[signal.Signals]) -> None:
        """Turn signals into events; does nothing outside the main thread, where Python has no handlers.

        What is ignored already stays so (`nohup`, a job that a shell has put into the background), and what a C
        library handles (None) could not be given back.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        self._old_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in signals:
            if signal.getsignal(number) not in {signal.SIG_IGN, None}:
                self._handlers[number] = signal.signal(number, self._post_signal)

    def _post_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  the signature of a handler
        self._posted_events.append(SignalReceived(number))

    def has_pending_signal(self) -> bool:
        """Return True if a signal waits to be handled by the loop."""
        return any(isinstance(event, SignalReceived) for event in self._posted_events)

    def release_signals(self) -> None:
        """Give the signals back to their former handlers."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if self._old_wakeup is not None:
            signal.set_wakeup_fd(self._old_wakeup)
        self._old_wakeup = None
        self._handlers.clear()

    def close(self) -> None:
        """Give everything back; a second time does nothing."""
        self._fork_hook.close()
        self.release_signals()
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        if linux_only.HAS_EPOLL:
            self._poller.close()
        forked_copies.close_descriptors(self._reader, self._writer, self._wakeup_fd)
        self._reader = self._writer = self._wakeup_fd = -1
