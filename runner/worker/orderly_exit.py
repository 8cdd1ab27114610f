"""A process's orderly end, as Python's own: threads, then `atexit`, then files; and no longer than a limit.

Python waits for threads that are no daemons, and for executors, without a limit; and a process that multiprocessing has
forked runs no `atexit` functions and flushes no files at all. Here a thread of our own watches meanwhile, and what is
not over when the limit is, is named and cut.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import os
import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

from runner import linux_only
from runner.posix_only import fcntl

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

#: Seconds after which the user is told what the process waits for.
_NOTICE_SECONDS = 1.0
#: Where descriptors lead behind which nothing of the user's is buffered.
_NO_FILES = ("anon_inode:", "/memfd:runner", "/proc/", os.devnull)
_STDERR = 2


class ExitWatchdog:
    """A thread that ends the process with `code` after `limit` seconds, and says on standard error what was cut.

    `who` names the process in the message, `again` what ends it sooner. Stop it with `cancel_watch`.
    """

    def __init__(self, limit: float, code: int, who: str, again: str = "") -> None:
        self._limit, self._code, self._who, self._again = limit, code, who, again
        self._over = threading.Event()
        thread = threading.Thread(target=self._watch_exit, name="runner-farewell", daemon=True)
        with contextlib.suppress(RuntimeError):  # no thread can be started any more
            thread.start()

    def cancel_watch(self) -> None:
        """Stop watching: the process ends in time."""
        self._over.set()

    def _watch_exit(self) -> None:
        soon = min(_NOTICE_SECONDS, self._limit)
        if self._over.wait(soon):
            return
        names = lingering_thread_names()
        if self._again and names and soon < self._limit:
            rest = f"waiting up to {self._limit:g} s for {_name_list(names)}, which tasks have left; {self._again}"
            _write_stderr(f"{self._who}: {rest}")
        if not self._over.wait(self._limit - soon):
            self.end_process_now()

    def end_process_now(self, why: str = "", code: int | None = None) -> None:
        """End the process now."""
        module = sys.modules.get("multiprocessing.process")
        children = [] if module is None else [child.name for child in module.active_children() if not child.daemon]
        what = _name_list(lingering_thread_names()) or _name_list(children, "child process")
        what = what or "its `atexit` functions"
        _write_stderr(f"{self._who}: cut {what}, not over {why or f'after the grace of {self._limit:g} s'}")
        os._exit(self._code if code is None else code)


#: Seconds that the command may take to end; None: it has had no run, and nothing is left.
command_grace: float | None = None


def watch_command(code: int) -> None:
    """Let the process end as Python does, but no longer than the grace; a signal ends it at once."""
    if command_grace is None:
        return
    watchdog = ExitWatchdog(command_grace, code, "runner", "Ctrl-C ends it at once")

    def exit_on_signal(number: int, _: object) -> None:
        watchdog.end_process_now(f"when {signal.Signals(number).name} came", 128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) not in {signal.SIG_IGN, None}:
            signal.signal(number, exit_on_signal)


def lingering_thread_names() -> list[str]:
    """Return the names of the threads that Python's own end waits for."""
    main = threading.main_thread()
    return [each.name for each in threading.enumerate() if not each.daemon and each is not main]


def exit_orderly(who: str, limit: float, keep: Collection[int]) -> None:
    """End as the interpreter does; see the top. `keep` are descriptors of runner's own."""
    watchdog = ExitWatchdog(limit, 0, who)
    for step in (threading._shutdown, _exit_functions):  # type: ignore[attr-defined]  # there is no public name
        _run_step(step)
    close_files(keep)
    watchdog.cancel_watch()


def _run_step(step: Callable[[], object]) -> None:
    try:
        step()
    except BaseException:  # noqa: BLE001  user code; the other steps are still to be done
        traceback.print_exc()


def _exit_functions() -> None:
    """Call this process's own exit functions: a `weakref.finalize` made before the fork is its maker's to call."""
    for finalizer in _inherited:
        finalizer.atexit = False
    atexit._run_exitfuncs()


_inherited: list[Any] = []


def note_inherited_finalizers() -> None:
    """Note, in a fresh worker, the finalizers that the process that forked it has made."""
    weakref = sys.modules.get("weakref")
    registry = getattr(getattr(weakref, "finalize", None), "_registry", {})
    _inherited.extend(registry)


def close_files(keep: Collection[int]) -> None:
    """Close what is still open for writing, so that nothing stays in a buffer; text first, then what is below it."""
    if not _has_open_files(keep):
        return
    gc.unfreeze()  # what the fork server had is not looked at otherwise
    found = [each for each in gc.get_objects() if isinstance(each, io.IOBase) and not isinstance(each, io.RawIOBase)]
    for file in sorted(found, key=lambda f: (not isinstance(f, io.TextIOBase), type(f).__module__ == "_io")):
        if _may_write(file):
            _run_step(file.close)


def _may_write(file: io.IOBase) -> bool:
    """Return True if unwritten text may wait in a file; standard output and error are flushed elsewhere."""
    try:
        return not file.closed and file.writable() and file.fileno() > _STDERR
    except (OSError, ValueError, AttributeError):  # it has no descriptor: something of memory, or of a library's
        return False


def _has_open_files(keep: Collection[int]) -> bool:
    """Return True if anything is open for writing that is not ours, or if this is unknown: a look takes time alone.

    A file that is also open under one of `keep` is ours: a map of it has a descriptor of its own.
    """
    files = linux_only.open_files()
    if files is None:
        return True
    ours = {files.get(fd, "") for fd in keep}
    for fd, where in files.items():
        if fd <= _STDERR or fd in keep or where in ours or where.startswith(_NO_FILES):
            continue
        with contextlib.suppress(OSError):  # the one that listed them
            if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY:
                return True
    return False


def _name_list(names: list[str], kind: str = "thread") -> str:
    if not names:
        return ""
    shown = ", ".join(f"`{name}`" for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{kind} {shown}" if len(names) == 1 else f"{kind}{'e' * kind.endswith('s')}s {shown}"


def _write_stderr(line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode("utf-8", "backslashreplace"))
