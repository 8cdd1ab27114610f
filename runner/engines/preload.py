"""The modules that the fork server imports once, so that every worker it forks has them already.

    runner's own modules     always
    the standard library's   those that the plugins' files import at their top
    numpy                    the same; a worker gives its global generator another seed
    anything else            never: a worker imports what is the user's itself

A thread, a lock that is held, a connection or a generator of random numbers that an import has made would be broken or
shared in a fork; and a task's `env` is to be there before it. With an `env` in the run, nothing but runner's own is
imported. What cannot be imported here is left to the worker that needs it, which meets the same error and reports it.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import sys
from typing import TYPE_CHECKING

from runner.engines.spawn import PRELOAD_VARIABLE, ignore_terminal_signals
from runner.gc_tuning import gc_paused

with gc_paused():
    import ctypes  # noqa: F401  so that a worker can make C's output line-buffered without importing it

    import runner.engines.child  # what every worker runs first
    import runner.local_modules  # noqa: F401  what finds local plugins

if TYPE_CHECKING:
    from collections.abc import Iterator

#: They speak to the person in front of the machine as soon as they are imported.
_PRINTING_MODULES = {"antigravity", "this"}


def _preload_modules() -> None:
    ignore_terminal_signals()
    server, show = os.getpid(), sys.excepthook
    # The machine allows no more processes: the asking process learns of its end, and a traceback adds nothing.
    sys.excepthook = lambda *error: None if os.getpid() == server else show(*error)
    wanted = json.loads(os.environ.pop(PRELOAD_VARIABLE))
    sys.path[:] = wanted["path"]
    with gc_paused():
        if wanted["asyncio"]:
            import runner.worker.async_runner  # noqa: F401  async tasks' workers need it, and asyncio
        for name in wanted["modules"]:
            with contextlib.suppress(Exception):
                __import__(name)
        for file in wanted["files"]:
            with contextlib.suppress(Exception):  # its worker says what is wrong with the file
                for name in _fork_safe(file):
                    with contextlib.suppress(Exception):
                        __import__(name)


def _fork_safe(file: str) -> Iterator[str]:
    """Yield the modules that a file imports at its top and that a fork does not harm; the file is not executed."""
    import dis
    from importlib.machinery import SourceFileLoader

    code = SourceFileLoader("file", file).get_code("file")
    assert code is not None
    for instruction in dis.get_instructions(code):
        name = str(instruction.argval)
        if instruction.opname == "IMPORT_NAME" and is_fork_safe(name):
            yield name


def is_fork_safe(name: str) -> bool:
    """Return True if a module may be imported before a fork.

    >>> is_fork_safe("concurrent.futures"), is_fork_safe("polars")
    (True, False)
    """
    top = name.partition(".")[0]
    return (top in sys.stdlib_module_names and top not in _PRINTING_MODULES) or name == "numpy"


def _separate_exit_functions() -> None:
    """Have the server end without what plugins have registered with `atexit`: that is for the workers.

    But for `weakref.finalize`: what was made here once, such as a temporary folder, is given back here.
    """
    server = os.getpid()

    def exit_server() -> None:
        if os.getpid() != server:
            return
        weakref = sys.modules.get("weakref")
        if weakref is not None:
            with contextlib.suppress(BaseException):  # user code
                weakref.finalize._exitfunc()
        os._exit(0)

    atexit.register(exit_server)  # the last one registered is the first one called


if PRELOAD_VARIABLE in os.environ:  # else it is imported to be looked at, or the server is another's heir
    gc.freeze()
    _preload_modules()
    _separate_exit_functions()
    gc.collect()
    gc.freeze()  # the collector writes to each object that it visits: kept off the pages that workers share
